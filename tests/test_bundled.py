"""The texts that come with the package are what their datasheet says."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import permutations

import pandas as pd
import pytest

import emolens
from emolens.cli import app
from emolens.corpus import checks
from emolens.corpus.bundled import EVALUATIONS, SPLITS, bundled_topics, texts_folder
from emolens.corpus.checks import naming, runs
from emolens.errors import SelectionError
from emolens.positions import span
from emolens.text import NEUTRAL

TWELVE = [
    "happy",
    "inspired",
    "loving",
    "proud",
    "calm",
    "desperate",
    "angry",
    "guilty",
    "sad",
    "afraid",
    "nervous",
    "surprised",
]
FIFTEEN = [
    "afraid",
    "amazed",
    "angry",
    "calm",
    "desperate",
    "excited",
    "frustrated",
    "guilty",
    "happy",
    "loving",
    "proud",
    "sad",
    "shocked",
    "terrified",
    "tired",
]
FELT = ("afraid", "angry", "happy", "sad", "loving", "anxious", "thankful", "sorry", "excited")


@pytest.fixture(scope="module")
def corpus():
    return emolens.bundled_corpus()


@pytest.fixture(scope="module")
def stories():
    return pd.read_json(texts_folder() / "stories.jsonl", lines=True)


def test_every_emotion_of_the_paper_has_its_stories(corpus):
    paper = set(pd.read_csv(texts_folder().parents[1] / "paper.csv").emotion)
    counts = Counter(text.emotion for text in corpus.stories)
    assert set(counts) == paper
    assert len(paper) == 171
    assert {e for e, n in counts.items() if n >= 16} == set(TWELVE)
    assert min(counts.values()) == 4


def test_stories_pass_every_check_of_the_command(corpus):
    table = checks.check_stories(corpus.stories)
    assert table.passed.all(), table[~table.passed].to_string()


def test_each_check_finds_what_it_looks_for(corpus):
    good = list(corpus.stories[::28])
    first = good[0]
    faults = {
        "name": replace(first, text=f"{first.text} {first.emotion}", id="x"),
        "outside": replace(first, text="Too short.", id="x"),
        "pairs above": replace(first, id="x"),
    }
    for check, fault in faults.items():
        table = checks.check_stories([*good, fault]).set_index("check")
        missed = table.index[~table.passed]
        assert any(check in name for name in missed), (check, missed)
    tied = [replace(text, group=text.emotion) for text in good]
    table = checks.check_stories(tied).set_index("check")
    assert not table.passed["mutual information of topic and emotion"]
    alike = [replace(text, text=f"And then they {text.text}") for text in good]
    table = checks.check_stories(alike)
    assert any("'and then they' most" in name for name in table[~table.passed].check)
    shared = checks.check_stories(good, good[:1]).set_index("check")
    assert not shared.passed["pairs with the other corpus"]


def test_topics_emotions_persons_openings_and_halves_are_crossed(stories):
    assert set(stories.topic) == set(bundled_topics())
    assert stories.groupby("topic").split.nunique().eq(1).all()
    grouped = stories.groupby("emotion")
    assert (grouped.topic.nunique() == grouped.size()).all()
    for name, values in (("split", SPLITS), ("person", ("first", "third"))):
        for value in values:
            assert (
                grouped[name].agg(lambda x, v=value: (x == v).sum()) == grouped.size() / 2
            ).all()
    assert grouped.opening.value_counts().groupby("emotion").max().sub(grouped.size() / 6).max() < 2
    assert stories.opening.value_counts().min() > 0.8 * len(stories) / 6


def test_the_person_of_narration_is_the_one_that_is_told(stories):
    outside = stories.text.str.replace(r'"[^"]*"', "", regex=True).str.lower()
    own = outside.str.count(r"\b(?:i|me|my|mine|i'm|i've|i'd|i'll)\b")
    assert own[stories.person == "first"].min() >= 1
    assert own[stories.person == "third"].max() == 0


def test_the_halves_share_no_wording(corpus):
    tuning, held_out = (emolens.bundled_corpus(split).stories for split in SPLITS)
    assert len(tuning) + len(held_out) == len(corpus.stories)
    assert checks.copies(tuning, held_out, above=0.05).empty
    known = {run for text in tuning for run in runs(text.text)}
    shared = [run for text in held_out for run in runs(text.text) if run in known]
    assert len(shared) < 0.01 * sum(len(runs(text.text)) for text in held_out)


def test_a_story_begins_with_its_opening(stories):
    for text, spans in zip(stories.text, stories.spans, strict=True):
        (name, start, end) = spans[0]
        assert (name, start) == ("opening", 0)
        assert 0 < end <= len(text)
        assert text[end - 1] in ".!?\u2026\"'\u201d)"


def test_neutral_texts_are_many_of_every_kind_and_without_feeling(corpus):
    dialogues = pd.read_json(texts_folder() / "neutral_dialogues.jsonl", lines=True)
    assert len(dialogues) >= 150
    assert dialogues.kind.value_counts().to_dict() == dict.fromkeys(
        ("code", "facts", "office", "how-to", "brainstorming"), 32
    )
    roles = dialogues.turns.map(lambda turns: [turn["role"] for turn in turns])
    assert 0.2 < roles.map(lambda r: r[0] == "system").mean() < 0.5
    assert roles.map(lambda r: r.count("user")).value_counts().index.min() == 1
    told = pd.read_json(texts_folder() / "neutral_stories.jsonl", lines=True)
    assert len(told) >= 50
    assert told["mode"].nunique() == 4
    assert told.text.map(lambda t: 80 <= len(checks.words(t)) <= 140).all()
    assert len(corpus.neutral) == len(dialogues) + len(told)
    named = [(t.text, naming(e).findall(t.text)) for t in corpus.neutral for e in FELT]
    assert not [pair for pair in named if pair[1]]
    assert checks.copies(corpus.neutral).empty


def test_dialogues_cross_fifteen_emotions_with_themselves():
    found = emolens.bundled_dialogues()
    pairs = Counter(zip(found.felt["first"], found.felt["second"], strict=True))
    assert len(found.texts) >= 240
    assert len(pairs) == 15 * 15
    assert {*Counter(found.felt["first"]).values(), *Counter(found.felt["second"]).values()} == {16}
    assert found.felt == found.shown
    for text in found.texts:
        names = [part.name for part in text.spans]
        assert 6 <= len(names) <= 8
        assert names == ["first", "second"] * (len(names) // 2) + ["first"] * (len(names) % 2)


def test_masks_are_all_ordered_pairs_of_fifteen_emotions():
    found = emolens.bundled_dialogues(masked=True)
    pairs = list(zip(found.felt["first"], found.shown["first"], strict=True))
    assert sorted(pairs) == sorted(permutations(FIFTEEN, 2))
    assert set(found.felt["second"]) == {NEUTRAL}
    for text in found.texts:
        assert text.spans[0].name == "setup"
        assert {part.name for part in text.spans[1:]} == {"first", "second"}
        assert not any(naming(e).search(text.text) for e in (text.emotion,))


@pytest.mark.parametrize("masked", [False, True])
def test_dialogues_name_no_emotion_of_theirs(masked):
    found = emolens.bundled_dialogues(masked=masked)
    for i, text in enumerate(found.texts):
        own = {*(found.felt[s][i] for s in found.felt), *(found.shown[s][i] for s in found.shown)}
        named = [naming(e).findall(text.text) for e in own - {NEUTRAL}]
        assert not any(named), (text.id, named)
    assert checks.copies(found.texts).empty


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_evaluation_set_is_read_by_the_library(name, organism):
    """Both halves, every text within the context, every named part a place that can be read."""
    found = emolens.evaluation_set(name)
    assert {*found.labels.split} == set(SPLITS)
    assert found.labels.groupby("topic").split.nunique().eq(1).all()
    texts = found.texts()
    assert len({text.id for text in texts}) == len(texts)
    assert len({text.text for text in texts}) == len(texts)
    read = emolens.record(organism, texts, layers=[3], positions=span("user"))
    assert len(read.emotions) == len(texts)
    parts = {part.name for text in texts for part in text.spans}
    for part in parts - {"user", "assistant", "system"}:
        some = [t for t in texts if any(s.name == part and s.end > s.start for s in t.spans)]
        assert (
            emolens.record(organism, some, layers=[3], positions=span(part)).pooled.isfinite().all()
        )


def test_named_parts_are_the_words_that_they_name():
    pairs = emolens.evaluation_set("minimal_pairs")
    for _, two in pairs.labels.groupby("pair"):
        first, second = (pairs.texts()[i] for i in two.index)
        rests = [
            text.text[: part.start] + text.text[part.end :]
            for text in (first, second)
            for part in text.spans
            if part.name == "changed"
        ]
        assert len(rests) == 2
        assert rests[0] == rests[1]
    numeric = emolens.evaluation_set("numeric")
    for text, value in zip(numeric.texts(), numeric.labels.value, strict=True):
        (part,) = (s for s in text.spans if s.name == "quantity")
        assert float(text.text[part.start : part.end]) == value
    steps = numeric.labels.groupby("topic").value
    assert steps.apply(lambda values: values.is_monotonic_increasing).all()
    assert numeric.labels.topic.nunique() == 12


COUNTS = {
    "implicit": ("emotion", 12, 4),
    "activities": ("category", 8, 8),
    "impossible": ("topic", 7, 2),
    "threat": ("topic", 6, 2),
    "beliefs": ("topic", 24, 2),
}


@pytest.mark.parametrize("name", COUNTS)
def test_evaluation_sets_hold_as_many_as_they_should(name):
    label, kinds, each = COUNTS[name]
    assert Counter(emolens.evaluation_set(name).labels[label].value_counts()) == {each: kinds}


def test_scenarios_do_not_name_their_emotion():
    for name in ("implicit", "replies", "pushes"):
        found = emolens.evaluation_set(name)
        for turns, emotion in zip(found.turns, found.labels.emotion, strict=True):
            assert not naming(emotion).search(turns[0].text), turns[0].text


def test_deflection_post_training_and_binding_are_large_enough():
    assert len(emolens.evaluation_set("deflection").turns) >= 33
    assert len(emolens.evaluation_set("post_training").turns) == 60
    assert len(emolens.evaluation_set("binding").turns) >= 16


def test_keys_are_options_and_balanced():
    found = emolens.evaluation_set("capability").labels.key.value_counts()
    assert found.min() >= 0.8 * found.max()
    bias = emolens.evaluation_set("bias")
    assert (bias.labels.key != bias.labels.stereotype).all()
    for turns, key in zip(bias.turns, bias.labels.key, strict=True):
        assert f"({key}) " in turns[0].text


def test_prompts_can_be_put_into_a_models_own_template(organism):
    found = emolens.evaluation_set("threat", "tuning").where(tone="dry")

    def render(turns, **labels):
        return emolens.plain(turns[1:], **labels)

    assert all(text.text.startswith("\n\nHuman: Inbox") for text in found.texts(render))
    with pytest.raises(emolens.EmolensError, match="no chat template"):
        found.texts(partial(emolens.chat, organism))


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: emolens.evaluation_set("moods"), "no evaluation set 'moods': there are implicit"),
        (lambda: emolens.evaluation_set("implicit", "test"), "no half 'test'"),
        (lambda: emolens.evaluation_set("implicit").where(mood=1), "no label 'mood': it has id"),
        (lambda: emolens.evaluation_set("implicit").where(emotion="ire"), "no prompts of"),
    ],
)
def test_what_is_not_there_is_named(ask, says):
    with pytest.raises(SelectionError, match=says):
        ask()


def test_the_command_checks_the_bundled_stories_and_says_what_is_missed(tmp_path):
    from typer.testing import CliRunner

    assert CliRunner().invoke(app, ["stories", "check", "--out", str(tmp_path)]).exit_code == 0
    assert pd.read_csv(tmp_path / "leaks.csv").empty
    bad = tmp_path / "bad.jsonl"
    rows = [{"text": "He was sad.", "emotion": e, "topic": "t", "id": e} for e in ("sad", "calm")]
    pd.DataFrame(rows).to_json(bad, orient="records", lines=True)
    (tmp_path / "neutral.jsonl").write_text('{"text": "It is nine."}\n')
    done = CliRunner().invoke(app, ["stories", "check", str(tmp_path), "--against", str(tmp_path)])
    assert done.exit_code == 1
    assert "words that name the emotion" in done.stdout
