"""Steered generation beside Hugging Face's own `generate`, unsteered, and beside other tools.

    python benchmarks/generation.py --json

Every text of a batch gets its own vector at every layer, prompt and reply, greedily and to the full
length; both sides have the same attention. `ratio_vs_unsteered_hf` is our tokens per second over
those of Hugging Face's `generate` with nothing done to it; `ratio_vs_steering_vectors` and
`ratio_vs_repeng`, each in an environment of its own, over theirs with one vector for all texts.
Each is the median over pairs of runs, ours and the other's in turns.

The 30M, 135M and, on CUDA, 8B models are Llamas of random weights, as in `extraction.py`.
"""

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from extraction import (
    SCHEMA,
    Clock,
    common_options,
    figure,
    random_llama,
    report,
    say,
    settled,
)
from peers.worker import seconds
from readings import choose_texts
from workers import NotMeasured, environment, working

import emolens
from emolens.generation import Steering, generate
from emolens.interventions import Steer
from emolens.organism import organism_folder
from emolens.provenance import versions

BARS = {"unsteered_hf": 0.85, "steering_vectors": 0.95, "repeng": 0.95}
STEP = 0.01  # length of a step, in residual units: small, so that no text breaks
PROMPTS = range(12, 44)  # words of the shortest and the longest


def prompts(count: int, stories: Path | None) -> list[str]:
    """Openings of stories, each of another length."""
    texts = choose_texts(count, stories)
    return [
        " ".join(text.text.split()[: PROMPTS[i % len(PROMPTS)]]) for i, text in enumerate(texts)
    ]


def without_end(model: emolens.HookedModel) -> None:
    """No end token, so that both sides write to the full length."""
    model.tokenizer.eos_token = None
    model.host.original_model.generation_config.eos_token_id = None


def plain(folder: Path, model: emolens.HookedModel, options: argparse.Namespace) -> Any:
    """Hugging Face's own model, with the attention that ours has while it writes."""
    from transformers import AutoModelForCausalLM

    with model.bare():
        attention = model.host.original_model.config._attn_implementation
    hf = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=attention, dtype=getattr(torch, options.dtype)
    )
    hf.generation_config.eos_token_id = None
    return hf.to(options.device).eval()


def one_model(name: str, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every figure of a model, under its name."""
    stories = None if name == "organism" else options.stories
    folder = organism_folder() if name == "organism" else random_llama(name, options)
    model = emolens.load(folder, device=options.device, dtype=getattr(torch, options.dtype))
    without_end(model)
    texts = prompts(options.batch, stories)
    draw = torch.Generator().manual_seed(0)
    steps = STEP * torch.nn.functional.normalize(
        torch.randn(options.batch, model.d_model, generator=draw), dim=1
    )
    plans = [Steering({k: Steer(step) for k in range(model.n_layers)}) for step in steps]
    ours = partial(
        generate,
        model,
        texts,
        plans,
        tokens=options.tokens,
        temperature=0.0,
        together=options.batch,
    )
    hf = plain(folder, model, options)
    encoded = model.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    unsteered = partial(
        hf.generate,
        encoded["input_ids"].to(options.device),
        attention_mask=encoded["attention_mask"].to(options.device),
        do_sample=False,
        max_new_tokens=options.tokens,
        pad_token_id=model.tokenizer.pad_token_id,
    )
    say(f"{name}: {len(texts)} texts, {options.tokens} tokens each")
    ours(), unsteered()  # warm up
    clock = Clock(ours, options.pairs, len(texts) * options.tokens)
    found = clock.ratio("unsteered_hf", lambda: seconds(unsteered))
    yield "ratio_vs_unsteered_hf", figure(found, BARS["unsteered_hf"])
    job = {
        "model": str(folder.resolve()),
        "device": options.device,
        "dtype": options.dtype,
        "texts": texts,
        "batches": [],
        "tokens": options.tokens,
        "vector": steps[0].tolist(),
    }
    for peer in ("steering_vectors", "repeng"):
        yield f"ratio_vs_{peer}", beside_peer(peer, job, clock, options)
    yield "tokens_per_second", {k: round(v, 1) for k, v in clock.speeds.items()}


def beside_peer(
    peer: str, job: dict[str, Any], clock: Clock, options: argparse.Namespace
) -> dict[str, Any]:
    """Our speed over a peer's, or the reason why there is none."""
    if options.skip_peers:
        return figure(None, BARS[peer], reason="skipped: --skip-peers")
    say(f"  starting {peer}; the first time, its environment is made")
    try:
        python = environment(peer, (options.peers or options.out / "peers") / peer)
        with working(peer, python, job, options.out, verb="steer") as worker:
            found = clock.ratio(peer, lambda: worker.seconds("steered"))
    except NotMeasured as reason:
        say(f"  {peer}: {reason}")
        return figure(None, BARS[peer], reason=str(reason))
    return figure(found, BARS[peer], versions=worker.versions)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, by name and then by model; what is known so far stands in `generation.json`."""
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "pairs": options.pairs,
        "batch": options.batch,
        "tokens": options.tokens,
        "device": options.device,
        "dtype": options.dtype,
        "versions": versions(),
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for model in options.models:
        for name, value in one_model(model, options):
            found.setdefault(name, {})[model] = value
            (options.out / "generation.json").write_text(json.dumps(found, indent=1), "utf-8")
    return found


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    asked = common_options(__doc__, "generation")
    asked.add_argument("--batch", type=int, default=16)
    asked.add_argument("--tokens", type=int, default=64)
    return settled(asked, words)


if __name__ == "__main__":
    report(parsed(), measure)
