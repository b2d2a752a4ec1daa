"""Fig. 15: is each of two people's emotion read where that person is mentioned again?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from emolens import figures
from emolens.experiments.paper.claims import CONTROLS, Claim, Found, against
from emolens.experiments.paper.materials import Bound
from emolens.experiments.paper.study import Experiment, Study
from emolens.positions import span
from emolens.readout import read_out
from emolens.recording import record
from emolens.report import Exhibit
from emolens.statistics import clustered_interval

SHOWN = 10  # swapped ones in the picture

OWN = Claim(
    "own",
    "share of mentions at which the person's own emotion is read more than the other person's",
    least=0.65,
)


@dataclass(frozen=True, eq=False)
class Mentions:
    """Each time that a person is spoken of again.

    Attributes:
        text: the number of its text.
        gap: own emotion minus the other person's, centred cosine, after each layer.
    """

    text: Int[np.ndarray, " mention"]
    gap: Float[np.ndarray, "mention layer"]

    def swapped(self, texts: Bool[np.ndarray, " text"]) -> Float[np.ndarray, "mention layer"]:
        """The gaps if in those texts each had felt what the other does."""
        return np.where(texts[self.text], -1, 1)[:, None] * self.gap


def run(study: Study) -> Found:
    """Both emotions at each mention, after every layer."""
    texts = study.materials.bound
    found = _mentions(study)
    draw = np.random.default_rng(study.seed)
    swaps = [found.swapped(draw.random(len(texts)) < 0.5) for _ in range(CONTROLS)]
    members = [np.flatnonzero(found.text == i) for i in range(len(texts))]

    def share(gap: Float[np.ndarray, "mention layer"], rows: np.ndarray) -> float:
        mentions = np.concatenate([members[i] for i in rows])
        return float((gap[mentions, study.layer] > 0).mean())

    controls = [share(gap, np.arange(len(texts))) for gap in swaps]
    measured = against(len(texts), lambda r: share(found.gap, r), controls, seed=study.seed)
    return Found(
        {OWN.name: measured},
        {"curves": _curves(found, swaps), "mentions": _table(texts, found, study.layer)},
        f"{len(found.text)} mentions in {len(texts)} texts, layer {study.layer}.",
    )


def _mentions(study: Study) -> Mentions:
    """Those of the first person, then those of the second where texts mark them."""
    texts, vectors, numbers, gaps = study.materials.bound, study.vectors, [], []
    for name in ("own", "other"):
        rows = [i for i, b in enumerate(texts) if any(s.name == name for s in b.text.spans)]
        if not rows:
            continue
        emotions = [(texts[i].own, texts[i].other) for i in rows]
        mine, rest = torch.tensor([[vectors.row(e) for e in two] for two in emotions]).T
        recorded = record(study.model, [texts[i].text for i in rows], positions=span(name))
        values = torch.stack([read_out(vectors, recorded.at(k), k) for k in recorded.layers], 1)
        at = torch.arange(len(rows))
        gap = values[at, :, mine] - values[at, :, rest]
        gaps.append((gap if name == "own" else -gap).numpy())
        numbers += rows
    return Mentions(np.array(numbers), np.concatenate(gaps))


def _curves(found: Mentions, swaps: Sequence[np.ndarray]) -> pd.DataFrame:
    """Mean gap by layer with an interval over texts, and that of some swapped ones."""
    groups, rows = [str(i) for i in found.text], []
    for layer in range(found.gap.shape[1]):
        mean, low, high = clustered_interval(found.gap[:, layer].tolist(), groups)
        rows.append((layer, "own minus other", "found", mean, low, high))
        for n, gap in enumerate(swaps[:SHOWN], 1):
            rows.append((layer, f"swapped {n}", "control", float(gap[:, layer].mean()), nan, nan))
    return pd.DataFrame(rows, columns=["layer", "name", "kind", "gap", "low", "high"])


def _table(texts: Sequence[Bound], found: Mentions, layer: int) -> pd.DataFrame:
    rows = [
        (texts[i].text.text.strip(), texts[i].own, texts[i].other, gap)
        for i, gap in zip(found.text.tolist(), found.gap[:, layer].tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["text", "first", "second", "own_minus_other"])


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """The gap by layer."""
    chart = figures.lines(
        tables["curves"],
        x="layer",
        y="gap",
        name="name",
        low="low",
        high="high",
        kind="kind",
        ordinal=True,
        y_title="own minus other emotion, centred cosine",
        note="grey: emotions swapped between the two persons of texts drawn at random",
    )
    return [
        Exhibit("Whose emotion is read at a mention", chart, tables["curves"], "binding_curves"),
        Exhibit("Each mention", None, tables["mentions"], "binding_mentions"),
    ]


BINDING = Experiment(
    name="binding",
    title="Who feels what",
    figures="Fig. 15",
    inputs="texts in which two persons have an emotion each and are mentioned again later",
    procedure="the mean residual over each later mention is read, after every layer",
    readout="centred cosine with the person's own emotion minus that with the other person's",
    control="emotions swapped between the two persons of half of the texts, 100 times",
    claims=(OWN,),
    lacks=lambda study: "" if study.materials.bound else "no texts tell of two persons' emotions",
    cost=lambda study: 2 * study.tokens([b.text for b in study.materials.bound]),
    run=run,
    draw=draw,
)
