"""What `emolens.record` costs beside the bare network, everything cached, and other tools.

python benchmarks/extraction.py [--json] [--models organism 30m 135m] [--stories PATH] [...]

All figures come from one run. A ratio is the median over pairs of runs, one of each side right
after the other and in changing order, of our tokens per second over theirs. Our side is the whole
of `record`: tokenising, choosing positions, hashing the corpus, pooling all layers.

ratio_vs_hf_body           the Hugging Face body alone on our batches, tokenised before, with the
                           attention that `record` runs a Llama with (sdpa); beside it, with eager
ratio_vs_cache_everything  `run_with_cache` of all hooks, a fixed number of texts at a time in the
                           order given: about as many tokens as our batches have, fewer where that
                           would take tens of gigabytes
memory_vs_cache_everything what each of the two adds to the memory of a process of its own
ratio_vs_PEER              its documented defaults (see benchmarks/peers); beside it, the bare body
                           over those, and ours over the peer on our batches
peak_memory_growth         peak memory of a process that reads 20,000 texts over one that reads
                           1,000; the result is in a file (see benchmarks/memory.py)

The 30M, 135M and, on CUDA, 8B models are Llamas of random weights with a tokenizer trained on the
stories, which should fit into 2,048 tokens. The organism knows the words of its world alone and
reads its own stories.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peers.worker import seconds
from readings import (
    cache_everything,
    choose_texts,
    open_body,
    padded,
    planned_batches,
    read_stories,
    run_body,
)
from rich.console import Console
from rich.table import Table
from workers import PEERS, NotMeasured, Worker, environment, working

import emolens
from emolens.errors import first_line
from emolens.organism import organism_folder
from emolens.provenance import corpus_hash, versions

SCHEMA = 1
HERE = Path(__file__).resolve().parent
NO_PEER = {"bare_body": None, "on_our_batches": None}
MEMORY_TEXTS = 256  # enough for full batches on both sides
# dense bfloat16, from the makers' data sheets
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
console = Console(stderr=True)


@dataclass(frozen=True)
class Size:
    """A model to measure on.

    Attributes:
        texts: how many it reads unless told otherwise; a run should take a minute at most.
        cached: how many are cached at a time.
        bar: least share of the bare body's tokens per second; none where nothing was promised.
        config: of a random Llama; none for the organism.
    """

    texts: int
    cached: int
    bar: float | None
    config: dict[str, Any] = field(default_factory=dict)


SIZES = {
    "organism": Size(1000, 128, 0.85),
    "30m": Size(
        300,
        32,
        0.95,
        {
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "vocab_size": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "135m": Size(
        100,
        8,
        0.95,
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
    ),
    "8b": Size(
        1000,
        8,
        None,
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "tie_word_embeddings": False,
        },
    ),
}


# --- models -----------------------------------------------------------------------------------


def random_llama(name: str, options: argparse.Namespace) -> Path:
    """The folder of a Llama of random weights whose tokenizer was trained on all stories."""
    texts = read_stories(options.stories)
    folder = options.out / "models" / f"{name}-{options.dtype}-{corpus_hash(texts)[:8]}"
    if (folder / "model_is_whole").exists():
        return folder
    from transformers import AutoModelForCausalLM, LlamaConfig

    say(f"making a random {name} Llama")
    tokenizer = trained_tokenizer([text.text for text in texts])
    config = LlamaConfig(**SIZES[name].config, max_position_embeddings=2048)
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model_is_whole").touch()
    return folder


def trained_tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE of the texts, with a begin token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


# --- time -------------------------------------------------------------------------------------


def say(line: str) -> None:
    console.print(line, highlight=False)


@dataclass
class Clock:
    """Pairs of runs of our side and of others, and what came out."""

    ours: Callable[[], object]
    pairs: int
    tokens: int
    own: list[float] = field(default_factory=list)
    speeds: dict[str, float] = field(default_factory=dict)

    def ratio(self, name: str, other: Callable[[], float]) -> float:
        """Our tokens per second over those of `other`, which returns the seconds that it took."""
        say(f"  beside {name.replace('_', ' ')}")
        pairs = [self._pair(other, ours_first=number % 2 == 0) for number in range(self.pairs)]
        self.own += [ours for ours, _ in pairs]
        self.speeds[name] = self.tokens / statistics.median(theirs for _, theirs in pairs)
        self.speeds["emolens"] = self.tokens / statistics.median(self.own)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    def _pair(self, other: Callable[[], float], *, ours_first: bool) -> tuple[float, float]:
        if ours_first:
            return seconds(self.ours), other()
        theirs = other()
        return seconds(self.ours), theirs


def figure(
    value: float | None, bar: float | None, *, most: bool = False, **more: Any
) -> dict[str, Any]:
    """A number, its bar, and whether that was met."""
    shown, met = None if value is None else round(value, 4), None
    if value is not None and bar is not None:
        met = value <= bar if most else value >= bar
    return {"value": shown, "bar": bar, "bar_is": "most" if most else "least", "met": met, **more}


# --- figures ----------------------------------------------------------------------------------


def one_model(name: str, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every figure of a model, under its name, and last what was read, under `models`."""
    stories = None if name == "organism" else options.stories
    texts = choose_texts(options.texts or SIZES[name].texts, stories)
    folder = organism_folder() if name == "organism" else random_llama(name, options)
    model = emolens.load(folder, device=options.device, dtype=getattr(torch, options.dtype))
    say(f"{name}: {len(texts):,} texts")
    batches = planned_batches(model, texts)  # warms up, too
    inputs = padded(model, texts, batches)
    tokens = sum(int(mask.sum()) for _, mask in inputs)
    clock = Clock(lambda: emolens.record(model, texts), options.pairs, tokens)

    sdpa, eager = (beside_body(folder, kind, model, inputs, clock) for kind in ("sdpa", "eager"))
    yield "ratio_vs_hf_body", figure(sdpa, SIZES[name].bar, vs_eager=round(eager, 4))

    size = SIZES[name].cached
    cache_everything(model, texts[:2], size)
    cached = clock.ratio(
        "cache_everything", lambda: seconds(lambda: cache_everything(model, texts, size))
    )
    yield "ratio_vs_cache_everything", figure(cached, 1.5, texts_at_a_time=size)
    yield "memory_vs_cache_everything", cache_memory(folder, size, stories, options)

    job = {
        "model": str(folder.resolve()),
        "device": options.device,
        "dtype": options.dtype,
        "texts": [text.text for text in texts],
        "batches": batches,
    }
    for peer in PEERS:
        yield f"ratio_vs_{peer}", beside_peer(peer, job, clock, sdpa, options)

    read = {
        "texts": len(texts),
        "tokens": tokens,
        "batches": len(batches),
        "tokenising_seconds": round(seconds(lambda: model.tokenize(texts)), 4),
        "tokens_per_second": {n: round(s, 1) for n, s in clock.speeds.items()},
        "share_of_peak_flops": share_of_peak(model, clock.speeds["emolens"]),
    }
    yield "models", read


