"""Thresholds of readouts that keep a promised rate of false alarms, and how well they do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import binomtest, rankdata

from emolens.errors import CorpusError
from emolens.statistics import each_half, row_interval

Name = tuple[str, str, int]  # moment, emotion and layer of a readout that may raise an alarm
NAMED = ["moment", "emotion", "layer"]
UNKNOWN = (float("nan"),) * 3


@dataclass(frozen=True, eq=False)
class Calibration:
    """Thresholds, and how well they keep what they promise on texts that did not set them.

    Attributes:
        rate: the promised share of usual texts with any alarm.
        thresholds: columns moment, emotion, layer, threshold, mean, sd (the last two of the same
            readout over usual texts, for gauges).
        table: one row a threshold, and one, emotion `"any"`, of all together: moment, emotion,
            layer, threshold, false_alarms (share of usual texts), low, high (95%, exact binomial:
            for texts that are independent, as those of one group are not), caught (share of target
            texts), auroc (target against usual texts; 0.5 is chance), auroc_low, auroc_high (95%
            bootstrap over groups), usual, target (how many texts). NaN without target texts.
        roc: columns moment, emotion, layer, threshold, false_alarms, caught.
    """

    rate: float
    thresholds: pd.DataFrame
    table: pd.DataFrame
    roc: pd.DataFrame

    def __repr__(self) -> str:
        """One line."""
        found = self.table[self.table.emotion == "any"].iloc[0]
        return (
            f"Calibration({len(self.thresholds)} thresholds, false alarms {found.false_alarms:.3f} "
            f"({found.low:.3f} to {found.high:.3f}), promised {self.rate:g})"
        )


@dataclass(frozen=True, eq=False)
class Reached:
    """The highest value of each alarm's readout in each of some texts.

    Attributes:
        values: in the units of the readout.
        groups: topic or template of each text; halves and intervals go by them.
    """

    values: Float[np.ndarray, "text alarm"]
    groups: Sequence[str]

    def half(self, which: str) -> "Reached":
        """The texts of one half, `"choose"` or `"report"`; none where there is but one group."""
        for half, rows, groups in each_half(self.groups):
            if half == which:
                return Reached(self.values[rows.numpy()], groups)
        return Reached(self.values[:0], [])


def calibrated(alarms: Sequence[Name], usual: Reached, target: Reached, rate: float) -> Calibration:
    """Set thresholds on one half of the texts and tell on the other how well they do.

    Args:
        alarms: what the columns of both are.
        usual: texts in which an alarm would be false.
        target: texts in which one is right; may be none.
        rate: of usual texts with any alarm.

    Raises:
        CorpusError: if there are too few usual texts to tell the rate, or all of one group.
    """
    setting, telling, aimed = usual.half("choose"), usual.half("report"), target.half("report")
    if not len(telling.values):
        raise CorpusError("usual texts of one group have no halves: give several groups")
    cuts = thresholds(setting.values, rate)
    spread = {"mean": setting.values.mean(0), "sd": setting.values.std(0)}
    named = pd.DataFrame(alarms, columns=NAMED).assign(threshold=cuts, **spread)
    return Calibration(rate, named, *_told(alarms, cuts, telling, aimed))


def thresholds(values: Float[np.ndarray, "text alarm"], rate: float) -> Float[np.ndarray, " alarm"]:
    """Of each alarm the value that equally many texts reach, so that any is at that rate.

    As in conformal prediction, the promise is for a text to come and not for these alone: with one
    alarm and texts of one kind the expected rate is just below it.

    Raises:
        CorpusError: if there are too few texts to tell the rate.

    >>> thresholds(np.arange(19.0)[:, None], 0.1).tolist()
    [17.0]
    """
    count = len(values)
    spared = int(np.floor(rate * (count + 1)))
    # how many texts are as high or higher: equal ones raise their alarm together or not at all
    ranks = rankdata(-values, method="max", axis=0)
    best = np.append(np.sort(ranks.min(1)), count + 1)
    level = best[spared] - 1  # the lowest rank that lets through no more texts than may be spared
    if not (ranks <= level).any():
        raise CorpusError(
            f"{count} usual texts that set {values.shape[1]} thresholds cannot tell a rate of "
            f"{rate:g}: give more texts, fewer emotions or a higher rate"
        )
    above_all = np.nextafter(values.max(0), np.inf)  # where even the highest are too many
    return np.where(ranks <= level, values, above_all).min(0)


def _told(
    alarms: Sequence[Name], cuts: np.ndarray, usual: Reached, target: Reached
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rates and areas under curves, and the curves."""
    above = [np.greater_equal(found.values, cuts) for found in (usual, target)]
    sizes = (len(usual.values), len(target.values))
    rows, curves = [], []
    for i, alarm in enumerate(alarms):
        area = UNKNOWN
        if sizes[1]:
            own = [Reached(found.values[:, [i]], found.groups) for found in (usual, target)]
            area = auroc(*own)
            curves.append(_curve(*own).assign(**dict(zip(NAMED, alarm, strict=True))))
        rates = _rates(above[0][:, i], above[1][:, i])
        rows.append((*alarm, cuts[i], *rates, *area, *sizes))
    anywhere = _rates(*(np.any(found, axis=1) for found in above))
    rows.append(("any", "any", -1, float("nan"), *anywhere, *UNKNOWN, *sizes))
    told = ["false_alarms", "low", "high", "caught", "auroc", "auroc_low", "auroc_high"]
    table = pd.DataFrame(rows, columns=[*NAMED, "threshold", *told, "usual", "target"])
    columns = [*NAMED, "threshold", "false_alarms", "caught"]
    if not curves:
        return table, pd.DataFrame(columns=columns)
    return table, pd.concat(curves, ignore_index=True)[columns]


