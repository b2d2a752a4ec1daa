"""Ratings of activities from some of all pairs, and what is read and steered about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import zscore

from emolens.behaviour import Contest
from emolens.experiments.paper.claims import CONTROLS
from emolens.experiments.paper.study import Study
from emolens.positions import last, span
from emolens.preferences import preference_steering
from emolens.readout import read_out
from emolens.recording import record

OPPONENTS = 4  # steps through the list at which others stand: about eight opponents of each
STEERED = 16  # activities under steering, half of which are steered
DUELS = (1, 5)  # places on, uneven ones: a steered activity against one that is not
RANDOM = 10
STRENGTH = 0.5  # of the residual norm, as in the paper


@dataclass(frozen=True, eq=False)
class Liked:
    """Ratings of activities, readouts on them, and how each emotion goes with the ratings."""

    rating: pd.Series
    shown: pd.DataFrame

    @property
    def r(self) -> pd.Series:
        """Correlation over activities, by emotion."""
        return self._with(self.rating.to_numpy())

    def by_chance(self, seed: int) -> list[pd.Series]:
        """The same with the ratings in another order, 100 times."""
        draw = np.random.default_rng(seed)
        return [self._with(draw.permutation(self.rating.to_numpy())) for _ in range(CONTROLS)]

    def _with(self, rating: np.ndarray) -> pd.Series:
        ours = zscore(self.shown.loc[self.rating.index].to_numpy())
        return pd.Series(zscore(rating) @ ours / len(rating), self.shown.columns)


def all_round(contest: Contest) -> Contest:
    """Each activity against some, evenly spread over the list, in both orders."""
    return meetings(contest, [1 + i for i in spread(len(contest.items) // 2, OPPONENTS)])


def in_words(contest: Contest) -> dict[str, str]:
    """How each activity is told in the offers."""
    return {s.name: t.text[s.start : s.end] for t in contest.prompts for s in t.spans}


def spread(size: int, count: int) -> list[int]:
    """So many places, evenly spread from the first to the last of a list.

    >>> spread(9, 3), spread(2, 3)
    ([0, 4, 8], [0, 1])
    """
    return sorted({round(x) for x in np.linspace(0, size - 1, count)})


def meetings(contest: Contest, steps: Sequence[int]) -> Contest:
    """Each activity against those so many places on, both ways and in both orders.

    Neighbours come first, so that the activities keep their order.
    """
    place = {item: i for i, item in enumerate(contest.items)}
    size, wanted = len(place), set(steps)
    rows = [
        i
        for i, (a, b) in enumerate(contest.pairs)
        if {(place[a] - place[b]) % size, (place[b] - place[a]) % size} & wanted
    ]
    rows.sort(key=lambda i: place[contest.pairs[i][1]] - place[contest.pairs[i][0]] != 1)
    return Contest(*(tuple(part[i] for i in rows) for part in vars(contest).values()))


def shown(study: Study) -> dict[int, pd.DataFrame]:
    """Readout of each emotion (column) on each activity (row), by layer."""
    texts = study.materials.activities
    told = all(any(s.name == "activity" for s in t.spans) for t in texts)
    recorded = record(study.model, texts, positions=span("activity") if told else last)
    names = [t.group for t in texts]
    found = {}
    for layer in recorded.layers:
        values = read_out(study.vectors, recorded.at(layer), layer).numpy()
        table = pd.DataFrame(values, columns=study.vectors.emotions)
        found[layer] = table.groupby(names, sort=False).mean()
    return found


def moved(study: Study, contest: Contest, emotions: Sequence[str]) -> pd.DataFrame:
    """What steering does to ratings, by direction: steered minus rest."""
    items = [contest.items[i] for i in spread(len(contest.items), STEERED)]
    found = preference_steering(
        study.model,
        meetings(contest.among(items), DUELS),
        study.vectors,
        layers=[study.middle],
        strength=STRENGTH,
        emotions=emotions,
        random_count=RANDOM,
        seed=study.seed,
    )
    return found.assign(apart=found.steered - found.rest)
