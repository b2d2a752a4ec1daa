"""The shape of the set of vectors: similarity, principal components, the circumplex, clusters."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import product
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import PermutationMethod, pearsonr, permutation_test, rankdata
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score, silhouette_samples
from torch import Tensor

from emolens.errors import EmolensError, SelectionError
from emolens.interventions import unit
from emolens.norms import Ceiling, Norms
from emolens.statistics import row_interval

PERMUTATIONS = 1000
COMPONENTS = ("pc1", "pc2", "pc3")
# Arousal lies in PC2 in one layer and in PC3 in another (PAPER, Fig. 7)
TURNED_BY = ("valence", "arousal", "arousal")
FEWEST_WORDS = 4
CLUSTERS = 10
NEIGHBOURS = 15


@runtime_checkable
class VectorSet(Protocol):
    """What has a shape: `EmotionVectors`, and the `Directions` that others made."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """Names."""

    @property
    def layers(self) -> tuple[int, ...]:
        """0-based blocks."""

    def at(self, layer: int) -> Float[Tensor, "emotion d_model"]:
        """All vectors after one block."""


def similarity(vectors: VectorSet, layer: int) -> pd.DataFrame:
    """Cosine of every pair of vectors at one layer, with an order from hierarchical clustering.

    Columns: layer, emotion_a, emotion_b, cosine (-1..1), order_a, order_b.

    Raises:
        SelectionError: for fewer than two vectors.
    """
    if len(vectors.emotions) < 2:
        raise SelectionError("a single vector is like no other: give at least two emotions")
    cosine = _cosines(vectors, layer, vectors.emotions)
    distance = squareform(1 - cosine, checks=False)
    rank = np.argsort(leaves_list(linkage(distance, "average")))
    names = vectors.emotions
    return pd.DataFrame(
        [
            (layer, a, b, cosine[i, j], rank[i], rank[j])
            for i, a in enumerate(names)
            for j, b in enumerate(names)
        ],
        columns=["layer", "emotion_a", "emotion_b", "cosine", "order_a", "order_b"],
    )


def _cosines(
    vectors: VectorSet, layer: int, emotions: Sequence[str]
) -> Float[np.ndarray, "emotion emotion"]:
    rows = [vectors.emotions.index(e) for e in emotions]
    directions = unit(vectors.at(layer)[rows].double()).numpy()
    return np.clip(directions @ directions.T, -1, 1)


def principal_components(vectors: VectorSet, layer: int, norms: Norms) -> pd.DataFrame:
    """Each emotion's place on the first three principal components, beside its norms.

    A component's sign is arbitrary; it is turned so that PC1 grows with valence and PC2 and PC3
    with arousal where these are known. Columns: layer, emotion, pc1, pc2, pc3, share1, share2,
    share3 (of variance; 0 where there are too few emotions for that component), and one per norm
    (NaN where a word has none).
    """
    points = vectors.at(layer).double().numpy()
    count = min(len(COMPONENTS), *points.shape)
    pca = PCA(n_components=count, svd_solver="full").fit(points)
    missing = len(COMPONENTS) - count
    scores = np.pad(pca.transform(points), ((0, 0), (0, missing)))
    shares = np.pad(pca.explained_variance_ratio_, (0, missing))
    table = pd.DataFrame({"layer": layer, "emotion": vectors.emotions})
    for axis, (name, norm) in enumerate(zip(COMPONENTS, TURNED_BY, strict=True)):
        known = [vectors.emotions.index(e) for e in norms.get(norm, {}) if e in vectors.emotions]
        truth = np.array([norms[norm][vectors.emotions[i]] for i in known])
        turned = len(known) > 1 and np.dot(scores[known, axis], truth - truth.mean()) < 0
        table[name] = -scores[:, axis] if turned else scores[:, axis]
        table[f"share{axis + 1}"] = shares[axis]
    for norm, values in norms.items():
        table[norm] = [values.get(e, np.nan) for e in vectors.emotions]
    return table


def correlations(
    vectors: VectorSet,
    layer: int,
    norms: Norms,
    *,
    ceilings: Mapping[str, Ceiling] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Pearson's r of each of the first three components with each norm, and what humans reach.

    The sign is that of `principal_components`, so that of PC1 with valence is never negative:
    read p, which is two-sided over 1,000 permutations of the norm over words (smallest:
    2/1,001) and not corrected for looking at three components. The 95% interval is a bootstrap
    over words, the components held fixed. A norm with fewer than four words is left out.

    Args:
        vectors: of the emotions.
        layer: where.
        norms: valence and, where known, arousal.
        ceilings: of each norm, as `emolens.norms.ceilings` gives them.
        seed: of resampling and permutation.

    Returns:
        Columns layer, axis, component, r, low, high, p, ceiling (NaN where not known), words.
    """
    table = principal_components(vectors, layer, norms)
    rows = []
    for axis, name in product(norms, COMPONENTS):
        known = table[table[axis].notna()]
        x, y = known[name].to_numpy(), known[axis].to_numpy()
        if len(known) < FEWEST_WORDS or not (np.ptp(x) and np.ptp(y)):
            continue

        def r(chosen: np.ndarray, x: np.ndarray = x, y: np.ndarray = y) -> float:
            return float(np.corrcoef(x[chosen], y[chosen])[0, 1])

        null = PermutationMethod(n_resamples=PERMUTATIONS, rng=np.random.default_rng(seed))
        p = float(pearsonr(x, y, method=null).pvalue)
        ceiling = (ceilings or {})[axis].value if axis in (ceilings or {}) else np.nan
        interval = row_interval(len(known), r, seed=seed)
        rows.append((layer, axis, name, *interval, p, ceiling, len(known)))
    columns = ["layer", "axis", "component", "r", "low", "high", "p", "ceiling", "words"]
    return pd.DataFrame(rows, columns=columns)


