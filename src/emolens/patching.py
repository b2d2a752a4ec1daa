"""Give one run another's residuals: all of them, only along a direction, or all but that.

Two prompts of a pair differ in how they begin and share how they end. The run of the one (the
receiver) gets the residuals that the run of the other (the donor) has at the shared tokens. If a
direction carries what drives the behaviour, patching along it alone moves the behaviour about as
far as patching everything does, and patching everything else moves it hardly at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.controls import random_directions
from emolens.decisions import Decision, Trial
from emolens.errors import SelectionError
from emolens.hooks import reading
from emolens.interventions import Part, Patch, along, apart, placebo, unit, whole
from emolens.progress import track
from emolens.sharing import run_changed
from emolens.statistics import clustered_ratio, each_half
from emolens.steering import RANDOM_DIRECTIONS
from emolens.vectors import EmotionVectors

PATCH_COLUMNS = ["part", "kind", "half", "p", "logit_difference", "recovered", "low", "high", "n"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prompts in pairs that begin differently and end alike.

    Attributes:
        receiver: prompts whose run is patched.
        donor: prompts whose residuals are put in; the i-th belongs to the i-th receiver.
        shared: how many tokens at its end each pair shares.
    """

    receiver: Trial
    donor: Trial
    shared: Int[Tensor, " pair"]

    @classmethod
    def of(cls, receiver: Trial, donor: Trial) -> "Pairs":
        """Pair two trials of one model, prompt by prompt.

        Raises:
            SelectionError: for two models or behaviours, another number of prompts, or a pair that
                does not end alike or does not differ at all.
        """
        if receiver.model is not donor.model or receiver.ids.keys() != donor.ids.keys():
            raise SelectionError(
                "receiver and donor are of two models or behaviours: prepare both trials on one"
            )
        if len(receiver.tokens) != len(donor.tokens):
            raise SelectionError(
                f"{len(receiver.tokens)} receivers and {len(donor.tokens)} donors do not pair up: "
                "give one donor for each receiver, in the same order"
            )
        ends = zip(_backwards(receiver), _backwards(donor), strict=True)
        shared = []
        for i, (one, other) in enumerate(ends):
            alike = [a == b for a, b in zip(one, other, strict=False)]
            count = alike.index(False) if False in alike else len(alike)
            if count == 0 or (all(alike) and len(one) == len(other)):
                raise SelectionError(
                    f"pair {i} {'does not end alike' if count == 0 else 'does not differ'}: "
                    f"{receiver.behaviour.prompts[i].text[-60:]!r} and "
                    f"{donor.behaviour.prompts[i].text[-60:]!r}"
                )
            shared.append(count)
        return cls(receiver, donor, torch.tensor(shared))

    @property
    def mask(self) -> Bool[Tensor, "pair token"]:
        """The receivers' tokens that the donors share."""
        token = torch.arange(self.receiver.tokens.ids.shape[1])
        final = self.receiver.final[:, None]
        return (token <= final) & (token > final - self.shared[:, None])

    @torch.inference_mode()
    def sources(self, layers: Sequence[int]) -> dict[int, Float[Tensor, "pair token d_model"]]:
        """The donors' residuals after each layer, moved to the receivers' positions."""
        with reading(self.donor.model, tuple(layers)) as found:
            self.donor.logits()
        token = torch.arange(self.receiver.tokens.ids.shape[1])
        place = token + (self.donor.final - self.receiver.final)[:, None]
        place = place.clamp(0, self.donor.tokens.ids.shape[1] - 1)
        rows = torch.arange(len(place))[:, None]
        return {layer: found[layer][rows, place] for layer in layers}


def _backwards(trial: Trial) -> list[list[int]]:
    """Token ids of each prompt from the decision back to its begin."""
    rows = zip(trial.tokens.ids.tolist(), trial.final.tolist(), strict=True)
    return [ids[final::-1] for ids, final in rows]


