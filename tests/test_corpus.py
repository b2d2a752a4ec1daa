"""Where texts come from: JSONL, Parquet, layouts of public sets, the Hub."""

import json
from contextlib import suppress

import huggingface_hub
import pandas as pd
import pytest
from damage import JSON, fuzz
from hypothesis import given, strategies as st

from emolens.corpus import load_corpus, load_dialogues, parse_text
from emolens.errors import CorpusError

STORIES = pd.DataFrame(
    [("A cold lake.", "sad", "lake"), ("The bells rang.", "happy", "town")] * 2,
    columns=["story", "emotion", "topic"],
)
DIALOGUE = {
    "emotion_a": "afraid",
    "emotion_b": "calm",
    "dialogue": "Speaker A: Oh no. I said\nSpeaker is out!\nSpeaker B:  It will. \nSpeaker A: Ok",
}
CALM = pd.DataFrame({"story": ["A table has four legs."]})


def emotion_probes(folder):
    """The layout of the public set of that name, with a file beside it that is not of stories."""
    (folder / "expression").mkdir()
    (folder / "deflection").mkdir()
    STORIES.assign(index=range(4)).to_parquet(folder / "expression" / "stories.parquet")
    CALM.to_parquet(folder / "expression" / "neutral_stories.parquet")
    pd.DataFrame({"dialogue": ["..."]}).to_parquet(folder / "deflection" / "neutral_talk.parquet")
    return folder


def test_parquet_of_the_public_layout_is_read(tmp_path):
    corpus = load_corpus(emotion_probes(tmp_path))
    assert [(t.text, t.emotion, t.group) for t in corpus.stories] == list(
        STORIES.itertuples(index=False, name=None)
    )
    assert [t.text for t in corpus.neutral] == CALM.story.tolist()
    file, neutral = (
        tmp_path / "expression" / f"{n}.parquet" for n in ("stories", "neutral_stories")
    )
    assert load_corpus(file, neutral=neutral) == corpus


def test_the_same_rows_as_jsonl_and_as_parquet_are_the_same_corpus(tmp_path):
    rows = STORIES.rename(columns={"story": "text"})
    rows = pd.concat([rows, pd.DataFrame([("It is noon.", "neutral", "")], columns=rows.columns)])
    rows["spans"] = [[["opening", "0", "2"]]] * len(rows)
    rows.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    rows.to_parquet(tmp_path / "a.parquet")
    assert load_corpus(tmp_path / "a.parquet") == load_corpus(tmp_path / "a.jsonl")