def beside_body(
    folder: Path, attention: str, model: emolens.HookedModel, inputs: list, clock: Clock
) -> float:
    """Our speed over the bare body's; it is opened for this alone."""
    body = open_body(folder, attention, model)
    run_body(body, inputs)
    return clock.ratio(f"hf_body_{attention}", lambda: seconds(lambda: run_body(body, inputs)))


def share_of_peak(model: emolens.HookedModel, speed: float) -> float | None:
    """Of a GPU that is known; two operations for each weight of the blocks, attention left out."""
    if model.device.type != "cuda":
        return None
    flops = 2 * speed * sum(p.numel() for p in model.host.original_model.model.layers.parameters())
    name = torch.cuda.get_device_name(model.device)
    return next((round(flops / peak, 4) for gpu, peak in PEAK_FLOPS.items() if gpu in name), None)


def fresh_peak(words: Sequence[str]) -> dict[str, int]:
    """Bytes before and at the peak of one reading in a new process.

    Raises:
        NotMeasured: if it fails.
    """
    command = [sys.executable, str(HERE / "memory.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured((done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1])
    return json.loads(done.stdout)


def memory_words(stories: Path | None, options: argparse.Namespace) -> list[str]:
    """Options that every memory run gets."""
    more = [] if stories is None else ["--stories", str(stories)]
    return ["--device", options.device, "--dtype", options.dtype, *more]


def cache_memory(
    folder: Path, size: int, stories: Path | None, options: argparse.Namespace
) -> dict[str, Any]:
    """What reading adds to the memory of a process with the model open, as a share."""
    say("  peak memory beside cache everything")
    count = str(min(options.texts or MEMORY_TEXTS, MEMORY_TEXTS))
    words = [count, "--resident", count, "--batch", str(size), *memory_words(stories, options)]
    try:
        ours = fresh_peak([str(folder), "record", *words])
        cached = fresh_peak([str(folder), "cache", *words])
    except NotMeasured as reason:
        return figure(None, 0.2, most=True, reason=str(reason))
    added = [peak["peak"] - peak["before"] for peak in (ours, cached)]
    share = added[0] / max(added[1], 1)
    return figure(share, 0.2, most=True, emolens_bytes=added[0], cache_bytes=added[1])


def memory_growth(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of reading many texts over that of reading few, on the organism."""
    few, many = options.growth
    say(f"peak memory of {few:,} and of {many:,} texts")
    rest = ["--resident", str(many), *memory_words(None, options)]
    try:
        peaks = [fresh_peak([str(organism_folder()), "record", str(n), *rest]) for n in (few, many)]
    except NotMeasured as reason:
        return figure(None, 1.05, most=True, reason=str(reason))
    added = [peak["peak"] - peak["before"] for peak in peaks]
    return figure(
        peaks[1]["peak"] / max(peaks[0]["peak"], 1),
        1.05,
        most=True,
        texts=[few, many],
        peak_bytes=[peak["peak"] for peak in peaks],
        added_bytes=added,
    )


def beside_peer(
    peer: str, job: dict[str, Any], clock: Clock, body: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Our speed over a peer's, or the reason why there is none; `body` is that over the body's."""
    if options.skip_peers:
        return figure(None, 1.5, **NO_PEER, reason="skipped: --skip-peers")
    say(f"  starting {peer}; the first time, its environment is made")
    try:
        python = environment(peer, (options.peers or options.out / "peers") / peer)
        with working(peer, python, job, options.out) as worker:
            default, reason = attempt(clock, worker, f"{peer}_defaults", "defaults")
            batched, why = attempt(clock, worker, f"{peer}_our_batches", "our_batches")
    except NotMeasured as reason:
        say(f"  {peer}: {reason}")
        return figure(None, 1.5, **NO_PEER, reason=str(reason))
    batched = None if batched is None else round(batched, 4)
    bound = None if default is None else round(default / body, 4)
    more = {"versions": worker.versions, "reason": reason or why}
    return figure(default, 1.5, bare_body=bound, on_our_batches=batched, **more)


def attempt(
    clock: Clock, worker: Worker, name: str, reading: str
) -> tuple[float | None, str | None]:
    """A ratio, or why it is missing; the worker goes on with the next."""
    try:
        return clock.ratio(name, lambda: worker.seconds(reading)), None
    except NotMeasured as reason:
        say(f"  {name}: {reason}")
        return None, str(reason)


# --- the whole --------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, by name and then by model, and what they were measured on.

    What is known so far always stands in `extraction.json`.
    """
    gpu = torch.cuda.get_device_name() if options.device.startswith("cuda") else None
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "pairs": options.pairs,
        "device": options.device,
        "dtype": options.dtype,
        "stories": "the organism's" if options.stories is None else options.stories.name,
        "versions": versions(),
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": gpu,
        },
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for model, name, value in figures(options):
        found.setdefault(name, {})[model] = value
        (options.out / "extraction.json").write_text(json.dumps(found, indent=1), "utf-8")
    return found


def figures(options: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Model, name and value of every figure, as they come."""
    for model in options.models:
        for name, value in one_model(model, options):
            yield model, name, value
    yield "organism", "peak_memory_growth", memory_growth(options)


def table(found: dict[str, Any]) -> Table:
    """One line a figure and model."""
    shown = Table("figure", "model", "value", "bar", "met", "beside it")
    for name, by_model in found.items():
        if name.startswith(("ratio", "memory", "peak")):
            for model, one in by_model.items():
                shown.add_row(name, model, *cells(one))
    return shown


def cells(one: dict[str, Any]) -> tuple[str, str, str, str]:
    """A figure in words."""
    bar = f"{'<=' if one['bar_is'] == 'most' else '>='} {one['bar']}"
    own = ("value", "bar", "bar_is", "met", "versions")
    rest = {k: v for k, v in one.items() if k not in own and v is not None}
    more = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in rest.items())
    return str(one["value"]), bar, {True: "yes", False: "no", None: "-"}[one["met"]], more


def common_options(told: str, out: str) -> argparse.ArgumentParser:
    """What every benchmark of models and peers is asked."""
    asked = argparse.ArgumentParser(
        description=told, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked.add_argument("--models", nargs="+", choices=SIZES, help="8b is for CUDA alone")
    asked.add_argument("--pairs", type=int, default=5)
    asked.add_argument("--stories", type=Path, help="a corpus as emolens.load_corpus reads it")
    asked.add_argument("--skip-peers", action="store_true")
    asked.add_argument("--peers", type=Path, help="where their environments are kept")
    asked.add_argument("--out", type=Path, default=Path("emolens-out") / out)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--dtype", choices=["float32", "bfloat16"], help="bfloat16 on CUDA")
    return asked


def settled(asked: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    """The options, with what hangs on the device filled in."""
    options = asked.parse_args(words)
    cuda = options.device.startswith("cuda")
    options.models = options.models or [name for name in SIZES if name != "8b" or cuda]
    options.dtype = options.dtype or ("bfloat16" if cuda else "float32")
    if "8b" in options.models and not cuda:
        asked.error("8b needs --device cuda")
    return options


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    asked = common_options(__doc__, "extraction")
    asked.add_argument("--texts", type=int, help="for every model; each has its own number else")
    asked.add_argument("--growth", type=int, nargs=2, default=[1000, 20000], metavar="TEXTS")
    options = settled(asked, words)
    if options.texts is not None and (options.texts < 4 or options.texts % 2):
        asked.error("--texts must be even and at least 4: steering-vectors reads pairs")
    return options


def report(options: argparse.Namespace, work: Callable[[argparse.Namespace], dict]) -> None:
    """Measure, and print JSON or a table; what a user can mend is told in one line."""
    try:
        found = work(options)
    except emolens.EmolensError as error:
        sys.exit(first_line(error))
    if options.json:
        print(json.dumps(found))
    else:
        Console().print(table(found))


if __name__ == "__main__":
    report(parsed(), measure)
