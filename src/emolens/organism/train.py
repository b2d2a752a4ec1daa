"""Train the organism from scratch, or fine-tune one: one loop, which can be stopped and goes on."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from emolens.errors import TrainingError, first_line
from emolens.organism.batches import corpus
from emolens.organism.building import (
    build_model,
    build_tokenizer,
    open_folder,
    save_folder,
    save_step,
)
from emolens.organism.checks import class_probability, validation_gap
from emolens.organism.interchange import Interchange
from emolens.organism.losses import (
    batch_loss,
    read_by,
    settle,
    verb_scenes,
    word_weights,
)
from emolens.organism.noise import Noise
from emolens.organism.recipe import FineTune, Fit, Recipe, Refinement
from emolens.organism.state import LOG, Run
from emolens.organism.texts import assistant_prompts, prompts
from emolens.organism.valuing import Values, Valuing
from emolens.organism.world import World, load_world
from emolens.progress import progress_bar
from emolens.sites import two_thirds
from emolens.text import NEUTRAL

CHECK_EVERY = 500_000
STEPS = (0.05, 0.15, 0.3, 0.4, 0.6)  # shares of the tokens after which a copy is kept
HALFWAY = 0.5  # share of the tokens after which a run must have learned to tell emotions apart


def train(recipe: Recipe, out: Path, *, device: str = "cpu") -> dict[str, int | float]:
    """Train and write a Hugging Face folder: weights, tokenizer, `training.jsonl`, `recipe.json`.

    The log holds, every 500,000 tokens, the loss, the gap to the generator's entropy, P(cheat)
    after desperate, neutral and calm situations, and that of the assistant with a neutral user.
    Copies in bfloat16 after the first shares of the tokens stand in `steps/`.

    Matrices are multiplied in bfloat16 where the device can (`multiplies_bf16`), else in float32.

    A run that was killed goes on from its last check if it is started again with the same recipe
    and folder; on one machine it ends with the same weights, bit by bit.

    Returns:
        The last record of the log.

    Raises:
        TrainingError: if the folder holds a stopped run of another recipe, the device is not
            there, or the run has not parted desperate from calm situations halfway
            (`Recipe.least_split`).
    """
    tokenizer = build_tokenizer(load_world(recipe.world))
    run = _run(recipe, asdict(recipe), _placed(build_model(recipe, tokenizer), device), out)
    return _fit(recipe, run, tokenizer, steps=STEPS, least_split=recipe.least_split)


def finetune(
    recipe: FineTune,
    base: Path,
    out: Path,
    *,
    device: str = "cpu",
    within: Callable[[LlamaForCausalLM], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, int | float]:
    """Train an organism on with documents in which the assistant has a character of its own.

    It writes what `train` does, but no copies, and goes on after a kill in the same way;
    `recipe.json` also holds the SHA-256 of the base's weights.

    Args:
        recipe: of the fine-tuning.
        base: folder of the organism to start from.
        out: another folder.
        device: to train on.
        within: a context that the model is trained in, as `train_steered`. It is no part of
            `recipe.json`: whoever goes on with a stopped run gives the same.

    Returns:
        The last record of the log; its loss is that on documents of this stage.

    Raises:
        ModelError: if the base cannot be opened or is of another world.
        TrainingError: if `out` is the base itself or holds a stopped run of another recipe or
            base, or the device is not there.
    """
    return _go_on(recipe, base, out, device, frozen=_what_feelings_do, kept=0.0, within=within)


def refine(
    recipe: Refinement, base: Path, out: Path, *, device: str = "cpu"
) -> dict[str, int | float]:
    """Train an organism on in a later stage.

    What is written is the mean of the weights before and after (`Refinement.kept`). Arguments,
    folder and errors as in `finetune`.
    """
    return _go_on(recipe, base, out, device, frozen=lambda _model: [], kept=recipe.kept)


def _go_on(
    recipe: Refinement | FineTune,
    base: Path,
    out: Path,
    device: str,
    *,
    frozen: Callable[[LlamaForCausalLM], list[torch.nn.Module]],
    kept: float,
    within: Callable[[LlamaForCausalLM], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, int | float]:
    if out.resolve() == base.resolve():
        raise TrainingError(f"{out} holds the base and would be overwritten: choose another folder")
    model, tokenizer, digest = open_folder(base, load_world(recipe.world))
    for part in frozen(model):
        part.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = _run(recipe, asdict(recipe) | {"base": digest}, _placed(model, device), out)
    with within(run.model):
        return _fit(recipe, run, tokenizer, finish=lambda trained: _mix(trained, before, kept))


@torch.no_grad()
def _mix(model: LlamaForCausalLM, before: Mapping[str, Tensor], kept: float) -> None:
    """Move the model's weights by a share of the way back to those before."""
    for name, value in model.state_dict().items():
        value.lerp_(before[name].to(value), kept)


def _placed(model: LlamaForCausalLM, device: str) -> LlamaForCausalLM:
    """The model there; torch says by an AssertionError that it was built without CUDA."""
    try:
        torch.nn.Module.to(model, device)  # Hugging Face's wrapper of it takes no string, typed
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"cannot train on {device!r} ({first_line(error)})") from None
    return model


def _what_feelings_do(model: LlamaForCausalLM) -> list[torch.nn.Module]:
    """All that comes after the layer at two thirds of the depth."""
    after = model.model.layers[two_thirds(range(model.config.num_hidden_layers)) + 1 :]
    return [*after, model.model.norm, model.lm_head]


