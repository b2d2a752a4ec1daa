"""Do situations that name no emotion raise the vector of the one they bring about (Fig. 2)?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens import figures
from emolens.experiments.paper.claims import CONTROLS, Claim, Found, against
from emolens.experiments.paper.study import Experiment, Study, mean_of_rest
from emolens.positions import last
from emolens.readout import read_out
from emolens.recording import record
from emolens.report import Exhibit

TOP = 3

TOP3 = Claim(
    "top3",
    "share of scenarios whose emotion is among the three highest vectors",
    least=0.6,
    paper=11 / 12,
    confidence="F",
)
GAP = Claim(
    "gap",
    "readout of the scenario's own vector minus the mean of the others, in standard deviations",
    least=1.0,
    paper=1.4,
    confidence="C",
)


def run(study: Study) -> Found:
    """Every vector on every scenario, where the reply or decision begins."""
    texts = study.materials.scenarios
    emotions = list(dict.fromkeys(t.emotion for t in texts))
    own = np.array([emotions.index(t.emotion) for t in texts])
    rows = [study.vectors.row(e) for e in emotions]
    recorded = record(study.model, texts, positions=last)
    found = {
        layer: read_out(study.vectors, recorded.at(layer), layer)[:, rows]
        for layer in recorded.layers
    }
    # what a vector reads in all scenarios tells of none of them ("loving" is always high)
    values = found[study.layer] - found[study.layer].mean(0)
    draw = np.random.default_rng(study.seed)
    orders = [draw.permutation(own) for _ in range(CONTROLS)]
    hits, gaps = _ranks(values, own) <= TOP, _gaps(values, own)
    return Found(
        {
            TOP3.name: against(
                len(texts),
                lambda r: hits[r].mean(),
                [(_ranks(values, o) <= TOP).mean() for o in orders],
            ),
            GAP.name: against(
                len(texts), lambda r: gaps[r].mean(), [_gaps(values, o).mean() for o in orders]
            ),
        },
        {"matrix": _matrix(found, emotions, own)},
        f"{len(texts)} scenarios of {len(emotions)} emotions, layer {study.layer}; the own vector "
        f"is the highest in {(_ranks(values, own) == 1).mean():.0%} of them.",
    )


def _ranks(values: Float[Tensor, "scenario emotion"], own: np.ndarray) -> np.ndarray:
    mine = values.gather(1, torch.from_numpy(own)[:, None])
    return (values > mine).sum(1).numpy() + 1


def _gaps(values: Float[Tensor, "scenario emotion"], own: np.ndarray) -> np.ndarray:
    return (mean_of_rest(values, own.tolist()) / values.std()).double().numpy()


def _matrix(
    found: Mapping[int, Float[Tensor, "scenario emotion"]], emotions: list[str], own: np.ndarray
) -> pd.DataFrame:
    """Mean readout by layer, vector and the scenarios' emotion."""
    rows = [
        (layer, vector, scenario, float(values[own == j, i].mean()))
        for layer, values in found.items()
        for i, vector in enumerate(emotions)
        for j, scenario in enumerate(emotions)
    ]
    return pd.DataFrame(rows, columns=["layer", "vector", "scenario", "value"])


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """Vectors by scenarios, at any layer."""
    chart = figures.grid(
        tables["matrix"], row="vector", column="scenario", value="value", slider="layer"
    )
    return [
        Exhibit("Centred cosine of each vector", chart, tables["matrix"], "scenarios_matrix"),
    ]


SCENARIOS = Experiment(
    name="scenarios",
    title="Situations that name no emotion",
    figures="Fig. 2, Table 2",
    inputs="single messages or situations that bring about an emotion and do not name it",
    procedure="the residual is read where the reply or decision begins, after every layer",
    readout="centred cosine with each vector, less its mean over all scenarios",
    control="the scenarios' labels in another order, 100 times",
    claims=(TOP3, GAP),
    lacks=lambda study: "" if study.materials.scenarios else "there are no scenarios",
    cost=lambda study: study.tokens(study.materials.scenarios),
    run=run,
    draw=draw,
)