def circumplex(
    vectors: VectorSet, layers: Sequence[int], norms: Norms, *, seed: int = 0
) -> pd.DataFrame:
    """How much of each norm the plane of PC1-2 explains, by layer, against permuted norms.

    R2 is of a least-squares fit of the norm on both components, since the recovered axes may be
    rotated; p is over 1,000 permutations of the norm over emotions (smallest: 1/1,001). Columns:
    layer, axis, r2, null_95, p, words. What each component says alone: `correlations`.
    """
    rng, rows = np.random.default_rng(seed), []
    for layer in layers:
        plane = principal_components(vectors, layer, norms)
        for axis in norms:
            known = plane[plane[axis].notna()]
            if len(known) < FEWEST_WORDS or not np.ptp(known[axis]):
                continue
            x, y = known[["pc1", "pc2"]].to_numpy(), known[axis].to_numpy()
            r2 = LinearRegression().fit(x, y).score(x, y)
            shuffled = np.stack([rng.permutation(y) for _ in range(PERMUTATIONS)], axis=1)
            fitted = LinearRegression().fit(x, shuffled).predict(x)
            total = ((shuffled - shuffled.mean(0)) ** 2).sum(0)
            null = 1 - ((shuffled - fitted) ** 2).sum(0) / total
            rows.append(
                (
                    layer,
                    axis,
                    r2,
                    float(np.quantile(null, 0.95)),
                    float(((null >= r2).sum() + 1) / (PERMUTATIONS + 1)),
                    len(known),
                )
            )
    return pd.DataFrame(rows, columns=["layer", "axis", "r2", "null_95", "p", "words"])


