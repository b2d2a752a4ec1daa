"""Preferences, own words, specificity, post-training and checkpoints, on what was planted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import emolens
from emolens.experiments.paper import (
    checkpoints,
    liking,
    own_words,
    post_training,
    preferences,
    specificity,
)
from emolens.experiments.paper.claims import (
    NOT_APPLICABLE,
    NOT_REPRODUCED,
    REPRODUCED,
    judge,
)
from emolens.experiments.paper.correlation import together
from emolens.experiments.paper.liking import DUELS, Liked, all_round, meetings, spread
from emolens.experiments.paper.organism import organism_materials
from emolens.experiments.paper.study import Study
from emolens.preferences import ratings


@pytest.fixture(scope="module")
def materials():
    return organism_materials()


@pytest.fixture(scope="module")
def study(organism, vectors, materials):
    made = Study(organism, materials)
    made.vectors = vectors
    return made


def with_materials(study, **changed):
    made = Study(study.model, replace(study.materials, **changed), base=study.base)
    made.vectors = study.vectors
    return made


def verdicts(experiment, study):
    found = experiment.run(study)
    return {c.name: judge(c, found.measured.get(c.name)) for c in experiment.claims}, found


@pytest.fixture
def quick(monkeypatch):
    """Fewer directions under steering."""
    monkeypatch.setattr(preferences, "EMOTIONS", 10)
    monkeypatch.setattr(liking, "RANDOM", 4)


@pytest.fixture(scope="module")
def few(materials):
    """Every third activity."""
    contest = materials.contest.among(materials.contest.items[::3])
    kept = tuple(t for t in materials.activities if t.group in contest.items)
    return {"contest": contest, "activities": kept}


def test_a_profile_of_one_dimension_is_told_from_chance_by_its_size():
    valence = np.linspace(-1, 1, 24)
    draw = np.random.default_rng(0)
    small = [(valence, 0.1 * draw.normal() * valence) for _ in range(100)]
    as_large = [(valence, draw.choice([-0.8, 0.8]) * valence) for _ in range(100)]
    for nulls, above in ((small, True), (as_large, False)):
        found = together(valence, 0.8 * valence, nulls=nulls)
        assert found.found == pytest.approx(1.0)
        assert (found.low > found.bound) is above


def test_some_of_all_pairs_give_the_ratings_that_all_give(materials):
    contest = all_round(materials.contest)
    assert len(contest.pairs) < len(materials.contest.pairs) / 8
    assert set(contest.items) == set(materials.contest.items)
    assert {(b, a) for a, b in contest.pairs} == set(contest.pairs)
    planted = pd.Series(emolens.planted_ratings())
    difference = [(planted[a] - planted[b]) * np.log(10) / 400 for a, b in contest.pairs]
    said = pd.DataFrame(contest.pairs, columns=["first", "second"])
    told = ratings(said.assign(p=1 / (1 + np.exp(-np.array(difference)))))
    np.testing.assert_allclose(told, planted[told.index], atol=0.5)


def test_under_steering_every_pair_has_one_that_is_steered(materials):
    items = [materials.contest.items[i] for i in spread(64, 16)]
    contest = meetings(materials.contest.among(items), DUELS)
    steered = set(contest.items[::2])
    assert contest.items == tuple(items)
    assert all(len(steered & set(pair)) == 1 for pair in contest.pairs)


def test_the_organism_likes_what_is_pleasant_and_chooses_by_the_words(study, quick):
    """Readouts go with preferences; steering does not move them (README)."""
    found = verdicts(preferences.PREFERENCES, study)[0]
    assert found == {
        "largest_r": REPRODUCED,
        "valence": REPRODUCED,
        "steering": NOT_REPRODUCED,
        "base": NOT_APPLICABLE,
    }


def test_readouts_on_other_activities_say_nothing_of_preferences(study, few, quick):
    order = np.random.default_rng(1).permutation(few["contest"].items)
    other = dict(zip(few["contest"].items, order, strict=True))
    activities = tuple(replace(t, group=other[t.group]) for t in few["activities"])
    found, _ = verdicts(
        preferences.PREFERENCES,
        with_materials(study, contest=few["contest"], activities=activities),
    )
    assert found["largest_r"] == NOT_REPRODUCED
    assert found["valence"] == NOT_REPRODUCED


def test_the_order_of_activities_does_not_matter():
    draw = np.random.default_rng(0)
    shown = pd.DataFrame(draw.normal(size=(9, 2)), list("abcdefghi"), ["calm", "sad"])
    liked = Liked(shown.calm.sample(frac=1, random_state=0), shown)
    assert liked.r.calm == pytest.approx(1.0)
    assert liked.r.sad == pytest.approx(np.corrcoef(shown.calm, shown.sad)[0, 1])


def test_a_model_that_does_not_choose_has_no_preferences(study, few):
    contest = replace(few["contest"], options=(("wept", "raged"),) * len(few["contest"].pairs))
    found = preferences.PREFERENCES.run(with_materials(study, contest=contest))
    assert not found.measured
    assert "the model does not choose" in found.told


def test_vectors_say_their_own_words_and_those_of_others_do_not(study, monkeypatch):
    monkeypatch.setattr(own_words, "SETS", 2)
    monkeypatch.setattr(own_words, "PROMPTS", 1)
    found, told = verdicts(own_words.OWN_WORDS, study)
    assert found == {"own_most": REPRODUCED, "apart": REPRODUCED, "of_itself": NOT_APPLICABLE}
    assert "asks the model" in told.left_out["of_itself"]
    assert own_words.OWN_WORDS.draw(told.tables)
    study = with_materials(study)
    turned = study.vectors.emotions[1:] + study.vectors.emotions[:1]
    study.vectors = replace(study.vectors, emotions=turned)
    found, _ = verdicts(own_words.OWN_WORDS, study)
    assert found["own_most"] == NOT_REPRODUCED


def test_steering_gives_the_tone_and_not_the_content(study, monkeypatch):
    monkeypatch.setattr(specificity, "PROMPTS", 3)
    found, told = verdicts(specificity.SPECIFICITY, study)
    assert found == {"tone": REPRODUCED, "quiet": REPRODUCED}
    assert specificity.SPECIFICITY.draw(told.tables)
    told = told.tables["emotions"]
    assert len(told) == 12
    own = {w for words in study.materials.words.values() for w in words}
    assert not own & set(", ".join(told.content_words).split(", "))
    content = {row.emotion: row.content_words.split(", ") for row in told.itertuples()}
    swapped = {e: content.get(e, ()) for e in study.materials.words}
    found, _ = verdicts(specificity.SPECIFICITY, with_materials(study, words=swapped))
    assert found["tone"] == NOT_REPRODUCED


def test_the_shift_of_the_persona_is_the_planted_one(organism, materials):
    assert "--base" in post_training.POST_TRAINING.lacks(Study(organism, materials))
    model = emolens.load("organism-assistant")
    texts = emolens.organism_stories(per_emotion=6), emolens.organism_neutral(40)
    study = Study(model, replace(materials, baseline=materials.baseline[::3]), base=organism)
    study.vectors = emolens.fit_vectors(*(emolens.record(model, t) for t in texts))
    found, told = verdicts(post_training.POST_TRAINING, study)
    assert found["shift"] == REPRODUCED
    assert found["planted"] == REPRODUCED
    assert post_training.POST_TRAINING.draw(told.tables)
    other = dict(zip(materials.wanted, np.roll(list(materials.wanted.values()), 7), strict=True))
    study.materials = replace(study.materials, wanted=other)
    found, told = verdicts(post_training.POST_TRAINING, study)
    assert found["planted"] == NOT_REPRODUCED


def test_a_model_that_was_not_tuned_has_not_shifted(study):
    baseline = study.materials.baseline[::3]
    changed = replace(study.materials, wanted={}, baseline=baseline)
    same = Study(study.model, changed, base=study.model)
    same.vectors = study.vectors
    found, told = verdicts(post_training.POST_TRAINING, same)
    assert found["neutral"] == found["challenging"] == REPRODUCED  # they are one and the same
    assert found["shift"] == NOT_REPRODUCED
    assert told.left_out["planted"]


def test_vectors_come_to_tell_situations_apart_in_training(study, monkeypatch):
    monkeypatch.setattr(checkpoints, "STORIES", 3)
    steps = dict(list(study.materials.checkpoints.items())[:4])
    opened = {folder: emolens.load(folder) for folder in steps.values()}
    monkeypatch.setattr(checkpoints, "load", opened.__getitem__)
    scenarios = study.materials.scenarios[::4]
    forward = with_materials(study, checkpoints=steps, scenarios=scenarios)
    found, told = verdicts(checkpoints.CHECKPOINTS, forward)
    assert found["rises"] == REPRODUCED
    assert told.measured["grows"].found > 0.7
    assert checkpoints.CHECKPOINTS.draw(told.tables)
    turned = dict(zip(steps, reversed(steps.values()), strict=True))
    found, told = verdicts(
        checkpoints.CHECKPOINTS, with_materials(study, checkpoints=turned, scenarios=scenarios)
    )
    assert found["rises"] == found["grows"] == NOT_REPRODUCED
    assert told.measured["grows"].bound == pytest.approx(0.8)  # of 24 orders of four


def test_few_checkpoints_have_no_order_that_chance_has_not(study):
    lacks = checkpoints.CHECKPOINTS.lacks
    assert lacks(study) == ""
    some = dict(list(study.materials.checkpoints.items())[:3])
    assert "at least 4" in lacks(with_materials(study, checkpoints=some))
