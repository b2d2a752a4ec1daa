"""Acting on what is watched: each policy does what it says, and no more."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

import emolens
from emolens.errors import SelectionError
from emolens.interventions import Hold, unit
from emolens.monitor import NO_THRESHOLDS, Monitor

LAYER = 3


@pytest.fixture(scope="module")
def monitor(organism):
    stories = emolens.record(organism, emolens.organism_stories(per_emotion=4), layers=[LAYER])
    neutral = emolens.record(organism, emolens.organism_neutral(count=20), layers=[LAYER])
    return Monitor(organism, emolens.fit_vectors(stories, neutral), (LAYER,), window=3)


@pytest.fixture(scope="module")
def alarmed(monitor):
    usual = emolens.organism_behaviour(emotions=["neutral"], per_emotion=60, seed=4).prompts
    usual = [replace(text, group=str(i)) for i, text in enumerate(usual)]
    return monitor.calibrate(usual, emotions=["desperate"], rate=0.1)[0]


@pytest.fixture(scope="module")
def desperate():
    found = emolens.organism_behaviour("threat", emotions=["desperate"], per_emotion=26, seed=3)
    return found.prompts[:8]


@pytest.fixture(scope="module")
def calm():
    found = emolens.organism_behaviour("threat", emotions=["calm"], per_emotion=26, seed=3)
    return found.prompts[:8]


@pytest.fixture(scope="module")
def held(monitor):
    usual = emolens.organism_neutral(count=60, seed=2)
    return emolens.regulation(monitor, usual, emotions=["desperate", "angry"])


def stream(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, 6, generator=draw)


def hold(**changes):
    axes = torch.eye(6)
    usual = Hold(axes[0], torch.zeros(6), -0.5, 0.5, -axes[0], 1.0, 100.0)
    return replace(usual, **changes)


def test_a_gain_of_one_against_its_own_direction_leads_to_the_edge_of_the_band():
    residual = stream()
    found = hold()(residual)
    torch.testing.assert_close(found[..., 0], residual[..., 0].clamp(-0.5, 0.5))
    assert torch.equal(found[..., 1:], residual[..., 1:])


def test_within_the_band_nothing_is_changed_by_a_bit():
    residual = stream()
    inside = (residual[..., 0].abs() <= 0.5)[..., None].expand_as(residual)
    assert inside.any()
    assert not inside.all()
    found = hold(push=unit(torch.ones(6)), gain=3.0)(residual)
    assert torch.equal(found[inside], residual[inside])
    assert not torch.equal(found[~inside], residual[~inside])


def test_a_push_is_in_proportion_and_bounded():
    residual = 4 * stream()
    plain, double, bounded = (
        hold(**c).length(residual) for c in ({}, {"gain": 2.0}, {"gain": 2.0, "most": 1.5})
    )
    torch.testing.assert_close(double, 2 * plain)
    torch.testing.assert_close(bounded, double.clamp(-1.5, 1.5))
    assert float(plain.min()) < 0 < float(plain.max())


def test_a_band_is_of_usual_tokens_and_its_push_lowers_what_is_held(monitor, held):
    (own,) = held.values()
    usual = emolens.organism_neutral(count=60, seed=2)
    values = torch.cat([w.values for w in replace(monitor, kind="projection").read(usual)])
    for one, emotion in zip(own.holds, ("desperate", "angry"), strict=True):
        told = values[:, 0, monitor.vectors.row(emotion)]
        # of about 2,300 tokens 1% are out: one in a hundred of a quantile's neighbours
        assert float((told > one.high).float().mean()) == pytest.approx(0.01, abs=0.002)
        assert float(one.read @ one.push) < 0
        calm = unit(monitor.vectors.of("calm"))[0]
        assert float(calm @ one.push) > 0
        # its gain is in units of what the push takes off the readout
        assert one.gain * float(-(one.read @ one.push)) == pytest.approx(2.0)


def test_logging_changes_nothing_and_tells_every_alarm(alarmed, desperate, calm):
    texts = [*desperate, *calm]
    plain = alarmed.generate(texts, tokens=3, seed=1)
    found = emolens.Guard(alarmed, emolens.Log()).generate(texts, tokens=3, seed=1)
    assert [one.watched.reply for one in found] == [one.reply for one in plain]
    told = emolens.acted(found)
    assert set(told.kind) == {"log"}
    assert len(told) == sum(len(one.alarms) for one in plain)
    assert (told.text < 8).mean() > 0.8  # rate .1 on neutral ones, and calm is further away


def test_stopping_leaves_nothing_of_what_would_have_come(alarmed, desperate, calm):
    found = emolens.Guard(alarmed, emolens.Stop()).generate([*desperate, *calm], tokens=3, seed=1)
    plain = alarmed.generate([*desperate, *calm], tokens=3, seed=1)
    for one, free in zip(found, plain, strict=True):
        if free.alarms:
            assert one.watched.reply == ""
            assert [action.kind for action in one.actions] == ["stop"]
            assert one.actions[0].place == free.first - 1
        else:
            assert one.watched.reply == free.reply
            assert one.actions == ()
    assert sum(bool(one.actions) for one in found[:8]) >= 7


def test_an_alarm_in_the_prompt_stops_as_well(monitor, desperate):
    columns = list(NO_THRESHOLDS.columns)
    row = ("prompt", "desperate", LAYER, -1.0, 0.0, 1.0)  # reached by the first whole window
    low = replace(monitor, thresholds=pd.DataFrame([row], columns=columns))
    (one,) = emolens.Guard(low, emolens.Stop()).generate(desperate[:1], tokens=5, seed=1)
    assert one.watched.reply == ""
    assert [(a.kind, a.place) for a in one.actions] == [("stop", monitor.window - 1)]


def test_other_layers_are_held_than_those_watched_in_whatever_order(organism):
    layers = (2, 1)
    stories = emolens.record(organism, emolens.organism_stories(per_emotion=2), layers=[1, 2])
    neutral = emolens.record(organism, emolens.organism_neutral(count=20), layers=[1, 2])
    vectors = emolens.fit_vectors(stories, neutral)
    usual = emolens.organism_neutral(count=20, seed=2)
    texts = [text.text for text in usual[:2]]
    watching = Monitor(organism, vectors, layers)
    held = emolens.regulation(watching, usual, emotions=["angry"], layer=1, most=0.0)
    free = watching.generate(texts, tokens=3)
    found = emolens.Guard(watching, emolens.Regulate(held)).generate(texts, tokens=3)
    for one, plain in zip(found, free, strict=True):
        torch.testing.assert_close(one.watched.values, plain.values, atol=2e-5, rtol=0)
    apart = Monitor(organism, vectors, (2,))
    one, _ = emolens.Guard(apart, emolens.Regulate(held)).generate(texts, tokens=3)
    torch.testing.assert_close(one.watched.values[:, 0], free[0].values[:, 0], atol=2e-5, rtol=0)


def test_what_is_asked_again_does_not_hang_on_what_else_is(alarmed, desperate, calm):
    def words(prompt, attempt):
        return calm[0]

    guard = emolens.Guard(alarmed, emolens.AskAgain(words, times=1))
    both = guard.generate(desperate[:2], tokens=3, seed=4)
    alone = guard.generate([calm[3], desperate[1]], tokens=3, seed=4)
    assert both[1].watched.reply == alone[1].watched.reply


def test_an_alarm_in_the_reply_ends_it_before_the_next_word(monitor, desperate):
    whole = monitor.generate(desperate[:1], tokens=5, seed=1)[0]
    row = monitor.vectors.row("desperate")
    reply = whole.windowed[whole.first :, 0, row]
    columns = list(NO_THRESHOLDS.columns)
    at = float(reply.max()) - 1e-6
    place = int((reply >= at).nonzero()[0])
    low = replace(
        monitor,
        thresholds=pd.DataFrame([("reply", "desperate", LAYER, at, 0.0, 1.0)], columns=columns),
    )
    (one,) = emolens.Guard(low, emolens.Stop()).generate(desperate[:1], tokens=5, seed=1)
    assert one.watched.written == place + 1
    assert whole.reply.startswith(one.watched.reply)
    assert one.actions[0].place == whole.first + place


def test_asking_again_takes_the_other_words_and_keeps_what_was_given_up(alarmed, desperate, calm):
    def words(prompt, attempt):
        return calm[attempt] if prompt is not desperate[0] else prompt

    heard = []

    def listen(step):
        heard.append(step.text)
        return True

    policy = emolens.AskAgain(words, times=2)
    found = emolens.Guard(alarmed, policy).generate(
        desperate[:3], tokens=3, seed=[5, 6, 7], on_step=listen
    )
    kinds = [[action.kind for action in one.actions] for one in found]
    # the first is asked in the same words, each time to no avail; the others once
    assert kinds == [["ask again", "ask again", "stop"], ["ask again"], ["ask again"]]
    assert [len(one.before) for one in found] == [2, 1, 1]
    assert found[0].watched.reply == ""
    again = alarmed.generate([calm[1]] * 2, tokens=3, seed=[6, 7])
    assert [one.watched.reply for one in found[1:]] == [one.reply for one in again]
    assert set(heard) == {1, 2}


def test_holding_by_a_guard_is_holding_by_steering(monitor, desperate, held):
    """The controller inside the observer, or as an intervention among others: one text."""
    guard = emolens.Guard(monitor, emolens.Regulate(held))
    found = guard.generate(desperate, tokens=6, seed=2)
    steered = emolens.generate(monitor.model, desperate, emolens.Steering(held), tokens=6, seed=2)
    assert [one.watched.reply for one in found] == steered
    assert steered != emolens.generate(monitor.model, desperate, tokens=6, seed=2)
    for one in found:
        assert {action.kind for action in one.actions} == {"steer"}
        assert all(0 <= action.place < len(one.watched.ids) for action in one.actions)


@pytest.mark.parametrize("policy", ["log", "stop", "ask again", "hold"])
def test_a_guard_does_the_same_whether_or_not_anybody_listens(
    alarmed, desperate, calm, held, policy
):
    policies = {
        "log": emolens.Log(),
        "stop": emolens.Stop(),
        "ask again": emolens.AskAgain(lambda *_: calm[0]),
        "hold": emolens.Regulate(held),
    }
    guard = emolens.Guard(alarmed, policies[policy])
    texts, heard = [*desperate, *calm], []
    alone = guard.generate(texts, tokens=4, seed=2)
    told = guard.generate(texts, tokens=4, seed=2, on_step=lambda step: heard.append(step) or True)
    assert [one.watched.reply for one in told] == [one.watched.reply for one in alone]
    pd.testing.assert_frame_equal(emolens.acted(told), emolens.acted(alone))
    for one, two in zip(told, alone, strict=True):
        torch.testing.assert_close(one.watched.values, two.watched.values)
    assert len(heard) >= sum(one.watched.written for one in told) > 0


def test_a_guard_that_has_nothing_to_hold_changes_nothing(monitor, held):
    quiet = emolens.organism_neutral(count=8, seed=2)
    wide = {
        k: replace(r, holds=tuple(replace(h, high=1e9) for h in r.holds)) for k, r in held.items()
    }
    guard = emolens.Guard(monitor, emolens.Regulate(wide))
    found = guard.generate(quiet, tokens=5, seed=3)
    assert [one.watched.reply for one in found] == emolens.generate(
        monitor.model, quiet, tokens=5, seed=3
    )
    assert all(one.actions == () for one in found)


def test_pushes_are_told_where_they_were_and_how_long(monitor, desperate, held):
    """The stream with and without a push parts by its length at that token."""
    (one,) = emolens.Guard(monitor, emolens.Regulate(held)).generate(desperate[:1], tokens=1)
    tokens = monitor.model.tokenize(desperate[:1])
    with emolens.reading(monitor.model, (LAYER,)) as streams:
        monitor.model.forward(tokens.ids, tokens.mask)
    free = streams[LAYER][:, tokens.words[0]]
    pushed = (held[LAYER](free) - free).norm(dim=-1)[0]
    told = {action.place: action.length for action in one.actions}
    assert sorted(told) == pushed.nonzero().flatten().tolist()
    for place, length in told.items():
        assert length == pytest.approx(float(pushed[place]), rel=1e-3)


def test_what_cannot_be_held_is_refused(monitor):
    usual = emolens.organism_neutral(count=4)
    for options, said in (
        ({"emotions": ["calm"]}, "name other emotions"),
        ({"emotions": []}, "name other emotions"),
        ({"emotions": ["angry"], "gain": -1.0}, "0 or more"),
        ({"emotions": ["smug"]}, "unknown emotion 'smug'"),
        ({"emotions": ["angry"], "layer": 5}, "no vectors at layer 5"),
    ):
        with pytest.raises(SelectionError, match=said):
            emolens.regulation(monitor, usual, **options)


def test_an_effect_needs_something_to_cut_and_random_guards_cut_nothing(monitor, held):
    trial = emolens.Trial.prepare(
        monitor.model,
        emolens.organism_behaviour("threat", emotions=["desperate", "angry"], per_emotion=26),
    )
    measure = emolens.decision_measure(trial)
    costs = {"nats": emolens.perplexity_cost(monitor.model, emolens.organism_neutral(count=40))}
    found = emolens.guard_effect(measure, trial.groups, 0.22, held, costs).set_index("guard")
    assert found.cut["none"] == 0
    assert found.cut_low["calm"] > 0.8
    assert found[found.kind == "control"].cut.mean() < 0.1
    assert found.nats["calm"] < 0.02
    assert found.rate["calm"] == pytest.approx(
        float(measure(emolens.Steering(held)).double().mean()), abs=1e-6
    )
    with pytest.raises(SelectionError, match="something to cut"):
        emolens.guard_effect(measure, trial.groups, 0.9, held, costs)