def _rates(
    usual: Bool[np.ndarray, " usual"], target: Bool[np.ndarray, " target"]
) -> tuple[float, float, float, float]:
    """Share of usual texts above with its exact 95% interval, and share of target texts."""
    exact = binomtest(int(usual.sum()), len(usual)).proportion_ci(0.95, "exact")
    caught = float(target.mean()) if len(target) else float("nan")
    return float(usual.mean()), float(exact.low), float(exact.high), caught


def _labelled(usual: Reached, target: Reached) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores, whether each is of a target text, and groups that are apart by kind."""
    scores = np.concatenate([usual.values[:, 0], target.values[:, 0]])
    groups = [*(f"usual {g}" for g in usual.groups), *(f"target {g}" for g in target.groups)]
    return scores, np.arange(len(scores)) >= len(usual.values), groups


def _curve(usual: Reached, target: Reached) -> pd.DataFrame:
    from sklearn.metrics import roc_curve

    scores, right, _ = _labelled(usual, target)
    false, true, at = roc_curve(right, scores)
    return pd.DataFrame({"threshold": at, "false_alarms": false, "caught": true})


def auroc(usual: Reached, target: Reached) -> tuple[float, float, float]:
    """Area under the curve of one readout, with a 95% bootstrap interval over groups.

    >>> one, other = (Reached(np.array([[x], [x + 1.0]]), ["a", "b"]) for x in (0.0, 2.0))
    >>> auroc(one, other)[0]
    1.0
    """
    from sklearn.metrics import roc_auc_score

    scores, right, groups = _labelled(usual, target)
    _, member = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(member == group) for group in range(member.max() + 1)]

    def area(rows: np.ndarray) -> float:
        chosen = np.concatenate([members[i] for i in rows])
        if right[chosen].all() or not right[chosen].any():
            return 0.5  # a resample without one of the kinds tells nothing
        return float(roc_auc_score(right[chosen], scores[chosen]))

    return row_interval(len(members), area)
