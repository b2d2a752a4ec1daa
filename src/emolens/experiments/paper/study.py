"""One model under study: what the experiments share, and how an experiment is described."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.activations import Activations
from emolens.experiments.paper.claims import CONFIDENCE, Claim, Found
from emolens.experiments.paper.materials import Materials
from emolens.experiments.words import TWELVE
from emolens.model import HookedModel
from emolens.positions import PositionRule, last
from emolens.provenance import versions
from emolens.readout import Kind, read_out
from emolens.recording import record
from emolens.report import Exhibit
from emolens.sites import two_thirds
from emolens.text import Text
from emolens.vectors import EmotionVectors, fit_vectors


@dataclass(eq=False)
class Study:
    """A model and its materials. Stories are recorded once and serve every experiment.

    Attributes:
        model: the hooked model.
        materials: its texts.
        base: the model it was tuned from, where that is to be compared.
        seed: of every random choice.
        folder: where recordings are kept until the study is done, so that a killed run goes on.
    """

    model: HookedModel
    materials: Materials
    base: HookedModel | None = None
    seed: int = 0
    folder: Path | None = None

    @property
    def layer(self) -> int:
        """The block at two thirds of the depth, as in the paper; nothing is chosen by results."""
        return two_thirds(range(self.model.n_layers))

    @property
    def middle(self) -> int:
        """The block at half of the depth, for preferences as in the paper."""
        return max(round(self.model.n_layers / 2) - 1, 0)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Of which model and texts, where it is read, and with which versions."""
        return {
            "model": self.model.name,
            "fingerprint": list(self.model.fingerprint),
            "base": self.base.name if self.base else None,
            "texts": self.materials.name,
            "emotions": len(self.materials.corpus.emotions),
            "layer": self.layer,
            "layers": self.model.n_layers,
            "d_model": self.model.d_model,
            "seed": self.seed,
            "versions": versions(),
        }

    @cached_property
    def identity(self) -> str:
        """What must be the same for a result to be taken over: models, all texts, seed, versions.

        Made once a study: it goes through every text.
        """
        base = list(self.base.fingerprint) if self.base else None
        told = [self.provenance, base, list(_words(self.materials))]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @cached_property
    def stories(self) -> Activations:
        """All stories, at all layers."""
        return self._kept("stories", self.materials.corpus.stories)

    @cached_property
    def neutral(self) -> Activations:
        """All neutral texts, at all layers."""
        return self._kept("neutral", self.materials.corpus.neutral)

    @cached_property
    def vectors(self) -> EmotionVectors:
        """The paper's vectors at all layers."""
        return fit_vectors(self.stories, self.neutral)

    def _kept(self, name: str, texts: Sequence[Text]) -> Activations:
        return record(self.model, texts, folder=self.folder / name if self.folder else None)

    @property
    def twelve(self) -> tuple[str, ...]:
        """Those of the paper's twelve emotions that the stories have."""
        return tuple(e for e in TWELVE if e in self.materials.corpus.emotions)

    def read(
        self,
        texts: Sequence[Text],
        layer: int,
        *,
        positions: PositionRule = last,
        kind: Kind = "centred",
        emotions: Sequence[str] = (),
    ) -> Float[Tensor, "text emotion"]:
        """Readouts of texts at one layer, by default where the reply or decision begins."""
        residual = record(self.model, texts, layers=[layer], positions=positions).at(layer)
        values = read_out(self.vectors, residual, layer, kind=kind)
        if not emotions:
            return values
        return values[:, [self.vectors.row(e) for e in emotions]]

    def tokens(self, texts: Sequence[Text]) -> int:
        """About how many tokens some texts have: counted on every tenth of many."""
        sample = texts[:: max(1, len(texts) // 50)] or texts
        if not sample:
            return 0
        counted = int(self.model.tokenize(sample).mask.sum())
        return counted * len(texts) // len(sample)


def _words(value: object) -> Iterator[str]:
    """Every string and number in materials, in order."""
    if isinstance(value, str | Path | int | float):
        yield str(value)
    elif isinstance(value, Mapping):
        yield from _words(tuple(value.items()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _words(part)
    elif is_dataclass(value):
        yield from _words([getattr(value, f.name) for f in fields(value)])


@dataclass(frozen=True, eq=False)
class Experiment:
    """A group of the paper's figures.

    Attributes:
        name: for `--experiments`.
        title: of its section.
        figures: which of the paper's.
        inputs: what is read.
        procedure: what is done.
        readout: what is measured.
        control: what it is held against.
        claims: what the paper says, with rules fixed beforehand.
        lacks: why a study cannot have it, or nothing.
        cost: about how many tokens the model reads, beyond the stories.
        run: the work.
        draw: pictures and tables of what was found, from the saved tables alone.
    """

    name: str
    title: str
    figures: str
    inputs: str
    procedure: str
    readout: str
    control: str
    claims: tuple[Claim, ...]
    lacks: Callable[[Study], str]
    cost: Callable[[Study], int]
    run: Callable[[Study], Found]
    draw: Callable[[Mapping[str, pd.DataFrame]], Sequence[Exhibit]]

    @property
    def details(self) -> dict[str, str]:
        """How it was done, for the report."""
        paper = "; ".join(f"{c.says}: {_number(c)}" for c in self.claims)
        return {
            "figures": self.figures,
            "inputs": self.inputs,
            "procedure": self.procedure,
            "readout": self.readout,
            "control": self.control,
            "the paper's numbers": paper,
            "rules, fixed beforehand": ". ".join(c.rule for c in self.claims) + ".",
        }


def _number(claim: Claim) -> str:
    told = "none" if claim.paper is None else f"{claim.paper:g}"
    return f"{told} ({CONFIDENCE[claim.confidence]})"


def logits_needed(study: Study) -> str:
    """The reason for a model without next-token logits; nothing for a decoder."""
    return "" if study.model.causal else f"{study.model.name!r} has no next-token logits"


def mean_of_rest(values: Float[Tensor, "row column"], own: Sequence[int]) -> Tensor:
    """Of each row, its own column minus the mean of all others."""
    rows = torch.arange(len(values))
    mine = values[rows, list(own)]
    return mine - (values.sum(1) - mine) / (values.shape[1] - 1)