def paper_clusters() -> dict[str, str]:
    """The cluster of each of the paper's 171 emotions (its Table 12: k-means with k = 10).

    >>> paper_clusters()["calm"]
    'Peaceful Contentment'
    """
    with (files("emolens") / "paper.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    return dict(zip(table.emotion, table.cluster, strict=True))


def clusters(
    vectors: VectorSet, layer: int, *, count: int = CLUSTERS, seed: int = 0
) -> pd.DataFrame:
    """k-means of the vectors at length one, beside the paper's clusters.

    Args:
        vectors: of the emotions.
        layer: where.
        count: how many clusters; the paper shows ten.
        seed: of the ten starts, of which the tightest is kept.

    Returns:
        Columns layer, emotion, cluster (a number without meaning), silhouette (-1..1; below 0 the
        emotion would sit better in another cluster), paper (empty for a word it does not have).

    Raises:
        SelectionError: for fewer than two clusters, or too few emotions for them.
    """
    if not 2 <= count < len(vectors.emotions):
        raise SelectionError(
            f"{len(vectors.emotions)} emotions cannot be put into {count} clusters: choose from 2 "
            "to one fewer than there are emotions"
        )
    directions = unit(vectors.at(layer).double()).numpy()
    labels = KMeans(count, n_init=10, random_state=seed).fit_predict(directions)
    known = paper_clusters()
    return pd.DataFrame(
        {
            "layer": layer,
            "emotion": vectors.emotions,
            "cluster": labels,
            "silhouette": silhouette_samples(directions, labels),
            "paper": [known.get(e, "") for e in vectors.emotions],
        }
    )


def cluster_agreement(clusters: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """How tight the clusters are, and whether they are the paper's.

    The adjusted Rand index is 1 for the same partition and 0 for what chance gives; p is over
    1,000 permutations of the paper's clusters over the shared words.

    Args:
        clusters: as `clusters` makes them.
        seed: of the permutations.

    Returns:
        One row: layer, clusters, silhouette (mean over emotions), ari and p (NaN where all shared
        words are in one of the paper's clusters), words and paper_clusters (how many are shared).
    """
    shared = clusters[clusters.paper != ""]
    ours, theirs = shared.cluster.to_numpy(), pd.factorize(shared.paper)[0]
    ari, p = float("nan"), float("nan")
    if shared.paper.nunique() > 1:
        found = permutation_test(
            (theirs,),
            lambda labels: adjusted_rand_score(labels, ours),
            permutation_type="pairings",
            n_resamples=PERMUTATIONS,
            alternative="greater",
            rng=np.random.default_rng(seed),
        )
        ari, p = float(found.statistic), float(found.pvalue)
    return pd.DataFrame(
        {
            "layer": [clusters.layer.iloc[0]],
            "clusters": [clusters.cluster.nunique()],
            "silhouette": [clusters.silhouette.mean()],
            "ari": [ari],
            "p": [p],
            "words": [len(shared)],
            "paper_clusters": [shared.paper.nunique()],
        }
    )


def rsa(a: VectorSet, b: VectorSet, *, seed: int = 0) -> pd.DataFrame:
    """Representational similarity: do two sets of vectors find the same emotions alike?

    Spearman's rho between the cosines of all pairs of shared emotions, for every layer of one set
    with every layer of the other; a set with itself compares its layers. The sets may come from
    models of different width. p is one-sided over 1,000 permutations of the emotions of one set
    (a Mantel test: the pairs of one emotion are not independent; smallest: 1/1,001).

    Returns:
        Columns layer_a, layer_b, rho, p, words.

    Raises:
        SelectionError: if fewer than four emotions are shared.
    """
    shared = [e for e in a.emotions if e in b.emotions]
    if len(shared) < FEWEST_WORDS:
        raise SelectionError(
            f"the two sets share {len(shared)} emotions, expected at least {FEWEST_WORDS}: compare "
            "sets of the same words"
        )
    pairs = np.triu_indices(len(shared), 1)
    ranked = [_ranks(a, shared, pairs), _ranks(b, shared, pairs)]
    places = np.zeros((len(shared), len(shared)), dtype=int)
    places[pairs] = places.T[pairs] = np.arange(len(pairs[0]))
    rho, beyond = ranked[0] @ ranked[1].T, np.ones((len(a.layers), len(b.layers)))
    rng = np.random.default_rng(seed)
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(shared))
        moved = places[order[pairs[0]], order[pairs[1]]]
        beyond += ranked[0][:, moved] @ ranked[1].T >= rho - 1e-12
    return pd.DataFrame(
        [
            (la, lb, rho[i, j], beyond[i, j] / (PERMUTATIONS + 1), len(shared))
            for i, la in enumerate(a.layers)
            for j, lb in enumerate(b.layers)
        ],
        columns=["layer_a", "layer_b", "rho", "p", "words"],
    )


def _ranks(
    vectors: VectorSet, emotions: Sequence[str], pairs: tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, "layer pair"]:
    """Ranks of the cosines of pairs at length one, so that a product of two is Spearman's rho."""
    cosines = np.stack([_cosines(vectors, layer, emotions)[pairs] for layer in vectors.layers])
    ranks = rankdata(cosines, axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def umap_plane(vectors: VectorSet, layer: int, *, seed: int = 0) -> pd.DataFrame:
    """Emotions laid out in a plane by UMAP on cosines, as the paper's Fig. 6; needs the extra.

    Neighbours are kept and distances are not: read who is near whom, nothing else. Columns:
    layer, emotion, x, y.

    Raises:
        EmolensError: if umap-learn is not installed.
    """
    try:
        from umap import UMAP
    except ImportError:
        raise EmolensError(
            "UMAP needs umap-learn, which is not installed: pip install 'emolens[umap]'"
        ) from None
    near = min(NEIGHBOURS, len(vectors.emotions) - 1)
    # one thread: with more, umap-learn cannot keep to the seed and warns
    plane = UMAP(n_neighbors=near, metric="cosine", init="random", random_state=seed, n_jobs=1)
    place = plane.fit_transform(vectors.at(layer).numpy())
    return pd.DataFrame(
        {"layer": layer, "emotion": vectors.emotions, "x": place[:, 0], "y": place[:, 1]}
    )
