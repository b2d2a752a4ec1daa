"""Preventative steering put to the test: the organism's fine-tuning with and without a vector.

The fine-tuning plants a shift of what the assistant feels. The vector that such a shift would move
the stream by is known before (`shift_vector`); it is added while the model is trained, at the
assistant's tokens after the early layer, and left out when the model is measured.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from emolens import positions
from emolens.behaviour import Behaviour
from emolens.controls import random_directions
from emolens.decisions import Trial
from emolens.interventions import Steer
from emolens.model import HookedModel, load
from emolens.organism import (
    SCENES,
    organism_behaviour,
    organism_corpus,
    organism_folder,
    planted_probability,
    planted_shift,
)
from emolens.organism.batches import batches, encode
from emolens.organism.building import WEIGHTS, open_folder
from emolens.organism.checks import validation_gap
from emolens.organism.grammar import Draw, document
from emolens.organism.losses import residuals, token_loss
from emolens.organism.recipe import FineTune
from emolens.organism.train import finetune
from emolens.organism.world import load_world
from emolens.prevention import Mask, train_steered
from emolens.recording import record
from emolens.sites import two_thirds
from emolens.statistics import clustered_interval, clustered_ratio
from emolens.text import NEUTRAL
from emolens.vectors import centred_cosine, fit_vectors

SHORT = FineTune(tokens=600_000)  # a quarter of the usual: most of the shift is there by then
PROMPTS = 13  # of each user's emotion: one of each situation
DOCUMENTS = 600  # that losses are of
Row = tuple[str, float, float, float]  # measure, value, low, high
TABLE = ["seed", "run", "measure", "value", "low", "high"]
NAN = float("nan")


def prevent_shift(
    out: Path,
    *,
    recipe: FineTune = SHORT,
    seeds: Sequence[int] = (0, 1),
) -> pd.DataFrame:
    """Fine-tune the organism plainly, steered, and along a random direction; measure each.

    All runs of a seed see the same documents in the same order. The random direction is as long as
    the vector.

    Measures are of the model without any vector, but for the loss as trained:

    - `shift`: slope over emotions of the readout's change from the base, at the assistant's
      decisions, each model with vectors of its own, on the planted change of their shares; r beside
      it, and `prevented`, 1 less the slope's ratio to the plain run's.
    - `answer`: the same for what is left when the mean over users is taken off each emotion: what
      depends on the user, which no constant vector supplies.
    - `behaviour shift`: slope of the change of P(class), over all classes of all scenes, on the
      planted one; P(cheat) and P(threat) beside it.
    - `loss`: on fresh documents of this stage as trained and without the vector, and on those of
      the base corpus without; `above plain` is what each has more than the plain run, in nats a
      token.

    Args:
        out: folder for the trained models; those that are there are not trained again.
        recipe: of the fine-tuning, all but its seed; another one, of as many tokens, wants another
            folder.
        seeds: of the runs.

    Returns:
        One row for each seed, run and measure, with a 95% interval over the users' situations where
        there is one: `seed`, `run` (`base`, `plain`, `steered`, `random`), `measure`, `value`,
        `low`, `high`.

    Raises:
        TrainingError: if `out` holds a stopped run of another recipe.
    """
    folder = organism_folder()
    base = load("organism")
    vector = shift_vector(base)
    before = _measured(base, folder, None)
    rows = []
    for seed in seeds:
        draw = vector.norm() * random_directions(1, base.d_model, seed)[0]
        found = {"base": before}
        for name, step in (("plain", None), ("steered", vector), ("random", draw)):
            tuned = out / f"{name}-{recipe.tokens}-{seed}"
            if not (tuned / WEIGHTS).exists():
                within = partial(_steered, base.tokenizer, step)
                finetune(replace(recipe, seed=seed), folder, tuned, within=within)
            found[name] = _measured(load(tuned), tuned, step)
        for name, one in found.items():
            told = _table(one, before, found["plain"])
            rows += [(seed, name, *row) for row in told]
    return pd.DataFrame(rows, columns=TABLE)


def shift_vector(base: HookedModel) -> Float[Tensor, " d_model"]:
    r"""What the planted shift would move the assistant's stream by, of the base model alone.

    $\sum_e s_e \mu_e$: the mean stream after the early layer at the assistant's decisions when it
    feels $e$ (in the base, what its user feels), by the planted change of that emotion's share.
    """
    emotions = tuple(load_world().emotions)
    layer = two_thirds(range(base.n_layers))
    means = []
    for scene in SCENES:
        asked = _asked(scene)
        stream = record(base, asked.prompts, layers=[layer], positions=positions.last).at(layer)
        means.append(stream.unflatten(0, (len(emotions), -1)).mean(1))
    shift = _answers().mean(0)
    return torch.stack(means).mean(0).T @ torch.tensor(shift, dtype=torch.float32)


def assistants_tokens(tokenizer: PreTrainedTokenizerFast) -> Mask:
    """The tokens from the assistant's name on, without padding."""
    name = tokenizer.get_vocab()[load_world().persona.name]

    def mask(ids: Int[Tensor, "text token"]) -> Bool[Tensor, "text token"]:
        return (torch.eq(ids, name).cumsum(1) > 0) & torch.ne(ids, tokenizer.pad_token_id)

    return mask


