"""Would other texts have given the same vector? On recordings whose noise is known."""

import numpy as np
import pytest
import torch

from emolens.activations import Activations
from emolens.provenance import Provenance
from emolens.reliability import learning_curve, vector_reliability
from emolens.vectors import fit_vectors

ORIGIN = Provenance("tiny", (1.0, 2.0), "raw", "float32", "resid_post", {"all": 1}, "0", 1, 0)
EMOTIONS = ("joy", "fear", "rage")


def recorded(noise, *, topics=12, per=4, d_model=32, shared=True, topic_noise=0.0, seed=0):
    """Three emotions at right angles; noise of texts and of topics, in units of the emotions."""
    draw, places = (torch.Generator().manual_seed(s) for s in (seed, seed + 1000))
    rows, labels, groups = [], [], []
    whole = topic_noise * torch.randn(topics, d_model, generator=places)
    for i, emotion in enumerate(EMOTIONS):
        own = whole if shared else topic_noise * torch.randn(topics, d_model, generator=places)
        for topic in range(topics):
            for _ in range(per):
                x = own[topic] + noise * torch.randn(d_model, generator=draw)
                rows.append(x + torch.eye(d_model)[i])
                labels.append(emotion)
                groups.append(f"t{topic}" if shared else f"{emotion}{topic}")
    pooled = torch.stack(rows)[:, None]
    return Activations(pooled, (0,), tuple(labels), tuple(groups), torch.ones(1), ORIGIN)


@pytest.fixture
def calm():
    pooled = 1e-3 * torch.randn(20, 1, 32, generator=torch.Generator().manual_seed(9))
    return Activations(pooled, (0,), ("neutral",) * 20, ("",) * 20, torch.ones(1), ORIGIN)


def test_without_noise_a_vector_is_always_the_same(calm):
    table = vector_reliability(recorded(0.0), calm, 0, splits=3, resamples=5)
    assert table.emotion.tolist() == list(EMOTIONS)
    for column in ("split_half", "ceiling", "self_cosine", "self_low"):
        assert table[column].to_numpy() == pytest.approx(1, abs=1e-6)
    assert set(table.stories) == {48}
    assert set(table.topics) == {12}


def test_noise_alone_has_halves_with_nothing_in_common(calm):
    stories = recorded(1.0)
    stories = stories.labelled(np.random.default_rng(0).permutation(stories.emotions).tolist())
    table = vector_reliability(stories, calm, 0, splits=20, resamples=5)
    assert table.split_half.abs().max() < 0.5
    assert table.ceiling.min() >= 0


def test_the_ceiling_is_the_cosine_with_the_true_direction(calm):
    """Over many draws of texts; the truth is known here alone."""
    truth = torch.eye(32)[:3] - torch.eye(32)[:3].mean(0)
    told, reached = [], []
    for seed in range(12):
        stories = recorded(1.0, seed=seed)
        told.append(vector_reliability(stories, calm, 0, splits=8, resamples=1).ceiling.mean())
        made = fit_vectors(stories, calm, variance=0.0).at(0)
        reached.append(float(torch.cosine_similarity(made, truth, dim=-1).mean()))
    assert np.mean(told) == pytest.approx(np.mean(reached), abs=0.03)
    assert np.mean(reached) < 0.97


def test_texts_of_one_topic_do_not_make_a_vector_look_more_reliable(calm):
    """With noise that belongs to topics, more texts on a topic must not raise the split half."""
    few = vector_reliability(
        recorded(0.01, per=1, shared=False, topic_noise=1.0), calm, 0, resamples=1
    )
    many = vector_reliability(
        recorded(0.01, per=6, shared=False, topic_noise=1.0), calm, 0, resamples=1
    )
    assert many.split_half.mean() == pytest.approx(few.split_half.mean(), abs=0.02)
    assert many.split_half.mean() < 0.95


def test_what_emotions_share_of_a_topic_goes_if_the_halves_are_the_same_topics(calm):
    table = vector_reliability(recorded(0.0, topic_noise=3.0), calm, 0, splits=5, resamples=1)
    assert table.split_half.min() == pytest.approx(1, abs=1e-5)


def test_one_topic_has_no_halves_and_no_topic_is_one_a_text(calm):
    one = recorded(0.5, topics=1, per=8)
    table = vector_reliability(one, calm, 0, splits=2, resamples=2)
    assert table.split_half.isna().all()
    assert table.ceiling.isna().all()
    nameless = Activations(
        one.pooled, (0,), one.emotions, ("",) * len(one.emotions), torch.ones(1), ORIGIN
    )
    table = vector_reliability(nameless, calm, 0, splits=2, resamples=2)
    assert set(table.topics) == {8}
    assert table.split_half.notna().all()


def test_more_stories_come_closer(calm):
    table = learning_curve(recorded(1.0), calm, 0, sizes=(2, 8, 32, 48, 99))
    assert table.stories.tolist() == [2, 8, 32]
    assert table.cosine.is_monotonic_increasing
    assert (table.worst <= table.cosine).all()
    assert table.cosine.iloc[-1] > 0.9
