"""Do emotions go with what a model would rather do, and move it (Figs. 4, 54-56, 85, 86)?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from emolens import figures
from emolens.controls import CONTROL
from emolens.experiments.paper.claims import CONTROLS, Claim, Found, Measured, against
from emolens.experiments.paper.correlation import correlation, together
from emolens.experiments.paper.liking import (
    DUELS,
    OPPONENTS,
    RANDOM,
    STEERED,
    STRENGTH,
    Liked,
    all_round,
    in_words,
    moved,
    shown,
    spread,
)
from emolens.experiments.paper.study import Experiment, Study, logits_needed
from emolens.preferences import compare, ratings
from emolens.report import Exhibit

EMOTIONS = 24  # of twelve, the interval of the paper's r would reach down to what chance gives
LEGAL = 0.05  # probability of both options together; below, a model does not choose

LARGEST = Claim(
    "largest_r",
    "largest |r| of an emotion's readout on the activities with their ratings",
    least=0.5,
    paper=0.74,
    confidence="P",
)
VALENCE = Claim(
    "valence",
    "r over emotions of an emotion's valence with the r of its readout and the ratings",
    least=0.5,
    paper=0.76,
    confidence="P",
)
STEERING = Claim(
    "steering",
    "r over emotions of the r of the readout with what steering does to ratings, less the rest",
    least=0.55,
    paper=0.85,
    confidence="P",
)
BASE = Claim(
    "base",
    "r over activities of the base model's ratings with the model's",
    least=0.55,
    paper=0.81,
    confidence="C",
)


def run(study: Study) -> Found:
    """Ratings, readouts, and ratings under steering, at half of the depth."""
    contest, layer = study.materials.contest, study.middle
    assert contest is not None  # `lacks` has seen to it
    offers = all_round(contest)
    compared = compare(study.model, offers)
    legal = float(compared.legal.mean())
    if legal < LEGAL:
        return Found({}, {}, f"P(A or B) is {legal:.3f}: the model does not choose")
    read = shown(study)
    liked = Liked(ratings(compared), read[layer])
    chosen = liked.r.sort_values().index[spread(len(liked.r), EMOTIONS)].tolist()
    steered = moved(study, contest, chosen)
    measured = {
        LARGEST.name: _largest(liked, study.seed),
        VALENCE.name: _with_valence(study, liked),
        STEERING.name: _with_steering(liked, steered, study.seed),
    }
    tables = _tables(study, liked, steered, read)
    tables["activities"]["activity"] = liked.rating.index.map(in_words(contest))
    if study.base:
        theirs = ratings(compare(study.base, offers))[liked.rating.index]
        measured[BASE.name] = together(liked.rating.to_numpy(), theirs.to_numpy(), seed=study.seed)
        tables["activities"]["base"] = theirs.to_numpy()
    return Found(
        measured,
        tables,
        f"{len(liked.rating)} activities, each against {len(offers.pairs) // len(liked.rating)} "
        f"offers, P(A or B) {legal:.2f}; {STRENGTH} of the residual norm at layer {layer} on half "
        f"of {STEERED} activities.",
        {} if study.base else {BASE.name: "no base model was given (--base)"},
    )


def _largest(liked: Liked, seed: int) -> Measured:
    """The largest |r|; its interval is of that emotion, since a largest one of draws grows."""
    best = liked.r.abs().idxmax()
    shown, rating = liked.shown[best][liked.rating.index].to_numpy(), liked.rating.to_numpy()
    return against(
        len(rating),
        lambda rows: abs(correlation(shown[rows], rating[rows])),
        [r.abs().max() for r in liked.by_chance(seed)],
        seed=seed,
    )


def _with_valence(study: Study, liked: Liked) -> Measured:
    valence = pd.Series(study.materials.norms["valence"], dtype=float).dropna()
    known = [e for e in liked.r.index if e in valence.index]
    nulls = liked.by_chance(study.seed)
    told = valence[known].to_numpy()
    return together(
        told,
        liked.r[known].to_numpy(),
        nulls=((told, null[known].to_numpy()) for null in nulls),
        seed=study.seed,
    )


def _with_steering(liked: Liked, moved: pd.DataFrame, seed: int) -> Measured:
    """Beside permuted activities and random directions in the emotions' places."""
    own = moved[moved.kind == "emotion"]
    names, random = own.direction.tolist(), moved[moved.kind == CONTROL].apart.to_numpy()
    r, apart = liked.r[names].to_numpy(), own.apart.to_numpy()
    draw = np.random.default_rng(seed)
    nulls = [(null[names].to_numpy(), apart) for null in liked.by_chance(seed)]
    placed = [(r, draw.choice(random, len(r))) for _ in range(CONTROLS)]
    both = [together(r, apart, nulls=some, seed=seed) for some in (nulls, placed)]
    return max(both, key=lambda measured: measured.bound)


