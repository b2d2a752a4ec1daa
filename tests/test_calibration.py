"""The scorecard: methods of known worth get the figures they deserve."""

import json
from dataclasses import replace

import pytest
import torch

from emolens.errors import SelectionError
from emolens.experiments.bench import false_positives, prepare
from emolens.experiments.calibrate import MEASURES, calibrate, shuffled, write_calibration
from emolens.vectors import fit_vectors


def turned(stories, neutral):
    """Story vectors with the wrong sign."""
    found = fit_vectors(stories, neutral)
    return replace(found, vectors=-found.vectors)


@pytest.fixture(scope="module")
def done(organism):
    """A quick scorecard: two scenes."""
    methods = {"story": fit_vectors, "shuffled": shuffled, "turned": turned}
    return calibrate(organism, methods, scenes=("cheat", "meet"))


def value(done, method, measure):
    table = done.methods.set_index(["method", "measure"])
    return float(table.loc[(method, measure), "value"])


def test_story_vectors_are_measured_as_good(done):
    assert value(done, "story", "detection_accuracy") > 0.8
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


def test_json_has_every_measure_of_every_method_with_its_interval(done):
    raw = json.loads(done.to_json())
    assert [row["name"] for row in raw["methods"]] == ["story", "shuffled", "turned"]
    for row in raw["methods"]:
        assert set(row) == {"name", "layer", *MEASURES}
        for measure in MEASURES:
            figure = row[measure]
            assert figure["low"] <= figure["value"] <= figure["high"]
    assert {row["way"] for row in raw["attribution"]} == {"gradient", "direct"}
    assert set(raw["ideal"]) == set(MEASURES)


def test_the_gradient_predicts_small_steps(done):
    gradient = done.attribution.set_index("way").loc["gradient"]
    assert gradient.r > 0.99
    assert gradient.slope == pytest.approx(1, abs=0.1)
    assert gradient.r_low <= gradient.r <= gradient.r_high


def test_a_scorecard_is_saved_and_drawn(done, tmp_path):
    done.save(tmp_path)
    write_calibration(done, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "steering_slope" in page
    assert "http://" not in page.split("<script")[0]
    assert json.loads((tmp_path / "calibration.json").read_text())["schema"] == 1
    assert (tmp_path / "methods.csv").read_text().startswith("method,measure,value,low,high,ideal")


def test_a_method_of_random_directions_has_a_false_positive_rate_near_five_percent(organism):
    generator = torch.Generator().manual_seed(1)

    def random(stories, neutral):
        found = fit_vectors(stories, neutral)
        return replace(found, vectors=torch.randn(found.vectors.shape, generator=generator))

    bench = prepare(organism, ("cheat",), seed=0)
    rate, low, high = false_positives(bench, random, 3, "random")["false_positive_rate"]
    assert low <= 0.05 <= high
    assert rate < 0.2


def test_no_methods_are_told():
    with pytest.raises(SelectionError, match="no methods to calibrate"):
        calibrate(None, {})
