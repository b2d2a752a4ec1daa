"""Fig. 3: does an emotion rise or fall with a number in an otherwise unchanged sentence?"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from emolens import figures
from emolens.controls import random_directions
from emolens.experiments.paper.claims import CONTROLS, Claim, Found, against
from emolens.experiments.paper.materials import Quantity
from emolens.experiments.paper.study import Experiment, Study
from emolens.positions import last
from emolens.recording import record
from emolens.report import Exhibit
from emolens.text import Text
from emolens.vectors import centred_cosine

SHOWN = 5  # random directions in the pictures

SIGNS = Claim(
    "signs",
    "share of emotions said to rise or fall with a number whose rank correlation has that sign",
    least=0.75,
    paper=11 / 12,
    confidence="F",
)
RANKS = Claim(
    "rho",
    "mean rank correlation with the number, its sign turned where the emotion should fall",
    least=0.4,
)


def run(study: Study) -> Found:
    """The vectors, and as many random directions a hundred times over, on every sentence."""
    quantities, layer = study.materials.quantities, study.layer
    emotions = sorted({e for q in quantities for e in (*q.rises, *q.falls)})
    own = study.vectors.at(layer)[[study.vectors.row(e) for e in emotions]]
    drawn = random_directions(CONTROLS * len(emotions), study.model.d_model, study.seed)
    residual = record(study.model, _texts(study), layers=[layer], positions=last).at(layer)
    mean = study.vectors.mean[study.vectors.column(layer)]
    values = centred_cosine(torch.cat([own, drawn]), mean, residual)
    found = _by_value(quantities, values)
    signed = [_signed(q, emotions, mine) for q, mine in zip(quantities, found, strict=True)]

    def share(rows: np.ndarray, drawn: int = 0) -> float:
        return float(np.mean(np.concatenate([signed[i][drawn] for i in rows]) > 0))

    def rho(rows: np.ndarray, drawn: int = 0) -> float:
        return float(np.mean(np.concatenate([signed[i][drawn] for i in rows])))

    count, sets = len(quantities), range(1, 1 + CONTROLS)
    rows = np.arange(count)
    return Found(
        {
            SIGNS.name: against(count, share, [share(rows, n) for n in sets]),
            RANKS.name: against(count, rho, [rho(rows, n) for n in sets]),
        },
        {"curves": _curves(quantities, emotions, found), "rho": _rho(quantities, signed)},
        f"{sum(s.shape[1] for s in signed)} emotions in {count} sentences, layer {layer}.",
    )


def _texts(study: Study) -> list[Text]:
    return [t for q in study.materials.quantities for texts in q.texts for t in texts]


def _by_value(
    quantities: Sequence[Quantity], values: Float[Tensor, "text direction"]
) -> list[Float[Tensor, "_ direction"]]:
    """Mean readout of the texts of each number, for each sentence."""
    parts = iter(values.split([len(texts) for q in quantities for texts in q.texts]))
    return [torch.stack([next(parts).mean(0) for _ in q.values]) for q in quantities]


def _claimed(quantity: Quantity) -> list[tuple[str, int]]:
    return [(e, 1) for e in quantity.rises] + [(e, -1) for e in quantity.falls]


def _signed(
    quantity: Quantity, emotions: Sequence[str], values: Float[Tensor, "value direction"]
) -> Float[np.ndarray, "set claimed"]:
    """Rank correlations with the number, positive where as claimed, of the vectors and each set."""
    rho = rank_correlations(np.array(quantity.values), values.numpy())
    sets = rho.reshape(-1, len(emotions))
    return np.stack([sign * sets[:, emotions.index(e)] for e, sign in _claimed(quantity)], 1)


def rank_correlations(
    x: Float[np.ndarray, " row"], columns: Float[np.ndarray, "row column"]
) -> Float[np.ndarray, " column"]:
    """Spearman's correlation of x with each column; 0 where either does not change.

    >>> rank_correlations(np.array([1.0, 2.0, 9.0]), np.array([[1.0, 5.0], [4.0, 5.0], [5.0, 5.0]]))
    array([1., 0.])
    """
    one, many = (rankdata(v, axis=0) - (len(x) + 1) / 2 for v in (x, columns))
    scale = np.sqrt((one**2).sum() * (many**2).sum(0))
    return np.divide(one @ many, scale, out=np.zeros_like(scale), where=scale > 0)


def _curves(
    quantities: Sequence[Quantity],
    emotions: Sequence[str],
    found: Sequence[Float[Tensor, "_ direction"]],
) -> pd.DataFrame:
    """Readout by sentence and number: what is claimed, and a few random directions."""
    rows = []
    for quantity, values in zip(quantities, found, strict=True):
        shown = [(e, "rises" if sign > 0 else "falls") for e, sign in _claimed(quantity)]
        places = [emotions.index(e) for e, _ in shown]
        shown += [(f"random {n}", "control") for n in range(1, 1 + SHOWN)]
        places += range(len(emotions), len(emotions) + SHOWN)
        for (name, kind), place in zip(shown, places, strict=True):
            own = values[:, place].tolist()
            for step, (x, y) in enumerate(zip(quantity.values, own, strict=True), 1):
                rows.append((quantity.name, step, x, name, kind, y))
    return pd.DataFrame(rows, columns=["quantity", "step", "value", "emotion", "kind", "readout"])


def _rho(
    quantities: Sequence[Quantity], signed: Sequence[Float[np.ndarray, "set _"]]
) -> pd.DataFrame:
    rows = [
        (q.name, e, "rises" if sign > 0 else "falls", sign * rho)
        for q, found in zip(quantities, signed, strict=True)
        for (e, sign), rho in zip(_claimed(q), found[0], strict=True)
    ]
    return pd.DataFrame(rows, columns=["quantity", "emotion", "claimed", "rho"])


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """A panel a sentence."""
    chart = figures.lines(
        tables["curves"],
        x="step",
        y="readout",
        name="emotion",
        facet="quantity",
        kind="kind",
        x_title="number, from small to large",
        y_title="centred cosine",
        note="grey: random directions",
    )
    return [
        Exhibit("What changes with the number", chart, tables["curves"], "numbers_curves"),
        Exhibit("Rank correlation with the number", None, tables["rho"], "numbers_rho"),
    ]


NUMBERS = Experiment(
    name="numbers",
    title="Numbers alone",
    figures="Fig. 3",
    inputs="sentences in which nothing but a number changes",
    procedure="the residual is read where the reply or decision begins",
    readout="Spearman's correlation of the number and the centred cosine with each claimed vector",
    control="random directions instead of the vectors, 100 sets",
    claims=(SIGNS, RANKS),
    lacks=lambda study: "" if study.materials.quantities else "there are no sentences with numbers",
    cost=lambda study: study.tokens(_texts(study)),
    run=run,
    draw=draw,
)