def _tables(
    study: Study, liked: Liked, moved: pd.DataFrame, shown: Mapping[int, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    r, valence = liked.r, pd.Series(study.materials.norms["valence"], dtype=float)
    ends = [r.idxmin(), r.idxmax()]
    rating = liked.rating
    activities = pd.DataFrame({"activity": rating.index, "rating": rating.to_numpy()})
    for emotion in ends:
        activities[emotion] = liked.shown.loc[rating.index, emotion].to_numpy()
    layers = [
        (layer, e, correlation(table[e].to_numpy(), rating[table.index].to_numpy()))
        for layer, table in shown.items()
        for e in ends
    ]
    emotions = pd.DataFrame({"emotion": r.index, "r": r.to_numpy()})
    return {
        "emotions": emotions.assign(valence=valence.reindex(r.index).to_numpy()),
        "steering": moved.assign(r=r.reindex(moved.direction).to_numpy()),
        "activities": activities,
        "layers": pd.DataFrame(layers, columns=["layer", "emotion", "r"]),
    }


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """How emotions go with ratings, with valence, and with what steering does."""
    emotions, moved, told = tables["emotions"], tables["steering"], tables["activities"]
    caused = moved[moved.kind == "emotion"]
    bars = figures.bars(emotions, name="emotion", value="r", title="r with ratings")
    valence = figures.scatter(
        emotions, x="valence", y="r", label="emotion", y_title="r with ratings"
    )
    steered = figures.scatter(
        caused, x="r", y="apart", label="direction", x_title="r with ratings", y_title=APART
    )
    beside = figures.bars(moved, name="direction", value="apart", kind="kind", title=APART)
    rated = [
        Exhibit(
            f"Ratings and {emotion}",
            figures.scatter(told, x=emotion, y="rating", label="activity"),
            told,
            "preferences_activities",
        )
        for emotion in told.columns[2:4]
    ]
    by_layer = figures.lines(tables["layers"], x="layer", y="r", name="emotion", ordinal=True)
    return [
        Exhibit("How each emotion goes with ratings", bars, emotions, "preferences_emotions"),
        *rated,
        Exhibit("Valence", valence),
        Exhibit("What goes with ratings, and what moves them", steered),
        Exhibit("Steering, random directions in grey", beside, moved, "preferences_steering"),
        Exhibit("By layer", by_layer, tables["layers"], "preferences_layers"),
    ]


APART = "change of the rating, steered minus rest"


def _lacks(study: Study) -> str:
    have = study.materials.contest and study.materials.activities
    return logits_needed(study) or ("" if have else "there are no activities to choose from")


def _cost(study: Study) -> int:
    contest = study.materials.contest
    each = study.tokens(contest.prompts[:50]) / 50 if contest else 0
    asked = 2 * OPPONENTS * len(contest.items) if contest else 0
    steered = (1 + EMOTIONS + RANDOM) * 2 * len(DUELS) * STEERED
    return int(each * (asked + steered)) + study.tokens(study.materials.activities)


PREFERENCES = Experiment(
    name="preferences",
    title="What the model would rather do",
    figures="Figs. 4, 54-56, 85, 86, Table 9",
    inputs="activities, in offers of two, and in a text about each",
    procedure="Bradley-Terry ratings of what is chosen, each activity against about eight others "
    "in both orders; then a vector is added where half of some activities are told",
    readout="centred cosine of each vector on the activity at half of the depth, and its r with "
    "the ratings",
    control="ratings in another order, 100 times; emotions in another order, 100 times; under "
    "steering, random directions as long",
    claims=(LARGEST, VALENCE, STEERING, BASE),
    lacks=_lacks,
    cost=_cost,
    run=run,
    draw=draw,
)
