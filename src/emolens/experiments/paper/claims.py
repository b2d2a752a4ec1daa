"""What the paper claims, as numbers with a rule that is fixed before anything is measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from emolens.statistics import row_interval

Verdict = Literal["reproduced", "direction only", "not reproduced", "not applicable"]
REPRODUCED: Verdict = "reproduced"
DIRECTION: Verdict = "direction only"
NOT_REPRODUCED: Verdict = "not reproduced"
NOT_APPLICABLE: Verdict = "not applicable"

CONFIDENCE = {
    "P": "the paper's own prose or table",
    "F": "read off its figure",
    "D": "known from a description of its figure",
    "C": "computed from its tables",
    "-": "not in the paper",
}
CONTROLS = 100  # what a claim must exceed is the 95th percentile of so many
BOUND = 0.95


@dataclass(frozen=True)
class Claim:
    """One sentence as a number that is the larger the better it holds.

    Attributes:
        name: short, for tables and JSON.
        says: the sentence.
        least: what is to be found at least for "reproduced".
        paper: the paper's own number, if it gives one.
        confidence: where that is from, one of `CONFIDENCE`.
    """

    name: str
    says: str
    least: float
    paper: float | None = None
    confidence: str = "-"

    @property
    def rule(self) -> str:
        """When it counts as what."""
        return (
            f"{self.says}: reproduced if at least {self.least:g} is found and the whole interval "
            "lies above what 95 of 100 controls stay below; direction only if the interval does "
            "but less is found"
        )


@dataclass(frozen=True)
class Measured:
    """What was found for a claim.

    Attributes:
        found: the number.
        low: lower end of its 95% interval.
        high: upper end.
        bound: what controls stay below: the 95th percentile of theirs.
    """

    found: float
    low: float
    high: float
    bound: float


def judge(claim: Claim, measured: Measured | None) -> Verdict:
    """The verdict on one claim; of a number that could not be had, not applicable.

    >>> claim = Claim("r", "they go together", 0.6)
    >>> judge(claim, Measured(0.7, 0.5, 0.8, 0.2)), judge(claim, Measured(0.4, 0.3, 0.5, 0.2))
    ('reproduced', 'direction only')
    >>> judge(claim, Measured(0.7, 0.1, 0.9, 0.2))
    'not reproduced'
    """
    if measured is None:
        return NOT_APPLICABLE
    if not measured.low > measured.bound:  # also where either is not a number
        return NOT_REPRODUCED
    return REPRODUCED if measured.found >= claim.least else DIRECTION


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """An experiment's verdict: all claims, or the direction of at least half of them.

    >>> overall(["reproduced", "not applicable"]), overall(["reproduced", "not reproduced"])
    ('reproduced', 'direction only')
    >>> overall(["direction only", "not reproduced", "not reproduced"])
    'not reproduced'
    """
    told = [v for v in verdicts if v != NOT_APPLICABLE]
    if not told:
        return NOT_APPLICABLE
    if all(v == REPRODUCED for v in told):
        return REPRODUCED
    held = sum(v in (REPRODUCED, DIRECTION) for v in told)
    return DIRECTION if 2 * held >= len(told) else NOT_REPRODUCED


@dataclass(frozen=True, eq=False)
class Found:
    """What an experiment brings home.

    Attributes:
        measured: by the name of the claim; one that is left out was not measurable.
        tables: tidy tables by name.
        told: what else is to be said of this run, in a sentence or two.
        left_out: why a claim could not be measured, by its name.
    """

    measured: Mapping[str, Measured]
    tables: Mapping[str, pd.DataFrame]
    told: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)


def against(
    count: int,
    statistic: Callable[[np.ndarray], float],
    controls: Sequence[float],
    *,
    seed: int = 0,
) -> Measured:
    """A statistic of rows with a bootstrap interval, beside the same statistic of controls.

    Args:
        count: rows (scenarios, emotions) that are drawn anew.
        statistic: of an array of row numbers, which may repeat.
        controls: the statistic where there is nothing to find.
        seed: of the draws.

    >>> against(4, lambda rows: 1.0, [0.0, 0.5]).found
    1.0
    """
    found, low, high = row_interval(count, statistic, seed=seed)
    if np.isnan(low):  # all draws alike: the bootstrap gives no interval
        low = high = found
    return Measured(found, low, high, float(np.quantile(controls, BOUND)))