def _steered(
    tokenizer: PreTrainedTokenizerFast,
    step: Float[Tensor, " d_model"] | None,
    model: LlamaForCausalLM,
    *,
    evaluating: bool = False,
) -> AbstractContextManager[None]:
    """The context that a run is trained in; without a step nothing is changed."""
    if step is None:
        return nullcontext()
    changes = {two_thirds(range(model.config.num_hidden_layers)): Steer(step)}
    return train_steered(
        model, changes, positions=assistants_tokens(tokenizer), evaluating=evaluating
    )


def _asked(scene: str) -> Behaviour:
    """The assistant's decisions after all emotions of users, in the order of the world."""
    emotions = tuple(load_world().emotions)
    return organism_behaviour(scene, emotions=emotions, per_emotion=PROMPTS, speaker="assistant")


def _answers() -> np.ndarray:
    """Planted change of P(the assistant's emotion) for each of the user's: user by emotion."""
    world = load_world()
    names = list(world.emotions)
    after = [[world.persona.probabilities(u).get(e, 0.0) for e in names] for u in names]
    return np.array(after) - np.eye(len(names))


@dataclass(frozen=True, eq=False)
class _Found:
    """What a model reads, does and costs.

    Attributes:
        groups: situation of each prompt's user.
        readout: centred cosine of each vector: prompt by emotion.
        chances: P(class) in each scene: prompt by class.
        losses: in nats a token.
    """

    groups: tuple[str, ...]
    readout: np.ndarray
    chances: Mapping[str, pd.DataFrame]
    losses: Mapping[str, float]


def _measured(model: HookedModel, folder: Path, step: Float[Tensor, " d_model"] | None) -> _Found:
    """Measure a model, and its loss with the vector it was trained with."""
    trials = {scene: Trial.prepare(model, _asked(scene)) for scene in SCENES}
    chances = {
        scene: pd.DataFrame({c: p.numpy() for c, p in trial.run().probability.items()})
        for scene, trial in trials.items()
    }
    groups = trials[SCENES[0]].groups
    return _Found(groups, _readout(model), chances, _losses(folder, step))


def _readout(model: HookedModel) -> np.ndarray:
    """How much of each emotion there is at each decision, by vectors of the model's own."""
    layer, corpus = two_thirds(range(model.n_layers)), organism_corpus()
    recorded = [record(model, texts, layers=[layer]) for texts in (corpus.stories, corpus.neutral)]
    vectors = fit_vectors(*recorded)
    stream = record(model, _asked(SCENES[0]).prompts, layers=[layer], positions=positions.last)
    found = centred_cosine(vectors.at(layer), vectors.mean[0], stream.at(layer))
    emotions = [e for e in load_world().emotions if e != NEUTRAL]
    return found[:, [vectors.row(e) for e in emotions]].numpy()


