"""Intervals, and halves of which one chooses and the other reports."""

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from scipy.stats import bootstrap
from torch import Tensor

RESAMPLES = 1000


def clustered_interval(
    values: Sequence[float], groups: Sequence[str], *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of group means with a 95% bootstrap interval over groups.

    Texts of one template or topic are alike, so groups are resampled and not texts. With one
    group there is no interval (NaN).

    >>> clustered_interval([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"])[0]
    0.5
    """
    names = sorted(set(groups))
    by_group = np.asarray(groups)
    numbers = np.asarray(values, dtype=float)
    means = np.array([numbers[by_group == name].mean() for name in names])
    if len(means) < 2:
        return float(means.mean()), float("nan"), float("nan")
    if np.ptp(means) == 0:
        return float(means[0]), float(means[0]), float(means[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = bootstrap(
            (means,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=seed
        ).confidence_interval
    return float(means.mean()), float(found.low), float(found.high)


def row_interval(
    count: int, statistic: Callable[[np.ndarray], float], *, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic of rows (emotions, say) with a 95% bootstrap interval over them.

    Args:
        count: how many rows.
        statistic: of an array of row numbers, which may repeat.
        seed: of the resampling.

    >>> row_interval(3, lambda rows: float(rows.mean()))[0]
    1.0
    """
    rows = np.arange(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = bootstrap(
            (rows,),
            statistic,
            n_resamples=RESAMPLES,
            vectorized=False,
            method="percentile",
            rng=seed,
        ).confidence_interval
    return float(statistic(rows)), float(found.low), float(found.high)


def clustered_ratio(
    above: Sequence[float], below: Sequence[float], groups: Sequence[str]
) -> tuple[float, float, float]:
    """Ratio of two sums over texts with a 95% bootstrap interval over groups.

    With one group there is no interval (NaN).

    >>> clustered_ratio([1.0, 2.0], [2.0, 4.0], ["a", "b"])
    (0.5, 0.5, 0.5)
    """
    _, at = np.unique(groups, return_inverse=True)
    one, other = np.bincount(at, above), np.bincount(at, below)
    if len(one) < 2:
        return float(one[0] / other[0]), float("nan"), float("nan")
    return row_interval(len(one), lambda rows: float(one[rows].sum() / other[rows].sum()))


def jackknife_interval(
    count: int, statistic: Callable[[np.ndarray], float]
) -> tuple[float, float, float]:
    """A statistic of rows with a 95% interval from leaving out one at a time.

    For statistics like R2, which a bootstrap with its repeated rows would overstate.

    >>> jackknife_interval(3, lambda rows: float(rows.mean()))[0]
    1.0
    """
    rows = np.arange(count)
    found = np.array([statistic(np.delete(rows, i)) for i in rows])
    value = float(statistic(rows))
    spread = 1.96 * float(np.sqrt((count - 1) * found.var()))
    return value, value - spread, value + spread


def halves(groups: Sequence[str]) -> Bool[Tensor, " text"]:
    """True for the texts that choices (a best layer) are made on, False for those reported on.

    Whole groups go to one side, alternately.
    """
    names = sorted(set(groups))
    return torch.tensor([names.index(g) % 2 == 0 for g in groups], dtype=torch.bool)


def each_half(
    groups: Sequence[str],
) -> Iterator[tuple[str, Bool[Tensor, " text"], list[str]]]:
    """`"choose"` and `"report"` with the texts of that half and their groups; none without any."""
    choosing = halves(groups)
    for half, rows in (("choose", choosing), ("report", ~choosing)):
        if rows.any():
            yield half, rows, [g for g, chosen in zip(groups, rows, strict=True) if chosen]
