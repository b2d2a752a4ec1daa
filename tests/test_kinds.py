"""Kinds of vectors: whose turns, whose emotion; what is felt and not shown; own continuations."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

import emolens
from emolens.errors import CorpusError, SelectionError
from emolens.kinds import (
    apart_from,
    concat_activations,
    other_speaker,
    present_speaker,
    record_generated,
    record_masked,
    record_speakers,
)
from emolens.organism.world import load_world
from emolens.positions import span
from emolens.recording import record
from emolens.text import NEUTRAL, Text
from emolens.vectors import fit_vectors, principal_space

LAYER = 3
WORDS = load_world().emotion_words()


@pytest.fixture(scope="module")
def neutral(organism):
    return record(organism, emolens.organism_neutral(60), layers=[LAYER])


@pytest.fixture(scope="module")
def stories(organism):
    return record(organism, emolens.organism_stories(per_emotion=13), layers=[LAYER])


@pytest.fixture(scope="module")
def speakers(organism):
    return record_speakers(organism, emolens.organism_dialogues(8), layers=[LAYER])


@pytest.mark.parametrize("masked", [False, True])
def test_dialogues_label_every_turn_and_name_no_emotion_in_one(masked):
    made = emolens.organism_dialogues(3, masked=masked)
    assert set(made.felt) == set(made.shown) == {"first", "second"}
    for i, text in enumerate(made.texts):
        assert {s.name for s in text.spans} == {"first", "second"}
        for s in text.spans:
            said = text.text[s.start : s.end]
            assert not WORDS & set(said.split())
            assert text.text[: s.start].endswith(" : ")
            assert said.endswith(" .")
        hides = made.felt["first"][i] != made.shown["first"][i]
        assert hides == masked
        assert made.felt["second"][i] == NEUTRAL or not masked
    counts = {made.felt["first"].count(e) for e in set(made.felt["first"])}
    assert counts == {3}


@pytest.mark.parametrize(
    ("made", "count"),
    [
        (emolens.organism_told_stories(1, world="wide"), 172),
        (emolens.organism_dialogues(1, world="wide").texts, 172),
        (emolens.organism_dialogues(1, masked=True, world="wide").texts, 171),
    ],
)
def test_the_wide_world_tells_of_all_its_emotions(made, count):
    assert len({text.emotion for text in made}) == len(made) == count


def test_told_stories_are_read_where_the_plain_ones_are(organism):
    plain, told = emolens.organism_stories(2), emolens.organism_told_stories(2)
    for a, b in zip(plain, told, strict=True):
        [part] = b.spans
        assert b.text[part.start : part.end] == a.text[a.spans[0].end + 1 :]
        assert (a.emotion, a.group) == (b.emotion, b.group)
    tokens = organism.tokenize(told)
    assert bool(span("told")(told, tokens).mask.any(1).all())


def test_two_by_two_are_the_same_turns_under_the_labels_of_each(organism, speakers):
    dialogues = emolens.organism_dialogues(8)
    assert set(speakers) == {(a, b) for a in ("first", "second") for b in ("first", "second")}
    for (turns, whose), found in speakers.items():
        assert found.emotions == dialogues.felt[whose]
        alone = record(organism, dialogues.texts, positions=span(turns), layers=[LAYER])
        assert_close(found.pooled, alone.pooled, atol=1e-5, rtol=0)  # batches differ
    present, other = present_speaker(speakers), other_speaker(speakers)
    assert len(present.emotions) == len(other.emotions) == 2 * len(dialogues.texts)
    assert present.emotions[: len(dialogues.texts)] == dialogues.felt["first"]
    assert other.emotions[: len(dialogues.texts)] == dialogues.felt["second"]
    assert torch.equal(present.pooled, other.pooled)


def mean_cosine(a, b):
    rows = [a.row(e) for e in b.emotions]
    cosine = torch.cosine_similarity(a.vectors[rows, 0], b.vectors[:, 0], dim=-1)
    return float(cosine.mean())


def test_the_present_speakers_emotion_is_what_stories_hold_and_the_others_is_not(
    stories, speakers, neutral
):
    story = fit_vectors(stories, neutral)
    kinds = {key: fit_vectors(found, neutral) for key, found in speakers.items()}
    own = mean_cosine(kinds["first", "first"], kinds["second", "second"])
    cross = mean_cosine(kinds["first", "first"], kinds["first", "second"])
    assert own > 0.7
    assert abs(cross) < 0.4
    assert mean_cosine(fit_vectors(present_speaker(speakers), neutral), story) > 0.5


def test_what_a_mask_hides_is_told_apart_from_what_it_shows(organism, stories, neutral):
    felt, shown = record_masked(
        organism, emolens.organism_dialogues(8, masked=True), layers=[LAYER]
    )
    assert torch.equal(felt.pooled, shown.pooled)
    story = fit_vectors(stories, neutral)
    deflection = fit_vectors(felt, neutral)
    assert mean_cosine(deflection, story) > mean_cosine(fit_vectors(shown, neutral), story)
    left = fit_vectors(apart_from(felt, story), neutral, variance=0.0)
    space = principal_space(story.at(LAYER), 0.99)
    assert float((left.vectors[:, 0].double() @ space.T).abs().max()) < 1e-4
    again = apart_from(apart_from(felt, story), story)
    assert_close(again.pooled, apart_from(felt, story).pooled, atol=1e-5, rtol=0)


def test_recordings_are_joined_in_order_and_only_if_alike(stories, neutral):
    both = concat_activations([stories, neutral])
    assert both.emotions == stories.emotions + neutral.emotions
    assert torch.equal(both.pooled, torch.cat([stories.pooled, neutral.pooled]))
    low, high = sorted([float(stories.residual_norm), float(neutral.residual_norm)])
    assert low <= float(both.residual_norm) <= high
    with pytest.raises(CorpusError, match="do not join"):
        concat_activations([stories, replace(neutral, layers=(2,))])
    with pytest.raises(CorpusError, match="no recordings"):
        concat_activations([])
    with pytest.raises(CorpusError, match="2 labels for"):
        stories.labelled(["calm", "angry"])


def test_only_what_was_written_is_read_back(organism):
    openings = [
        Text(t.text[: t.spans[0].end], t.emotion, t.group) for t in emolens.organism_stories(1)
    ]
    found = record_generated(organism, openings, tokens=10, layers=[LAYER])
    assert found.emotions == tuple(t.emotion for t in openings)
    assert found.provenance.positions == {"span(generated)": len(openings)}


def test_erased_an_emotion_is_lost_to_linear_probes_and_the_rest_is_not(stories):
    x = stories.at(LAYER)
    felt = [e == "desperate" for e in stories.emotions]
    gone = emolens.erase(stories, "desperate", LAYER)(x[None])[0]
    probe = LogisticRegression(max_iter=2000)
    assert probe.fit(x, felt).score(x, felt) > 0.99
    share = 1 - sum(felt) / len(felt)
    assert probe.fit(gone, felt).score(gone, felt) == pytest.approx(share, abs=0.01)
    others = [i for i, e in enumerate(stories.emotions) if e != "desperate"]
    labels = [stories.emotions[i] for i in others]
    assert probe.fit(gone[others], labels).score(gone[others], labels) > 0.95
    with pytest.raises(SelectionError, match="no text of emotion 'hangry'"):
        emolens.erase(stories, "hangry", LAYER)