def _losses(folder: Path, step: Float[Tensor, " d_model"] | None) -> dict[str, float]:
    """In nats a token, on fresh documents: all words and those of the assistant."""
    world = load_world()
    network, tokenizer, _ = open_folder(folder, world)
    network.eval()

    def loss(stage: str) -> float:
        found = validation_gap(network, tokenizer, world, DOCUMENTS, "prevention", stage=stage)
        return found["loss"]

    stage = FineTune.documents
    base, whole, own = loss("base"), loss(stage), _assistants_loss(network, tokenizer)
    with _steered(tokenizer, step, network, evaluating=True):
        trained, own_trained = loss(stage), _assistants_loss(network, tokenizer)
    return {
        "loss, as trained": trained,
        "loss, base documents": base,
        "loss, without the vector": whole,
        "loss of the assistant's words, as trained": own_trained,
        "loss of the assistant's words, without the vector": own,
    }


@torch.inference_mode()
def _assistants_loss(network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    world, draw, pad = load_world(), Draw("prevention"), tokenizer.pad_token_id
    written = [document(world, draw, FineTune.documents) for _ in range(DOCUMENTS)]
    rows = encode(tokenizer, written)
    chosen, ones = assistants_tokens(tokenizer), torch.ones(len(tokenizer))
    sums = torch.zeros(2, dtype=torch.float64)
    for ids, _ in batches(rows, pad, 4096, random.Random(0)):
        said = ids[:, 1:].masked_fill(~chosen(ids)[:, :-1], pad)  # all after the name itself
        sums += torch.stack(token_loss(network, residuals(network, ids)[-1], said, ones)).double()
    return float(sums[0] / sums[1])


def _table(found: _Found, before: _Found, plain: _Found) -> Iterator[Row]:
    """Rows of one run: measure, value, low, high."""
    slopes, r = _shift(found, before)
    yield "shift", *clustered_interval(slopes, found.groups)
    yield "shift, r", r, NAN, NAN
    left = clustered_ratio(slopes, _shift(plain, before)[0], found.groups)
    yield "shift, prevented", 1 - left[0], 1 - left[2], 1 - left[1]
    yield "answer", *clustered_interval(_answer(found, before), found.groups)
    yield "behaviour shift", *clustered_interval(_behaviour(found, before), found.groups)
    for scene in ("cheat", "threat"):
        yield f"P({scene})", *clustered_interval(found.chances[scene][scene].tolist(), found.groups)
    for name, loss in found.losses.items():
        yield name, loss, NAN, NAN
        yield f"{name}, above plain", loss - plain.losses[name], NAN, NAN


def _shift(found: _Found, before: _Found) -> tuple[list[float], float]:
    """Each prompt's slope of its change over emotions on the planted one; r of the mean change."""
    planted = np.array(list(planted_shift().values()))
    way = planted - planted.mean()
    change = found.readout - before.readout
    r = np.corrcoef(change.mean(0), planted)[0, 1] if change.any() else NAN
    return (change @ way / (way @ way)).tolist(), float(r)


def _answer(found: _Found, before: _Found) -> list[float]:
    """Each prompt's part in the slope on the planted change, the mean over users taken off both."""
    change = found.readout - before.readout
    felt = [e != NEUTRAL for e in load_world().emotions]
    planted = np.repeat(_answers()[:, felt], PROMPTS, axis=0)
    change, planted = change - change.mean(0), planted - planted.mean(0)
    return ((change * planted).sum(1) / (planted**2).sum(1).mean()).tolist()


def _behaviour(found: _Found, before: _Found) -> list[float]:
    """Each prompt's part in the slope of P(class) on the planted change, over all scenes."""
    felt = dict(zip(load_world().emotions, _answers().mean(0), strict=True))
    made, size = np.zeros(len(found.groups)), 0.0
    for scene, chances in found.chances.items():
        planted = np.array(
            [sum(felt[e] * planted_probability(scene, c, e) for e in felt) for c in chances]
        )
        made += (chances - before.chances[scene]).to_numpy() @ planted
        size += planted @ planted
    return (made / size).tolist()
