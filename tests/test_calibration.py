"""The scorecard: methods of known worth get the figures they deserve."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from emolens.activations import Activations
from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.experiments.bench import (
    PROMPTS,
    false_positives,
    mechanism,
    null_bound,
    prepare,
)
from emolens.experiments.calibrate import (
    KINDS,
    MEASURES,
    calibrate,
    shuffled_vectors,
    write_calibration,
)
from emolens.kinds import other_speaker, record_speakers
from emolens.model import load
from emolens.organism import organism_behaviour, organism_dialogues, planted_norms
from emolens.probes import lda_vectors, logistic_vectors
from emolens.provenance import Provenance
from emolens.statistics import halves, jackknife_interval, row_interval
from emolens.vectors import fit_vectors, paired_vectors

RANDOM = 120


def turned(stories, neutral):
    """Story vectors with the wrong sign."""
    found = fit_vectors(stories, neutral)
    return replace(found, vectors=-found.vectors)


def other(bench):
    """What a speaker's turns hold of the other's emotion."""
    found = record_speakers(bench.model, organism_dialogues(seed=bench.seed))
    return {"other speaker": other_speaker(found)}


@pytest.fixture(scope="module")
def done(organism):
    """A quick scorecard: two scenes, fewer random directions."""
    methods = {"story": fit_vectors, "shuffled": shuffled_vectors, "turned": turned}
    return calibrate(organism, methods, [other], scenes=("cheat", "meet"), random_count=RANDOM)


def value(done, method, measure):
    table = done.methods.set_index(["method", "measure"])
    return float(table.loc[(method, measure), "value"])


def test_story_vectors_are_measured_as_good(done):
    assert value(done, "story", "detection_accuracy") > 0.5  # chance is .04
    assert value(done, "story", "steering_r") > 0.7
    assert value(done, "story", "ablation_share") > 0.6
    assert value(done, "story", "specificity_leak") < 0.2
    assert value(done, "story", "valence_r2") > 0.7


def test_vectors_of_shuffled_labels_are_measured_as_nothing(done):
    assert value(done, "shuffled", "detection_accuracy") < 0.15  # chance is .04
    assert abs(value(done, "shuffled", "steering_r")) < 0.4
    assert value(done, "shuffled", "ablation_share") < 0.2
    assert value(done, "shuffled", "valence_r2") < 0.5


def test_vectors_of_the_wrong_sign_read_and_steer_the_wrong_way(done):
    assert value(done, "turned", "detection_accuracy") < 0.04
    assert value(done, "turned", "steering_r") < -0.2
    # What is removed has no sign.
    share = value(done, "story", "ablation_share")
    same = done.layers["turned"] == done.layers["story"]
    assert not same or value(done, "turned", "ablation_share") == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("measure", ["ablation_share", "detection_accuracy"])
def test_what_another_speaker_feels_is_less_of_what_one_feels_oneself(done, measure):
    assert value(done, "other speaker", measure) < value(done, "story", measure) - 0.1


def test_what_comes_with_a_direction_stands_beside_what_comes_with_random_ones(done):
    told = done.patching.set_index("part").recovered
    assert told["whole"] > told["direction"] > 0.5 > abs(told["20 random directions"])
    assert told["complement"] < 0.5
    from_json = json.loads(done.to_json())["patching"]
    assert [row["part"] for row in from_json] == list(told.index)


def test_random_directions_are_called_one_time_in_twenty_and_planted_effects_mostly(done):
    told = done.significance.set_index("planted")
    none = told.loc["none (random directions)"]
    assert none.steps == RANDOM
    assert none.low <= 0.05
    assert told.loc["at least 0.3"].called > 0.7


def test_two_ways_of_removing_stand_beside_each_other(done):
    table = done.removal.set_index("way")
    assert list(table.index) == ["direction set to the mean", "LEACE"]
    own = table.ablation_share["direction set to the mean"]
    assert own == pytest.approx(value(done, "story", "ablation_share"), abs=1e-6)
    for row in table.itertuples():
        assert row.share_low <= row.ablation_share <= row.share_high
        assert row.leak_low <= row.specificity_leak <= row.leak_high


@pytest.mark.slow
def test_every_kind_records_labelled_texts_at_all_layers(organism):
    bench = prepare(organism, ("cheat",), seed=0)
    kinds = {name: found for read in KINDS for name, found in read(bench).items()}
    assert len(kinds) == 7
    for found in kinds.values():
        assert len(found.labels) == 24
        assert found.layers == tuple(range(organism.n_layers))
        assert min(found.emotions.count(e) for e in found.labels) >= 20


def test_json_has_every_measure_of_every_method_with_its_interval(done):
    raw = json.loads(done.to_json())
    names = ["story", "shuffled", "turned", "other speaker"]
    assert [row["name"] for row in raw["methods"]] == names
    for row in raw["methods"]:
        assert set(row) == {"name", "layer", *MEASURES}
        for measure in MEASURES:
            figure = row[measure]
            assert figure["low"] <= figure["value"] <= figure["high"]
    ways = {"gradient", "direct", "lens", "lens without gain"}
    assert {row["way"] for row in raw["attribution"]} == ways
    assert set(raw["ideal"]) == set(MEASURES)


def test_the_gradient_predicts_small_steps(done):
    gradient = done.attribution.set_index("way").loc["gradient"]
    assert gradient.r > 0.99
    assert gradient.slope == pytest.approx(1, abs=0.1)
    assert gradient.r_low <= gradient.r <= gradient.r_high


def test_writers_readers_and_words_are_told_as_they_are_when_taken_out(done):
    """In two scenes, where some emotions raise little; of six, the next test."""
    table = done.mechanism.set_index("way")
    ways = ["writers, along the direction", "writers, gradient", "writers, in the whole network"]
    ways += ["readers, gradient", "readers, integrated"]
    assert list(table.index[: len(ways)]) == ways
    assert table.rho["writers, gradient"] > 0.85
    assert table.rho["writers, gradient"] > table.rho["writers, along the direction"] > 0.5
    assert table.rho["writers, in the whole network"] > 0.3
    assert table.rho["readers, integrated"] > max(0.5, table.rho["readers, gradient"])
    for row in table.itertuples():
        assert row.low <= row.rho <= row.high
    for way in ways:
        assert abs(table.null[way]) < 0.5
        assert table.null_low[way] < -0.3
        assert table.null_high[way] > 0.3


@pytest.mark.slow
def test_over_most_scenes_writers_and_readers_reach_the_bar(organism):
    """The bar is .8, where each emotion has a behaviour that it raises much.

    What is written along the direction alone does not reach it: a component acts beside it, too.
    """
    scenes = ("threat", "cheat", "belief", "destroy", "meet", "share")
    bench = prepare(organism, scenes, seed=0, random_count=10)
    table = mechanism(bench, fit_vectors(bench.stories, bench.neutral), 3).set_index("way")
    assert table.low["readers, integrated"] >= 0.8
    assert table.low["writers, gradient"] >= 0.8
    assert abs(table.null["writers, gradient"]) < 0.5
    assert 0.5 < table.rho["writers, along the direction"] < 0.8
    assert 0.3 < table.rho["writers, in the whole network"] < 0.8


@pytest.mark.slow
def test_all_words_of_the_wide_world_are_measured():
    wide = load("organism-wide")
    methods = {"story": fit_vectors}
    done = calibrate(wide, methods, (), scenes=("cheat", "threat"), random_count=20)
    assert value(done, "story", "detection_accuracy") > 0.3  # chance is .006
    assert value(done, "story", "steering_r") > 0.6
    assert value(done, "story", "valence_r2") > 0.8
    assert list(done.preferences.n) == [64, 171, 171]
    assert done.provenance["world"] == "wide"


def test_of_a_wide_world_every_seventh_emotion_is_removed_and_of_a_narrow_one_all(organism):
    narrow = prepare(organism, ("cheat",), seed=0, random_count=1)
    assert set(narrow.removed) == set(planted_norms()["valence"])
    wide = replace(narrow, world="wide").removed
    assert len(wide) == 25
    assert set(wide) < set(planted_norms("wide")["valence"])


def test_ratings_are_the_planted_ones_and_emotions_go_with_them(done):
    table = done.preferences.set_index("what")
    rated, valence, _ = table.r
    assert rated > 0.9
    assert valence > 0.9
    assert list(table.n) == [64, 24, 24]
    assert (table.low <= table.r).all()
    assert (table.r <= table.high).all()


def test_a_scorecard_is_saved_and_drawn(done, tmp_path):
    done.save(tmp_path)
    write_calibration(done, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert '"mark"' in page.split('id="spec-1-1">')[1]
    assert page.count("shuffled") > 8  # in the chart's data and in the table
    assert "http://" not in page.split("<script")[0]
    assert json.loads((tmp_path / "calibration.json").read_text())["schema"] == 1
    told = (tmp_path / "tables" / "methods.csv").read_text()
    assert told.startswith("method,measure,value,low,high,ideal")


def test_a_method_of_random_directions_has_a_false_positive_rate_near_five_percent(organism):
    generator = torch.Generator().manual_seed(1)

    def random(stories, neutral):
        found = fit_vectors(stories, neutral)
        return replace(found, vectors=torch.randn(found.vectors.shape, generator=generator))

    bench = prepare(organism, ("cheat",), seed=0)
    found = false_positives(bench, random, bench.stories, 3, null_bound(bench, 3))
    rate, low, high = found["false_positive_rate"]
    assert low <= 0.05 <= high
    assert rate < 0.2


def test_nothing_to_calibrate_is_told(organism):
    with pytest.raises(SelectionError, match="nothing to calibrate: pass at least one method"):
        calibrate(organism, {}, ())
    with pytest.raises(SelectionError, match="nothing to calibrate"):
        calibrate(organism, {"story": fit_vectors}, scenes=())


def test_what_chooses_the_layer_is_not_what_is_reported(organism):
    bench = prepare(organism, ("cheat",), seed=0)
    told = bench.scenes["cheat"].after("neutral")
    asked = organism_behaviour(emotions=("neutral",), per_emotion=PROMPTS, seed=0)
    whole = Trial.prepare(organism, asked)
    choosing = {g for g, c in zip(whole.groups, halves(whole.groups), strict=True) if c}
    assert choosing
    assert set(told.groups) == set(whole.groups) - choosing
    seen = {f"{e}/{i}" for e in told.behaviour.classes for i in range(13)}
    assert not seen & set(bench.unseen.groups)


def planted(emotions, seed=0):
    """Recordings in which each emotion is a known direction, and neutral texts of noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(60 * len(emotions), 1, 16, generator=generator)
    labels = tuple(e for e in emotions for _ in range(60))
    shift = torch.eye(16)[[emotions.index(e) for e in labels]][:, None]
    record = Provenance("m", (0.0,), "raw", "float32", "resid_post", {}, "c", len(labels), 0)
    norm = torch.ones(1)
    stories = Activations(3 * shift + noise, (0,), labels, labels, norm, record)
    calm = ("neutral",) * 40
    rest = torch.randn(40, 1, 16, generator=generator)
    return stories, Activations(rest, (0,), calm, calm, norm, record)