def test_a_dataset_on_the_hub_is_fetched_by_its_id(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo, **options):
        asked.update(options, repo=repo)
        return str(emotion_probes(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert len(load_corpus("ryancodrai/emotion-probes").stories) == 4
    assert asked["repo"] == "ryancodrai/emotion-probes"
    assert asked["repo_type"] == "dataset"
    names = ["data/stories-0.parquet", "data/neutral-0.parquet", "run.py"]
    fetched = huggingface_hub.utils.filter_repo_objects(
        names, allow_patterns=asked["allow_patterns"]
    )
    assert list(fetched) == names[:2]
    assert all(not pattern.endswith((".py", ".pkl", "*")) for pattern in asked["allow_patterns"])


def test_a_hub_that_does_not_give_it_is_one_line(monkeypatch):
    def refuse(repo, **options):
        raise OSError("404 Client Error.\n\nRepository Not Found")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CorpusError, match=r"the Hub did not give it \(404 Client Error") as told:
        load_corpus("nobody/nothing")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("path", ["nowhere", "../nowhere/x.jsonl", "/nowhere/at/all", "a/b/c"])
def test_what_is_no_id_is_not_asked_of_the_hub(path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(CorpusError, match="no corpus at"):
        load_corpus(path)


def test_a_folder_like_emotionscopes_gives_its_stories_and_neutral_texts(tmp_path):
    for part, name, rows in (
        ("templates", "emotion_stories", STORIES.rename(columns={"story": "text"})),
        ("templates", "two_speaker_dialogues", pd.DataFrame([DIALOGUE])),
        ("neutral", "neutral_prompts", CALM.rename(columns={"story": "text"})),
        ("validation", "implicit_scenarios", pd.DataFrame([{"scenario": "a"}])),
    ):
        (tmp_path / part).mkdir(exist_ok=True)
        rows.to_json(tmp_path / part / f"{name}.jsonl", orient="records", lines=True)
    found = load_corpus(tmp_path)
    assert [t.text for t in found.stories] == STORIES.story.tolist()
    assert [t.text for t in found.neutral] == CALM.story.tolist()
    dialogues = load_dialogues(tmp_path / "templates" / "two_speaker_dialogues.jsonl")
    assert dialogues.felt == {"first": ("afraid",), "second": ("calm",)}


def test_what_each_speaker_of_a_dialogue_says_is_its_span(tmp_path):
    file = tmp_path / "dialogues.jsonl"
    pd.DataFrame([DIALOGUE]).to_json(file, orient="records", lines=True)
    (text,) = load_dialogues(file).texts
    said = [(span.name, text.text[span.start : span.end]) for span in text.spans]
    assert said == [
        ("first", "Oh no. I said\nSpeaker is out!"),
        ("second", "It will."),
        ("first", "Ok"),
    ]
    assert text.group == "afraid, calm"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"dialogue": "Speaker A: Oh no."}, "turns of 'Speaker A:' and of 'Speaker B:'"),
        ({"dialogue": "Speaker A: Oh.\nSpeaker B: "}, "turns of 'Speaker A:' and of 'Speaker B:'"),
        ({"emotion_b": 3}, "the strings dialogue, emotion_a, emotion_b"),
    ],
)
def test_a_dialogue_that_lacks_something_says_what(tmp_path, row, said):
    file = tmp_path / "dialogues.jsonl"
    file.write_text(json.dumps(DIALOGUE) + "\n" + json.dumps(DIALOGUE | row))
    with pytest.raises(CorpusError, match=f"line 2: expected .*{said}"):
        load_dialogues(file)
    file.write_text("")
    with pytest.raises(CorpusError, match="holds no dialogues"):
        load_dialogues(file)


def test_bad_parquet_is_named(tmp_path):
    file = tmp_path / "stories.parquet"
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(CorpusError, match=r"cannot read .*stories\.parquet .*expected Parquet"):
        load_corpus(file)
    STORIES.drop(columns="emotion").to_parquet(file)
    with pytest.raises(CorpusError, match="row 1: expected a string 'emotion'"):
        load_corpus(file)


ROWS = st.dictionaries(
    st.sampled_from(["text", "story", "emotion", "topic", "group", "spans"]), JSON, max_size=6
)


@given(row=ROWS | JSON)
@fuzz
def test_any_row_is_a_text_or_a_corpus_error(row):
    with suppress(CorpusError):
        text = parse_text(row, "here", needs_emotion=True)
        assert text.text.strip()
        assert text.emotion


def test_neutral_texts_beside_several_files_of_stories_are_read_once(tmp_path):
    for number, emotion in enumerate(("sad", "calm")):
        row = {"text": "a story", "emotion": emotion}
        pd.DataFrame([row]).to_parquet(tmp_path / f"stories-{number}.parquet")
    pd.DataFrame([{"text": "a wall"}]).to_parquet(tmp_path / "neutral.parquet")
    found = load_corpus(tmp_path)
    assert (len(found.stories), len(found.neutral)) == (2, 1)


def test_rows_may_hold_other_line_ends_and_nulls(tmp_path):
    rows = [
        {
            "text": f"one\u2028two\u0085three {i}",
            "emotion": e,
            "topic": None,
            "group": "g",
            "spans": None,
        }
        for i, e in enumerate(("sad", "calm", "neutral"))
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_text("\r\n".join(lines), "utf-8", newline="")
    found = load_corpus(tmp_path / "a.jsonl")
    assert [t.text for t in found.stories[:1]] == [rows[0]["text"]]
    assert {t.group for t in found.stories} == {"g"}


def test_half_of_a_surrogate_pair_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "oh \\ud83d", "emotion": "sad"}')
    with pytest.raises(CorpusError, match="line 1: 'text' holds half of a surrogate pair"):
        load_corpus(tmp_path / "a.jsonl")
