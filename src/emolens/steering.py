"""Push along a vector at one layer and see what the behaviour does, beside random directions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import false_discovery_control
from torch import Tensor

from emolens.controls import random_directions
from emolens.decisions import Decision, Trial
from emolens.errors import SelectionError
from emolens.hooks import reading
from emolens.interventions import Steer, unit
from emolens.progress import track
from emolens.sharing import run_changed
from emolens.statistics import clustered_interval, each_half
from emolens.vectors import EmotionVectors

STRENGTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 1.0)
NATURAL_STRENGTHS = (0.5, 1.0)
RANDOM_DIRECTIONS = 20


@dataclass(frozen=True)
class Push:
    """One cell of a dose-response sweep: a step of known length at one layer."""

    layer: int
    direction: str
    kind: str
    unit: str
    strength: float
    step: Float[Tensor, " d_model"]


@torch.inference_mode()
def decision_residuals(trial: Trial, layers: Sequence[int]) -> Float[Tensor, "text layer d_model"]:
    """The residual at the decision token of each prompt, after each layer."""
    with reading(trial.model, tuple(layers)) as found:
        trial.logits()
    rows = torch.arange(len(trial.tokens))
    return torch.stack([found[layer][rows, trial.final].float().cpu() for layer in layers], 1)


def natural_units(
    vectors: EmotionVectors, emotional: dict[str, Trial], neutral: Trial
) -> dict[tuple[str, int], float]:
    """How far the model itself moves along each vector, in residual units.

    For (emotion, layer): the mean residual at the decision after situations of the emotion minus
    that after neutral ones, projected on the emotion's unit vector.
    """
    base = decision_residuals(neutral, vectors.layers).mean(0)
    found: dict[tuple[str, int], float] = {}
    for emotion, trial in emotional.items():
        shift = decision_residuals(trial, vectors.layers).mean(0) - base
        length = (shift * unit(vectors.of(emotion))).sum(-1)
        found |= {
            (emotion, layer): float(x) for layer, x in zip(vectors.layers, length, strict=True)
        }
    return found


def pushes(
    vectors: EmotionVectors,
    emotions: Sequence[str],
    natural: dict[tuple[str, int], float],
    *,
    strengths: Sequence[float] = STRENGTHS,
    random_count: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> list[Push]:
    """Every step of a sweep: emotions and random directions, in both units.

    Random directions have the same length as the emotion's step that they control: a fraction of
    the residual norm, or the first emotion's natural unit. They are drawn anew at each layer.
    """
    made = []
    for layer in vectors.layers:
        norm = float(vectors.residual_norm[vectors.column(layer)])
        draws = random_directions(random_count, vectors.mean.shape[-1], seed * 1000 + layer)
        directions = [(e, e, unit(vectors.of(e)[vectors.column(layer)])) for e in emotions]
        directions += [(f"random {i}", "random", d) for i, d in enumerate(draws)]
        for name, kind, direction in directions:
            matched = emotions[:1] if kind == "random" else (name,)
            own = next((natural.get((e, layer)) for e in matched), None)
            doses = [("norm", s, s * norm) for s in strengths]
            if own is not None:
                doses += [("natural", s, s * own) for s in NATURAL_STRENGTHS]
            made += [Push(layer, name, kind, u, s, length * direction) for u, s, length in doses]
    return made


def dose_response(trial: Trial, steps: Sequence[Push]) -> pd.DataFrame:
    """The behaviour under each step, added at all positions of one layer.

    Args:
        trial: prompts and model; neutral situations show a push best.
        steps: what to add, from `pushes`.

    Returns:
        One row per step and half of the prompts ("choose": for picking a layer; "report": for
        the number that is told). Columns: layer, direction, kind, unit, strength, half, p (mean
        P(target)), low, high (95% bootstrap over templates), legal, logit_difference, n.
    """
    rows = []
    found = run_changed(trial, [{step.layer: Steer(step.step)} for step in steps])
    told = track(steps, f"steering {trial.behaviour.name}", len(steps), "runs")
    for step, decision in zip(told, found, strict=True):
        label = (step.layer, step.direction, step.kind, step.unit, step.strength)
        rows += [(*label, *row) for row in half_rows(trial, decision)]
    columns = ["layer", "direction", "kind", "unit", "strength"]
    return pd.DataFrame(rows, columns=columns + HALF_COLUMNS)


HALF_COLUMNS = ["half", "p", "low", "high", "legal", "logit_difference", "n"]


def half_rows(trial: Trial, decision: Decision) -> Iterator[tuple]:
    """Mean, interval and size of a decision on each half of the prompts."""
    for half, rows, groups in each_half(trial.groups):
        yield (
            half,
            *clustered_interval(decision.p[rows].tolist(), groups),
            float(decision.legal[rows].mean()),
            float(decision.logit_difference[rows].mean()),
            len(groups),
        )


def best_layer(dose: pd.DataFrame, emotion: str) -> int:
    """Where the emotion's push beats the mean random push by most, on the choosing half.

    The mean over all strengths in fractions of the residual norm decides: one strength alone, where
    several layers do nearly as well, would leave the choice to chance.
    """
    seen = dose[(dose.half == "choose") & (dose.unit == "norm")]
    pushed = seen[seen.direction == emotion].groupby("layer").p.mean()
    random = seen[seen.kind == "random"].groupby("layer").p.mean()
    return int((pushed - random).idxmax())


def against_random(dose: pd.DataFrame) -> pd.DataFrame:
    """Whether a step moves the behaviour as no random step of its length does.

    Each step of a `dose_response` in fractions of the residual norm is held against the random ones
    of its layer, strength and half by its rank among their mean logit differences. So p is exact if
    the step is but another random one, whatever a step of that length does by itself. It cannot be
    smaller than 2 / (random steps + 1): 1,000 of them show p, and for a single row to reach a small
    q it takes as many as 2 x rows / q.

    Args:
        dose: from `dose_response`, with random steps. Natural units are left out: their random
            steps have the length of one emotion's.

    Returns:
        The rows of the steps that are not random, with null_low and null_high (the middle 95% of
        the random ones' logit differences), random (how many), p_value (two-sided), q_value
        (Benjamini and Hochberg over all rows of a half: layers, directions and strengths).

    Raises:
        SelectionError: if a step has no random ones beside it, or a logit difference is not finite.
    """
    rows = []
    told = dose[dose.unit == "norm"]
    if told.empty or not np.isfinite(told.logit_difference).all():
        raise SelectionError(
            "a dose-response in fractions of the residual norm with finite logit differences is "
            f"needed: {len(told)} rows of {len(dose)} are, {told.logit_difference.isna().sum()} NaN"
        )
    for _, table in told.groupby("half", sort=False):
        of_half = []
        for (layer, strength), cell in table.groupby(["layer", "strength"], sort=False):
            ours = cell[cell.kind != "random"].copy()
            null = np.sort(cell[cell.kind == "random"].logit_difference.to_numpy())
            if not len(null):
                raise SelectionError(
                    f"no random steps of strength {strength} at layer {layer}: make the steps with "
                    "pushes(random_count=1000)"
                )
            below = np.searchsorted(null, ours.logit_difference, "right")
            above = len(null) - np.searchsorted(null, ours.logit_difference, "left")
            ours["null_low"], ours["null_high"] = np.quantile(null, [0.025, 0.975])
            ours["random"] = len(null)
            tail = (1 + np.minimum(below, above)) / (len(null) + 1)
            ours["p_value"] = np.minimum(1.0, 2 * tail)
            of_half.append(ours)
        found = pd.concat(of_half)
        rows.append(found.assign(q_value=false_discovery_control(found.p_value)))
    return pd.concat(rows, ignore_index=True)
