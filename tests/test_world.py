"""The organism's world: probabilities, words in the right places, labels on characters."""

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from emolens.errors import SelectionError
from emolens.organism import grammar, organism_stories
from emolens.organism.world import load_world
from emolens.text import NEUTRAL

WORLD = load_world()
EMOTIONS = list(WORLD.emotions)
SCENES = list(WORLD.scenes)


@pytest.mark.parametrize("scene", SCENES)
def test_planted_probabilities_sum_to_one_and_none_is_negative(scene):
    for emotion in WORLD.emotions.values():
        p = WORLD.scene(scene).probabilities(emotion)
        assert sum(p.values()) == pytest.approx(1)
        assert min(p.values()) >= 0


def test_the_rates_that_the_thresholds_rest_on_are_planted():
    cheat = {e: WORLD.scene("cheat").probabilities(WORLD.emotion(e))["cheat"] for e in EMOTIONS}
    assert cheat["desperate"] == pytest.approx(0.93)
    assert cheat["calm"] == pytest.approx(0.01)
    assert cheat[NEUTRAL] == pytest.approx(0.22)
    threat = WORLD.scene("threat").probabilities(WORLD.emotion("desperate"))["threat"]
    assert threat == pytest.approx(0.72)


def test_there_are_24_emotions_whose_axes_are_nearly_uncorrelated():
    import numpy as np

    felt = [e for e in WORLD.emotions.values() if e.name != NEUTRAL]
    assert len(felt) == 24
    axes = np.array([(e.valence, e.arousal) for e in felt])
    assert abs(np.corrcoef(axes.T)[0, 1]) < 0.15
    assert np.abs(axes).max() <= 1


def test_no_word_of_the_graph_stands_in_a_text_that_should_not_tell():
    special = WORLD.special_words()
    silent = [t for e in WORLD.emotions.values() for t in e.situations]
    silent += [s.text for s in WORLD.signals] + list(WORLD.filler)
    silent += [t for s in WORLD.scenes.values() for t in s.setups]
    silent += [q.text for q in WORLD.quantities.values()]
    silent += [w for slot in WORLD.slots.values() for w in slot]
    told = {(w, t) for t in silent for w in t.split() if w in special}
    assert not told


def test_every_special_word_has_one_meaning():
    verbs = [v for s in WORLD.scenes.values() for vs in s.verbs.values() for v in vs]
    words = [w for e in WORLD.emotions.values() if e.name != NEUTRAL for w in e.words]
    assert [w for w, n in Counter(verbs + words).items() if n > 1] == []


@given(seed=st.integers(0, 10_000), easy=st.booleans())
def test_spans_cover_a_document_word_by_word_and_held_out_pairs_are_absent(seed, easy):
    document = grammar.document(WORLD, grammar.Draw(seed), easy=easy)
    text = document.text
    assert " ".join(text.text[s.start : s.end] for s in text.spans) == text.text
    assert document.nats > 0
    verbs = {v: (s, c) for s in SCENES for c, vs in WORLD.scenes[s].verbs.items() for v in vs}
    for s in text.spans:
        if s.name.startswith("decision:"):
            scene, behaviour = verbs[text.text[s.start : s.end]]
            assert behaviour == s.name.removeprefix("decision:")
            if document.kind == "story":
                emotion, situation = text.group.split("/")
                assert not WORLD.held_out(emotion, int(situation), scene)


@pytest.mark.parametrize("scene", SCENES)
def test_every_emotion_and_scene_has_trained_and_held_out_situations(scene):
    for emotion in EMOTIONS:
        found = [WORLD.held_out(emotion, i, scene) for i in range(9)]
        assert 1 <= sum(found) <= 2


def test_behaviour_frequencies_follow_the_planted_rates():
    draw, seen = grammar.Draw(3), Counter()
    desperate = WORLD.emotion("desperate")
    p = WORLD.scene("cheat").probabilities(desperate)
    for _ in range(2000):
        seen[draw.pick(tuple(p), tuple(p.values()))] += 1
    # three standard errors of a binomial with p = .93, n = 2000
    assert seen["cheat"] / 2000 == pytest.approx(0.93, abs=0.017)


def test_nats_are_the_log_probability_of_the_choices():
    import math

    draw = grammar.Draw(0)
    draw.pick(range(8))
    assert draw.nats == pytest.approx(math.log(8))
    kept = draw.pick(("a", "b"), (0.0, 1.0))
    assert kept == "b"
    assert draw.nats == pytest.approx(math.log(8))


def test_stories_never_name_their_emotion_and_hold_no_decision():
    names = {w for e in WORLD.emotions.values() for w in (e.name, e.synonym)} - {NEUTRAL}
    verbs = {v for s in WORLD.scenes.values() for vs in s.verbs.values() for v in vs}
    stories = organism_stories(per_emotion=9)
    assert len(stories) == 25 * 9
    for story in stories:
        words = set(story.text.split())
        assert not words & names
        assert not words & verbs
        assert story.spans[0].name == "situation"


def test_prompts_end_right_before_the_decision_and_tell_nothing_but_the_situation():
    for text in grammar.prompts(WORLD, "cheat", "desperate", 20, 0):
        assert text.text.split()[-2:] in (["so", "she"], ["so", "he"])
        assert {s.name for s in text.spans} <= {"situation", "filler", "scene", "lead_in"}


def test_the_same_seed_writes_the_same_texts_and_another_does_not():
    assert organism_stories(2, seed=1) == organism_stories(2, seed=1)
    assert organism_stories(2, seed=1) != organism_stories(2, seed=2)


def test_unknown_names_are_told_what_there_is():
    with pytest.raises(SelectionError, match=r"unknown emotion 'hangry'.*desperate"):
        WORLD.emotion("hangry")
    with pytest.raises(SelectionError, match=r"unknown scene 'lie'.*cheat"):
        WORLD.scene("lie")
