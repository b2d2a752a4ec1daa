"""What is felt against what is shown, and what moves the state before an answer."""

import numpy as np
import pytest

import emolens
from emolens.errors import CorpusError, SelectionError
from emolens.monitor import Monitor
from emolens.text import Span, Text

LAYER = 3


@pytest.fixture(scope="module")
def stories():
    return emolens.organism_stories(per_emotion=4)


@pytest.fixture(scope="module")
def monitor(organism, stories):
    read = emolens.record(organism, stories, layers=[LAYER])
    neutral = emolens.record(organism, emolens.organism_neutral(count=20), layers=[LAYER])
    return Monitor(organism, emolens.fit_vectors(read, neutral), (LAYER,))


@pytest.fixture(scope="module")
def scenes():
    return emolens.organism_dialogues(4, masked=True, seed=3)


def test_what_is_hidden_is_told_by_the_state_and_not_by_the_words(monitor, stories, scenes):
    from sklearn.metrics import roc_auc_score

    watched = monitor.read(scenes.texts)
    usual = monitor.read(emolens.organism_dialogues(2, seed=5).texts)
    angry = [felt == "angry" for felt in scenes.felt["first"]]
    looks = [shown == "angry" for shown in scenes.shown["first"]]
    shown = emolens.by_words(stories, "angry")
    found = emolens.felt_and_shown(watched, usual, "angry", shown, spans=["first"])
    assert roc_auc_score(angry, found.felt) > 0.9
    assert roc_auc_score(looks, found.shown) > 0.6  # words do tell a little of what is shown
    assert roc_auc_score(looks, found.felt) < 0.7
    assert roc_auc_score(angry, found.gap) > roc_auc_score(angry, found.shown) + 0.2
    assert np.allclose(found.gap, found.felt - found.shown)


def test_usual_texts_have_no_gap_and_spread_one(monitor, stories, scenes):
    usual = monitor.read(scenes.texts[:30])
    shown = emolens.by_words(stories, "angry")
    found = emolens.felt_and_shown(usual, usual, "angry", shown, spans=["first"])
    for column in ("felt", "shown"):
        assert found[column].mean() == pytest.approx(0, abs=1e-9)
        assert found[column].std() == pytest.approx(1)


def test_what_is_felt_is_read_over_the_visible_words_alone(monitor):
    text = Text("tom smiled . mira fed the goat .", spans=(Span("said", 13, 32),))
    usual = monitor.read(["the sign named the harbour .", "water ran from the pipe ."])
    own = monitor.read([text])
    all_words = [Text(t.prompt.text, spans=(Span("said", 0, len(t.prompt.text)),)) for t in usual]

    def shown(texts):
        assert isinstance(texts, list)
        return np.array([float(len(t)) for t in texts])

    found = emolens.felt_and_shown(own, monitor.read(all_words), "angry", shown, spans=["said"])
    assert found.words[0] == "mira fed the goat ."
    row = monitor.vectors.row("angry")
    felt = own[0].values[3:, 0, row].double().mean()
    plain = np.array([float(one.values[:, 0, row].double().mean()) for one in usual])
    assert found.felt[0] == pytest.approx((float(felt) - plain.mean()) / plain.std(ddof=1))


def test_a_reply_is_what_is_visible_by_default(monitor):
    written = monitor.generate(["mira fed the goat ."] * 2, tokens=4, seed=2)
    found = emolens.felt_and_shown(written, written, "angry", lambda t: np.zeros(len(t)))
    assert found.words.tolist() == [one.reply.strip() for one in written]
    assert found.shown.tolist() == [0.0, 0.0]
    read = monitor.read(["mira fed the goat ."] * 2)
    with pytest.raises(SelectionError, match="shows no words of a reply"):
        emolens.felt_and_shown(read, read, "angry", lambda t: np.zeros(len(t)))


def test_sentiment_has_the_sign_of_the_emotion():
    bad = ["This is awful and horrible.", "What a wonderful, lovely day!"]
    assert np.argmax(emolens.by_sentiment("desperate")(bad)) == 0
    assert np.argmax(emolens.by_sentiment("happy")(bad)) == 1
    with pytest.raises(SelectionError, match="no valence of 'xyzzy'"):
        emolens.by_sentiment("xyzzy")


