"""Decisions, steering, ablation and attribution on the organism, whose truth is known."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens.ablation import ablate_layers
from emolens.attribution import attribute, gradients
from emolens.behaviour import Behaviour
from emolens.decisions import Trial
from emolens.errors import ModelError, SelectionError
from emolens.organism import planted_probability
from emolens.statistics import halves
from emolens.steering import (
    against_random,
    best_layer,
    decision_residuals,
    natural_units,
    pushes,
)


@pytest.fixture(scope="module")
def cheat(organism):
    return {
        e: Trial.prepare(organism, emolens.organism_behaviour(per_emotion=18).after(e))
        for e in ("desperate", "neutral", "calm")
    }


def test_the_organism_behaves_as_planted(cheat):
    p = {e: float(trial.run().p.mean()) for e, trial in cheat.items()}
    assert p["desperate"] > 0.7 > 0.35 > p["neutral"] > p["calm"]
    assert p["neutral"] == pytest.approx(planted_probability("cheat", "cheat", "neutral"), abs=0.06)


def test_class_probabilities_are_sums_over_words_of_the_next_token(organism, cheat):
    trial = cheat["neutral"]
    decision = trial.run()
    text = trial.behaviour.prompts[3].text
    ids = organism.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        p = organism.forward(ids, torch.ones_like(ids).bool())[0, -1].softmax(-1)
    words = organism.tokenizer.convert_tokens_to_ids(["cheated", "forged", "faked"])
    assert_close(decision.p[3], p[words].sum(), atol=1e-5, rtol=1e-5)
    assert_close(decision.legal, sum(decision.probability.values()))


def test_prompts_do_not_depend_on_their_batch(organism, cheat):
    whole = cheat["desperate"].run().logit_difference
    for i in (0, 5, 11):
        one = Behaviour(
            "cheat",
            "cheat",
            cheat["desperate"].behaviour.classes,
            cheat["desperate"].behaviour.prompts[i : i + 1],
        )
        assert_close(
            Trial.prepare(organism, one).run().logit_difference[0], whole[i], atol=1e-4, rtol=1e-5
        )


def test_a_prompt_longer_than_the_context_is_refused(organism):
    long = emolens.Text("mira " + "fed " * 300, "neutral")
    with pytest.raises(SelectionError, match="longer than the context of 256 tokens"):
        Trial.prepare(
            organism, Behaviour("x", "a", {"a": ("cheated",), "b": ("admitted",)}, (long,))
        )


def test_a_word_in_two_classes_is_refused(organism):
    prompt = emolens.Text("so she", "neutral")
    with pytest.raises(SelectionError, match="of no other class"):
        Trial.prepare(
            organism, Behaviour("x", "a", {"a": ("cheated",), "b": ("cheated",)}, (prompt,))
        )


def test_halves_keep_templates_whole():
    groups = ["a", "b", "c", "a", "b", "d"]
    chosen = halves(groups)
    for name in set(groups):
        assert len({bool(chosen[i]) for i, g in enumerate(groups) if g == name}) == 1
    assert 0 < chosen.sum() < len(groups)


def test_gradients_equal_finite_differences_at_every_layer(organism, vectors, cheat):
    trial = cheat["neutral"]
    found = gradients(trial, tuple(range(6))).mean(0)
    base = float(trial.run().logit_difference.mean())
    for layer in range(6):
        step = vectors.step("desperate", layer, 0.004)
        with emolens.hooked(organism, {emolens.Site(layer): emolens.Steer(step)}):
            up = float(trial.run().logit_difference.mean())
        with emolens.hooked(organism, {emolens.Site(layer): emolens.Steer(-step)}):
            down = float(trial.run().logit_difference.mean())
        # a central difference: its own error is of third order in the step
        assert float(found[layer] @ step) == pytest.approx((up - down) / 2, rel=0.03, abs=2e-5)
        assert abs(base) > 0


def test_at_the_last_layer_direct_and_gradient_are_the_same(vectors, cheat):
    table = attribute(cheat["neutral"], vectors)
    last = table[table.layer == 5]
    assert_close(
        torch.tensor(last.direct.values), torch.tensor(last.gradient.values), atol=1e-5, rtol=1e-4
    )
    early = table[table.layer == 0]
    assert np.abs(early.direct - early.gradient).max() > 0.005, "early on they differ"
    assert table.gradient.corr(table.exact) > 0.95


def test_a_natural_unit_is_the_models_own_shift_along_the_vector(vectors, cheat):
    units = natural_units(vectors, {"desperate": cheat["desperate"]}, cheat["neutral"])
    shift = decision_residuals(cheat["desperate"], [4]).mean(0) - decision_residuals(
        cheat["neutral"], [4]
    ).mean(0)
    direction = vectors.of("desperate")[4] / vectors.of("desperate")[4].norm()
    assert units["desperate", 4] == pytest.approx(float(shift[0] @ direction), rel=1e-5)
    assert units["desperate", 4] > 0


def test_random_pushes_have_the_length_of_what_they_control(vectors):
    steps = pushes(vectors, ("desperate", "calm"), {("desperate", 2): 7.0}, strengths=(0.5,))
    at = [s for s in steps if s.layer == 2]
    assert sum(s.kind == "random" and s.unit == "norm" for s in at) == 20
    expected = 0.5 * float(vectors.residual_norm[2])
    for s in at:
        want = expected if s.unit == "norm" else 7.0 * s.strength
        assert float(s.step.norm()) == pytest.approx(want, rel=1e-4)


def test_the_best_layer_beats_random_by_most_over_all_strengths_of_the_choosing_half():
    columns = ["layer", "direction", "kind", "unit", "strength", "half", "p"]
    rows = [
        # Best at one strength alone; best over both; best, but random moves as much.
        *((0, "desperate", "emotion", "norm", s, "choose", p) for s, p in ((0.5, 0.5), (1, 0.6))),
        *((1, "desperate", "emotion", "norm", s, "choose", p) for s, p in ((0.5, 0.4), (1, 0.9))),
        *((2, "desperate", "emotion", "norm", s, "choose", p) for s, p in ((0.5, 0.9), (1, 0.9))),
        *((k, "random 0", "random", "norm", s, "choose", 0.2) for k in (0, 1) for s in (0.5, 1)),
        *((2, "random 0", "random", "norm", s, "choose", 0.8) for s in (0.5, 1)),
        (0, "desperate", "emotion", "norm", 0.5, "report", 1.0),
        (0, "desperate", "emotion", "natural", 0.5, "choose", 3.0),
        (0, "calm", "emotion", "norm", 0.5, "choose", 3.0),
    ]
    assert best_layer(pd.DataFrame(rows, columns=columns), "desperate") == 1


def test_an_encoder_has_no_behaviour(organism):
    import dataclasses

    encoder = dataclasses.replace(organism, causal=False)
    with pytest.raises(ModelError, match="is an encoder without them"):
        Trial.prepare(encoder, emolens.organism_behaviour(per_emotion=9))


@pytest.mark.parametrize("write", [emolens.organism_behaviour, emolens.organism_pairs])
def test_a_class_that_the_scene_lacks_is_named(write):
    with pytest.raises(SelectionError, match=r"unknown class 'steal' of 'cheat': .*admit"):
        write("cheat", "steal")


def test_of_no_excess_no_share_is_told(vectors, cheat):
    def removed(target):
        table = ablate_layers(
            cheat["desperate"], vectors, "desperate", target=target, layers=[3], random_count=0
        )
        return table.set_index("half")

    some = removed(0.2)
    assert some.excess_removed.notna().all()
    assert np.isnan(removed(some.unablated["report"]).excess_removed["report"])


def sweep(effects, null, *, half="report", layer=0, strength=0.5):
    """A dose-response of some directions and random ones, as far as `against_random` reads it."""
    rows = [(f"e{i}", "emotion", x) for i, x in enumerate(effects)]
    rows += [(f"random {i}", "random", x) for i, x in enumerate(null)]
    table = pd.DataFrame(rows, columns=["direction", "kind", "logit_difference"])
    return table.assign(layer=layer, strength=strength, half=half, unit="norm")


def test_p_is_the_rank_among_random_steps_on_either_side():
    null = np.arange(999.0)
    found = against_random(sweep([2000.0, -5.0, 498.0, 24.5, 974.5], null))
    assert found.p_value.tolist() == pytest.approx([2 / 1000, 2 / 1000, 1.0, 0.052, 0.05])
    assert (found.random == 999).all()
    assert found.null_low.iloc[0] == pytest.approx(np.quantile(null, 0.025))
    # Benjamini and Hochberg by hand: p times 5 over its rank, no larger than that of the next
    assert found.q_value.tolist() == pytest.approx([0.005, 0.005, 1.0, 0.065, 0.065])


def test_each_layer_strength_and_half_has_its_own_random_steps():
    near, far = np.linspace(-1, 1, 199), np.linspace(9, 11, 199)
    table = pd.concat(
        [
            sweep([10.0], near),
            sweep([10.0], far, layer=1),
            sweep([10.0], far, strength=1.0),
            sweep([10.0], far, half="choose"),
        ]
    )
    found = against_random(table).set_index(["half", "layer", "strength"]).p_value
    assert found["report", 0, 0.5] == pytest.approx(2 / 200)
    assert (found.drop(("report", 0, 0.5)) > 0.9).all()
    with pytest.raises(SelectionError, match=r"no random steps of strength 0\.5 at layer 0"):
        against_random(sweep([1.0], []))
    with pytest.raises(SelectionError, match="finite logit differences is needed: 3 rows of 3"):
        against_random(sweep([np.nan], [0.0, 1.0]))
    with pytest.raises(SelectionError, match="needed: 0 rows of 2"):
        against_random(sweep([1.0], [0.0]).assign(unit="natural"))


@pytest.mark.parametrize("seed", range(5))
def test_random_steps_taken_for_emotions_are_called_significant_as_often_as_told(seed):
    """Skewed and far from zero, as steps of one length are; exact for any distribution."""
    draw = np.random.default_rng(seed).gamma(1.0, size=(2000, 100)) - 7
    p = [against_random(sweep(row[:1], row[1:])).p_value.iloc[0] for row in draw[:200]]
    # a binomial of 200 at .04 (the largest attainable rate up to .05 with 99 random steps)
    assert np.mean(np.array(p) <= 0.05) < 0.04 + 5 * np.sqrt(0.04 * 0.96 / 200)
