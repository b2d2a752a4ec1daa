"""How well the emotion of an unseen group can be read from activations, layer by layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from sklearn.calibration import calibration_curve
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emolens.activations import Activations
from emolens.controls import shuffled
from emolens.errors import CorpusError, SelectionError
from emolens.interventions import unit
from emolens.progress import track
from emolens.statistics import clustered_interval, halves, row_interval
from emolens.text import Text
from emolens.vectors import EmotionVectors, centred_cosine, fit_vectors

# From training texts, their numbered labels and test texts: a score of each test text for each
# label that occurs in training, highest for the one that is named.
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Folds = Sequence[tuple[np.ndarray, np.ndarray]]
COLUMNS = ["layer", "method", "accuracy", "low", "high", "chance"]
COLUMNS += ["auroc", "calibration_error", "shuffled", "depth"]
# Of each feature's variance: ridge regression reads as if a hundredth of it were noise, whatever
# the number of texts. With none, weights blow up where texts are about as many as dimensions.
PENALTY = 0.01
BINS = 10
BLOCK = 2**25  # numbers of the layers that are solved together: 256 MiB


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


def _by_layer(score: Score) -> Score:
    """The same probe at each layer (second axis) by itself."""

    def scores(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
        layers = range(train.shape[1])
        return np.stack([score(train[:, i], labels, test[:, i]) for i in layers], axis=1)

    return scores


def _fitted(probe) -> Score:
    return lambda train, labels, test: probe.fit(train, labels).predict_proba(test)


def _logistic(features):
    return make_pipeline(features, LogisticRegression(C=0.1, max_iter=300, tol=1e-3))


def _lda() -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis("lsqr", shrinkage="auto")


def _nearest(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    names = np.unique(labels)
    means = torch.from_numpy(np.stack([train[labels == name].mean(0) for name in names]))
    grand = means.mean(0)
    return centred_cosine(means - grand, grand, torch.from_numpy(test)).numpy()


def ridge_scores(
    train: Float[np.ndarray, "train layer d_model"],
    labels: Int[np.ndarray, " train"],
    test: Float[np.ndarray, "test layer d_model"],
) -> Float[np.ndarray, "test layer label"]:
    """Ridge regression on one-hot labels, all layers in one closed-form solve.

    Features are standardised by the training texts; the penalty is `PENALTY` times their number.
    Memory goes with the square of the width, not of the number of texts.

    Returns:
        About 1 for the label of a text and 0 for others; sums to 1 over labels.
    """
    scaler = StandardScaler().fit(train.reshape(len(train), -1))
    seen, unseen = (
        torch.from_numpy(scaler.transform(x.reshape(len(x), -1)).reshape(x.shape)).transpose(0, 1)
        for x in (train, test)
    )
    targets = torch.from_numpy((labels[:, None] == np.unique(labels)).astype(float))
    penalty = PENALTY * len(train) * torch.eye(train.shape[-1], dtype=seen.dtype)
    weights = torch.linalg.solve(seen.mT @ seen + penalty, seen.mT @ targets)
    return (unseen @ weights + targets.mean(0)).transpose(0, 1).numpy()


METHODS: Mapping[str, Score] = {
    "nearest vector": _by_layer(_nearest),
    "logistic": _by_layer(_fitted(_logistic(StandardScaler()))),
    "ridge": ridge_scores,
    "LDA": _by_layer(_fitted(_lda())),
}
STATE_PROBABILITIES = ("logistic", "LDA", "unigram text")


def probe_layers(
    activations: Activations,
    *,
    methods: Sequence[str] = tuple(METHODS),
    folds: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """How well probes read groups (topics, templates) that they were not fitted on, by layer.

    Four probes: the nearest vector (class mean minus mean over classes, by centred cosine);
    multinomial logistic regression and ridge regression, both on standardised features; linear
    discriminant analysis, its covariances shrunk by Ledoit and Wolf's rule. All labels count,
    neutral included.

    Args:
        activations: labelled recordings.
        methods: which probes. LDA is by far the slowest in thousands of dimensions.
        folds: parts that the groups are dealt into; each is read by probes fitted on the others.
        seed: of the folds and of the shuffled labels.

    Returns:
        A row for each layer and method. accuracy, low, high: with a 95% bootstrap interval over
        groups. chance: 1 of all labels. auroc: of a label against all others, mean over labels
        (0.5: nothing is read). calibration_error: how far the probability that is stated for the
        named label is from how often that is right, in 0..1, mean over up to ten bins of as many
        texts; NaN for nearest vector and ridge, which state none. shuffled: accuracy of the same
        probe on the same folds with labels in another order; accuracy less this is the
        selectivity. depth: share of the model's blocks up to and with this one, NaN where the
        recording does not know how many there are.

    Raises:
        CorpusError: for fewer than two emotions, or too few groups.
        SelectionError: for an unknown method.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=18), layers=[3])
    >>> found = emolens.probe_layers(stories, methods=["ridge"])
    >>> bool(found.accuracy.item() > 0.8 > 0.2 > found.shuffled.item())
    True
    """
    activations.require_emotions()
    splits = group_folds(activations.emotions, activations.groups, folds=folds, seed=seed)
    control = shuffled(activations, seed)
    both = zip(_read(activations, methods, splits), _read(control, methods, splits), strict=True)
    rows = []
    for (layer, method, scores), (_, _, nothing) in track(
        both, "probes", len(activations.layers) * len(methods), "probes"
    ):
        quality = _quality(method, scores, activations.emotions, activations.groups)
        chance = _right(nothing, control.emotions).mean()
        rows.append((layer, method, *quality, float(chance), activations.depth(layer)))
    return pd.DataFrame(rows, columns=COLUMNS)


def probe_depth(activations: Activations, method: str = "ridge", *, seed: int = 0) -> pd.DataFrame:
    """The layer that a probe reads best, chosen on half of the groups and confirmed on the rest.

    Every text is read by probes fitted on other groups, as in `probe_layers`. Accuracy on the one
    half names the layer (the earliest of equals), accuracy on the other is what it is worth.

    Args:
        activations: labelled recordings of several layers.
        method: one of those of `probe_layers`; ridge by default, which costs least of those that
            weigh dimensions.
        seed: of the folds.

    Returns:
        One row: method; layer; depth, depth_low, depth_high (share of the model's blocks up to and
        with it, 95% bootstrap over the choosing groups, each of which chooses anew; NaN where the
        recording does not know how many blocks there are); accuracy, low, high of the reporting
        half (95% bootstrap over its groups); chance.

    Raises:
        CorpusError: for fewer than two emotions, or fewer than three groups.
        SelectionError: for an unknown method.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=18))
    >>> found = emolens.probe_depth(stories)
    >>> bool(found.depth.item() == (found.layer.item() + 1) / model.n_layers)
    True
    """
    activations.require_emotions()
    splits = group_folds(activations.emotions, activations.groups, seed=seed)
    read = track(_read(activations, [method], splits), "depth", len(activations.layers), "layers")
    right = np.stack([_right(scores, activations.emotions) for _, _, scores in read])
    choosing, groups = halves(activations.groups).numpy(), np.asarray(activations.groups)
    _, at = np.unique(groups[choosing], return_inverse=True)
    by_group = np.stack([np.bincount(at, row) for row in right[:, choosing]])
    depths = [activations.depth(layer) for layer in activations.layers]
    depth = row_interval(
        by_group.shape[1], lambda rows: depths[by_group[:, rows].sum(1).argmax()], seed=seed
    )
    best = int(by_group.sum(1).argmax())
    told = right[best, ~choosing].astype(float)
    _, low, high = clustered_interval(told.tolist(), groups[~choosing].tolist())
    row = (method, activations.layers[best], *depth, float(told.mean()), low, high)
    columns = ["method", "layer", "depth", "depth_low", "depth_high", "accuracy", "low", "high"]
    return pd.DataFrame([row], columns=columns).assign(chance=1 / len(set(activations.emotions)))


def text_baseline(texts: Sequence[Text], *, folds: int = 3, seed: int = 0) -> pd.DataFrame:
    """What the words alone would give: the logistic probe on tf-idf weighted unigrams, same folds.

    Returns:
        One row with the columns of `probe_layers`; layer is -1 and depth 0, before any block.

    Raises:
        CorpusError: for too few groups.
    """
    labels, groups = [t.emotion for t in texts], [t.group for t in texts]
    splits = group_folds(labels, groups, folds=folds, seed=seed)
    probe = _logistic(TfidfVectorizer(sublinear_tf=True))
    probe.set_params(logisticregression__C=10.0)
    strings = np.asarray([t.text for t in texts], dtype=object)
    scores = _out_of_fold(_fitted(probe), strings, labels, splits)
    mixed = np.random.default_rng(seed).permutation(labels).tolist()
    nothing = _right(_out_of_fold(_fitted(probe), strings, mixed, splits), mixed)
    quality = _quality("unigram text", scores, labels, groups)
    row = (-1, "unigram text", *quality, float(nothing.mean()), 0.0)
    return pd.DataFrame([row], columns=COLUMNS)


def _read(
    activations: Activations, methods: Sequence[str], splits: Folds
) -> Iterator[tuple[int, str, Float[np.ndarray, "text label"]]]:
    """Layer, method and out-of-fold scores; as many layers together as memory should hold."""
    for method in methods:
        if method not in METHODS:
            raise SelectionError(f"unknown probe {method!r}: there are {', '.join(METHODS)}")
    together = max(1, BLOCK // activations.pooled[:, 0].numel())
    for start in range(0, len(activations.layers), together):
        block = slice(start, start + together)
        x = activations.pooled[:, block].double().numpy()
        found = {m: _out_of_fold(METHODS[m], x, activations.emotions, splits) for m in methods}
        for column, layer in enumerate(activations.layers[block]):
            for method in methods:
                yield layer, method, found[method][:, column]


def _out_of_fold(
    score: Score, x: np.ndarray, labels: Sequence[str], splits: Folds
) -> Float[np.ndarray, "text *layer label"]:
    """Scores of each text by a probe that was fitted on other groups.

    A label that a probe has not seen gets the lowest score that it gives.
    """
    names, numbered = np.unique(labels, return_inverse=True)
    scores = np.empty((len(x), *x.shape[1:-1], len(names)))
    for train, test in splits:
        found = score(x[train], numbered[train], x[test])
        scores[test] = found.min()
        for column, label in enumerate(np.unique(numbered[train])):
            scores[test, ..., label] = found[..., column]
    return scores


def _right(
    scores: Float[np.ndarray, "text label"], labels: Sequence[str]
) -> Bool[np.ndarray, " text"]:
    """Whether the highest score is that of the text's own label."""
    return scores.argmax(1) == np.unique(labels, return_inverse=True)[1]


def _quality(
    method: str,
    scores: Float[np.ndarray, "text label"],
    labels: Sequence[str],
    groups: Sequence[str],
) -> tuple[float, ...]:
    """Accuracy, low, high, chance, AUROC, calibration error."""
    right, names = _right(scores, labels), np.unique(labels)
    _, low, high = clustered_interval(right.astype(float).tolist(), groups)
    auroc = roc_auc_score(np.asarray(labels)[:, None] == names, scores)
    stated = method in STATE_PROBABILITIES
    error = calibration_error(scores.max(1), right) if stated else float("nan")
    return float(right.mean()), low, high, 1 / len(names), float(auroc), error


def calibration_error(
    stated: Float[np.ndarray, " text"], right: Bool[np.ndarray, " text"]
) -> float:
    """Mean distance of stated probabilities from how often they are right, over bins alike full.

    >>> calibration_error(np.full(10, 0.75), np.arange(10) < 5)
    0.25
    """
    often, said = calibration_curve(right, stated, n_bins=BINS, strategy="quantile")
    return float(np.abs(often - said).mean())


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
        return _lda().fit(x, labels).coef_

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
