"""Take a direction away at one layer and see how much of the emotion's behaviour goes with it."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from concept_erasure import LeaceEraser
from jaxtyping import Float
from torch import Tensor

from emolens.activations import Activations
from emolens.controls import random_directions
from emolens.decisions import Trial
from emolens.interventions import Ablate, Intervention, Residual, unit
from emolens.progress import track
from emolens.sharing import run_changed
from emolens.steering import HALF_COLUMNS, RANDOM_DIRECTIONS, half_rows
from emolens.vectors import EmotionVectors

LEAST = 0.01  # difference of probabilities of which a share means something


def remove(direction: Float[Tensor, " d_model"], mean: Float[Tensor, " d_model"]) -> Ablate:
    """Set the coordinate along a direction to that of the mean over emotions."""
    basis = unit(direction)[None]
    return Ablate(basis, basis @ mean)


def erase(activations: Activations, emotion: str, layer: int) -> Intervention:
    """Least-squares concept erasure: no linear probe can tell the emotion, and little else changes.

    LEACE (Belrose et al. 2023) as the library `concept-erasure` has it, with "this emotion or not"
    as the concept. What it removes is read along the whitened direction, not along the vector.

    Args:
        activations: of labelled texts; all labels count, neutral included.
        emotion: to be erased.
        layer: that the activations are of, and that the intervention is for.

    Raises:
        SelectionError: for an emotion or layer that was not recorded.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=4), layers=[3])
    >>> erase(stories, "calm", 3)(stories.pooled).shape
    torch.Size([100, 1, 128])
    """
    activations.of(emotion)
    concept = torch.tensor([[float(e == emotion)] for e in activations.emotions])
    eraser = LeaceEraser.fit(activations.at(layer).double(), concept.double())

    def change(residual: Residual) -> Residual:
        return replace(
            eraser,
            proj_left=eraser.proj_left.to(residual),
            proj_right=eraser.proj_right.to(residual),
            bias=eraser.bias.to(residual),
        )(residual)

    return change


def ablate_layers(
    trial: Trial,
    vectors: EmotionVectors,
    emotion: str,
    *,
    target: float,
    layers: Sequence[int] | None = None,
    random_count: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """The behaviour after situations of an emotion, with its direction removed at one layer.

    Removed means: the coordinate along the unit vector is set to that of the mean over emotions,
    at every position. Random directions are treated the same way.

    Args:
        trial: prompts whose situations bring the emotion.
        vectors: fitted on the same model.
        emotion: whose direction is removed.
        target: P(behaviour) after neutral situations, where a perfect removal would end.
        layers: all fitted ones by default.
        random_count: how many random directions per layer.
        seed: of the random directions.

    Returns:
        Columns layer, direction, kind, the columns of a dose-response from half to n,
        unablated (P without ablation on the same half), target, excess_removed: the share of
        (unablated - target) that went; 1 is all of it, negative is the wrong way, NaN where the
        excess is within 0.01 of none, so that there is nothing to remove.
    """
    chosen = tuple(layers if layers is not None else vectors.layers)
    whole = pd.DataFrame(half_rows(trial, trial.run()), columns=HALF_COLUMNS).set_index("half").p
    jobs = []
    for layer in chosen:
        column = vectors.column(layer)
        draws = random_directions(random_count, vectors.mean.shape[-1], seed * 1000 + 500 + layer)
        named = [(emotion, emotion, vectors.of(emotion)[column])]
        named += [(f"random {i}", "random", d) for i, d in enumerate(draws)]
        jobs += [(layer, n, k, remove(d, vectors.mean[column])) for n, k, d in named]
    rows = []
    found = run_changed(trial, [(layer, change) for layer, _, _, change in jobs])
    told = track(jobs, f"ablating {emotion}", len(jobs), "runs")
    for (layer, name, kind, _), decision in zip(told, found, strict=True):
        rows += [(layer, name, kind, *row) for row in half_rows(trial, decision)]
    table = pd.DataFrame(rows, columns=["layer", "direction", "kind", *HALF_COLUMNS])
    table["unablated"] = table.half.map(whole)
    table["target"] = target
    excess = table.unablated - table.target
    table["excess_removed"] = (table.unablated - table.p) / excess.where(excess.abs() > LEAST)
    return table
