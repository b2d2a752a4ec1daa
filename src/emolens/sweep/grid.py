"""The cells of a sweep, each named by its content, and the tasks that they are run in."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, product

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.controls import CONTROL, permutations
from emolens.decisions import Trial
from emolens.steering import Push, pushes
from emolens.sweep.config import Sweep
from emolens.vectors import EmotionVectors

UNSTEERED = "unsteered"  # kind of the one step of length zero
PERMUTED = "permuted"  # kind of an emotion's step with its coordinates in another order


# The step at each later layer and the share of it that is taken: cells share the steps' memory.
Later = Mapping[int, tuple[Float[Tensor, " d_model"], float]]


@dataclass(frozen=True)
class Cell:
    """One step, taken on every prompt.

    Attributes:
        push: where, along what and how far.
        at: `"all"` tokens or the `"decision"`.
        reach: that `"layer"` alone, or `"onward"`, at every later one as well.
        later: what goes with it at later layers: a step, and how much of it.
        key: hash of the steps, their place, the prompts and the words that are read.
    """

    push: Push
    at: str
    reach: str
    later: Later
    key: str

    @property
    def steps(self) -> dict[int, Float[Tensor, " d_model"]]:
        """What is added after each block."""
        later = {layer: share * step for layer, (step, share) in self.later.items()}
        return {self.push.layer: self.push.step} | later


@dataclass(frozen=True)
class Task:
    """Cells that one worker runs without a stop: of one layer and reach, at one kind of place."""

    layer: int
    at: str
    reach: str
    cells: tuple[Cell, ...]

    @property
    def key(self) -> str:
        """Hash of its cells' keys."""
        return _hash(*(cell.key for cell in self.cells))


def cells(
    sweep: Sweep, vectors: EmotionVectors, trial: Trial, controls: EmotionVectors | None = None
) -> list[Cell]:
    """All cells of a sweep, in the order of its table.

    Raises:
        SelectionError: for an emotion or layer that the vectors lack.
    """
    chosen = vectors if sweep.layers is None else vectors.only(sweep.layers)
    emotions = vectors.emotions if sweep.emotions is None else sweep.emotions
    for emotion in emotions:
        vectors.row(emotion)
    none = torch.zeros_like(chosen.mean[0])
    steps = [Push(chosen.layers[0], "none", UNSTEERED, "norm", 0.0, none)]
    steps += pushes(
        chosen, emotions, {}, strengths=sweep.strengths, random_count=sweep.random, seed=sweep.seed
    )
    beside = [(_copies(chosen, emotions, sweep.seed), PERMUTED)]
    beside += [] if controls is None else [(controls.only(chosen.layers), CONTROL)]
    for others, kind in beside:
        found = pushes(others, others.emotions, {}, strengths=sweep.strengths, random_count=0)
        steps += [replace(push, kind=kind) for push in found]
    steps.sort(key=lambda push: push.layer)  # those of one layer share their batches
    known = {(push.layer, push.kind, push.direction, push.strength): push.step for push in steps}
    norms = dict(zip(chosen.layers, chosen.residual_norm.tolist(), strict=True))
    read, made = _hash(reading(trial)), []
    content = {id(p.step): _hash(p.step.float().numpy().tobytes().hex()) for p in steps}
    for at, reach, push in product(sweep.at, sweep.reach, steps):
        later = _later(push, known, norms) if reach == "onward" else {}
        taken = {push.layer: (push.step, 1.0), **later}
        named = [(layer, content[id(step)], share) for layer, (step, share) in taken.items()]
        made.append(Cell(push, at, reach, later, _hash(read, at, reach, named)))
    return list({cell.key: cell for cell in made}.values())  # nothing named twice is run twice


def _copies(vectors: EmotionVectors, emotions: Sequence[str], seed: int) -> EmotionVectors:
    """Each emotion's vectors with their coordinates in an order of its own, the same at all layers.

    They are as long and as uneven as the emotion's, and as alike from layer to layer.
    """
    orders = permutations(len(emotions), vectors.mean.shape[-1], seed)
    copies = [vectors.of(e)[:, order] for e, order in zip(emotions, orders, strict=True)]
    names = tuple(f"{emotion}, permuted" for emotion in emotions)
    return replace(vectors, vectors=torch.stack(copies), emotions=names)


def _later(
    push: Push, known: Mapping[tuple[int, str, str, float], Tensor], norms: Mapping[int, float]
) -> Later:
    """What goes with a step at each later layer: that of the vector there.

    A random one keeps its direction, which moves more than a new one at each layer would.
    """
    later = [layer for layer in norms if layer > push.layer and push.kind != UNSTEERED]
    if push.kind == "random":
        return {layer: (push.step, norms[layer] / norms[push.layer]) for layer in later}
    way = (push.kind, push.direction, push.strength)
    return {layer: (known[layer, *way], 1.0) for layer in later}


def reading(trial: Trial) -> str:
    """Hash of prompts and of the words of each class."""
    behaviour = trial.behaviour
    texts = [(text.text, text.group) for text in behaviour.prompts]
    return _hash(texts, behaviour.target, behaviour.classes)


def tasks(found: Sequence[Cell], size: int, done: Collection[str]) -> Iterator[Task]:
    """Cut cells into tasks of `size`, less those that are done.

    The cut does not depend on what is done, so that a cell shares its batch with the same cells
    however often a sweep is stopped, and its numbers are the same to the last bit.
    """
    for (at, reach, layer), group in groupby(found, key=_shared_by):
        while some := list(islice(group, size)):
            left = tuple(cell for cell in some if cell.key not in done)
            if left:
                yield Task(layer, at, reach, left)


def _shared_by(cell: Cell) -> tuple[str, str, int]:
    """What cells of one batch have in common."""
    return cell.at, cell.reach, cell.push.layer


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=dict).encode()).hexdigest()[:16]
