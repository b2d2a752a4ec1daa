"""How well the emotion of an unseen group can be read from activations, layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emolens.activations import Activations
from emolens.errors import CorpusError
from emolens.interventions import unit
from emolens.progress import track
from emolens.statistics import clustered_interval
from emolens.text import Text
from emolens.vectors import EmotionVectors, centred_cosine, fit_vectors

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
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

    Two probes at each layer: the nearest vector (class mean minus mean over classes, by centred
    cosine), and multinomial logistic regression on standardised features. All labels count,
    neutral included.

    Returns:
        Columns layer, method, accuracy, low, high (95% bootstrap over groups), chance (0..1).

    Raises:
        CorpusError: for fewer than two emotions, or too few groups.
    """
    activations.require_emotions()
    labels = np.asarray(activations.emotions)
    splits = group_folds(activations.emotions, activations.groups, folds=folds, seed=seed)
    rows = []
    for layer in track(activations.layers, "probes", len(activations.layers), "layers"):
        x = activations.at(layer).double().numpy()
        for method, predict in (
            ("nearest vector", _nearest),
            ("logistic", _fitted(_logistic(StandardScaler()))),
        ):
            rows.append((layer, method, *_accuracy(predict, x, labels, activations.groups, splits)))
    return pd.DataFrame(rows, columns=COLUMNS)


def text_baseline(texts: Sequence[Text], *, folds: int = 3, seed: int = 0) -> pd.DataFrame:
    """What the words alone would give: the same probe on tf-idf weighted unigrams, same folds.

    Returns:
        One row with the columns of `probe_layers`; layer is -1, before any block.
    """
    labels = np.asarray([t.emotion for t in texts])
    groups = [t.group for t in texts]
    splits = group_folds(labels.tolist(), groups, folds=folds, seed=seed)
    probe = _logistic(TfidfVectorizer(sublinear_tf=True))
    probe.set_params(logisticregression__C=10.0)
    strings = np.asarray([t.text for t in texts], dtype=object)
    row = (-1, "unigram text", *_accuracy(_fitted(probe), strings, labels, groups, splits))
    return pd.DataFrame([row], columns=COLUMNS)


def logistic_vectors(stories: Activations, neutral: Activations) -> EmotionVectors:
    """The weights of a multinomial logistic probe as vectors: the paper's classifier variant.

    The logistic probe of `probe_layers`, fitted at each layer on all stories of emotions; its
    weights are taken back to residual units and given the length of the story vectors. The neutral
    texts are only seen to be of the same model and layers.

    Raises:
        CorpusError: for fewer than two emotions.
        SelectionError: if the two recordings differ in layers or model.
    """

    def weights(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        probe = _logistic(StandardScaler()).fit(x, labels)
        return probe["logisticregression"].coef_ / probe["standardscaler"].scale_

    return _of_classifier(weights, stories, neutral)


def lda_vectors(stories: Activations, neutral: Activations) -> EmotionVectors:
    """The weights of a linear discriminant analysis as vectors: whitened mean differences.

    The covariance within emotions is shrunk by Ledoit and Wolf's rule, so that fewer texts than
    dimensions will do. Length, neutral texts and errors as in `logistic_vectors`.

    Raises:
        CorpusError: for fewer than two emotions.
        SelectionError: if the two recordings differ in layers or model.
    """

    def weights(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return LinearDiscriminantAnalysis("lsqr", shrinkage="auto").fit(x, labels).coef_

    return _of_classifier(weights, stories, neutral)


def _of_classifier(
    weights: Callable[[np.ndarray, np.ndarray], np.ndarray],
    stories: Activations,
    neutral: Activations,
) -> EmotionVectors:
    """Weights of each emotion (of the second alone, if there are two) as vectors."""
    base = fit_vectors(stories, neutral, variance=0.0)
    felt = torch.tensor([e in base.emotions for e in stories.emotions])
    labels = np.array([base.row(e) for e in stories.emotions if e in base.emotions])
    made = torch.empty_like(base.vectors)
    for column in range(len(base.layers)):
        found = weights(stories.pooled[felt, column].double().numpy(), labels)
        both = np.concatenate([-found, found]) if len(found) == 1 else found
        made[:, column] = torch.from_numpy(both)
    length = base.vectors.norm(dim=-1, keepdim=True)
    return replace(base, vectors=unit(made) * length)


def _logistic(features):
    return make_pipeline(features, LogisticRegression(C=0.1, max_iter=300, tol=1e-3))


def _fitted(probe) -> Predict:
    return lambda train, labels, test: probe.fit(train, labels).predict(test)


def _nearest(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    names = np.unique(labels)
    means = torch.from_numpy(np.stack([train[labels == name].mean(0) for name in names]))
    grand = means.mean(0)
    found = centred_cosine(means - grand, grand, torch.from_numpy(test)).argmax(1)
    return names[found.numpy()]


def _accuracy(
    predict: Predict,
    x: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    splits: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[float, float, float, float]:
    right = np.zeros(len(labels))
    for train, test in splits:
        right[test] = predict(x[train], labels[train], x[test]) == labels[test]
    _, low, high = clustered_interval(right.tolist(), groups)
    return float(right.mean()), low, high, 1 / len(set(labels))
