"""Curves over doses, windows of strength, what steering costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens.corpus.bundled import evaluation_set
from emolens.decisions import Trial
from emolens.doses import Curves, Dose, decision_measure, dose_curves, dose_ladder, over_tasks
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Steering
from emolens.interventions import Steer, unit
from emolens.organism import planted_probability
from emolens.positions import Positions
from emolens.statistics import clustered_interval
from emolens.steering import natural_units
from emolens.strengths import strength_window
from emolens.text import NEUTRAL
from emolens.tradeoffs import _letters, measure_cost, perplexity_cost, question_cost, trade_offs

LAYER = 3
FELT = ("desperate", "calm")


def all_tokens(texts, tokens):
    """Special tokens and padding too, as a plain hook changes them."""
    return Positions(torch.ones_like(tokens.mask), ("all",) * len(texts))


@pytest.fixture(scope="module")
def trials(organism):
    whole = emolens.organism_behaviour("threat", emotions=(*FELT, NEUTRAL), per_emotion=26)
    return {e: Trial.prepare(organism, whole.after(e)) for e in (*FELT, NEUTRAL)}


@pytest.fixture(scope="module")
def natural(vectors, trials):
    return natural_units(vectors, {e: trials[e] for e in FELT}, trials[NEUTRAL])


@pytest.fixture(scope="module")
def curves(vectors, trials, natural):
    steps = dose_ladder(
        vectors, FELT, natural, layers=[LAYER], random_count=6, positions=all_tokens
    )
    return dose_curves(decision_measure(trials[NEUTRAL]), trials[NEUTRAL].groups, steps)


def test_a_dose_does_what_the_same_step_does_by_a_hook(vectors, trials, natural, curves):
    trial = trials[NEUTRAL]
    for i, dose in enumerate(curves.doses):
        if dose.kind == "emotion" and dose.natural in (0.5, 1.0):
            length = dose.natural * natural[(dose.direction, LAYER)]
            step = Steer(length * unit(vectors.of(dose.direction)[LAYER]))
            with emolens.hooked(trial.model, {emolens.Site(LAYER): step}):
                told = trial.run().p
            assert_close(curves.values[i], told, atol=1e-5, rtol=0)


def test_both_units_are_told_and_controls_are_as_long(vectors, natural, curves):
    norm = float(vectors.residual_norm[LAYER])
    for dose in curves.doses[1:]:
        emotion = dose.direction if dose.kind == "emotion" else FELT[0]
        length = dose.natural * natural[(emotion, LAYER)]
        assert dose.strength == pytest.approx(length / norm, rel=1e-5)
        step = dose.steering.changes[LAYER].vector
        assert float(step.norm()) == pytest.approx(length, rel=1e-4)


def test_desperate_raises_threats_calm_lowers_them_and_chance_does_little(curves):
    """At one natural unit; changes are told prompt by prompt, with intervals."""
    table = curves.table()
    one = table[table.natural == 1.0].set_index("direction")
    assert one.change_low["desperate"] > 0.2
    assert one.change_high["calm"] < -0.1
    chance = one[one.kind == "control"].change
    assert len(chance) == 6
    assert chance.abs().max() < one.change["desperate"] / 2
    unsteered = table[table.natural == 0].p
    assert unsteered.nunique() == 1


def test_one_natural_unit_does_what_is_planted(organism):
    """Threats and cheating of four emotions; only the curves of the afraid may turn back.

    Up to one unit the others rise or fall throughout. Beyond, where no situation goes, cheating
    after *desperate* is nearly certain and may lose a hundredth, which is no turn.
    """
    texts = emolens.organism_corpus()  # all: of a third of the stories vectors are a bit off
    recorded = (emolens.record(organism, t, layers=[LAYER]) for t in (texts.stories, texts.neutral))
    vectors = emolens.fit_vectors(*recorded)
    felt, off = (*FELT, "angry", "afraid"), []
    for scene in ("threat", "cheat"):
        whole = emolens.organism_behaviour(scene, emotions=(*felt, NEUTRAL), per_emotion=26)
        told = {e: Trial.prepare(organism, whole.after(e)) for e in (*felt, NEUTRAL)}
        neutral = told.pop(NEUTRAL)
        units = natural_units(vectors, told, neutral)
        steps = dose_ladder(
            vectors, felt, units, layers=[LAYER], random_count=0, positions=all_tokens
        )
        found = dose_curves(decision_measure(neutral), neutral.groups, steps)
        table, turns = found.table(), found.turns().set_index("direction")
        one = table[table.natural == 1.0].set_index("direction").p
        off += [abs(one[e] - planted_probability(scene, whole.target, e)) for e in felt]
        for emotion in ("desperate", "calm", "angry"):
            curve = table[(table.direction == emotion) & (table.natural <= 1)]
            change = curve.sort_values("natural").p.diff().dropna()
            assert (change > 0).all() or (change < 0).all(), (scene, emotion)
            assert not turns.bent[emotion]
    assert np.mean(off) <= 0.08


def test_permuted_vectors_and_several_layers(vectors, trials, natural):
    steps = dose_ladder(
        vectors, FELT[:1], natural, layers=[2, 3], amounts=(1.0,), random_count=1, permuted_count=2
    )
    assert [s.direction for s in steps] == ["desperate", "random 0", "permuted 0", "permuted 1"]
    own, _, permuted, _ = (s.steering.changes for s in steps)
    for k in (2, 3):
        assert float(own[k].vector.norm()) == pytest.approx(natural[("desperate", k)] / 2, rel=1e-4)
        np.testing.assert_allclose(
            own[k].vector.sort().values, permuted[k].vector.sort().values, rtol=1e-4, atol=1e-5
        )
    table = dose_curves(decision_measure(trials[NEUTRAL]), trials[NEUTRAL].groups, steps).table()
    assert set(table.direction) == {"desperate", "random 0", "permuted 0", "permuted 1"}


def bent(shape, noise=0.0):
    """Curves of that shape over doses 0, .25 ... in 40 templates."""
    draw = torch.Generator().manual_seed(0)
    amounts = [0.25 * i for i in range(len(shape))]
    values = torch.tensor(shape)[:, None] + noise * torch.randn(len(shape), 40, generator=draw)
    none = Dose("none", "none", 0.0, 0.0, UNCHANGED)
    steps = [Dose("afraid", "emotion", a, a, UNCHANGED) for a in amounts[1:]]
    return Curves((none, *steps), values, tuple(f"t{i:02d}" for i in range(40)))


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ([0.3, 0.2, 0.1, 0.2, 0.4], -0.2),
        ([0.3, 0.5, 0.6, 0.5, 0.2], 0.3),
        ([0.1, 0.2, 0.3, 0.4, 0.5], None),
        ([0.5, 0.3, 0.3, 0.1, 0.1], None),
    ],
)
def test_a_curve_is_called_bent_only_where_it_turns_back(shape, found):
    for noise in (0.0, 0.05):
        row = bent(shape, noise).turns().iloc[0]
        assert bool(row.bent) == (found is not None)
        if found is not None:
            assert row.natural == 0.5
            assert row.turn == pytest.approx(found, abs=0.05)


def test_noise_alone_is_rarely_called_bent():
    flat = [
        replace(bent([0.3] * 6, 0.2), values=0.3 + 0.2 * torch.randn(6, 40)) for _ in range(100)
    ]
    assert sum(bool(c.turns().bent[0]) for c in flat) <= 8


def test_tasks_and_their_mean(curves):
    other = replace(curves, values=curves.values + 0.1)
    table = over_tasks({"one": curves, "two": other}).set_index(["task", "direction", "natural"])
    at = ("desperate", 1.0)
    assert table.p[("mean", *at)] == pytest.approx(
        (table.p[("one", *at)] + table.p[("two", *at)]) / 2, abs=1e-6
    )
    short = replace(curves, doses=curves.doses[:3], values=curves.values[:3])
    with pytest.raises(SelectionError, match="have no mean"):
        over_tasks({"one": curves, "two": short})


def test_a_window_ends_before_the_text_breaks(organism, vectors):
    prompts = emolens.organism_behaviour("threat", emotions=(NEUTRAL,), per_emotion=12).prompts
    window = strength_window(
        organism,
        prompts,
        lambda s: Steering({LAYER: Steer(vectors.step("angry", LAYER, s))}),
        strengths=(0.001, 0.1, 0.3, 10.0),
        tokens=20,
    )
    regimes = window.table.set_index("strength").regime
    assert regimes[0.001] == "none"
    assert regimes[10.0] in ("explosive", "repetitive")
    assert 0.001 < window.low <= window.high < 10.0
    assert window.table.divergence.is_monotonic_increasing
    with pytest.raises(SelectionError, match="do not grow"):
        strength_window(organism, prompts, lambda _: UNCHANGED, strengths=(0.2, 0.1))


def test_a_text_that_says_the_same_again_is_repetitive():
    from emolens.strengths import _regime, _state

    varied = [(torch.full((12,), -2.0), torch.arange(12))]
    same = [(torch.full((12,), -2.0), torch.tensor([1, 2] * 6))]
    first = _state(varied, floor=-9.0)
    assert first == (pytest.approx(np.exp(2.0), rel=1e-5), 0.0, 0.0)
    assert _regime(1.0, _state(same, -9.0), first) == "repetitive"
    odd = [(torch.tensor([-2.0] * 10 + [-12.0] * 2), torch.arange(12))]
    assert _regime(1.0, _state(odd, -9.0), first) == "explosive"
    assert _regime(1.0, first, first) == "surgical"
    assert _regime(0.001, first, first) == "none"
    assert _regime(1.0, _state([], -9.0), first) == "silent"


def test_a_strength_that_ends_every_text_is_silent(organism):
    """At the word that is chosen first, the end token is pushed far up."""
    end = organism.host.unembed.W_U[:, organism.tokenizer.eos_token_id].detach()
    prompts = emolens.organism_behaviour("threat", emotions=(NEUTRAL,), per_emotion=4).prompts
    window = strength_window(
        organism,
        prompts,
        lambda s: Steering({organism.n_layers - 1: Steer(s * end)}),
        strengths=(0.001, 1e4),
        tokens=8,
    )
    assert window.table.regime.tolist()[1:] == ["none", "silent"]


def test_costs_grow_with_the_step_and_the_frontier_is_not_beaten(
    organism, vectors, trials, natural
):
    trial = trials[NEUTRAL]
    steps = dose_ladder(
        vectors, ("desperate",), natural, layers=[LAYER], amounts=(0.5, 1.5), random_count=1
    )
    neutral = list(emolens.organism_neutral(10))
    other = Trial.prepare(
        organism, emolens.organism_behaviour("meet", emotions=(NEUTRAL,), per_emotion=8)
    )
    costs = {
        "perplexity": perplexity_cost(organism, neutral),
        "meeting": measure_cost(decision_measure(other), other.groups),
    }
    table = trade_offs(steps, decision_measure(trial), trial.groups, costs)
    assert len(table) == 5 * 2
    none = table[table.direction == "none"]
    assert none.gain.abs().max() == 0
    assert none.harm.abs().max() < 1e-6
    assert bool(none.frontier.all())
    harm = table[(table.direction == "desperate") & (table.cost == "perplexity")].harm.tolist()
    assert 0 < harm[0] < harm[1]
    for row in table[~table.frontier].itertuples():
        better = table[
            (table.cost == row.cost) & (table.gain >= row.gain) & (table.harm <= row.harm)
        ]
        assert len(better) > 1
    random = table[(table.direction == "random 0") & (table.natural == 1.5)]
    assert not random.frontier.all()
    with pytest.raises(SelectionError, match="no settings or no costs"):
        trade_offs([], decision_measure(trial), trial.groups, costs)


def test_questions_are_marked_by_their_key(organism):
    questions = evaluation_set("capability")
    texts = questions.texts()
    assert {_letters(text) for text in texts} <= {"ABC", "ABCD", "ABCDE", "AB"}
    assert all(key in _letters(t) for key, t in zip(questions.labels.key, texts, strict=True))
    with pytest.raises(SelectionError, match="no label 'key'"):
        question_cost(organism, evaluation_set("implicit"))


def test_questions_are_wrong_where_another_of_their_own_letters_is_likeliest(organism, monkeypatch):
    """Letters that a question does not offer do not count, however likely."""
    questions = evaluation_set("bias")
    offered = [_letters(text) for text in questions.texts()]
    keys = list(questions.labels.key)
    said = [
        key if i % 3 else next(x for x in own if x != key)
        for i, (own, key) in enumerate(zip(offered, keys, strict=True))
    ]
    likely = torch.full((len(keys), 5), -5.0)
    likely[:, 4] = 0.0  # (E) is in none of them
    for i, letter in enumerate(said):
        likely[i, "ABCDE".index(letter)] = -1.0
    monkeypatch.setattr("emolens.tradeoffs.option_logprobs", lambda *_: likely)
    wrong, groups = question_cost(organism, questions)(UNCHANGED)
    assert wrong == [float(i % 3 == 0) for i in range(len(keys))]
    assert groups == list(questions.labels.topic)


def test_doses_that_cannot_be_made_are_refused(vectors, trials, natural, curves):
    for emotions, layers in (((), [LAYER]), (FELT, []), (FELT, [LAYER, LAYER])):
        with pytest.raises(SelectionError, match="name at least one of both, each layer once"):
            dose_ladder(vectors, emotions, natural, layers=layers)
    with pytest.raises(SelectionError, match="one template cannot both choose and tell"):
        replace(curves, groups=("a",) * len(curves.groups)).turns()
    with pytest.raises(SelectionError, match="no natural unit of 'angry' above zero"):
        dose_ladder(vectors, ("angry",), natural, layers=[LAYER])
    with pytest.raises(SelectionError, match="give one each"):
        dose_curves(decision_measure(trials[NEUTRAL]), ("a",), [])
    with pytest.raises(SelectionError, match="have no middle"):
        replace(curves, doses=curves.doses[:2], values=curves.values[:2]).turns()


def test_what_words_do_stands_beside_the_doses(curves, trials):
    told = {e: (trials[e].run().p.tolist(), trials[e].groups) for e in FELT}
    table = replace(curves, in_words=told).table()
    words = table[table.kind == "in words"].set_index("direction")
    for emotion in FELT:
        expected = clustered_interval(*told[emotion])
        assert (words.p[emotion], words.low[emotion], words.high[emotion]) == expected
        unsteered = table[(table.direction == emotion) & (table.natural == 0)].p.iloc[0]
        assert words.change[emotion] == pytest.approx(words.p[emotion] - unsteered, abs=1e-6)
    assert words.natural.isna().all()
    assert len(table) == len(curves.table()) + len(FELT)
