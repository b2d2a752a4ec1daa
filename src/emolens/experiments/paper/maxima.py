"""Where in texts that no vector was fitted on is each vector highest (Figs. 1, 16, 40-51)?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from emolens import figures
from emolens.experiments.paper.beside import Beside, drawn_beside
from emolens.experiments.paper.claims import CONTROLS, Claim, Found
from emolens.experiments.paper.study import Experiment, Study
from emolens.experiments.paper.views import token_views, traced
from emolens.experiments.paper.words import NETWORK, Way, by_way
from emolens.readout import top_windows
from emolens.report import Exhibit
from emolens.statistics import halves
from emolens.text import Text
from emolens.vectors import EmotionVectors, fit_vectors

EMOTIONS = 24
READ, NEUTRAL_READ = 72, 12  # texts, evenly of the emotions
FIRST = 3  # highest windows that are looked at
SHOWN = 4  # emotions whose best text is shown token by token

AUROC = Claim(
    "auroc",
    "mean AUROC over emotions of the best window of texts of the own emotion against all others, "
    "beyond permuted labels and beyond the words alone",
    least=0.75,
)
TOP = Claim(
    "top",
    "share of the three texts with a vector's highest windows that are of its own emotion or of "
    "one of its cluster, held against the same",
    least=0.5,
)


def aurocs(
    values: Float[np.ndarray, "text emotion"], emotions: Sequence[str], labels: np.ndarray
) -> Float[np.ndarray, " emotion"]:
    """How well each emotion's values tell its own texts from all others, in 0..1.

    From ranks, all emotions at once: a hundred permutations ask for thousands.

    >>> aurocs(np.array([[1.0], [0.0]]), ["calm"], np.array(["calm", "sad"]))
    array([1.])
    """
    own = labels[:, None] == np.array(emotions)
    count = own.sum(0)
    above = (rankdata(values, axis=0) * own).sum(0) - count * (count + 1) / 2
    return above / (count * (len(labels) - count))


def _texts(study: Study) -> tuple[list[str], list[Text]]:
    """At most 24 emotions, the paper's twelve first, and texts that no vector is fitted on."""
    corpus, fitted = study.materials.corpus, halves(study.stories.groups).tolist()
    known = {e for e, used in zip(study.stories.emotions, fitted, strict=True) if used}
    left = [t for t, used in zip(corpus.stories, fitted, strict=True) if not used]
    count = Counter(t.emotion for t in left if t.emotion in known)
    order = dict.fromkeys((*study.twelve, *corpus.emotions))
    emotions = [e for e in order if count[e] >= FIRST][:EMOTIONS]
    each = max(FIRST, READ // max(len(emotions), 1))
    texts = [t for e in emotions for t in [t for t in left if t.emotion == e][:each]]
    return emotions, [*texts, *corpus.neutral[1::2][:NEUTRAL_READ]]


def _fitted(way: Way, emotions: Sequence[str]) -> EmotionVectors:
    """Vectors of one half of the topics, and of every other neutral text."""
    rows = halves(way.stories.groups).nonzero().flatten().tolist()
    even = list(range(0, len(way.neutral.emotions), 2))
    vectors = fit_vectors(way.stories.rows(rows), way.neutral.rows(even))
    chosen = vectors.vectors[[vectors.row(e) for e in emotions]]
    return replace(vectors, vectors=chosen, emotions=tuple(emotions))


def run(study: Study) -> Found:
    """The highest window of every vector in every text, read by the network and by words alone."""
    emotions, texts = _texts(study)
    if len(emotions) < 2:
        return Found({}, {}, f"fewer than two emotions have {FIRST} stories on other topics")

    def highest(way: Way) -> pd.DataFrame:
        return top_windows(study.model, _fitted(way, emotions), texts, way.layer, top=len(texts))

    windows = by_way(study, highest)
    labels = np.array([t.emotion for t in texts])
    values = {way: _values(table, emotions) for way, table in windows.items()}
    rng = np.random.default_rng(study.seed)
    orders = [rng.permutation(labels) for _ in range(CONTROLS)]
    kin = _kin(emotions, study.materials.clusters)
    found = {way: aurocs(v, emotions, labels) for way, v in values.items()}
    hits = {way: _hits(v, kin, labels) for way, v in values.items()}
    beside, own = Beside(), values[NETWORK]
    chance = [aurocs(own, emotions, o).mean() for o in orders]
    beside.add_mean(AUROC, found, {"permuted labels": chance})
    blind = [_hits(own, kin, o).mean() for o in orders]
    beside.add_mean(TOP, hits, {"permuted labels": blind})
    best = windows[NETWORK][windows[NETWORK]["rank"] <= FIRST]
    best = best.assign(emotion_of_text=[labels[i] for i in best.text])
    return Found(
        beside.measured,
        {
            "windows": best.reset_index(drop=True),
            "auroc": pd.DataFrame({"emotion": emotions, "auroc": found[NETWORK]}),
            "ways": beside.table,
            "tokens": _shown(study, texts, best, emotions),
        },
        f"{len(texts)} texts of {len(emotions)} emotions and of none, layer {study.layer}.",
    )


def _values(windows: pd.DataFrame, emotions: Sequence[str]) -> Float[np.ndarray, "text emotion"]:
    wide = windows.pivot(index="text", columns="emotion", values="value")
    return wide[list(emotions)].to_numpy()


def _kin(emotions: Sequence[str], clusters: Mapping[str, str]) -> list[set[str]]:
    """Of each emotion, those that count as found: itself and its cluster."""
    own = [clusters.get(e, e) for e in emotions]
    return [
        {e, *(o for o, g in clusters.items() if g == c)} for e, c in zip(emotions, own, strict=True)
    ]


def _hits(
    values: Float[np.ndarray, "text emotion"], kin: Sequence[set[str]], labels: np.ndarray
) -> Float[np.ndarray, " emotion"]:
    first = np.argsort(-values, axis=0, kind="stable")[:FIRST].T
    return np.array([np.isin(labels[f], list(k)).mean() for f, k in zip(first, kin, strict=True)])


def _shown(
    study: Study, texts: Sequence[Text], best: pd.DataFrame, emotions: Sequence[str]
) -> pd.DataFrame:
    """The text with the highest window of a few emotions, token by token."""
    rows = [best[best.emotion == e].iloc[0] for e in emotions[:SHOWN]]
    captions = [f"{r.emotion} is highest here, in a text of {r.emotion_of_text}" for r in rows]
    names = [[r.emotion, *(e for e in emotions if e != r.emotion)] for r in rows]
    return traced(study, [texts[r.text] for r in rows], captions, names)


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """Bars, the best windows, and a few texts token by token."""
    each = figures.bars(tables["auroc"], name="emotion", value="auroc", baseline=0.5)
    return [
        *drawn_beside(tables["ways"], "maxima"),
        Exhibit("AUROC of each emotion", each, tables["auroc"], "maxima_auroc"),
        Exhibit("The highest windows", None, tables["windows"], "maxima_windows"),
        Exhibit("Token by token", tokens=token_views(tables["tokens"])),
    ]


MAXIMA = Experiment(
    name="maxima",
    title="Where each vector is highest",
    figures="Figs. 1, 16, 40-51",
    inputs="stories on half of the topics and neutral texts; vectors are fitted on the others",
    procedure="every token is read, and the highest mean over 20 tokens kept of each text",
    readout="centred cosine at two thirds of the depth",
    control="the texts' labels in another order, 100 times; the same with the embedding of the "
    "words alone, each token's own and the mean of all up to it",
    claims=(AUROC, TOP),
    lacks=lambda _: "",
    cost=lambda study: 3 * study.tokens(_texts(study)[1]),
    run=run,
    draw=draw,
)
