"""Probes and geometry on planted data, against scikit-learn and plain numpy."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

import emolens
from emolens import probes
from emolens.activations import Activations
from emolens.controls import shuffled
from emolens.errors import CorpusError, SelectionError
from emolens.geometry import circumplex, principal_components, similarity
from emolens.probes import (
    METHODS,
    calibration_error,
    group_folds,
    probe_depth,
    probe_layers,
    ridge_scores,
    text_baseline,
)
from emolens.provenance import Provenance
from emolens.statistics import clustered_interval
from emolens.vectors import EmotionVectors

ORIGIN = Provenance("tiny", (1.0,), "raw", "float32", "resid_post", {"all": 1}, "0", 1, 0)
TOPICS = [f"topic {i}" for i in range(9)]


def activations(pooled, emotions, groups):
    layers = tuple(range(pooled.shape[1]))
    norm = torch.ones(len(layers))
    return Activations(
        pooled, layers, tuple(emotions), tuple(groups), norm, ORIGIN, n_layers=len(layers)
    )


def topical(signal):
    """Two emotions over nine topics; the topic is strong, the emotion `signal` strong."""
    emotions = [e for e in ("joy", "fear") for _ in TOPICS for _ in range(6)]
    groups = [t for _ in range(2) for t in TOPICS for _ in range(6)]
    topic = {t: 5 * torch.randn(8) for t in TOPICS}
    sign = torch.tensor([1.0 if e == "joy" else -1.0 for e in emotions])
    pooled = torch.stack([topic[t] for t in groups]) + 0.3 * torch.randn(len(groups), 8)
    pooled[:, 0] = signal * sign + 0.3 * torch.randn(len(groups))
    return activations(pooled[:, None], emotions, groups)


def layered(signal, layer=2, each=20, topics=TOPICS):
    """Three labels over nine topics at four layers, of which one tells them apart."""
    labels = [e for e in ("joy", "fear", "neutral") for _ in TOPICS for _ in range(each)]
    groups = [t for _ in range(3) for t in TOPICS for _ in range(each)]
    pooled = torch.randn(len(labels), 4, 8)
    own = torch.eye(8)[[("joy", "fear", "neutral").index(e) for e in labels]]
    told = torch.tensor([t in topics for t in groups])
    pooled[:, layer] += signal * own * told[:, None]
    return activations(pooled, labels, groups)


def test_folds_keep_a_topic_on_one_side_and_cover_every_text_once():
    data = topical(1)
    tested = []
    for train, test in group_folds(data.emotions, data.groups):
        assert not {data.groups[i] for i in train} & {data.groups[i] for i in test}
        tested += test.tolist()
    assert sorted(tested) == list(range(len(data.groups)))


def test_a_planted_emotion_is_read_on_unseen_topics_and_noise_is_not():
    planted = probe_layers(topical(3)).set_index("method").accuracy
    nothing = probe_layers(topical(0)).set_index("method").accuracy
    assert planted["logistic"] > 0.97
    assert nothing["logistic"] < 0.65


def test_a_probe_that_reads_the_topic_gains_nothing():
    """Each topic has one emotion: an ungrouped split would be perfect, a grouped one is not."""
    topic = {t: 5 * torch.randn(8) for t in TOPICS}
    groups = [t for t in TOPICS for _ in range(12)]
    emotions = ["joy" if TOPICS.index(t) % 2 else "fear" for t in groups]
    pooled = torch.stack([topic[t] for t in groups]) + 0.1 * torch.randn(len(groups), 8)
    found = probe_layers(activations(pooled[:, None], emotions, groups)).set_index("method")
    assert found.accuracy["logistic"] < 0.8


@pytest.mark.parametrize("method", METHODS)
def test_every_probe_names_the_layer_where_something_is_planted(method):
    data = layered(5)
    found = probe_layers(data, methods=[method]).set_index("layer")
    assert found.accuracy[2] > 0.95
    assert found.auroc[2] > 0.99
    elsewhere = found.drop(2)
    # four standard errors of a share of 1/3 of 540 texts, and of areas of 180 against 360
    assert (elsewhere.accuracy - 1 / 3).abs().max() < 0.08
    assert (elsewhere.auroc - 0.5).abs().max() < 0.08
    assert (found.shuffled - 1 / 3).abs().max() < 0.08
    assert found.depth.tolist() == [0.25, 0.5, 0.75, 1.0]
    best = probe_depth(data, method).iloc[0]
    assert (best.layer, best.depth, best.depth_low, best.depth_high) == (2, 0.75, 0.75, 0.75)
    assert best.low <= best.accuracy <= best.high
    assert best.accuracy > 0.95


def test_with_nothing_planted_any_layer_may_be_named_and_none_is_confirmed():
    found = probe_depth(layered(0)).iloc[0]
    assert found.depth_high > found.depth_low
    assert found.accuracy == pytest.approx(1 / 3, abs=0.12)  # four standard errors of 240 texts


def test_what_chose_the_layer_is_not_what_is_reported_of_it():
    """A layer that tells labels apart on the choosing topics alone is chosen, and not confirmed."""
    found = probe_depth(layered(5, topics=TOPICS[::2])).iloc[0]
    assert found.layer == 2
    assert found.accuracy < 0.5


def test_a_depth_is_not_made_up_for_a_model_of_unknown_height():
    unknown = replace(layered(5), n_layers=None)
    assert probe_layers(unknown, methods=["ridge"]).depth.isna().all()
    found = probe_depth(unknown).iloc[0]
    assert found.layer == 2
    assert np.isnan([found.depth, found.depth_low, found.depth_high]).all()


@pytest.mark.parametrize(("texts", "width"), [(90, 12), (40, 60)])
def test_ridge_is_that_of_scikit_learn_at_every_layer(texts, width):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, texts)
    spread = rng.uniform(0.1, 50, (3, width))
    train, test = (20 + spread * rng.normal(size=(n, 3, width)) for n in (texts, 30))
    found = ridge_scores(train, labels, test)
    for layer in range(3):
        scaler = StandardScaler().fit(train[:, layer])
        judge = RidgeClassifier(alpha=probes.PENALTY * texts)
        judge.fit(scaler.transform(train[:, layer]), labels)
        expected = judge.decision_function(scaler.transform(test[:, layer]))
        # its targets are -1 and 1; both solve in float64 what the penalty keeps well-conditioned
        np.testing.assert_allclose(2 * found[:, layer] - 1, expected, rtol=0, atol=1e-10)


def test_layers_together_or_one_at_a_time_are_read_alike(monkeypatch):
    data = layered(1)
    together = probe_layers(data)
    monkeypatch.setattr(probes, "BLOCK", 1)
    pd.testing.assert_frame_equal(together, probe_layers(data), rtol=1e-12)


def test_a_label_of_one_topic_is_never_named_and_stops_nothing():
    data = layered(5)
    lonely = [
        "pride" if t == "topic 4" else e for e, t in zip(data.emotions, data.groups, strict=True)
    ]
    found = probe_layers(data.labelled(lonely)).set_index(["layer", "method"])
    assert (found.accuracy[2] <= 8 / 9).all()
    assert found.accuracy[2].min() > 0.8


def test_stated_probabilities_are_held_against_how_often_they_are_right():
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.4, 1, 20_000)
    honest, boastful = (rng.uniform(size=20_000) < stated - gap for gap in (0, 0.3))
    assert calibration_error(stated, honest) < 0.02  # a bin of 2,000 texts is known to .01
    assert calibration_error(stated, boastful) == pytest.approx(0.3, abs=0.02)


def test_a_probe_that_is_true_of_the_data_is_calibrated_and_some_state_nothing():
    error = probe_layers(layered(1.5, each=100)).set_index(["layer", "method"]).calibration_error
    assert error[2]["LDA"] < 0.05  # normal clouds of one shape; a bin of 270 is known to .03
    assert np.isnan(error[2][["nearest vector", "ridge"]]).all()


def test_shuffled_labels_are_the_same_ones_in_another_order():
    data = layered(5)
    mixed = shuffled(data, 0)
    assert Counter(mixed.emotions) == Counter(data.emotions)
    assert mixed.groups == data.groups
    assert mixed.pooled is data.pooled
    assert mixed.emotions == shuffled(data, 0).emotions != shuffled(data, 1).emotions
    kept = [a == b for a, b in zip(mixed.emotions, data.emotions, strict=True)]
    assert np.mean(kept) == pytest.approx(1 / 3, abs=0.08)  # four standard errors
    assert "joy" in mixed.emotions[-180:]  # where all were neutral


def test_vectors_of_shuffled_labels_point_nowhere():
    data = layered(5).at_only(2)
    calm = activations(torch.randn(40, 1, 8), ["neutral"] * 40, TOPICS[:4] * 10)
    calm = replace(calm, layers=(2,))
    truth = torch.eye(8)[0] - torch.eye(8)[1]
    told, mixed = (
        emolens.fit_vectors(d, calm, variance=0.0).of("joy")[0] for d in (data, shuffled(data, 0))
    )
    assert torch.cosine_similarity(told, truth, dim=0) > 0.95
    assert mixed.norm() < told.norm() / 5


def test_an_unknown_probe_is_told_with_those_that_there_are():
    with pytest.raises(SelectionError, match="unknown probe 'svm': there are nearest vector, log"):
        probe_layers(layered(5), methods=["svm"])


def test_too_few_topics_are_an_error():
    with pytest.raises(CorpusError, match=r"2 topic.*cannot make 3"):
        group_folds(["a", "b"] * 3, ["x", "y"] * 3)


def test_the_text_baseline_reads_words_that_tell_and_only_those():
    telling = [
        emolens.Text(f"{w} by the {t} again", e, t)
        for e, w in (("joy", "laughing"), ("fear", "hiding"))
        for t in TOPICS
        for _ in range(3)
    ]
    silent = [emolens.Text(f"sitting by the {t.group}", t.emotion, t.group) for t in telling]
    assert text_baseline(telling).accuracy.item() == 1
    assert text_baseline(silent).accuracy.item() <= 0.5
    assert text_baseline(telling).auroc.item() == 1
    assert text_baseline(telling).shuffled.item() < 0.8


def vectors_in_a_plane(count=24, noise=0.0):
    rng = np.random.default_rng(0)
    valence, arousal = rng.uniform(-1, 1, (2, count))
    basis = np.linalg.qr(rng.normal(size=(16, 2)))[0]
    rotated = np.stack([valence + arousal, valence - arousal], 1)
    points = rotated @ basis.T + noise * rng.normal(size=(count, 16))
    names = tuple(f"e{i}" for i in range(count))
    made = EmotionVectors(
        torch.tensor(points, dtype=torch.float32)[:, None],
        names,
        (0,),
        torch.zeros(1, 16),
        torch.ones(1),
        (0,),
        ORIGIN,
    )
    norms = {
        "valence": dict(zip(names, valence, strict=True)),
        "arousal": dict(zip(names, arousal, strict=True)),
    }
    return made, norms


def test_a_planted_circumplex_is_found_even_when_rotated():
    vectors, norms = vectors_in_a_plane()
    found = circumplex(vectors, [0], norms).set_index("axis")
    assert (found.r2 > 0.999).all()
    assert (found.p < 0.002).all()


def test_r2_agrees_with_plain_least_squares_and_the_null_is_where_chance_is():
    vectors, norms = vectors_in_a_plane(noise=0.4)
    found = circumplex(vectors, [0], norms).set_index("axis").loc["valence"]
    points = vectors.at(0).double().numpy()
    points = points - points.mean(0)
    u, s, _ = np.linalg.svd(points, full_matrices=False)
    x = np.column_stack([np.ones(24), u[:, :2] * s[:2]])
    y = np.array(list(norms["valence"].values()))
    residue = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert found.r2 == pytest.approx(1 - residue.var() / y.var(), abs=1e-6)
    # R2 of two random regressors on 24 points is Beta(1, 10.5): its 95th percentile is .248
    assert found.null_95 == pytest.approx(0.248, abs=0.04)


def test_a_word_without_a_norm_is_missing_not_zero():
    vectors, norms = vectors_in_a_plane()
    del norms["valence"]["e3"]
    table = principal_components(vectors, 0, norms).set_index("emotion")
    assert np.isnan(table.valence["e3"])
    assert circumplex(vectors, [0], norms).set_index("axis").words["valence"] == 23


def test_similarity_is_the_cosine_and_its_order_a_permutation():
    vectors, _ = vectors_in_a_plane(count=6, noise=0.1)
    table = similarity(vectors, 0)
    x = vectors.at(0).double()
    row = table[(table.emotion_a == "e1") & (table.emotion_b == "e4")].iloc[0]
    assert row.cosine == pytest.approx(torch.cosine_similarity(x[1], x[4], dim=0).item(), abs=1e-6)
    assert sorted(table.order_a.unique()) == list(range(6))
    assert (table[table.emotion_a == table.emotion_b].cosine > 0.999999).all()
    alone, _ = vectors_in_a_plane(count=1, noise=0.1)
    with pytest.raises(SelectionError, match="a single vector is like no other"):
        similarity(alone, 0)


def test_vader_covers_139_of_the_papers_words_at_most_and_never_says_zero_for_a_stranger():
    found = emolens.vader_valence(["happy", "desperate", "dispirited", "grief-stricken"])
    assert set(found) == {"happy", "desperate"}
    assert found["happy"] > 0 > found["desperate"]


def test_an_interval_is_wider_over_few_groups_than_over_many():
    values = np.random.default_rng(0).normal(size=200).tolist()
    few = clustered_interval(values, [str(i // 50) for i in range(200)])
    many = clustered_interval(values, [str(i) for i in range(200)])
    assert few[0] == pytest.approx(np.mean(values))
    assert many[1] < np.mean(values) < many[2]
    assert np.isnan(clustered_interval([1.0, 2.0], ["a", "a"])[1])
