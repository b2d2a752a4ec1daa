"""Steering and ablation find where a hand-written network holds, and where it uses, a feeling.

The network has it along `FELT` from the start, moves it to `TOLD` in layer `WRITES`, and decides by
`TOLD` alone. Layers are counted by what they give: a change after layer 0 comes before `WRITES`.
"""

import numpy as np
import pytest

from emolens.ablation import ablate_layers
from emolens.decisions import Trial
from emolens.steering import dose_response, pushes
from tests.written import FELT, TOLD, behaviour, pointing


@pytest.fixture(scope="module")
def feels(written):
    return Trial.prepare(written, behaviour("word3 word1"))


@pytest.mark.parametrize(
    ("coordinate", "reach", "planted"),
    [
        (FELT, "layer", [1, 0, 0]),
        (TOLD, "layer", [0, 1, 1]),
        (FELT, "onward", [1, 0, 0]),
        (TOLD, "onward", [1, 1, 1]),
    ],
)
def test_removed_the_behaviour_goes_where_it_hangs_on_the_direction(
    written, feels, coordinate, reach, planted
):
    even = 1 / len(written.tokenizer)  # P of each word where nothing is felt
    assert float(feels.run().p.mean()) > 3 * even
    vectors = pointing(written, coordinate)
    table = ablate_layers(feels, vectors, "up", target=even, reach=reach, random_count=3)
    told = table[table.half == "report"]
    own = told[told.kind == "up"].set_index("layer").excess_removed
    np.testing.assert_allclose(own, planted, atol=1e-4)
    random = told[told.kind == "random"].excess_removed
    assert random.abs().max() < 0.9, "of eight coordinates a random direction has a part of each"


@pytest.mark.parametrize(("coordinate", "planted"), [(FELT, [1, 0, 0]), (TOLD, [1, 1, 1])])
def test_pushed_the_behaviour_comes_where_the_direction_is_still_to_be_read(
    written, coordinate, planted
):
    nothing = Trial.prepare(written, behaviour("word3 word4"))
    before = float(nothing.run().logit_difference.mean())
    steps = pushes(pointing(written, coordinate), ["up"], {}, strengths=(0.5,), random_count=0)
    told = dose_response(nothing, steps)
    change = told[told.half == "report"].set_index("layer").logit_difference - before
    np.testing.assert_allclose(change > 0.1, planted)
    np.testing.assert_allclose(change[change <= 0.1], 0, atol=1e-5)