@pytest.mark.parametrize(  # LDA inverts a covariance known from 60 texts an emotion
    ("method", "least"), [(logistic_vectors, 0.8), (lda_vectors, 0.7), (paired_vectors, 0.8)]
)
@pytest.mark.parametrize("emotions", [("a", "b"), ("a", "b", "c")])
def test_other_vectors_point_to_their_own_emotion_too(method, least, emotions):
    found = method(*planted(emotions))
    truth = torch.eye(16)[: len(emotions)]
    truth = truth - truth.mean(0)
    cosine = torch.cosine_similarity(found.at(0)[:, None], truth[None], dim=-1)
    assert bool((cosine.diagonal() > least).all())
    assert cosine.argmax(1).tolist() == list(range(len(emotions)))
    story = fit_vectors(*planted(emotions), variance=0.0)
    assert_close(found.vectors.norm(dim=-1), story.vectors.norm(dim=-1))


def test_lda_turns_away_from_noise_that_mean_differences_keep(organism):
    """Noise along one direction tilts a difference of few texts, and is weighed down by LDA."""
    stories, neutral = planted(("a", "b"))
    noise = 20 * torch.randn(len(stories.emotions), generator=torch.Generator().manual_seed(2))
    pooled = stories.pooled.clone()
    pooled[:, 0, 15] += noise
    loud = replace(stories, pooled=pooled)

    def tilt(vectors):
        return float((vectors.vectors[:, 0, 15] / vectors.vectors[:, 0].norm(dim=-1)).abs().max())

    assert tilt(lda_vectors(loud, neutral)) < 0.1 < tilt(fit_vectors(loud, neutral, variance=0.0))