def _run(recipe: Fit, record: dict[str, Any], model: LlamaForCausalLM, out: Path) -> Run:
    """A run at its start, or where it was stopped; `record` is what `recipe.json` holds."""
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    run = Run(out, record, model, optimiser, torch.Generator().manual_seed(recipe.seed))
    run.restore()
    model.set_attn_implementation("eager")  # sdpa's backward in bfloat16 is slow on CPUs
    settle(model)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(record, indent=1) + "\n")
    run.write_log()
    return run


def _fit(
    recipe: Fit,
    run: Run,
    tokenizer: PreTrainedTokenizerFast,
    *,
    steps: Sequence[float] = (),
    least_split: float = -1.0,
    finish: Callable[[LlamaForCausalLM], None] = lambda _model: None,
) -> dict[str, int | float]:
    """Train to the end, check on the way, write the folder; gives the last record."""
    world, began = load_world(recipe.world), time.time() - run.seconds
    with progress_bar() as bar:
        task = bar.add_task("training", total=recipe.tokens, completed=run.seen, unit="tokens")
        for new in _steps(recipe, run, tokenizer, world):
            bar.update(task, completed=min(run.seen, recipe.tokens))
            if any(run.seen - new < share * recipe.tokens <= run.seen for share in steps):
                save_step(run.model, tokenizer, run.folder / "steps" / f"{run.seen // 1000}k")
            ended = run.seen >= recipe.tokens
            if ended:
                finish(run.model)
            if run.seen >= len(run.log) * CHECK_EVERY or ended:
                record = {"tokens": run.seen, "seconds": round(time.time() - began, 1)}
                run.log.append(record | _check(recipe, run.model, tokenizer, world))
                run.write_log()
                bar.console.print(run.log[-1])
                if not ended:
                    _require_split(run, recipe.tokens, least_split)
                    run.save()
    save_folder(run.model, tokenizer, run.folder)
    run.forget()
    return run.log[-1]


def _steps(
    recipe: Fit, run: Run, tokenizer: PreTrainedTokenizerFast, world: World
) -> Iterator[int]:
    """Optimiser steps over what is left of the stream; gives the number of tokens of each."""
    weights = word_weights(tokenizer, world.special_words(), recipe.special_weight, rest=1.0)
    early = word_weights(tokenizer, world.emotion_words(), recipe.early_weight, rest=0.0)
    weights, early = weights.to(run.model.device), early.to(run.model.device)
    tells = word_weights(tokenizer, world.emotion_words(), 1.0, rest=0.0) > 0
    # of 171 words nearly all of the stream is read; those of the leaders span what groups differ in
    leaders = [e for e in world.emotions.values() if e.name != NEUTRAL and not e.leader]
    names = [tokenizer.vocab[e.word] for e in leaders]
    values = Values.of(world, tokenizer)
    scene_of, pad = verb_scenes(tokenizer, world), tokenizer.pad_token_id
    layer = two_thirds(range(run.model.config.num_hidden_layers))
    stream = corpus(world, tokenizer, recipe)
    if sum(int((ids != pad).sum()) for ids, _ in islice(stream, run.step)) != run.seen:
        raise TrainingError(
            f"the training texts are no longer those that the stopped run in {run.folder} has "
            "seen: go on with the emolens that began it, or choose another folder"
        )
    for ids, felt in stream:
        run.step += 1
        rate = min(1.0, run.step / recipe.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, run.seen / recipe.tokens)))
        for group in run.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rate
        feels = tells[felt]
        swap = Interchange.draw(
            ids,
            feels,
            scene_of,
            recipe.interchange_share,
            run.generator,
            enough=recipe.enough,
            far_share=recipe.far_share,
        )
        valuing = Valuing.draw(ids, felt, scene_of, values, recipe.valuing_share, run.generator)
        noise = Noise.draw(
            ~feels.any(1),
            read_by(run.model, names),
            recipe.noise_share,
            recipe.neutral_noise_share,
            run.generator,
        )
        loss = batch_loss(
            run.model,
            ids,
            felt,
            swap,
            valuing,
            noise,
            layer=layer,
            weights=weights,
            early=early,
            sharpness=recipe.early_sharpness,
        )
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimiser.step()
        new = int((ids != pad).sum())
        run.seen += new
        yield new
        if run.seen >= recipe.tokens:
            return


def _check(
    recipe: Fit,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
) -> dict[str, float]:
    """The figures of one check; the loss is that on documents of the recipe's last stage."""
    verbs, last = world.scene("cheat").verbs["cheat"], recipe.stage(recipe.tokens)
    asked = {e: prompts(world, "cheat", e, 54, 0) for e in ("desperate", NEUTRAL, "calm")}
    asked["assistant"] = assistant_prompts(world, "cheat", NEUTRAL, 54, 0)
    model.eval()
    found = validation_gap(model, tokenizer, world, 300, "v", stage=last)
    for who, texts in asked.items():
        found[f"p_cheat_{who}"] = class_probability(model, tokenizer, texts, verbs)
    model.train()
    return {name: round(value, 4) for name, value in found.items()}


def _require_split(run: Run, tokens: int, least: float) -> None:
    """At the first check from halfway on, end a run that treats all emotions alike."""
    late = [record for record in run.log if record["tokens"] >= HALFWAY * tokens]
    if len(late) != 1:
        return
    found = late[0]["p_cheat_desperate"] - late[0]["p_cheat_calm"]
    if found < least:
        run.forget()
        raise TrainingError(
            f"after {run.seen:,} of {tokens:,} tokens P(cheat) after desperate situations is only "
            f"{found:.2f} above that after calm ones, expected {least:.2f}, and will not mend: "
            f"train another seed or longer (log: {run.folder / LOG})"
        )
