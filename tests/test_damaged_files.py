"""Texts, norms, behaviours, plans: a damaged file is read, or refused in a line that names it."""

import json

import pandas as pd
import pytest
from damage import DAMAGES, JSON, fuzz
from hypothesis import given, strategies as st

from emolens.behaviour import load_behaviour
from emolens.corpus import load_corpus, load_dialogues
from emolens.errors import EmolensError
from emolens.norms import load_norms
from emolens.provenance import Provenance
from emolens.resume import PLAN, Ledger
from emolens.store import MANIFEST, TokenStore, open_store

STORIES = pd.DataFrame(
    {
        "text": ["a cold lake .", "the bells rang ."] * 2,
        "emotion": ["sad", "happy"] * 2,
        "topic": ["lake", "town", "hill", "mill"],
    }
)
ORIGIN = Provenance("tiny", (1.0, 2.0), "raw", "float32", "resid_post", {"all": 1}, "0", 1, 0)
BEHAVIOUR = {
    "name": "cheat",
    "target": "cheat",
    "classes": {"cheat": [" cheat"], "admit": [" admit", " tell"]},
    "prompts": [{"text": "so she", "emotion": "calm", "group": "a"}],
}
DIALOGUE = {
    "dialogue": "Speaker A: Oh no.\nSpeaker B: It will do.",
    "emotion_a": "afraid",
    "emotion_b": "calm",
}
STORE = {
    "format": "emolens.tokens",
    "version": 1,
    "layers": [0, 2],
    "lengths": [3, 4],
    "shards": [],
    "dtype": "float32",
    "provenance": ORIGIN.to_json(),
}
RECORDING = {"identity": {"layers": [0], "shape": [1, 2, 1, 4]}, "batches": [[0, 1]]}


def read_plan(file):
    return Ledger.open(file.parent, ((0, 1),), (1, 2, 1, 4), {"layers": [0]})


# how each is read, and what sound ones hold
READERS = {
    "stories.jsonl": lambda file: load_corpus(file, neutral=file),
    "stories.parquet": lambda file: load_corpus(file, neutral=file),
    "dialogues.jsonl": load_dialogues,
    "nrc.txt": load_norms,
    "warriner.csv": load_norms,
    "mehrabian.csv": load_norms,
    "behaviour.json": load_behaviour,
    MANIFEST: lambda file: open_store(file.parent),
    PLAN: read_plan,
}
SOUND = {
    "stories.jsonl": STORIES.to_json(orient="records", lines=True).encode(),
    "dialogues.jsonl": json.dumps(DIALOGUE).encode(),
    "nrc.txt": b"Word\tValence\tArousal\tDominance\nglim\t0.75\t0.5\t0.1\nplum\t0\t1\t0\n",
    "warriner.csv": b"Word,V.Mean.Sum,A.Mean.Sum\nglim,7,5\nplum,1.5,9\n",
    "mehrabian.csv": b"word,pleasure,arousal\nglim,0.5,0\nplum,-1,1\n",
    "behaviour.json": json.dumps(BEHAVIOUR).encode(),
    MANIFEST: json.dumps(STORE).encode(),
    PLAN: json.dumps(RECORDING).encode(),
}
OBJECTS = {
    "behaviour.json": BEHAVIOUR,
    "dialogues.jsonl": DIALOGUE,
    MANIFEST: STORE,
    PLAN: RECORDING,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of one sound file for each reader, and a folder to write damaged ones to."""
    folder = tmp_path_factory.mktemp("sound")
    STORIES.to_parquet(folder / "stories.parquet")
    return folder, SOUND | {"stories.parquet": (folder / "stories.parquet").read_bytes()}


def check_survives(folder, name, data):
    """It is read, or refused by one of our errors, in one line that names the file or folder."""
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(data)
    refused = None
    try:
        READERS[name](folder / name)
    except EmolensError as error:
        refused = str(error)
    if refused is not None:
        assert len(refused.splitlines()) == 1
        assert folder.name in refused


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read(sound, name):
    folder, whole = sound
    (folder / name).write_bytes(whole[name])
    found = READERS[name](folder / name)
    if isinstance(found, TokenStore):
        assert found.lengths == (3, 4)
    if isinstance(found, Ledger):
        assert found.batches == ((0, 1),)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@fuzz
def test_damaged_bytes_are_one_error_or_read(sound, name, damage, data):
    folder, whole = sound
    check_survives(folder, name, data.draw(damage(whole[name])))


CELLS = st.text(max_size=6) | st.sampled_from(["word", "valence", "0", "nan", "1e999", '"', ""])


@pytest.mark.parametrize("name", ["nrc.txt", "warriner.csv", "mehrabian.csv"])
@given(rows=st.lists(st.lists(CELLS, max_size=6), max_size=4), below=st.booleans())
@fuzz
def test_odd_cells_are_one_error_or_read(sound, name, rows, below):
    folder, whole = sound
    between = "\t" if name == "nrc.txt" else ","
    table = "\n".join(between.join(row) for row in rows).encode("utf-8", "surrogatepass")
    check_survives(folder, name, whole[name] + table if below else table)


@pytest.mark.parametrize("name", OBJECTS)
@given(data=st.data(), value=JSON)
@fuzz
def test_an_odd_value_anywhere_is_one_error_or_read(sound, name, data, value):
    folder, _ = sound
    whole = json.loads(json.dumps(OBJECTS[name]))
    at = whole
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        deeper = isinstance(at[key], dict | list) and len(at[key]) and data.draw(st.booleans())
        if not deeper:
            break
        at = at[key]
    at[key] = value
    check_survives(folder, name, json.dumps(whole).encode())


@pytest.mark.parametrize(
    ("name", "key"),
    [(MANIFEST, "layers"), (MANIFEST, "lengths"), (MANIFEST, "shards"), (PLAN, "batches")],
)
def test_numbers_without_end_are_one_error(sound, name, key):
    folder, _ = sound
    endless = [[float("inf"), 1]] if key in ("shards", "batches") else [float("inf")]
    (folder / name).write_text(json.dumps(OBJECTS[name] | {key: endless}))
    with pytest.raises(EmolensError, match="infinity"):
        READERS[name](folder / name)


@pytest.mark.parametrize("name", ["stories.jsonl", "behaviour.json", MANIFEST, PLAN])
@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"text": ' + b"9" * 5000 + b"}"])
def test_json_too_deep_or_numbers_too_long_are_one_error(sound, name, data):
    folder, _ = sound
    (folder / name).write_bytes(data)
    with pytest.raises(EmolensError, match=folder.name):
        READERS[name](folder / name)
