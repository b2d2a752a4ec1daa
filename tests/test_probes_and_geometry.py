"""Probes and geometry on planted data, against scikit-learn and plain numpy."""

import numpy as np
import pytest
import torch

import emolens
from emolens.activations import Activations
from emolens.errors import CorpusError, SelectionError
from emolens.geometry import circumplex, principal_components, similarity
from emolens.probes import group_folds, probe_layers, text_baseline
from emolens.provenance import Provenance
from emolens.statistics import clustered_interval
from emolens.vectors import EmotionVectors

ORIGIN = Provenance("tiny", (1.0,), "raw", "float32", "resid_post", {"all": 1}, "0", 1, 0)
TOPICS = [f"topic {i}" for i in range(9)]


def activations(pooled, emotions, groups):
    layers = tuple(range(pooled.shape[1]))
    return Activations(
        pooled, layers, tuple(emotions), tuple(groups), torch.ones(len(layers)), ORIGIN
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
