"""Figs. 12 to 14: do a few words change what is read later, in late layers more than early?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from emolens import figures
from emolens.experiments.paper.claims import CONTROLS, Claim, Found, Measured, against
from emolens.experiments.paper.differences import (
    Difference,
    Emotions,
    Readouts,
    by_layer,
    by_token,
    difference,
    readouts,
    shared,
)
from emolens.experiments.paper.study import Experiment, Study
from emolens.positions import last, span
from emolens.report import Exhibit

CHANGED, AFTER, END, WORD = "changed words", "same words after", "last token", "emotion's word"

MORE = Claim(
    "pairs",
    "share of pairs whose text that shows more of an emotion reads higher on it at its end",
    least=0.7,
)
LATE = Claim(
    "pairs_late",
    "that difference in units of the one at the changed words, late minus early layers",
    least=0.1,
)
AFFIRMED = Claim(
    "denied",
    "share of emotions that read higher at the end where they are affirmed than where denied",
    least=0.7,
)
WORD_LATE = Claim(
    "denied_late",
    "affirmed minus denied at the emotion's word, late minus early layers, in standard deviations",
    least=0.2,
)


def run(study: Study) -> Found:
    """Minimal pairs, and emotions affirmed and denied, after every layer."""
    pairs, denied = study.materials.pairs, study.materials.denied
    measured: dict[str, Measured] = {}
    tables: dict[str, pd.DataFrame] = {}
    left_out: dict[str, str] = {}
    if pairs:
        found = readouts(study, pairs, {CHANGED: span("changed"), AFTER: shared, END: last})
        own = np.array([study.vectors.row(p.emotion) for p in pairs])
        measured |= _of_pairs(study, found, own)
        tables |= {"pairs": by_layer(found, own, END), "map": by_token(study, pairs[0])}
    else:
        left_out |= dict.fromkeys((MORE.name, LATE.name), "there are no minimal pairs")
    if denied:
        found = readouts(study, denied, {WORD: span("word"), END: last})
        own = np.array([study.vectors.row(p.emotion) for p in denied])
        measured |= _of_denied(study, found, own)
        tables["denied"] = by_layer(found, own, END)
    else:
        left_out |= dict.fromkeys((AFFIRMED.name, WORD_LATE.name), "no emotion is denied")
    early, late = _depths(study)
    told = (
        f"{len(pairs)} minimal pairs, {len(denied)} emotions denied. The end is read at layer "
        f"{study.layer}; early are layers 0 to {early[-1]}, late {late[0]} to {late[-1]}."
    )
    return Found(measured, tables, told, left_out)


def _depths(study: Study) -> tuple[range, range]:
    """Early layers, the first third, and late ones, from two thirds on."""
    return range(max(study.model.n_layers // 3, 1)), range(study.layer, study.model.n_layers)


def _of_pairs(study: Study, found: Mapping[str, Readouts], own: Emotions) -> dict[str, Measured]:
    """Against pairs turned round at random."""
    changed, end = (difference(found[region], own) for region in (CHANGED, END))
    early, late = _depths(study)

    def share(ends: Difference, rows: np.ndarray) -> float:
        return float((ends[rows, study.layer] > 0).mean())

    def growth(ends: Difference, rows: np.ndarray) -> float:
        left = ends[rows].mean(0) / np.abs(changed[rows]).mean(0)
        return float(left[late].mean() - left[early].mean())

    draw, rows = np.random.default_rng(study.seed), np.arange(len(end))
    turned = [draw.choice((-1, 1), (len(end), 1)) * end for _ in range(CONTROLS)]
    return {
        MORE.name: against(len(end), lambda r: share(end, r), [share(t, rows) for t in turned]),
        LATE.name: against(len(end), lambda r: growth(end, r), [growth(t, rows) for t in turned]),
    }


def _of_denied(study: Study, found: Mapping[str, Readouts], own: Emotions) -> dict[str, Measured]:
    """Against the emotions of other pairs: all may read lower where something is denied."""
    word, end = found[WORD], found[END]
    spread, (early, late) = word.std((0, 1, 3)), _depths(study)

    def share(emotions: Emotions, rows: np.ndarray) -> float:
        return float((difference(end, emotions)[rows, study.layer] > 0).mean())

    def growth(emotions: Emotions, rows: np.ndarray) -> float:
        apart = difference(word, emotions)[rows].mean(0) / spread
        return float(apart[late].mean() - apart[early].mean())

    draw, rows = np.random.default_rng(study.seed), np.arange(len(own))
    orders = [draw.permutation(own) for _ in range(CONTROLS)]
    return {
        AFFIRMED.name: against(len(own), lambda r: share(own, r), [share(o, rows) for o in orders]),
        WORD_LATE.name: against(
            len(own), lambda r: growth(own, r), [growth(o, rows) for o in orders]
        ),
    }


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """Differences by layer, and token by token for one pair."""
    titles = {"pairs": "Where minimal pairs differ", "denied": "Affirmed minus denied"}
    made = []
    for name in (n for n in titles if n in tables):
        chart = figures.lines(
            tables[name],
            x="layer",
            y="difference",
            name="region",
            low="low",
            high="high",
            kind="kind",
            ordinal=True,
            y_title="first minus second text, centred cosine",
            note="grey: the last token, texts of each pair in random order",
        )
        made.append(Exhibit(titles[name], chart, tables[name], f"context_{name}"))
    if "map" in tables:
        one = tables["map"]
        note = f"{one.emotion.iloc[0]}, first minus second text, after the changed words"
        chart = figures.grid(one, row="layer", column="token", value="difference", note=note)
        made.append(Exhibit("One pair, token by token", chart, one, "context_map"))
    return made


CONTEXT = Experiment(
    name="context",
    title="Words that change what follows",
    figures="Figs. 12-14",
    inputs="pairs of texts that differ in a few words, or in whether an emotion is denied",
    procedure="the residual is read at the changed words or the emotion's word, in the same words "
    "that follow, and at the last token, after every layer",
    readout="centred cosine with the pair's emotion, first minus second text",
    control="for minimal pairs, which text is the first drawn at random; for what is denied, the "
    "emotions of other pairs; 100 times",
    claims=(MORE, LATE, AFFIRMED, WORD_LATE),
    lacks=lambda study: (
        "" if study.materials.pairs or study.materials.denied else "there are no pairs of texts"
    ),
    cost=lambda study: study.tokens(
        [t for p in (*study.materials.pairs, *study.materials.denied) for t in (p.first, p.second)]
    ),
    run=run,
    draw=draw,
)
