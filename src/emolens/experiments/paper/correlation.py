"""Do two numbers of each row go together, and more than where there is nothing to find?"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from emolens.experiments.paper.claims import CONTROLS, Measured, against

Numbers = np.ndarray


def together(
    one: Numbers, other: Numbers, *, nulls: Iterable[tuple[Numbers, Numbers]] = (), seed: int = 0
) -> Measured:
    """Pearson's r over rows, beside rows in another order and beside other controls.

    Vectors of emotions lie in few dimensions, so that a profile over them which means nothing may
    go with another one at a high r of either sign. It is small, though. So of `nulls` the
    covariance counts, in units of the spreads that were found.

    Args:
        one: a number of each row (an emotion, an activity).
        other: another one.
        nulls: the same two numbers where there is nothing to find, as often as wanted.
        seed: of the orders and of the bootstrap.

    Returns:
        r with its 95% interval over rows. The bound is the higher of two: what 95 of 100 orders of
        the rows stay below, and what 95% of `nulls` do.

    >>> found = together(np.arange(9.0), np.arange(9.0))
    >>> round(found.found, 6), found.bound < 0.9
    (1.0, True)
    """
    draw = np.random.default_rng(seed)
    orders = [correlation(one, other[draw.permutation(len(other))]) for _ in range(CONTROLS)]
    scale = one.std() * other.std()
    small = [float(np.cov(a, b, bias=True)[0, 1] / scale) for a, b in nulls if scale]
    found = against(len(one), lambda rows: correlation(one[rows], other[rows]), orders, seed=seed)
    return replace(found, bound=max(found.bound, float(np.quantile(small, 0.95)) if small else -1))


def correlation(one: Numbers, other: Numbers) -> float:
    """Pearson's r; 0 where one of the two is the same in all rows."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
