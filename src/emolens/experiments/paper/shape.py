"""Are the vectors arranged like human affect (Figs. 5-9, 57, 58, Table 12)?"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from emolens import figures
from emolens.experiments.paper.beside import Beside, drawn_beside
from emolens.experiments.paper.claims import CONTROLS, Claim, Found, Measured
from emolens.experiments.paper.correlation import correlation
from emolens.experiments.paper.study import Experiment, Study
from emolens.experiments.paper.words import NETWORK, ways
from emolens.geometry import circumplex, clusters, principal_components, rsa, similarity
from emolens.report import Exhibit
from emolens.statistics import jackknife_interval

WITHOUT = {
    "valence": "too few emotions have a norm",
    "arousal": "too few emotions have a norm",
    "clusters": "no groups of these emotions are known",
    "layers": "it needs the valence of the emotions",
}
PLANE = ("pc1", "pc2")
FEWEST = 8  # emotions with a norm, or with a group

VALENCE = Claim(
    "valence",
    "|r| of valence with PC1 or PC2, whichever goes with it more, beyond permuted norms (which "
    "choose likewise) and beyond the words alone",
    least=0.55,
    paper=0.81,
    confidence="P",
)
AROUSAL = Claim(
    "arousal",
    "|r| of arousal with PC1 or PC2, whichever goes with it more, held against the same",
    least=0.45,
    paper=0.66,
    confidence="P",
)
CLUSTERS = Claim(
    "clusters",
    "adjusted Rand index of k-means with the known groups, beyond permuted groups and beyond the "
    "words alone",
    least=0.3,
)
LAYERS = Claim(
    "layers",
    "least similarity (RSA) between layers from the first third on, times the |r| of valence and "
    "held against that of its controls: the layers of a network that has learned nothing are "
    "alike as well, so they count where what they share means something",
    least=0.4,
    paper=0.65,  # 0.8 of similarity, 0.81 of r
    confidence="C",
)


def run(study: Study) -> Found:
    """Components, clusters and layers of the vectors, beside those of the words alone."""
    norms = {"valence": {}, **study.materials.norms}
    planes = {w.name: principal_components(w.vectors, w.layer, norms) for w in ways(study)}
    beside = Beside()
    for claim in (VALENCE, AROUSAL):
        _against_norm(study, planes, claim, beside)
    grouped = _grouped(study)
    _against_groups(study, grouped, beside)
    layers = rsa(study.vectors, study.vectors, seed=study.seed)
    first = study.model.n_layers // 3
    least = float(layers[layers[["layer_a", "layer_b"]].min(axis=1) >= first].rho.min())
    measured = dict(beside.measured)
    if VALENCE.name in measured:
        m = measured[VALENCE.name]
        measured[LAYERS.name] = Measured(*(least * v for v in (m.found, m.low, m.high, m.bound)))
    curve = circumplex(study.vectors, study.vectors.layers, study.materials.norms, seed=study.seed)
    return Found(
        measured,
        {
            "similarity": similarity(study.vectors, study.layer),
            "plane": planes[NETWORK],
            "ways": beside.table,
            "clusters": grouped[NETWORK],
            "layers": layers,
            "curve": curve,
        },
        f"{len(study.vectors.emotions)} emotions, layer {study.layer}; least similarity between "
        f"layers {first} to {study.model.n_layers - 1}: {least:.2f} (paper above 0.8).",
        {name: why for name, why in WITHOUT.items() if name not in measured},
    )


def _better(plane: pd.DataFrame, norm: np.ndarray, rows: np.ndarray) -> float:
    """|r| of the better of two components on some rows."""
    return max(abs(correlation(plane[name].to_numpy()[rows], norm[rows])) for name in PLANE)


def _against_norm(
    study: Study, planes: Mapping[str, pd.DataFrame], claim: Claim, beside: Beside
) -> None:
    """One norm on the planes, if enough emotions have it."""
    norms = planes[NETWORK].get(claim.name, pd.Series(dtype=float))
    truth = norms.dropna().to_numpy()
    if len(truth) < FEWEST or not np.ptp(truth):
        return
    known = {way: plane[norms.notna().to_numpy()] for way, plane in planes.items()}
    rng, rows = np.random.default_rng(study.seed), np.arange(len(truth))
    drawn = [_better(known[NETWORK], rng.permutation(truth), rows) for _ in range(CONTROLS)]
    by_way = {way: partial(_better, plane, truth) for way, plane in known.items()}
    beside.add(claim, len(truth), by_way, {"permuted norms": drawn})


def _grouped(study: Study) -> dict[str, pd.DataFrame]:
    """Clusters of each way beside the known groups; as many as there are of these, or ten."""
    known, emotions = study.materials.clusters, study.vectors.emotions
    groups = {known[e] for e in emotions if e in known}
    count = min(max(2, len(groups) or 10), len(emotions) - 1)
    tables = {}
    for way in ways(study):
        table = clusters(way.vectors, way.layer, count=count, seed=study.seed)
        tables[way.name] = table.assign(group=[known.get(e, "") for e in emotions])
    return tables


def _against_groups(study: Study, tables: Mapping[str, pd.DataFrame], beside: Beside) -> None:
    """Agreement with the known groups, if there are at least two."""
    grouped = {way: table[table.group != ""] for way, table in tables.items()}
    groups = grouped[NETWORK].group.to_numpy()
    if len(set(groups)) < 2 or len(groups) < FEWEST:
        return
    rng, own = np.random.default_rng(study.seed), grouped[NETWORK].cluster.to_numpy()
    drawn = [float(adjusted_rand_score(rng.permutation(groups), own)) for _ in range(CONTROLS)]
    by_way = {way: partial(_rand, groups, t.cluster.to_numpy()) for way, t in grouped.items()}
    # rows that are drawn twice agree with themselves, so one is left out at a time
    shuffled = {"permuted groups": drawn}
    beside.add(CLUSTERS, len(groups), by_way, shuffled, interval=jackknife_interval)


def _rand(groups: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> float:
    return float(adjusted_rand_score(groups[rows], labels[rows]))


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """The map, the plane, what words alone give, layers with layers, and the curve over layers."""
    cosines, plane, layers = tables["similarity"], tables["plane"], tables["layers"]
    between = figures.grid(layers, row="layer_a", column="layer_b", value="rho", limit=1.0)
    exhibits = [
        Exhibit(
            "Cosine of every two vectors",
            figures.similarity_map(cosines),
            cosines,
            "geometry_similarity",
        ),
        Exhibit("The plane", figures.circumplex(plane), plane, "geometry_plane"),
        *drawn_beside(tables["ways"], "geometry"),
        Exhibit("Similarity of layers (RSA)", between, layers, "geometry_layers"),
    ]
    if len(tables["curve"]):
        curve = figures.circumplex_curve(tables["curve"])
        exhibits.append(Exhibit("Over the layers", curve, tables["curve"], "geometry_curve"))
    return [*exhibits, Exhibit("Clusters", None, tables["clusters"], "geometry_clusters")]


GEOMETRY = Experiment(
    name="geometry",
    title="The shape of the vectors",
    figures="Figs. 5-9, 57, 58, Table 12",
    inputs="the vectors, human norms, and the paper's clusters or the groups that were planted",
    procedure="principal components, k-means, and similarity of layers",
    readout="correlation with norms, adjusted Rand index, Spearman's rho of cosines",
    control="norms and groups in another order, 100 times; vectors from the embedding of the words "
    "alone, each token's own and the mean of all up to it",
    claims=(VALENCE, AROUSAL, CLUSTERS, LAYERS),
    lacks=lambda study: (
        "" if len(study.materials.corpus.emotions) >= FEWEST else f"fewer than {FEWEST} emotions"
    ),
    cost=lambda _: 0,
    run=run,
    draw=draw,
)