def test_words_cannot_be_learned_of_one_kind(stories):
    with pytest.raises(CorpusError, match=r"0 of \d+ stories are of 'smug'"):
        emolens.by_words(stories, "smug")


@pytest.fixture(scope="module")
def pairs():
    found = emolens.organism_pairs("threat", emotions=("desperate", "neutral"), per_emotion=12)
    return found.prompts[:12], found.prompts[12:]


def test_pressure_is_in_spreads_of_usual_prompts(monitor, pairs):
    pressed, dry = pairs
    found = emolens.pressure(monitor, pressed, dry)
    assert found.pressure.is_monotonic_decreasing
    # the planted cause is desperate; close emotions share its direction
    ranks = found.groupby("text").emotion.apply(lambda own: own.tolist().index("desperate"))
    assert ranks.max() <= 3
    assert found[found.emotion == "desperate"].pressure.min() > 10
    same = emolens.pressure(monitor, dry, dry)
    spread = same.groupby("emotion").pressure
    assert np.allclose(spread.mean(), 0, atol=1e-6)
    assert np.allclose(spread.std(), 1)
    assert not found.alarm.any()  # no thresholds, no alarms


def test_alarms_are_those_of_the_monitor(monitor, pairs):
    pressed, dry = pairs
    usual = emolens.organism_behaviour("cheat", emotions=["neutral"], per_emotion=60).prompts
    set_, _ = monitor.calibrate(usual, emotions=["desperate"], rate=0.2)
    found = emolens.pressure(set_, [*pressed, *dry], dry)
    told = found[found.alarm]
    assert set(told.emotion) == {"desperate"}
    watched = set_.read([*pressed, *dry])
    assert set(told.text) == {i for i, one in enumerate(watched) if one.alarms}


def test_the_situation_is_what_presses(monitor, pairs):
    """All that differs between the two versions is the first span: the planted cause."""
    found = emolens.pressing_words(monitor, pairs[0], "desperate")
    first = found.groupby("text").first()
    assert (first.part == "situation").mean() > 0.9
    one = found[found.text == 0]
    text = pairs[0][0].text
    assert all(text[r.start : r.end] == r.words for r in one.itertuples())
    row = one.iloc[0]
    cell = monitor.cell("desperate", LAYER)
    less = text[: row.start] + text[row.end :]
    values = [float(one.colon[cell]) for one in monitor.read([text, less])]
    assert row.moved == pytest.approx(values[0] - values[1], abs=1e-5)


def test_texts_without_spans_are_parted_into_sentences(monitor):
    text = Text("mira fed the goat . the sign named the harbour . so she")
    found = emolens.pressing_words(monitor, [text], "angry").sort_values("start")
    assert [w.strip() for w in found.words] == [
        "mira fed the goat .",
        "the sign named the harbour .",
    ]
    assert set(found.part) == {"sentence"}
    assert emolens.pressing_words(monitor, [Text("mira fed the goat .")], "angry").empty


def test_spans_of_one_range_are_one_part(monitor):
    spans = (Span("user", 0, 19), Span("event", 0, 19), Span("whole", 0, 28))
    text = Text("mira fed the goat . so he spoke . so she", spans=spans)
    found = emolens.pressing_words(monitor, [text], "angry")
    assert found.part.tolist() == ["event"]


def test_pressed_requests_stand_out_from_dry_ones_beyond_random_directions(monitor, pairs):
    found = emolens.pressed_against_dry(monitor, *pairs)
    own = found[found.emotion == "desperate"].iloc[0]
    others = found[found.kind == "control"]
    assert own.more == 1
    assert own.low > others.rises.abs().max()
    assert own.low < own.rises < own.high
    none = emolens.pressed_against_dry(monitor, pairs[1], pairs[1])
    assert (none.rises == 0).all()
    with pytest.raises(SelectionError, match="no pairs"):
        emolens.pressed_against_dry(monitor, pairs[0], pairs[1][:3])
