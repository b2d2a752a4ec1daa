"""When in training do the vectors come to tell situations apart?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice, permutations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from emolens import figures
from emolens.corpus import Corpus
from emolens.experiments.paper import scenarios
from emolens.experiments.paper.claims import BOUND, CONTROLS, Claim, Found, Measured, against
from emolens.experiments.paper.study import Experiment, Study, mean_of_rest
from emolens.model import load
from emolens.report import Exhibit
from emolens.text import Text

STORIES = 6  # of each emotion, at each checkpoint
NEUTRALS = 40
LEAST = 4  # checkpoints; the best order of fewer comes up by chance more than once in twenty
ORDERS = 5040  # of seven checkpoints; of more, the first so many after a shuffle

GROWS = Claim(
    "grows",
    "rank correlation of tokens seen with how far a scenario's own vector stands above the others",
    least=0.7,
)
RISES = Claim(
    "rises",
    "what that gains from the first checkpoint to the last, in standard deviations of readouts",
    least=0.5,
)


def run(study: Study) -> Found:
    """Vectors of each checkpoint's own, on the same stories and scenarios."""
    materials = replace(study.materials, corpus=_part(study.materials.corpus))
    emotions = list(dict.fromkeys(t.emotion for t in materials.scenarios))
    own = np.array([emotions.index(t.emotion) for t in materials.scenarios])
    seen, values, rows, matrix = [], [], [], []
    for tokens, folder in sorted(materials.checkpoints.items()):
        then = Study(load(folder), materials, seed=study.seed)
        found = scenarios.run(then)
        seen.append(tokens)
        values.append(then.read(materials.scenarios, then.layer, emotions=emotions))
        rows += [
            (tokens, name, m.found, m.low, m.high, m.bound) for name, m in found.measured.items()
        ]
        table = found.tables["matrix"]
        matrix.append(table[table.layer == then.layer].assign(tokens=tokens))
    gaps = np.stack([_gaps(v, own) for v in values])
    grows = _grows(seen, gaps, study.seed)
    columns = ["tokens", "measure", "value", "low", "high", "bound"]
    return Found(
        {GROWS.name: grows, RISES.name: _rises(values[0], values[-1], own, study.seed)},
        {"curve": pd.DataFrame(rows, columns=columns), "matrix": pd.concat(matrix)},
        f"{len(seen)} checkpoints, up to {STORIES} stories of each emotion, layer {study.layer}. "
        f"So few have few orders, and the bound of the rank correlation, {grows.bound:.2f}, is "
        "coarse: a curve that has levelled off may miss it.",
    )


def _gaps(values: Float[Tensor, "scenario emotion"], own: np.ndarray) -> np.ndarray:
    """Of each scenario, how far its own vector stands above the others, in standard deviations."""
    apart = values - values.mean(0)
    return (mean_of_rest(apart, own.tolist()) / apart.std()).numpy()


def _grows(seen: Sequence[int], gaps: np.ndarray, seed: int) -> Measured:
    """Rank correlation over checkpoints; its interval is over scenarios."""
    found = against(
        gaps.shape[1],
        lambda some: float(spearmanr(seen, gaps[:, some].mean(1)).statistic),
        [0.0],
        seed=seed,
    )
    return replace(found, bound=_by_chance(len(seen), seed))


def _rises(first: Tensor, last: Tensor, own: np.ndarray, seed: int) -> Measured:
    """What the gap gains, beside scenarios whose labels are in another order."""
    draw = np.random.default_rng(seed)
    orders = [draw.permutation(own) for _ in range(CONTROLS)]
    gains = [float((_gaps(last, o) - _gaps(first, o)).mean()) for o in orders]
    gain = _gaps(last, own) - _gaps(first, own)
    return against(len(own), lambda some: float(gain[some].mean()), gains, seed=seed)


def _by_chance(count: int, seed: int) -> float:
    """What 95% of all orders of the checkpoints stay at or below."""
    places = np.random.default_rng(seed).permutation(count)
    found = [spearmanr(places, o).statistic for o in islice(permutations(range(count)), ORDERS)]
    return float(np.quantile(found, BOUND))


def _part(corpus: Corpus) -> Corpus:
    """The first stories of each emotion."""
    kept: dict[str, list[Text]] = defaultdict(list)
    for text in corpus.stories:
        if len(kept[text.emotion]) < STORIES:
            kept[text.emotion].append(text)
    return Corpus(tuple(t for own in kept.values() for t in own), corpus.neutral[:NEUTRALS])


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """The curve of each measure, and the matrix at each checkpoint."""
    curve = tables["curve"]
    chance = curve.assign(value=curve.bound, low=curve.bound, high=curve.bound, kind="control")
    chart = figures.lines(
        pd.concat([curve.assign(kind="emotion"), chance]),
        x="tokens",
        y="value",
        name="measure",
        low="low",
        high="high",
        kind="kind",
        facet="measure",
        x_title="tokens seen",
        note="grey: what 95 of 100 orders of the scenarios' labels stay below",
    )
    matrix = figures.grid(
        tables["matrix"], row="vector", column="scenario", value="value", slider="tokens"
    )
    return [
        Exhibit("Over training", chart, curve, "checkpoints_curve"),
        Exhibit("Vectors and scenarios", matrix, tables["matrix"], "checkpoints_matrix"),
    ]


def _lacks(study: Study) -> str:
    count = len(study.materials.checkpoints)
    if not study.materials.scenarios:
        return "there are no scenarios"
    if count < LEAST:
        return f"{count} checkpoints were given: an order by chance needs at least {LEAST}"
    return ""


def _texts(study: Study) -> Sequence[Text]:
    part = _part(study.materials.corpus)
    return [*part.stories, *part.neutral, *study.materials.scenarios]


CHECKPOINTS = Experiment(
    name="checkpoints",
    title="Over training",
    figures="not in the paper",
    inputs="earlier states of the model, a part of the stories, and the scenarios",
    procedure="at each checkpoint vectors are fitted anew and read where the reply or decision "
    "begins, as in the scenarios",
    readout="mean readout of the scenario's own vector over the others', and the share of "
    "scenarios whose own is among the three highest",
    control="all orders of the checkpoints; for the gain, the scenarios' labels in another "
    "order, 100 times",
    claims=(GROWS, RISES),
    lacks=_lacks,
    cost=lambda study: len(study.materials.checkpoints) * study.tokens(_texts(study)),
    run=run,
    draw=draw,
)
