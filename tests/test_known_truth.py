"""Every experiment on both checkpoints of the organism, against what its world plants.

Minutes: the whole of `emolens reproduce`, twice.
"""

import json

import pytest
from typer.testing import CliRunner

from emolens.cli import app

# By claim, for what is not "reproduced" where it is measured: why that is right.
DIFFERENT = {
    # the words of a story are planted to be as alike as emotions are: they alone give .85
    "geometry/arousal": {"not reproduced", "direction only", "reproduced"},
    # what a turn shows is its own speaker's, by its words alone as much as by the network
    "speakers/present": {"direction only", "not reproduced"},
    # a turn holds its own speaker's emotion; nothing plants the other's
    "speakers/other": {"not reproduced"},
    # choices hang on the word of an activity: steering its telling does not move them
    "preferences/steering": {"not reproduced"},
    # over users of all emotions a base assistant's readouts average out: there is no profile
    "post_training/neutral": {"not reproduced"},
    "post_training/challenging": {"not reproduced"},
    # of five checkpoints the bound is .8, and the first two differ by chance
    "checkpoints/grows": {"not reproduced", "reproduced"},
}
# What its world has not, so that it does not apply.
ABSENT = {
    "organism": {"replies", "post_training"},  # the assistant mirrors its user; there is no base
    "organism-assistant": set(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ABSENT))
def test_every_verdict_is_right_where_the_truth_is_planted(name, tmp_path):
    done = CliRunner().invoke(app, ["reproduce", "--model", name, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    card = json.loads((tmp_path / "results.json").read_text("utf-8"))
    absent = {e["name"] for e in card["experiments"] if e["verdict"] == "not applicable"}
    assert absent == ABSENT[name]
    wrong = {}
    for experiment in card["experiments"]:
        for claim in experiment["claims"]:
            told = f"{experiment['name']}/{claim['claim']}"
            right = DIFFERENT.get(told, {"reproduced"}) | {"not applicable"}
            if claim["verdict"] not in right:
                wrong[told] = claim
    assert not wrong
    shift = next(e for e in card["experiments"] if e["name"] == "post_training")
    planted = [c["verdict"] for c in shift["claims"] if c["claim"] == "planted"]
    assert planted == (["reproduced"] if name == "organism-assistant" else ["not applicable"])
