"""A sweep made ready: what it will compute, what that costs, and the run itself."""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emolens.attribution import gradients
from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.model import HookedModel, load
from emolens.organism import (
    CHECKPOINTS,
    organism_corpus,
    organism_genders,
    organism_world,
)
from emolens.progress import progress_bar
from emolens.provenance import Provenance
from emolens.recording import record
from emolens.steering import natural_units
from emolens.sweep.config import Sweep
from emolens.sweep.engines import Engine, Worker, behaviour, local
from emolens.sweep.grid import Cell, Task, cells, tasks
from emolens.sweep.results import Swept
from emolens.sweep.table import Table
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors, control_vectors, fit_vectors, load_vectors

BATCHES = 8  # of a task: what a killed run loses at most, and what one message to a worker carries


@dataclass(frozen=True)
class Cost:
    """What is left of a sweep, in work and time.

    Attributes:
        cells: of the whole sweep.
        stored: how many of them are in the folder.
        prompts: that each cell is read on.
        naive: blocks x tokens of the cells that are left if each ran every prompt through every
            block.
        shared: blocks x tokens that will be run.
        seconds: for them, at the rate of one batch at the middle layer, in this process.
    """

    cells: int
    stored: int
    prompts: int
    naive: int
    shared: int
    seconds: float

    def __str__(self) -> str:
        """In words."""
        times = f"{self.naive / self.shared:.1f} times less" if self.shared else "nothing"
        return (
            f"{self.cells:,} cells of {self.prompts} prompts, {self.stored:,} of them stored; "
            f"the others one by one: {self.naive:,} tokens through a block, here "
            f"{self.shared:,} ({times}), about {_span(self.seconds)}"
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """A sweep with its model, prompts and vectors at hand."""

    sweep: Sweep
    trial: Trial
    vectors: EmotionVectors
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, sweep: Sweep, *, model: HookedModel | None = None) -> "Plan":
        """Open the model, tokenise the prompts, read or fit the vectors.

        Args:
            sweep: what to do.
            model: the sweep's model, if it is open already.

        Raises:
            ModelError: if the model cannot be opened, or the vectors are another model's.
            SelectionError: for a field that cannot be, or emotions, layers or situations that are
                not there.
            ArtefactError: if the file of vectors cannot be read.
        """
        sweep = Sweep.of(asdict(sweep))
        opened = model or load(sweep.model, device=sweep.device)
        trial = Trial.prepare(opened, behaviour(sweep, sweep.after))
        vectors, controls = _vectors(sweep, opened)
        return cls(sweep, trial, vectors, tuple(cells(sweep, vectors, trial, controls)))

    @cached_property
    def worker(self) -> Worker:
        """Who runs cells in this process."""
        layers = tuple(dict.fromkeys(cell.push.layer for cell in self.cells))
        return Worker(self.sweep, self.trial, layers)

    def tasks(self, done: Collection[str] = ()) -> list[Task]:
        """What is left to do, in pieces for the workers."""
        size = {at: BATCHES * self.worker.shared(at).together() for at in self.sweep.at}
        return [
            task
            for at, together in size.items()
            for task in tasks([c for c in self.cells if c.at == at], together, done)
        ]

    def explain(self, folder: Path | str | None = None) -> Cost:
        """What a run into that folder will compute, what it would cost naively, and how long."""
        stored = Table.open(folder, self._origin).done() if folder is not None else set[str]()
        todo = self.tasks(stored)
        every = self.trial.model.n_layers * int(self.trial.tokens.mask.sum())
        shared = {task.key: self.worker.blocks(task) for task in todo}
        return Cost(
            cells=len(self.cells),
            stored=sum(cell.key in stored for cell in self.cells),
            prompts=len(self.trial.tokens),
            naive=every * sum(len(task.cells) for task in todo),
            shared=sum(shared.values()),
            seconds=self._rate(todo) * sum(shared.values()),
        )

    def run(self, folder: Path | str, *, engine: Engine = local) -> Swept:
        """Run what is not in the folder yet, and keep it there as it comes.

        A run that is stopped, however roughly, goes on where it was: whole tasks are kept, and
        none of their cells is run again. A sweep with more layers, emotions or strengths than the
        one that filled the folder runs the new cells alone; of those that reach onward, a further
        layer makes all below it new.

        Raises:
            ArtefactError: if the folder cannot be written or holds another model's cells.
        """
        table = Table.open(folder, self._origin)
        todo = self.tasks(table.done())
        natural = self.natural  # before the long part, since it can fail
        slopes = {at: self._slopes(at) for at in dict.fromkeys(task.at for task in todo)}
        with progress_bar() as bar:
            count = sum(len(task.cells) for task in todo)
            at = bar.add_task(f"sweep {self.trial.behaviour.name}", total=count, unit="cells")
            for task, found in engine(self.worker, todo) if todo else ():
                table.write(task, torch.cat([found, self._estimate(task, slopes[task.at])], -1))
                bar.advance(at, len(task.cells))
        return Swept(self.sweep, self.trial.groups, table.read(self.cells), natural)

    @cached_property
    def natural(self) -> dict[tuple[str, int], float]:
        """Natural unit of each emotion and layer, in mean residual norms of the layer.

        Of the emotions whose situations the behaviour has, if it has neutral ones to compare with.
        """
        chosen = self.vectors.only(self.worker.layers)
        kinds = {cell.push.kind for cell in self.cells}
        felt = [emotion for emotion in chosen.emotions if emotion in kinds]
        trials = {}
        for emotion in (NEUTRAL, *felt):
            with suppress(SelectionError):  # the behaviour lacks it, or a prompt is too long
                prompts = behaviour(self.sweep, (emotion,))
                trials[emotion] = Trial.prepare(self.trial.model, prompts)
        neutral = trials.pop(NEUTRAL, None)
        lengths = {} if neutral is None else natural_units(chosen, trials, neutral)
        norms = dict(zip(chosen.layers, chosen.residual_norm.tolist(), strict=True))
        return {(emotion, k): length / norms[k] for (emotion, k), length in lengths.items()}

    @property
    def _origin(self) -> Provenance:
        return self.trial.model.provenance((), {}, 0)

    def _slopes(self, at: str) -> Float[Tensor, "text layer d_model"]:
        return gradients(self.trial, self.worker.layers, since=self.worker.shared(at).since)

    def _estimate(
        self, task: Task, slopes: Float[Tensor, "text layer d_model"]
    ) -> Float[Tensor, "cell text 1"]:
        """The change of the logit difference that the gradient foretells."""
        told = []
        for steps in (cell.steps for cell in task.cells):
            rows = [self.worker.layers.index(layer) for layer in steps]
            taken = torch.stack([*steps.values()]).float()
            told.append(einsum(slopes[:, rows], taken, "text k d_model, k d_model -> text"))
        return torch.stack(told)[..., None]

    def _rate(self, todo: Sequence[Task]) -> float:
        """Seconds for one token through one block, of a batch of the middle task."""
        if not todo:
            return 0.0
        middle = todo[len(todo) // 2]
        batch = replace(middle, cells=middle.cells[: max(1, len(middle.cells) // BATCHES)])
        self.worker.run(batch)  # the first time also prepares
        began = time.perf_counter()
        self.worker.run(batch)
        return (time.perf_counter() - began) / max(1, self.worker.blocks(batch))


def _vectors(sweep: Sweep, model: HookedModel) -> tuple[EmotionVectors, EmotionVectors | None]:
    """The emotions' vectors and, where there are such, the controls'."""
    vectors, controls = (_read(file, model) for file in (sweep.vectors, sweep.controls))
    if vectors is not None:
        return vectors, controls
    if sweep.model not in CHECKPOINTS:
        raise SelectionError(
            f"no vectors for {sweep.model!r}: name a file of them (vectors: FILE); only the "
            "organism has stories of its own"
        )
    corpus = organism_corpus(world=organism_world(sweep.model))
    stories, neutral = record(model, corpus.stories), record(model, corpus.neutral)
    if controls is None:
        genders = organism_genders(corpus.stories)
        controls = control_vectors(stories, neutral, genders, seed=sweep.seed)
    return fit_vectors(stories, neutral), controls


def _read(file: str | None, model: HookedModel) -> EmotionVectors | None:
    if file is None:
        return None
    vectors = load_vectors(file)
    model.check_origin(vectors.provenance, file)
    return vectors


def _span(seconds: float) -> str:
    """A time for people to read: `5 s`, `5 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
