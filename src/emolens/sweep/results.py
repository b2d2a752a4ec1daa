"""What a sweep has found, as tables: steps beside random ones of their length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from emolens.controls import CONTROL
from emolens.statistics import each_half
from emolens.steering import against_random
from emolens.sweep.config import Sweep
from emolens.sweep.grid import PERMUTED, UNSTEERED

REPORTED, SHOWN, LEVEL = "report", 8, 0.05
OWN = "emotion"


@dataclass(frozen=True, eq=False)
class Swept:
    """The numbers of every cell on every prompt.

    Attributes:
        sweep: what was asked.
        groups: template or topic of each prompt.
        table: one row for each cell and prompt. Columns: cell (hash), at, reach, layer, direction,
            kind (an emotion's name, `"permuted"`, `"control"`, `"random"`, `"unsteered"`),
            strength, prompt, p (of the target class), legal, logit_difference, estimate (the change
            of the logit difference that one gradient of the unsteered run foretells).
        natural: natural unit of an emotion at a layer, in mean residual norms, where it is known.
    """

    sweep: Sweep
    groups: Sequence[str]
    table: pd.DataFrame
    natural: Mapping[tuple[str, int], float]

    def __repr__(self) -> str:
        """The steps that do most, each beside the random ones of its length."""
        told = self._told(OWN)
        first = told.reindex(told.change.abs().sort_values(ascending=False).index)[:SHOWN]
        rows = pd.DataFrame(
            {
                "step": first.direction,
                "at": first["at"],
                "layer": first.layer,
                "reach": first.reach,
                "strength": first.strength,
                "natural": [f"{units:.2f}" for units in first.natural],
                "P": [f"{p:.3f}" for p in first.p],
                "change": [f"{c:+.2f}" for c in first.change],
                "random ones": [
                    f"{low:+.2f} to {high:+.2f}"
                    for low, high in zip(first.random_low, first.random_high, strict=True)
                ],
                "p": [f"{p:.4f}" for p in first.p_value],
                "q": [f"{q:.4f}" for q in first.q_value],
            }
        )
        found = self.summary
        shares = found["controls_called"].values()
        controls = f", of control directions {sum(shares) / len(shares):.3f}" if shares else ""
        return (
            f"{found['steps']} steps on {len(self.groups)} prompts, {found['significant']} at q "
            f"below .05; P unsteered {found['unsteered']:.3f}. Of copies with permuted coordinates "
            f"{found['permuted_called']:.3f} have p of at most .05{controls}; with "
            f"{self.sweep.random} random directions p is at least {found['smallest_p']:.4f}. "
            "Those that change the logit difference most, on the half that nothing was chosen on:\n"
            f"{rows.to_string(index=False)}"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """The sweep in a few numbers: steps on the half that is reported, P unsteered on all."""
        told, copies, controls = map(self._told, (OWN, PERMUTED, CONTROL))
        start = self.table[self.table.kind == UNSTEERED][: len(self.groups)]
        return {
            "cells": int(self.table.cell.nunique()),
            "prompts": len(self.groups),
            "steps": len(told),
            "significant": int((told.q_value < LEVEL).sum()),
            "permuted_called": float((copies.p_value <= LEVEL).mean()),
            "controls_called": {
                str(name): float((rows.p_value <= LEVEL).mean())
                for name, rows in controls.groupby("direction", sort=False)
            },
            "smallest_p": 2 / (self.sweep.random + 1),
            "unsteered": float(start.p.mean()),
            "estimate_r": float(told.estimate.corr(told.change)),
        }

    def _told(self, side: str) -> pd.DataFrame:
        """Steps of emotions, of their permuted copies, or controls, on the half that is told."""
        told = self.effects[self.effects.half == REPORTED]
        return told[_side(told) == side]

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Each emotion's steps against the random ones of their layer, reach, length and place.

        So are copies of them with permuted coordinates (kind `"permuted"`), a check of the check:
        one in twenty has p of .05 or less if they do nothing. And so are directions that are no
        emotion's (kind `"control"`): vectors of shuffled labels, the neutral one, another concept.

        Returns:
            One row for each step and half of the prompts ("choose": for picking layers; "report":
            for what is told). Columns: at, reach, layer, direction, kind, strength (in mean
            residual norms), natural (the same in the emotion's natural units at that layer; NaN
            where that is unknown), half, n (prompts), p (mean P(target)), legal, logit_difference,
            change (of the mean logit difference from the unsteered run), estimate (what the
            gradient foretells of it), random_low and random_high (the middle 95% of the random
            ones' changes), random (how many), p_value, q_value (as in `against_random`, over the
            emotions' steps at one kind of place and of one reach, over the copies', or over the
            controls').

        Raises:
            SelectionError: if a step has no random ones beside it.
        """
        parts = self.table.groupby(["at", "reach"], sort=False)
        told = [self._of(rows).assign(at=at, reach=reach) for (at, reach), rows in parts]
        return pd.concat(told, ignore_index=True)

    def _of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Of cells at one kind of place and of one reach."""
        shape = (-1, len(self.groups))
        numbers = {
            name: rows[name].to_numpy(float).reshape(shape)
            for name in ("p", "legal", "logit_difference", "estimate")
        }
        labels = rows.iloc[:: len(self.groups)][["layer", "direction", "kind", "strength"]]
        units = map(self.natural.get, zip(labels.kind, labels.layer, strict=True))
        labels["natural"] = labels.strength / pd.Series(units, labels.index, dtype=float)
        told = []
        for half, chosen, groups in each_half(self.groups):
            means = {name: found[:, chosen.numpy()].mean(1) for name, found in numbers.items()}
            ours = labels.assign(**means, half=half, unit="norm", n=len(groups))
            base = ours[ours.kind == UNSTEERED].logit_difference.iloc[0]
            told.append(ours[ours.kind != UNSTEERED].assign(base=base))
        dose = pd.concat(told)
        side, null = _side(dose), dose.kind == "random"
        found = pd.concat(
            [against_random(dose[null | (side == each)]) for each in side[~null].unique()]
        )
        changes = {
            "change": found.logit_difference - found.base,
            "random_low": found.null_low - found.base,
            "random_high": found.null_high - found.base,
        }
        return found.assign(**changes).drop(columns=["base", "null_low", "null_high", "unit"])


def _side(rows: pd.DataFrame) -> pd.Series:
    """What stands together in a correction for many tests: emotions, copies or controls."""
    return rows.kind.where(rows.kind.isin([PERMUTED, CONTROL]), OWN)
