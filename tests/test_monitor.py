"""Watching a model: the same text, the same readouts as after the fact, alarms as promised."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import emolens
from emolens.alarms import Reached, auroc, calibrated, thresholds
from emolens.errors import CorpusError, ModelError, SelectionError
from emolens.monitor import MOMENTS, Monitor, trailing
from emolens.positions import last
from emolens.text import Text

LAYERS = (2, 3)
TEXTS = ["mira fed the goat .", "tom lost the coat and could not pay . so he", "so she"]


@pytest.fixture(scope="module")
def monitor(organism, fitted):
    return Monitor(organism, fitted, LAYERS, window=3)


@pytest.fixture(scope="module")
def fitted(organism):
    stories = emolens.record(organism, emolens.organism_stories(per_emotion=4), layers=LAYERS)
    neutral = emolens.record(organism, emolens.organism_neutral(count=20), layers=LAYERS)
    return emolens.fit_vectors(stories, neutral)


def test_watching_changes_nothing_of_what_is_written(monitor, organism):
    plain = emolens.generate(organism, TEXTS, tokens=12, seed=3)
    assert [w.reply for w in monitor.generate(TEXTS, tokens=12, seed=3)] == plain


@pytest.mark.parametrize("together", [1, 16])
def test_values_are_those_of_a_pass_over_the_whole_text(monitor, organism, together):
    """Token by token with padding and cache, or afterwards in one pass: one readout."""
    for text, found in zip(
        TEXTS, monitor.generate(TEXTS, tokens=8, seed=1, together=together), strict=True
    ):
        ids = found.ids[None]
        begin = torch.tensor([[organism.tokenizer.bos_token_id]])
        if int(organism.tokenize([text]).ids[0, 0]) == int(begin):
            ids = torch.cat([begin, ids], 1)
        with emolens.reading(organism, LAYERS) as streams:
            organism.forward(ids, torch.ones_like(ids, dtype=torch.bool))
        for i, layer in enumerate(LAYERS):
            own = streams[layer][0, -len(found.ids) :]
            told = emolens.read_out(monitor.vectors, own, layer)
            # float32 sums in another order, over a cosine of at most 1
            torch.testing.assert_close(found.values[:, i], told, atol=2e-5, rtol=0)


def test_reading_gives_what_writing_gives_for_the_prompt(monitor):
    read, written = monitor.read(TEXTS), monitor.generate(TEXTS, tokens=3)
    for one, other in zip(read, written, strict=True):
        torch.testing.assert_close(one.values, other.values[: other.first], atol=2e-5, rtol=0)
        assert one.written == 0
        assert one.reply == ""


def test_steering_shows_in_what_is_watched(monitor, fitted):
    push = emolens.Steering({2: emolens.Steer(fitted.step("calm", 2, 0.5))})
    plain, pushed = (monitor.generate(TEXTS, s, tokens=2)[0] for s in (emolens.Steering({}), push))
    cell = monitor.cell("calm", 2)
    assert float(pushed.colon[cell]) > float(plain.colon[cell]) + 0.2


def test_words_of_every_token_stand_where_its_offsets_say(monitor):
    for found in monitor.generate(TEXTS, tokens=10, seed=5):
        whole = found.prompt.text + found.reply
        words = [whole[a:b] for a, b in found.offsets.tolist()]
        decode = monitor.model.tokenizer.decode
        told = [decode([i]).strip() for i in found.ids.tolist()]
        assert [word.strip() for word in words] == told


def test_means_in_windows_and_so_far_are_those_of_pandas(monitor):
    found = monitor.generate(TEXTS, tokens=9, seed=2)[1]
    table = found.table()
    own = table[(table.layer == 3) & (table.emotion == "afraid")]
    prompt = own[own.stage == "prompt"]
    assert np.allclose(prompt.windowed, prompt.value.rolling(3, min_periods=1).mean(), atol=1e-5)
    assert np.allclose(prompt.running, prompt.value.expanding().mean(), atol=1e-5)
    from_colon = own[own.token >= found.first - 1]
    reply = from_colon.value.rolling(3, min_periods=1).mean().iloc[1:]
    assert np.allclose(own[own.stage == "reply"].windowed, reply, atol=1e-5)
    assert len(table) == found.values.numel()


def test_steps_are_handed_on_as_they_are_written_and_may_end_the_text(monitor, organism):
    whole = monitor.generate(TEXTS, tokens=6, seed=4)
    steps = []

    def listen(step):
        steps.append(step)
        return not (step.text == 1 and step.place == 3)

    cut = monitor.generate(TEXTS, tokens=6, seed=4, on_step=listen)
    assert cut[0].reply == whole[0].reply
    assert cut[2].reply == whole[2].reply
    own = [step for step in steps if step.text == 1]
    assert [step.place for step in own] == [0, 1, 2, 3]
    assert cut[1].written == 3  # all three were read; the fourth was not taken
    assert whole[1].reply.startswith(cut[1].reply)
    assert len(organism.tokenizer.tokenize(cut[1].reply)) == 3
    torch.testing.assert_close(own[0].values, cut[1].colon)
    torch.testing.assert_close(own[2].values, cut[1].values[-2])
    torch.testing.assert_close(own[3].windowed, cut[1].windowed[-1])


def test_what_is_told_live_is_what_is_found_afterwards(monitor):
    usual = emolens.organism_neutral(count=80, seed=3)
    set_, _ = monitor.calibrate(
        usual, emotions=["desperate", "angry"], moments=MOMENTS, rate=0.3, tokens=5
    )
    live = {}

    def listen(step):
        for name in step.alarms:
            live.setdefault((step.text, name), step.place)
        return True

    prompts = [t.text for t in emolens.organism_behaviour(emotions=["desperate"]).prompts[:12]]
    found = set_.generate(prompts, tokens=5, seed=1, on_step=listen)
    after = {}
    for text, watched in enumerate(found):
        for alarm in watched.alarms:
            # a token's value is told with the next one, and those of the prompt with the first
            place = max(0, alarm.place - watched.first + 1)
            after[text, (alarm.moment, alarm.emotion, alarm.layer)] = place
    assert after == live
    assert {moment for _, (moment, *_) in after} == set(MOMENTS)


@pytest.mark.parametrize("kind", ["centred", "cosine", "projection", "z"])
def test_told_readouts_are_those_of_a_whole_pass_of_every_kind_and_layer(organism, fitted, kind):
    reference = emolens.record(organism, emolens.organism_neutral(count=20), layers=LAYERS)
    monitor = Monitor(organism, fitted, (3, 2), kind=kind, reference=reference)
    told = []
    (one,) = monitor.generate(
        TEXTS[:1], tokens=5, temperature=0.0, on_step=lambda step: told.append(step.values) or True
    )
    (plain,) = monitor.generate(TEXTS[:1], tokens=5, temperature=0.0)
    torch.testing.assert_close(torch.stack(told), plain.values[plain.first - 1 :])
    torch.testing.assert_close(one.values, plain.values)
    end = emolens.record(organism, [Text(TEXTS[0], "x", "x")], layers=[2], positions=last)
    own = emolens.read_out(fitted, end.at(2), 2, kind=kind, reference=reference)
    torch.testing.assert_close(told[0][1], own[0], atol=1e-4, rtol=1e-4)


def test_alarms_name_the_words_they_are_of(monitor):
    row = ("prompt", "desperate", 3, -1.0, 0.0, 1.0)  # reached at once
    columns = ["moment", "emotion", "layer", "threshold", "mean", "sd"]
    low = replace(monitor, thresholds=pd.DataFrame([row], columns=columns))
    found = low.read(["mira fed the goat ."])[0]
    (alarm,) = found.alarms
    assert (alarm.place, alarm.words, alarm.moment) == (2, "mira fed the", "prompt")
    assert alarm.value == pytest.approx(float(found.windowed[2, 1, low.vectors.row("desperate")]))


def test_a_threshold_keeps_its_promise_for_one_and_for_many_alarms():
    """On scores of chance the share of texts with any alarm is as promised, whatever their number.

    Over 200 draws of 400 texts that set and 400 that tell, the mean rate has a standard error of
    about .001.
    """
    rng = np.random.default_rng(0)
    for alarms in (1, 5):
        rates = []
        for _ in range(200):
            shared = rng.normal(size=(800, 1))
            values = shared + rng.normal(size=(800, alarms))
            cuts = thresholds(values[:400], 0.05)
            rates.append(float((values[400:] >= cuts).any(1).mean()))
        assert np.mean(rates) == pytest.approx(0.05, abs=0.008)


def test_thresholds_do_not_pass_over_what_few_texts_cannot_tell():
    with pytest.raises(CorpusError, match=r"cannot tell a rate of 0\.01"):
        thresholds(np.zeros((50, 1)), 0.01)
    with pytest.raises(CorpusError, match="fewer emotions"):
        thresholds(np.eye(40), 0.05)  # forty texts, each the highest of another alarm


def test_equal_values_raise_their_alarm_together_or_not_at_all():
    values = np.repeat(np.arange(10.0), 10)[:, None]
    assert thresholds(values, 0.25).tolist() == [8.0]  # twenty of a hundred; thirty are too many
    mixed = np.concatenate([values, np.arange(100.0)[:, None]], 1)
    cuts = thresholds(mixed, 0.05)
    assert (values[:, 0] < cuts[0]).all()  # ten at once are more than may be spared
    assert (mixed >= cuts).any(1).sum() == 5
    with pytest.raises(CorpusError, match="cannot tell"):
        thresholds(values, 0.05)


def test_rates_and_areas_are_told_of_the_other_half():
    rng = np.random.default_rng(1)
    groups = [str(i) for i in range(400)]
    usual, target = (Reached(rng.normal(mean, 1, (400, 1)), groups) for mean in (0.0, 2.0))
    found = calibrated([("colon", "afraid", 3)], usual, target, 0.1)
    row, anywhere = found.table.iloc[0], found.table.iloc[1]
    telling = usual.half("report").values[:, 0]
    assert row.false_alarms == (telling >= row.threshold).mean() == anywhere.false_alarms
    assert row.low < 0.1 < row.high
    # of normals two apart: the normal distribution's value at 2 / sqrt(2)
    assert row.auroc_low < 0.921 < row.auroc_high
    assert row.usual == row.target == 200
    low, high = auroc(usual, usual)[1:]
    assert low < 0.5 < high


def test_trailing_means_are_plain_ones():
    values = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    for window in (1, 3, 9):
        told = trailing(values, window)
        for i in range(7):
            own = values[max(0, i - window + 1) : i + 1].mean(0)
            torch.testing.assert_close(told[i], own, atol=1e-6, rtol=0)


def test_what_cannot_be_watched_is_refused(monitor, organism, fitted):
    with pytest.raises(SelectionError, match="no vectors at layer 5"):
        Monitor(organism, fitted, (5,))
    with pytest.raises(SelectionError, match="window of 0"):
        Monitor(organism, fitted, (3,), window=0)
    with pytest.raises(SelectionError, match="a z-score needs a reference"):
        Monitor(organism, fitted, (3,), kind="z")
    other = replace(fitted, provenance=replace(fitted.provenance, fingerprint=(1.0,) * 24))
    with pytest.raises(ModelError, match="fit it again"):
        Monitor(organism, other, (3,))
    texts = emolens.organism_neutral(count=4)
    for options, said in (
        ({"moments": ["reply"]}, "'reply' needs tokens"),
        ({"tokens": 3}, "'reply' needs tokens"),
        ({"moments": ["end"]}, "cannot be raised"),
        ({"rate": 1.0}, "between 0 and 1"),
        ({"emotions": ["smug"]}, "unknown emotion 'smug'"),
    ):
        with pytest.raises(SelectionError, match=said):
            monitor.calibrate(texts, **options)
    one = [replace(t, group="same") for t in texts]
    with pytest.raises(CorpusError, match="several groups"):
        monitor.calibrate(one, rate=0.5)
