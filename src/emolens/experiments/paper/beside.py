"""Claims that must hold beyond chance and beyond the words alone, and their picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from emolens import figures
from emolens.controls import CONTROL
from emolens.experiments.paper.claims import BOUND, Claim, Measured
from emolens.experiments.paper.words import NETWORK
from emolens.report import Exhibit
from emolens.statistics import row_interval

Statistic = Callable[[np.ndarray], float]  # of row numbers, which may repeat
Interval = Callable[[int, Statistic], tuple[float, float, float]]


def beyond_words(
    count: int,
    statistics: Mapping[str, Statistic],
    controls: Sequence[float],
    *,
    interval: Interval = row_interval,
) -> Measured:
    """A statistic of rows beside controls and beside what the words alone give.

    The bound is the greatest of all. Where it is the words' and the interval holds it, the interval
    is that of the difference on the same rows, since both err on the same emotions.

    Args:
        count: rows (emotions, texts) that are drawn anew.
        statistics: by way; one is the network's.
        controls: the network's statistic where there is nothing to find.
        interval: how it is had, as `row_interval`.

    >>> rows = {"network": lambda r: 0.9, "words": lambda r: 0.5}
    >>> beyond_words(4, rows, [0.0, 0.1]).bound
    0.5
    """
    own, every = statistics[NETWORK], np.arange(count)
    alone = {way: rows(every) for way, rows in statistics.items() if way != NETWORK}
    best, chance = max(alone, key=lambda way: alone[way]), float(np.quantile(controls, BOUND))
    found, low, high = interval(count, own)
    if np.isnan(low):  # all draws alike: the bootstrap gives no interval
        low = high = found
    bound = max(chance, alone[best])
    if bound > chance and low <= bound:
        rest = statistics[best]
        _, low, high = interval(count, lambda rows: own(rows) - rest(rows))
        low, high = bound + low, bound + high
    return Measured(found, low, high, bound)


@dataclass
class Beside:
    """What was measured, claim by claim, and the rows of a table of it.

    Attributes:
        measured: by the name of the claim.
        rows: claim, way, value and kind: what the words give, and the 95th percentile of each kind
            of control, are controls.
    """

    measured: dict[str, Measured] = field(default_factory=dict)
    rows: list[tuple[str, str, float, str]] = field(default_factory=list)

    def add(
        self,
        claim: Claim,
        count: int,
        statistics: Mapping[str, Statistic],
        controls: Mapping[str, Sequence[float]],
        *,
        interval: Interval = row_interval,
    ) -> None:
        """A statistic of rows, as in `beyond_words`, with several kinds of controls by name."""
        drawn = [value for values in controls.values() for value in values]
        self.measured[claim.name] = beyond_words(count, statistics, drawn, interval=interval)
        for way, statistic in statistics.items():
            kind = "found" if way == NETWORK else CONTROL
            self.rows.append((claim.name, way, float(statistic(np.arange(count))), kind))
        for name, values in controls.items():
            bound = float(np.quantile(values, BOUND))
            self.rows.append((claim.name, f"95% of {name}", bound, CONTROL))

    def add_mean(
        self,
        claim: Claim,
        values: Mapping[str, np.ndarray],
        controls: Mapping[str, Sequence[float]],
    ) -> None:
        """The mean of one value a row."""
        statistics = {way: partial(_mean, own) for way, own in values.items()}
        self.add(claim, len(values[NETWORK]), statistics, controls)

    @property
    def table(self) -> pd.DataFrame:
        """Columns claim, way, value, kind."""
        return pd.DataFrame(self.rows, columns=["claim", "way", "value", "kind"])


def _mean(values: np.ndarray, rows: np.ndarray) -> float:
    return float(values[rows].mean())


def drawn_beside(table: pd.DataFrame, experiment: str) -> list[Exhibit]:
    """A picture a claim: the network, its words alone, and chance."""
    return [
        Exhibit(
            f"{claim}: the network beside its words alone and chance",
            figures.bars(rows, name="way", value="value", kind="kind", title=str(claim)),
            rows,
            f"{experiment}_ways",
        )
        for claim, rows in table.groupby("claim", sort=False)
    ]
