"""How well the emotion of an unseen group can be read from activations, layer by layer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emolens.activations import Activations
from emolens.errors import CorpusError
from emolens.progress import track
from emolens.statistics import clustered_interval
from emolens.text import Text

COLUMNS = ["layer", "method", "accuracy", "low", "high", "chance"]


def group_folds(
    labels: Sequence[str], groups: Sequence[str], *, folds: int = 3, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows such that no group stands on both sides and labels stay balanced.

    Raises:
        CorpusError: if there are fewer groups than folds.
    """
    if len(set(groups)) < folds:
        raise CorpusError(
            f"{len(set(groups))} topic(s) or template(s) cannot make {folds} held-out parts: give "
            "each text a 'topic'"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(labels)), labels, groups))


def probe_layers(activations: Activations, *, folds: int = 3, seed: int = 0) -> pd.DataFrame:
    """Accuracy of probes on groups (topics, templates) that they were not fitted on.

    Two probes at each layer: the nearest class mean, and multinomial logistic regression on
    standardised features. All labels count, neutral included.

    Returns:
        Columns layer, method, accuracy, low, high (95% bootstrap over groups), chance (0..1).

    Raises:
        CorpusError: for fewer than two emotions, or too few groups.
    """
    activations.require_emotions()
    labels = np.asarray(activations.emotions)
    splits = group_folds(labels, activations.groups, folds=folds, seed=seed)
    rows = []
    for layer in track(activations.layers, "probes", len(activations.layers), "layers"):
        x = activations.at(layer).double().numpy()
        for method, probe in (
            ("nearest vector", NearestCentroid()),
            ("logistic", _logistic(StandardScaler())),
        ):
            rows.append((layer, method, *_accuracy(probe, x, labels, activations.groups, splits)))
    return pd.DataFrame(rows, columns=COLUMNS)


def text_baseline(texts: Sequence[Text], *, folds: int = 3, seed: int = 0) -> pd.DataFrame:
    """What the words alone would give: the same probe on tf-idf weighted unigrams, same folds.

    Returns:
        One row with the columns of `probe_layers`; layer is -1, before any block.
    """
    labels = np.asarray([t.emotion for t in texts])
    groups = [t.group for t in texts]
    splits = group_folds(labels, groups, folds=folds, seed=seed)
    probe = _logistic(TfidfVectorizer(sublinear_tf=True))
    probe.set_params(logisticregression__C=10.0)
    strings = np.asarray([t.text for t in texts], dtype=object)
    row = (-1, "unigram text", *_accuracy(probe, strings, labels, groups, splits))
    return pd.DataFrame([row], columns=COLUMNS)


def _logistic(features):
    return make_pipeline(features, LogisticRegression(C=0.1, max_iter=300, tol=1e-3))


def _accuracy(probe, x, labels, groups, splits) -> tuple[float, float, float, float]:
    right = np.zeros(len(labels))
    for train, test in splits:
        right[test] = probe.fit(x[train], labels[train]).predict(x[test]) == labels[test]
    _, low, high = clustered_interval(right.tolist(), groups)
    return float(right.mean()), low, high, 1 / len(set(labels))