def patch_layers(
    pairs: Pairs,
    vectors: EmotionVectors,
    toward: str,
    away: str,
    *,
    layers: Sequence[int] | None = None,
    random_count: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of the donors' behaviour comes with their residuals, layer by layer.

    At each layer, at all shared tokens: the whole residual; only its part along the unit vector of
    `toward` minus `away`; all but that part; and, as the control of the direction, steps as long
    as those along it in random directions.

    Args:
        pairs: receivers and donors.
        vectors: fitted on the same model.
        toward: the donors' emotion.
        away: the receivers' emotion.
        layers: all fitted ones by default.
        random_count: how many random directions a layer.
        seed: of the random directions.

    Returns:
        Columns layer, part (`"whole"`, `"direction"`, `"complement"`, `"random 0"`, ...), kind
        (`"patch"` or `"random"`), half, p (mean P(target)), logit_difference, recovered with low
        and high (95% bootstrap over templates), n. Recovered is the mean change of the logit
        difference over the mean that the donors are apart: 0 is the receivers' behaviour, 1 the
        donors'.

    Raises:
        SelectionError: for an emotion or layer that was not fitted.
    """
    chosen = tuple(layers if layers is not None else vectors.layers)
    jobs: list[tuple[int, str, str, Part]] = []
    for layer in chosen:
        column = vectors.column(layer)
        difference = vectors.of(toward)[column] - vectors.of(away)[column]
        direction = unit(difference)[None]
        draws = random_directions(random_count, vectors.mean.shape[-1], seed * 1000 + layer)
        jobs += [
            (layer, "whole", "patch", whole),
            (layer, "direction", "patch", along(direction)),
            (layer, "complement", "patch", apart(direction)),
        ]
        jobs += [
            (layer, f"random {i}", "random", placebo(direction, other[None]))
            for i, other in enumerate(draws)
        ]
    sources, read, mask = pairs.sources(chosen), _Recovery.between(pairs), pairs.mask
    patches = [(layer, Patch(sources[layer], mask, part)) for layer, _, _, part in jobs]
    told, rows = track(jobs, f"patching {toward}", len(jobs), "runs"), []
    for job, found in zip(told, run_changed(pairs.receiver, patches), strict=True):
        rows += [(*job[:3], *row) for row in read.rows(found)]
    return pd.DataFrame(rows, columns=["layer", *PATCH_COLUMNS])


def patch_positions(
    pairs: Pairs, *, layers: Sequence[int] | None = None, last: int | None = None
) -> pd.DataFrame:
    """The same for the whole residual of one token at a time: where the behaviour is decided.

    Args:
        pairs: receivers and donors.
        layers: all of the model's by default.
        last: how many tokens from the decision back; by default those that every pair shares.

    Returns:
        Columns layer, position (0 is the decision's token, -1 the one before), and those of
        `patch_layers` from half to n. Pairs that share fewer tokens stay as they are there.
    """
    model = pairs.receiver.model
    chosen = model.check_layers(layers if layers is not None else range(model.n_layers))
    count = last if last is not None else int(pairs.shared.min())
    token = torch.arange(pairs.receiver.tokens.ids.shape[1])
    jobs = [(layer, back) for layer in chosen for back in range(count)]
    sources, read, shared = pairs.sources(chosen), _Recovery.between(pairs), pairs.mask
    places = [shared & (token == pairs.receiver.final[:, None] - back) for back in range(count)]
    patches = [(layer, Patch(sources[layer], places[back], whole)) for layer, back in jobs]
    told, rows = track(jobs, "patching tokens", len(jobs), "runs"), []
    for (layer, back), found in zip(told, run_changed(pairs.receiver, patches), strict=True):
        rows += [(layer, -back, *row) for row in read.rows(found)]
    return pd.DataFrame(rows, columns=["layer", "position", *PATCH_COLUMNS[2:]])


@dataclass(frozen=True, eq=False)
class _Recovery:
    """Logit differences of receivers and donors as they are, to hold patched ones against."""

    pairs: Pairs
    receiver: Float[Tensor, " pair"]
    donor: Float[Tensor, " pair"]

    @classmethod
    def between(cls, pairs: Pairs) -> "_Recovery":
        receiver, donor = (t.run().logit_difference for t in (pairs.receiver, pairs.donor))
        return cls(pairs, receiver, donor)

    def rows(self, found: Decision) -> list[tuple]:
        """One row per half of the pairs, of what the receivers decided when patched."""
        rows = []
        for half, mask, groups in each_half(self.pairs.receiver.groups):
            changed = (found.logit_difference - self.receiver)[mask]
            apart_by = (self.donor - self.receiver)[mask]
            rows.append(
                (
                    half,
                    float(found.p[mask].mean()),
                    float(found.logit_difference[mask].mean()),
                    *clustered_ratio(changed.tolist(), apart_by.tolist(), groups),
                    len(groups),
                )
            )
        return rows
