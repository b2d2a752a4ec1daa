"""Every malformed input is one line on standard error, exit status 2, and no traceback."""

import json
import shutil
import sys

import pytest

from emolens.cli import main
from emolens.organism import organism_folder

STORIES = [
    {"emotion": e, "topic": t, "text": f"{n} sat by the {t} ."}
    for e in ("calm", "desperate")
    for t in ("lake", "mill", "station", "market")
    for n in ("mira", "tom", "anna")
]
NEUTRAL = [{"text": f"the {t} stood by the door ."} for t in ("lamp", "coat", "clock", "ring")]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def corpus(tmp_path):
    """A small corpus that is right in every way, for a test to spoil."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    jsonl(folder / "stories.jsonl", STORIES)
    jsonl(folder / "neutral.jsonl", NEUTRAL)
    return folder


@pytest.fixture
def weights(tmp_path):
    """A copy of the organism's folder, for a test to spoil."""
    folder = tmp_path / "model"
    shutil.copytree(organism_folder(), folder)
    return folder


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Run `emolens reproduce` with these words; give the one line it must end with."""

    def run(*words, out="out"):
        where = ["--out", str(tmp_path / out)] if out else []
        monkeypatch.setattr(sys, "argv", ["emolens", "reproduce", *map(str, words), *where])
        with pytest.raises(SystemExit) as stop:
            main()
        lines = capsys.readouterr().err.strip().splitlines()
        lines = [
            line for line in lines if line.startswith("emolens: error:") or "Traceback" in line
        ]
        assert stop.value.code == 2
        assert len(lines) == 1
        return lines[0]

    return run


def test_unknown_model(refused, corpus):
    line = refused("--model", "nobody/nothing", "--stories", corpus)
    assert "unknown model 'nobody/nothing'" in line
    assert "not 'organism'" in line


def test_folder_that_is_not_there(refused, corpus, tmp_path):
    assert "no folder" in refused("--model", tmp_path / "nowhere", "--stories", corpus)


def test_folder_without_weights(refused, corpus, weights):
    (weights / "model.safetensors").unlink()
    assert "holds no weights: expected *.safetensors" in refused(
        "--model", weights, "--stories", corpus
    )


def test_folder_without_config(refused, corpus, weights):
    (weights / "config.json").unlink()
    assert "has no config.json" in refused("--model", weights, "--stories", corpus)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_hidden_layers", "six", "Validation error for field 'num_hidden_layers'"),
        ("hidden_size", 130, "Class validation error"),
        ("num_attention_heads", 0, "integer modulo by zero"),
        ("architectures", 5, "not subscriptable"),
        ("hidden_act", "gelu9", "gelu9"),
        ("dtype", "float99", "float99"),
    ],
)
def test_a_config_that_makes_no_sense_is_told(refused, corpus, weights, field, value, said):
    config = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps(config | {field: value}))
    assert said in refused("--model", weights, "--stories", corpus)


def test_pickled_weights_are_not_read(refused, corpus, weights):
    (weights / "model.safetensors").rename(weights / "pytorch_model.bin")
    assert "pickled .bin files are not read" in refused("--model", weights, "--stories", corpus)


def test_truncated_weights(refused, corpus, weights):
    file = weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    line = refused("--model", weights, "--stories", corpus)
    assert "model.safetensors is damaged or cut short" in line


def test_weights_with_a_tensor_missing_are_not_filled_with_random_ones(refused, corpus, weights):
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights / "model.safetensors")
    del tensors["model.layers.3.mlp.down_proj.weight"]
    save_file(tensors, weights / "model.safetensors", metadata={"format": "pt"})
    line = refused("--model", weights, "--stories", corpus)
    assert "lacks 1 of its weights, the first is 'model.layers.3.mlp.down_proj.weight'" in line


def test_neutral_texts_without_stories(refused, weights, corpus):
    line = refused("--model", weights, "--neutral", corpus / "neutral.jsonl")
    assert "--neutral goes with --stories" in line


def test_missing_corpus(refused, tmp_path):
    assert "no corpus at" in refused("--stories", tmp_path / "nowhere")


def test_empty_corpus(refused, corpus):
    (corpus / "stories.jsonl").write_text("")
    assert "holds no stories" in refused("--stories", corpus)


def test_one_emotion(refused, corpus):
    jsonl(corpus / "stories.jsonl", [r for r in STORIES if r["emotion"] == "calm"])
    assert "has 1 emotion (calm)" in refused("--stories", corpus)


def test_malformed_line_is_told_by_its_number(refused, corpus):
    with (corpus / "stories.jsonl").open("a") as file:
        file.write('{"emotion": "calm", "text": \n')
    assert f"stories.jsonl, line {len(STORIES) + 1}: not JSON" in refused("--stories", corpus)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"emotion": "calm"}, "non-empty string 'text'"),
        ({"text": "mira sat ."}, "expected a string 'emotion'"),
        (["calm"], "expected an object"),
        ({"text": "mira", "emotion": "calm", "spans": [["a", 1]]}, "[name, start, end]"),
    ],
)
def test_a_line_that_lacks_something_says_what(refused, corpus, row, said):
    jsonl(corpus / "stories.jsonl", [*STORIES, row])
    line = refused("--stories", corpus)
    assert said in line
    assert f"line {len(STORIES) + 1}" in line


def test_no_neutral_text(refused, corpus):
    (corpus / "neutral.jsonl").unlink()
    assert "no neutral text" in refused("--stories", corpus)


def test_too_few_topics_to_hold_any_out(refused, corpus):
    jsonl(corpus / "stories.jsonl", [r | {"topic": "lake"} for r in STORIES])
    assert "cannot make 3 held-out parts" in refused("--stories", corpus)


def test_unknown_emotion(refused):
    assert "unknown emotion 'hangry'" in refused("--emotions", "hangry,calm")


def test_emotions_must_be_two(refused):
    assert "must name two" in refused("--emotions", "calm")


@pytest.mark.parametrize("layers", ["6", "0,9", "2-7"])
def test_layer_out_of_range(refused, layers):
    assert "is out of range: 'organism' has layers 0..5" in refused("--layers", layers)


def test_layers_that_are_no_list(refused):
    assert "'two' is not a list of layers" in refused("--layers", "two")
    assert "'²' is not a list of layers" in refused("--layers", "²")
    assert "'5-2' runs backwards: write 2-5" in refused("--layers", "5-2")


def test_vectors_of_another_model(refused, corpus, vectors, tmp_path, tiny_folder):
    vectors.save(tmp_path / "v.safetensors")
    line = refused(
        "--model",
        tiny_folder("llama"),
        "--stories",
        corpus,
        "--vectors",
        tmp_path / "v.safetensors",
    )
    assert "was made from 'organism'" in line
    assert "fit it again" in line


def test_truncated_vectors(refused, vectors, tmp_path):
    file = tmp_path / "v.safetensors"
    vectors.save(file)
    file.write_bytes(file.read_bytes()[:-100])
    assert "v.safetensors is missing, damaged or cut short" in refused("--vectors", file)


def test_output_folder_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert "cannot write into" in refused(out="taken")


def test_behaviour_that_is_none(refused, tmp_path):
    (tmp_path / "b.json").write_text('{"name": "x"}')
    assert "is no behaviour" in refused("--behaviour", tmp_path / "b.json")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("zebra", "option 'zebra' must be of known tokens"),
        ("cheated again", "'cheated again' of class 'a' must be one token"),
    ],
)
def test_behaviour_whose_word_is_not_one_token(word, told, refused, tmp_path):
    prompts = [{"text": "so she", "emotion": e} for e in ("desperate", "neutral", "calm")]
    raw = {
        "name": "x",
        "target": "a",
        "classes": {"a": [word], "b": ["cheated"]},
        "prompts": prompts,
    }
    (tmp_path / "b.json").write_text(json.dumps(raw))
    assert told in refused("--behaviour", tmp_path / "b.json")


def test_prompts_of_one_group_are_refused_before_anything_is_read(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("emolens.experiments.reproduce.record", None)
    situations = ("desperate", "neutral", "calm")
    raw = {
        "name": "x",
        "target": "a",
        "classes": {"a": ["cheated"], "b": ["admitted"]},
        "prompts": [{"text": "so she", "emotion": e, "group": "g"} for e in situations],
    }
    (tmp_path / "b.json").write_text(json.dumps(raw))
    assert "are all of one group" in refused("--behaviour", tmp_path / "b.json")


def test_layers_without_vectors_in_the_file_are_refused(refused, vectors, tmp_path):
    vectors.only([1, 3]).save(tmp_path / "v.safetensors")
    words = ("--vectors", tmp_path / "v.safetensors", "--layers", "2,3")
    assert "no vectors at layer 2: fitted at layers (1, 3)" in refused(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--tokens", "0"], "Invalid value"), (["--device", "cdua"], "cannot train on 'cdua'")],
)
def test_a_training_that_cannot_begin_is_told(words, said, tmp_path, monkeypatch, capsys):
    command = ["emolens", "organism", "train", "--out", str(tmp_path), *words]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in err
    assert "Traceback" not in err
