"""Pooled activations of a corpus, with their labels and where they came from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.errors import CorpusError, SelectionError
from emolens.provenance import Provenance
from emolens.text import NEUTRAL


@dataclass(frozen=True)
class Activations:
    """One residual vector per text and layer: the mean over the picked tokens.

    Attributes:
        pooled: means over the picked positions, in residual units.
        layers: 0-based block indices of the second axis.
        emotions: label of each text.
        groups: topic or template of each text.
        residual_norm: mean norm of the residual at the picked tokens, per layer; the unit of
            steering strengths.
        provenance: model, texts, positions.
        n_layers: blocks of the model, recorded or not; None where that is not known.
    """

    pooled: Float[Tensor, "text layer d_model"]
    layers: tuple[int, ...]
    emotions: tuple[str, ...]
    groups: tuple[str, ...]
    residual_norm: Float[Tensor, " layer"]
    provenance: Provenance
    n_layers: int | None = None

    def depth(self, layer: int) -> float:
        """The share of the model's blocks up to and with this one, in 0..1; NaN if not known."""
        return float("nan") if self.n_layers is None else (layer + 1) / self.n_layers

    def at(self, layer: int) -> Float[Tensor, "text d_model"]:
        """The pooled residuals after one block.

        Raises:
            SelectionError: if that layer was not recorded.
        """
        if layer not in self.layers:
            raise SelectionError(
                f"layer {layer} was not recorded: these activations hold layers {self.layers}"
            )
        return self.pooled[:, self.layers.index(layer)]

    def of(self, emotion: str) -> Float[Tensor, "chosen layer d_model"]:
        """The texts of one emotion.

        Raises:
            SelectionError: if no text has that label.
        """
        rows = [i for i, label in enumerate(self.emotions) if label == emotion]
        if not rows:
            raise SelectionError(f"no text of emotion {emotion!r}: there are {self.labels}")
        return self.pooled[torch.tensor(rows)]

    def labelled(self, emotions: Sequence[str]) -> "Activations":
        """The same recordings under other labels: what another character feels, what is shown.

        Raises:
            CorpusError: if there is not one label a text.
        """
        if len(emotions) != len(self.emotions):
            raise CorpusError(
                f"{len(emotions)} labels for {len(self.emotions)} texts: give one label a text"
            )
        return replace(self, emotions=tuple(emotions))

    def rows(self, rows: Sequence[int]) -> "Activations":
        """Some of the texts, in that order; a text may come more than once."""
        return replace(
            self,
            pooled=self.pooled[torch.tensor(rows)],
            emotions=tuple(self.emotions[i] for i in rows),
            groups=tuple(self.groups[i] for i in rows),
        )

    def at_only(self, layer: int) -> "Activations":
        """The same recordings at one layer.

        Raises:
            SelectionError: if that layer was not recorded.
        """
        return replace(
            self,
            pooled=self.at(layer)[:, None],
            layers=(layer,),
            residual_norm=self.residual_norm[[self.layers.index(layer)]],
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions that occur, neutral left out, in order of first appearance."""
        return tuple(dict.fromkeys(e for e in self.emotions if e != NEUTRAL))

    def require_emotions(self) -> None:
        """See that there is something to tell apart.

        Raises:
            CorpusError: if fewer than two emotions occur.
        """
        if len(self.labels) < 2:
            raise CorpusError(
                f"the corpus has {len(self.labels)} emotion(s) ({', '.join(self.labels) or 'none'})"
                ": an emotion vector is a difference, give stories of at least 2 emotions"
            )

    def __repr__(self) -> str:
        """One line."""
        texts, layers, width = self.pooled.shape
        return (
            f"Activations({texts} texts of {len(self.labels)} emotions, {layers} layers, "
            f"d_model {width}, model {self.provenance.model!r})"
        )
