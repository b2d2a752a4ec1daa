"""The shape of the set of vectors: similarity, principal components, the circumplex."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from emolens.interventions import unit
from emolens.vectors import EmotionVectors

PERMUTATIONS = 1000
Norms = Mapping[str, Mapping[str, float]]


def similarity(vectors: EmotionVectors, layer: int) -> pd.DataFrame:
    """Cosine of every pair of vectors at one layer, with an order from hierarchical clustering.

    Columns: layer, emotion_a, emotion_b, cosine (-1..1), order_a, order_b.
    """
    directions = unit(vectors.at(layer)).double().numpy()
    cosine = np.clip(directions @ directions.T, -1, 1)
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


def principal_components(vectors: EmotionVectors, layer: int, norms: Norms) -> pd.DataFrame:
    """Each emotion's place on the first two principal components, beside its norms.

    A component's sign is arbitrary; it is turned so that PC1 grows with valence and PC2 with
    arousal where these are known. Columns: layer, emotion, pc1, pc2, share1, share2 (of
    variance), and one per norm (NaN where a word has none).
    """
    pca = PCA(n_components=2).fit(vectors.at(layer).double().numpy())
    scores = pca.transform(vectors.at(layer).double().numpy())
    table = pd.DataFrame({"layer": layer, "emotion": vectors.emotions})
    for axis, (name, norm) in enumerate(zip(("pc1", "pc2"), ("valence", "arousal"), strict=True)):
        known = [vectors.emotions.index(e) for e in norms.get(norm, {}) if e in vectors.emotions]
        truth = np.array([norms[norm][vectors.emotions[i]] for i in known])
        turned = len(known) > 1 and np.dot(scores[known, axis], truth - truth.mean()) < 0
        table[name] = -scores[:, axis] if turned else scores[:, axis]
        table[f"share{axis + 1}"] = pca.explained_variance_ratio_[axis]
    for norm, values in norms.items():
        table[norm] = [values.get(e, np.nan) for e in vectors.emotions]
    return table


def circumplex(
    vectors: EmotionVectors, layers: Sequence[int], norms: Norms, *, seed: int = 0
) -> pd.DataFrame:
    """How much of each norm the plane of PC1-2 explains, by layer, against permuted norms.

    R2 is of a least-squares fit of the norm on both components, since the recovered axes may be
    rotated; p is over 1,000 permutations of the norm over emotions (smallest: 1/1,001). Columns:
    layer, axis, r2, null_95, p, pc1_r (correlation with PC1 alone), words.
    """
    rng, rows = np.random.default_rng(seed), []
    for layer in layers:
        plane = principal_components(vectors, layer, norms)
        for axis in norms:
            known = plane[plane[axis].notna()]
            if len(known) < 4:
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
                    float(np.corrcoef(x[:, 0], y)[0, 1]),
                    len(known),
                )
            )
    columns = ["layer", "axis", "r2", "null_95", "p", "pc1_r", "words"]
    return pd.DataFrame(rows, columns=columns)
