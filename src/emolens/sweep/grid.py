"""The cells of a sweep, each named by its content, and the tasks that they are run in."""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

import torch

from emolens.controls import CONTROL, permutations
from emolens.decisions import Trial
from emolens.steering import Push, pushes
from emolens.sweep.config import Sweep
from emolens.vectors import EmotionVectors

UNSTEERED = "unsteered"  # kind of the one step of length zero
PERMUTED = "permuted"  # kind of an emotion's step with its coordinates in another order


@dataclass(frozen=True)
class Cell:
    """One step, taken on every prompt.

    Attributes:
        push: where, along what and how far.
        at: `"all"` tokens or the `"decision"`.
        key: hash of the step, its place, the prompts and the words that are read.
    """

    push: Push
    at: str
    key: str


@dataclass(frozen=True)
class Task:
    """Cells that one worker runs without a stop: of one layer, at one kind of place."""

    layer: int
    at: str
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
    if controls is not None:
        others = pushes(
            controls.only(chosen.layers),
            controls.emotions,
            {},
            strengths=sweep.strengths,
            random_count=0,
        )
        steps += [replace(push, kind=CONTROL) for push in others]
    steps += _permuted([push for push in steps if push.kind in emotions], sweep.seed)
    steps.sort(key=lambda push: push.layer)  # those of one layer share their batches
    read = reading(trial)
    found = [
        Cell(step, at, _hash(read, at, step.layer, step.step.float().numpy().tobytes().hex()))
        for at in sweep.at
        for step in steps
    ]
    return list({cell.key: cell for cell in found}.values())  # nothing named twice is run twice


def _permuted(steps: Sequence[Push], seed: int) -> list[Push]:
    """Each emotion's steps at a layer in one other order of coordinates, whatever their length."""
    ways = list(dict.fromkeys((push.layer, push.direction) for push in steps))
    orders = permutations(len(ways), len(steps[0].step), seed)
    order = dict(zip(ways, orders, strict=True))
    return [
        replace(
            push,
            direction=f"{push.direction}, permuted",
            kind=PERMUTED,
            step=push.step[order[push.layer, push.direction]],
        )
        for push in steps
    ]


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
    for (at, layer), group in groupby(found, key=lambda cell: (cell.at, cell.push.layer)):
        while some := list(islice(group, size)):
            left = tuple(cell for cell in some if cell.key not in done)
            if left:
                yield Task(layer, at, left)


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=dict).encode()).hexdigest()[:16]