def test_pairs_on_one_topic_lose_what_the_topic_shares():
    """A topic's own noise is large and along one direction; pairs within topics do not see it."""
    stories, neutral = planted(("a", "b"))
    groups = tuple(f"topic {i % 60}" for i in range(len(stories.emotions)))
    loud = 30 * torch.randn(60, generator=torch.Generator().manual_seed(3))
    pooled = stories.pooled.clone()
    pooled[:, 0, 15] += loud.repeat(2)

    def tilt(names):
        found = paired_vectors(replace(stories, pooled=pooled, groups=names), neutral)
        return float((found.vectors[:, 0, 15] / found.vectors[:, 0].norm(dim=-1)).abs().max())

    assert tilt(groups) < 0.3 < 0.9 < tilt(stories.emotions)


@pytest.mark.parametrize("interval", [row_interval, jackknife_interval])
def test_intervals_of_a_mean_hold_the_truth_nineteen_times_in_twenty(interval):
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        x = rng.normal(1.0, 2.0, 24)
        value, low, high = interval(24, lambda rows, x=x: float(x[rows].mean()))
        assert value == pytest.approx(x.mean())
        held += low <= 1.0 <= high
    assert 0.88 <= held / 200 <= 0.98  # .95 less what 24 rows cost, three standard errors
