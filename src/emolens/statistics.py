"""Intervals and nulls."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

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
