"""Would other texts have given the same vector? Split halves, bootstrap, number of stories."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.activations import Activations
from emolens.interventions import unit
from emolens.progress import track
from emolens.vectors import EmotionVectors, Method, fit_vectors

SPLITS = 20
RESAMPLES = 100


def vector_reliability(
    stories: Activations,
    neutral: Activations,
    layer: int,
    *,
    method: Method = fit_vectors,
    splits: int = SPLITS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """How far each vector would be the same again with other topics.

    Topics (`group`) are what is drawn, since texts on one topic are alike; a text without a topic
    counts as one of its own. An emotion with a single topic has no split half (NaN).

    Args:
        stories: as a method takes them.
        neutral: as a method takes them.
        layer: at which.
        method: that makes vectors.
        splits: into two halves of the topics; where emotions share topics, the same for all.
        resamples: of topics, with replacement, within each emotion.
        seed: of both.

    Returns:
        One row an emotion: emotion, layer, stories, topics; split_half, mean cosine of the vectors
        of two halves; ceiling, the cosine to be expected with the vector of endlessly many topics
        (the root of the split half stepped up to all topics by Spearman and Brown; 0 if the
        halves have nothing in common); self_cosine, mean cosine of bootstrapped vectors with the
        vector itself, and self_low, its 2.5% quantile.
    """
    told, calm = stories.at_only(layer), neutral.at_only(layer)
    full, rng = method(told, calm), np.random.default_rng(seed)
    topics = _topics(told, full.emotions)
    halves, again = [], []
    for _ in track(range(splits), "split halves", splits, "splits"):
        first, second = _split(topics, rng)
        halves.append(_cosine(method(told.rows(first), calm), method(told.rows(second), calm)))
    for _ in track(range(resamples), "bootstrapping vectors", resamples, "resamples"):
        rows = [
            row
            for own in topics.values()
            for name in rng.choice(list(own), len(own))
            for row in own[name]
        ]
        again.append(_cosine(method(told.rows(rows), calm), full))
    split = torch.stack(halves).mean(0).numpy()
    split[[len(own) < 2 for own in topics.values()]] = np.nan
    same = torch.stack(again).numpy()
    clipped = np.clip(split, 0, 1)
    return pd.DataFrame(
        {
            "emotion": full.emotions,
            "layer": layer,
            "stories": [sum(map(len, own.values())) for own in topics.values()],
            "topics": [len(own) for own in topics.values()],
            "split_half": split,
            "ceiling": np.sqrt(2 * clipped / (1 + clipped)),
            "self_cosine": same.mean(0),
            "self_low": np.quantile(same, 0.025, axis=0),
        }
    )


def learning_curve(
    stories: Activations,
    neutral: Activations,
    layer: int,
    *,
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128),
    repeats: int = 10,
    method: Method = fit_vectors,
    seed: int = 0,
) -> pd.DataFrame:
    """How the vectors change with the number of stories: the fewer, the further off.

    Args:
        stories: as a method takes them.
        neutral: as a method takes them.
        layer: at which.
        sizes: stories of each emotion; those that some emotion does not have are left out.
        repeats: draws of each size, without replacement.
        method: that makes vectors.
        seed: of the draws.

    Returns:
        Columns stories, cosine (of vectors of so many stories with those of all, mean over
        emotions and draws), worst (of an emotion, mean over draws).
    """
    told, calm = stories.at_only(layer), neutral.at_only(layer)
    full, rng = method(told, calm), np.random.default_rng(seed)
    own = [np.flatnonzero(np.array(told.emotions) == e) for e in full.emotions]
    most, rows = min(map(len, own)), []
    for size in (n for n in sizes if n < most):
        draws = [
            np.concatenate([rng.choice(r, size, replace=False) for r in own]).tolist()
            for _ in range(repeats)
        ]
        cosine = torch.stack([_cosine(method(told.rows(d), calm), full) for d in draws]).mean(0)
        rows.append((size, float(cosine.mean()), float(cosine.min())))
    return pd.DataFrame(rows, columns=["stories", "cosine", "worst"])


Topics = dict[str, dict[str, list[int]]]  # rows of each topic of each emotion


def _topics(told: Activations, emotions: Sequence[str]) -> Topics:
    found: Topics = {e: {} for e in emotions}
    for row, (label, group) in enumerate(zip(told.emotions, told.groups, strict=True)):
        if label in found:
            found[label].setdefault(group or f"text {row}", []).append(row)
    return found


def _split(topics: Topics, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Rows of two halves of every emotion's topics, drawn alike where emotions share them."""
    names = list(dict.fromkeys(name for own in topics.values() for name in own))
    place = dict(zip(names, rng.permutation(len(names)), strict=True))
    first, second = [], []
    for own in topics.values():
        drawn = sorted(own, key=place.__getitem__)
        first += [row for name in drawn[::2] for row in own[name]]
        second += [row for name in drawn[1::2] or drawn for row in own[name]]
    return first, second


def _cosine(a: EmotionVectors, b: EmotionVectors) -> Float[Tensor, " emotion"]:
    """Of each emotion's vectors in two sets that may name them in another order."""
    rows = [a.row(e) for e in b.emotions]
    return (unit(a.vectors[rows, 0].double()) * unit(b.vectors[:, 0].double())).sum(-1)
