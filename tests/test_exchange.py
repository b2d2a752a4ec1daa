"""Files of other tools, in and out: round trips, hand-made files, refusals, damaged bytes."""

import dataclasses
import io
import json
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from damage import DAMAGES, JSON, PLACES, flipped, fuzz
from hypothesis import given, strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

import emolens
from emolens.errors import ArtefactError, ModelError, SelectionError
from emolens.provenance import Provenance
from emolens.vectors import load_vectors

ORIGIN = Provenance("tiny", (1.0, 2.0), "raw", "float32", "resid_post", {"all": 1}, "0", 1, 0)
VALUES = torch.arange(2 * 3 * 8).reshape(2, 3, 8) / 7 + 1


def fitted(layers=(0, 1, 2), values=VALUES, **changes):
    made = emolens.EmotionVectors(
        values,
        ("calm", "fear"),
        layers,
        torch.zeros(values.shape[1:]),
        torch.ones(values.shape[1]),
        (1, 0, 2)[: len(layers)],
        ORIGIN,
    )
    return dataclasses.replace(made, **changes)


PROCESSED = dataclasses.replace(ORIGIN, weights="processed")


def foreign(**changes):
    found = emolens.Directions(torch.ones(1, 1, 32), ("calm",), (2,), "calm.gguf", "llama")
    return dataclasses.replace(found, **changes)


# What others read


def test_a_control_vector_is_laid_out_as_llama_cpp_and_repeng_expect(tmp_path):
    emolens.save_gguf(fitted(), "fear", tmp_path / "fear.gguf", model_type="qwen3")
    reader = gguf.GGUFReader(tmp_path / "fear.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "qwen3"
    assert fields["controlvector.layer_count"] == 2
    assert fields["emolens.emotion"] == "fear"
    assert Provenance.from_json(fields["emolens.provenance"]) == ORIGIN
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2"]
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        layer = int(tensor.name.removeprefix("direction."))
        np.testing.assert_array_equal(tensor.data, VALUES[1, layer].numpy())


@pytest.mark.parametrize("layers", [[0, 1], []])
def test_a_control_vector_that_llama_cpp_would_refuse_is_not_written(tmp_path, layers):
    with pytest.raises(SelectionError, match=r"llama\.cpp refuses block 0"):
        emolens.save_gguf(fitted(), "fear", tmp_path / "f.gguf", model_type="llama", layers=layers)
    assert not (tmp_path / "f.gguf").exists()


def test_vectors_of_processed_weights_stay_at_home(tmp_path):
    vectors = fitted(provenance=PROCESSED)
    for export in (
        lambda: emolens.to_repeng(vectors, "calm"),
        lambda: emolens.to_steering_vectors(vectors, "calm"),
        lambda: emolens.save_gguf(vectors, "calm", tmp_path / "c.gguf", model_type="llama"),
    ):
        with pytest.raises(ArtefactError, match="basis of processed weights"):
            export()


def test_exports_are_plain_float32_of_their_own():
    vectors = fitted(values=VALUES.clone())
    arrays = emolens.to_repeng(vectors, "calm", layers=[2])
    tensors = emolens.to_steering_vectors(vectors, "calm")
    assert list(arrays) == [2]
    assert arrays[2].dtype == np.float32
    arrays[2] += 1
    tensors[0] += 1
    assert_close(vectors.of("calm"), VALUES[0], atol=0, rtol=0)
    with pytest.raises(SelectionError, match="unknown emotion 'hangry'"):
        emolens.to_repeng(vectors, "hangry")
    with pytest.raises(SelectionError, match="no vectors at layer 7"):
        emolens.to_steering_vectors(vectors, "calm", layers=[7])


def steered_by_us(model, tokens, vectors, layer):
    push = emolens.Steer(vectors.of("fear")[layer])
    with torch.inference_mode(), emolens.hooked(model, {emolens.Site(layer): push}):
        return model.forward(tokens.ids, tokens.mask)


@pytest.fixture
def network(tiny_folder):
    """A tiny network twice: hooked, and as plain Hugging Face; one text; vectors of its width."""
    from transformers import AutoModelForCausalLM

    model = emolens.load(tiny_folder("llama"))
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder("llama")).eval()
    tokens = model.tokenize(["word1 word2 word3"])
    return model, plain, tokens, fitted(values=torch.randn(2, 3, 32))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_adding_to_the_output_of_the_block_of_that_number_is_what_steering_does(network, layer):
    model, plain, tokens, vectors = network
    exported = emolens.to_steering_vectors(vectors, "fear")[layer]

    def add(_module, _inputs, out):
        return (out[0] + exported, *out[1:]) if isinstance(out, tuple) else out + exported

    handle = plain.model.layers[layer].register_forward_hook(add)
    with torch.inference_mode():
        theirs = plain(tokens.ids).logits
        handle.remove()
        still = plain(tokens.ids).logits
    assert (theirs - still).abs().max() > 0.1
    assert_close(steered_by_us(model, tokens, vectors, layer), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_repeng_steers_as_we_do(network, layer, tmp_path):
    repeng = pytest.importorskip("repeng")
    model, plain, tokens, vectors = network
    control = repeng.ControlVector(
        model_type=model.model_type, directions=emolens.to_repeng(vectors, "fear")
    )
    controlled = repeng.ControlModel(plain, [layer])
    controlled.set_control(control, 1.0)
    with torch.inference_mode():
        theirs = controlled(tokens.ids).logits
    assert_close(steered_by_us(model, tokens, vectors, layer), theirs, atol=1e-4, rtol=1e-4)
    control.export_gguf(tmp_path / "theirs.gguf")
    back = emolens.load_gguf(tmp_path / "theirs.gguf", "fear")
    assert back.model_type == "llama"
    assert_close(back.of("fear"), vectors.of("fear"), atol=0, rtol=0)
    emolens.save_gguf(vectors, "fear", tmp_path / "ours.gguf", model_type="llama")
    read = repeng.ControlVector.import_gguf(tmp_path / "ours.gguf")
    assert read.model_type == "llama"
    assert sorted(read.directions) == [1, 2]
    np.testing.assert_array_equal(read.directions[2], vectors.of("fear")[2].numpy())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_steering_vectors_steers_as_we_do(network, layer):
    steering_vectors = pytest.importorskip("steering_vectors")
    model, plain, tokens, vectors = network
    theirs = steering_vectors.SteeringVector(
        layer_activations=emolens.to_steering_vectors(vectors, "fear", layers=[layer]),
        layer_type="decoder_block",
    )
    with torch.inference_mode(), theirs.apply(plain):
        logits = plain(tokens.ids).logits
    assert_close(steered_by_us(model, tokens, vectors, layer), logits, atol=1e-4, rtol=1e-4)


# What others wrote


def test_a_control_vector_comes_back(tmp_path):
    emolens.save_gguf(fitted(), "calm", tmp_path / "calm.gguf", model_type="llama")
    back = emolens.load_gguf(tmp_path / "calm.gguf", "serene")
    assert (back.emotions, back.layers, back.model_type) == (("serene",), (1, 2), "llama")
    assert back.source.endswith("calm.gguf")
    assert_close(back.of("serene"), VALUES[0, 1:], atol=0, rtol=0)
    assert_close(back.at(2), VALUES[:1, 2], atol=0, rtol=0)


def by_hand(extra=b"", extras=0, shape=(4,), kind=0):
    """A control vector written byte by byte, after the format's description."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    keys = text("general.architecture") + struct.pack("<I", 8) + text("controlvector")
    keys += text("controlvector.model_hint") + struct.pack("<I", 8) + text("mistral")
    keys += text("controlvector.layer_count") + struct.pack("<Ii", 5, 2) + extra
    infos = b"".join(
        text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, start)
        for name, start in (("direction.10", 32), ("direction.9", 0))
    )
    head = struct.pack("<4sIQQ", b"GGUF", 3, 2, 3 + extras) + keys + infos
    head += b"\0" * (-len(head) % 32)
    return head + struct.pack("<4f16x4f", 1, 2, 3, 4, 5, 6, 7, 8)


def test_a_control_vector_written_by_hand_is_read_in_the_order_of_its_layers(tmp_path):
    (tmp_path / "v.gguf").write_bytes(by_hand())
    found = emolens.load_gguf(tmp_path / "v.gguf", "joy")
    assert found.layers == (9, 10)
    assert_close(found.of("joy"), torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (by_hand(kind=8, shape=(32,)) + bytes(64), "uint8"),
        (by_hand(kind=24), "int8"),
        (by_hand(shape=(2, 2)), r"shape \(2, 2\)"),
        (by_hand().replace(b"direction", b"direktion"), "holds no directions"),
        (by_hand().replace(b"controlvector\x18", b"controlvektor\x18"), "'controlvektor'"),
        (b"", "empty"),
        (b"PK\3\4", "damaged"),
    ],
)
def test_a_file_that_is_no_control_vector_is_refused(tmp_path, data, said):
    (tmp_path / "v.gguf").write_bytes(data)
    with pytest.raises(ArtefactError, match=said):
        emolens.load_gguf(tmp_path / "v.gguf", "joy")


def test_an_array_that_claims_more_than_the_file_holds_does_not_keep_us_busy(tmp_path):
    endless = struct.pack("<Q", 1) + b"x" + struct.pack("<IIQ", 9, 0, 2**60)
    (tmp_path / "v.gguf").write_bytes(by_hand(extra=endless, extras=1))
    with pytest.raises(ArtefactError, match="ends early"):
        emolens.load_gguf(tmp_path / "v.gguf", "joy")


def test_without_the_gguf_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ArtefactError, match=r"pip install 'emolens\[gguf\]'"):
        emolens.load_gguf(tmp_path / "v.gguf", "joy")


LAYOUTS = {
    "layer_{layer}__{emotion}": {
        f"layer_{k + 4}__{e}": VALUES[i, k]
        for i, e in enumerate(("calm", "fear"))
        for k in range(3)
    },
    "{emotion}": {"calm": VALUES[0], "fear": VALUES[1]},
    "at.{layer}": {f"at.{k + 4}": VALUES[:, k] for k in range(3)},
    "tensor": {"tensor": VALUES},
}
WRITERS = {
    ".safetensors": lambda tensors, file: save_file(
        {k: v.contiguous() for k, v in tensors.items()}, file
    ),
    ".npz": lambda tensors, file: np.savez(file, **{k: v.numpy() for k, v in tensors.items()}),
    ".pt": torch.save,
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_every_format_gives_the_same_directions(tmp_path, ending, name):
    file = tmp_path / f"v{ending}"
    WRITERS[ending](LAYOUTS[name], file)
    found = emolens.load_directions(
        file, name, emotions=("calm", "fear"), layers=(4, 5, 6), model_type="llama"
    )
    assert found.layers == (4, 5, 6)
    assert found.emotions == ("calm", "fear")
    assert_close(found.vectors, VALUES, atol=0, rtol=0)


def test_labels_in_the_names_need_not_be_given_and_choose_when_given(tmp_path):
    name = "layer_{layer}__{emotion}"
    WRITERS[".npz"](LAYOUTS[name] | {"version": torch.ones(1)}, tmp_path / "v.npz")
    whole = emolens.load_directions(tmp_path / "v.npz", name)
    assert (whole.emotions, whole.layers) == (("calm", "fear"), (4, 5, 6))
    part = emolens.load_directions(tmp_path / "v.npz", name, emotions=["fear"], layers=[6, 4])
    assert_close(part.vectors, VALUES[1:, [2, 0]], atol=0, rtol=0)
    with pytest.raises(ArtefactError, match="no direction for emotion 'joy' at layer 4"):
        emolens.load_directions(tmp_path / "v.npz", name, emotions=["joy"])


def test_labels_that_no_name_tells_are_asked_for(tmp_path):
    WRITERS[".pt"](LAYOUTS["tensor"], tmp_path / "v.pt")
    with pytest.raises(SelectionError, match=r"does not tell the emotions .* pass emotions="):
        emolens.load_directions(tmp_path / "v.pt", "tensor", layers=[0])
    with pytest.raises(SelectionError, match=r"does not tell the layers .* pass layers="):
        emolens.load_directions(tmp_path / "v.pt", "tensor", emotions=["calm"])


def test_a_file_that_counts_hidden_states_loses_its_embeddings(tmp_path):
    torch.save(VALUES[0], tmp_path / "trait.pt")
    given = {"emotions": ["trait"], "layers": range(3)}
    found = emolens.load_directions(tmp_path / "trait.pt", "tensor", first_layer=1, **given)
    assert found.layers == (0, 1)
    assert_close(found.of("trait"), VALUES[0, 1:], atol=0, rtol=0)
    with pytest.raises(ArtefactError, match="all before the first block"):
        emolens.load_directions(tmp_path / "trait.pt", "tensor", first_layer=9, **given)


def test_nested_dictionaries_with_other_things_in_them_are_read(tmp_path):
    saved = {"vectors": {"calm": VALUES[0, 0], "fear": VALUES[1, 0].half()}, "layer": 21}
    torch.save(saved, tmp_path / "v.pt")
    found = emolens.load_directions(tmp_path / "v.pt", "vectors.{emotion}", layers=[21])
    assert found.vectors.shape == (2, 1, 8)
    assert found.vectors.dtype == torch.float32
    assert_close(found.at(21), VALUES[:, 0], atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"calm": VALUES[0], "fear": VALUES[1, :, :4]}, r"widths \[4, 8\]"),
        ({"calm": VALUES[0], "fear": VALUES[1, :2]}, r"shape \(2, 8\), expected 2 emotions and 3"),
        ({"calm": VALUES[0] * torch.inf, "fear": VALUES[1]}, "not finite"),
        ({"calm": VALUES[0].long(), "fear": VALUES[1]}, "int64"),
        ({"calm": VALUES[0]}, "no direction for emotion 'fear'"),
        ({"calm": VALUES[0, :, :0], "fear": VALUES[1, :, :0]}, r"shape \(3, 0\)"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(tmp_path, tensors, said):
    torch.save(tensors, tmp_path / "v.pt")
    with pytest.raises(ArtefactError, match=said):
        emolens.load_directions(
            tmp_path / "v.pt", "{emotion}", emotions=["calm", "fear"], layers=[0, 1, 2]
        )


def test_a_file_without_such_names_says_what_it_has(tmp_path):
    WRITERS[".npz"](LAYOUTS["{emotion}"], tmp_path / "v.npz")
    with pytest.raises(ArtefactError, match=r"it has \['calm', 'fear'\]"):
        emolens.load_directions(tmp_path / "v.npz", "joy", emotions=["joy"], layers=[0, 1, 2])


def test_two_spellings_of_one_layer_are_refused(tmp_path):
    torch.save({"1": VALUES[:, 0], "01": VALUES[:, 1]}, tmp_path / "v.pt")
    with pytest.raises(ArtefactError, match="two tensors for emotion None at layer 1"):
        emolens.load_directions(tmp_path / "v.pt", "{layer}", emotions=["calm", "fear"])


def test_a_format_that_is_not_read_is_named(tmp_path):
    with pytest.raises(ArtefactError, match=r"v\.bin ends in none of \.safetensors, \.npz, \.pt"):
        emolens.load_directions(tmp_path / "v.bin", "{layer}__{emotion}")


class Trap:
    """Whoever unpickles it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("ending", [".pt", ".npz"])
def test_a_pickle_is_never_run(tmp_path, ending):
    file, mark = tmp_path / f"v{ending}", tmp_path / "ran"
    if ending == ".pt":
        torch.save({"calm": VALUES[0], "x": Trap(mark)}, file)
    else:
        np.savez(file, calm=np.array([Trap(mark)], dtype=object))
    with pytest.raises(ArtefactError, match="damaged or holds more than plain arrays"):
        emolens.load_directions(file, "{emotion}", layers=[0, 1, 2])
    assert not mark.exists()
    load = {".pt": partial_torch, ".npz": partial_numpy}[ending]
    load(file)
    assert mark.exists(), "the trap works where pickles are run"


def partial_torch(file):
    torch.load(file, weights_only=False)


def partial_numpy(file):
    np.load(file, allow_pickle=True)["calm"]


# What fits a model


@pytest.mark.parametrize("hint", ["llama", "Llama", None])
def test_directions_that_can_be_the_models_fit(tiny_folder, hint):
    foreign(model_type=hint).check_fits(emolens.load(tiny_folder("llama")))


@pytest.mark.parametrize(
    ("hint", "ours", "fits"),
    [
        ("gptneox", "gpt_neox", True),
        ("llama", "mistral", True),
        ("mistral", "mistral", True),
        ("mistral", "llama", False),
        ("qwen2", "qwen3", False),
        ("gemma3", "gemma3_text", True),
        ("qwen2", None, True),
    ],
)
def test_architectures_are_compared_under_either_tools_name(hint, ours, fits):
    host = SimpleNamespace(original_model=ours and SimpleNamespace(config=SimpleNamespace()))
    if ours:
        host.original_model.config.model_type = ours
    model = emolens.HookedModel("m", host, None, 4, 32, 8, True, "raw")
    found = foreign(model_type=hint)
    if fits:
        found.check_fits(model)
    else:
        with pytest.raises(ModelError, match=f"made on a '{hint}' network and 'm' is a '{ours}'"):
            found.check_fits(model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vectors": torch.ones(1, 1, 31)}, "width 31 and 'llama0' has d_model 32"),
        ({"layers": (3,)}, r"direction at layer 3 and 'llama0' has layers 0\.\.2"),
        ({"model_type": "gpt2"}, "made on a 'gpt2' network and 'llama0' is a 'llama'"),
    ],
)
def test_directions_of_another_model_are_refused(tiny_folder, changes, said):
    with pytest.raises(ModelError, match=said):
        foreign(**changes).check_fits(emolens.load(tiny_folder("llama")))


def test_directions_do_not_fit_processed_weights(tiny_folder):
    model = dataclasses.replace(emolens.load(tiny_folder("llama")), weights="processed")
    with pytest.raises(ModelError, match="basis of raw weights and 'llama0' holds processed"):
        foreign().check_fits(model)


def test_imported_directions_steer(tiny_folder):
    model = emolens.load(tiny_folder("llama"))
    tokens = model.tokenize(["word1 word2"])
    push = emolens.Steer(foreign().at(2)[0])
    before = model.forward(tokens.ids, tokens.mask)
    with emolens.hooked(model, {emolens.Site(2): push}):
        after = model.forward(tokens.ids, tokens.mask)
    assert (after - before).abs().max() > 1e-3


def test_unknown_emotions_and_layers_are_named():
    with pytest.raises(SelectionError, match=r"unknown emotion 'joy': calm\.gguf has calm"):
        foreign().of("joy")
    with pytest.raises(SelectionError, match=r"no directions at layer 5: calm\.gguf has \(2,\)"):
        foreign().at(5)
    assert repr(foreign()) == (
        "Directions(1 emotions, 1 layers, d_model 32, from 'calm.gguf', model_type 'llama')"
    )


# The Hub, of which only the client's two functions are replaced


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub of one folder."""

    def upload_file(*, path_or_fileobj, path_in_repo, repo_id, revision):
        file = tmp_path / repo_id / (revision or "main") / path_in_repo
        file.parent.mkdir(parents=True)
        file.write_bytes(Path(path_or_fileobj).read_bytes())
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def hf_hub_download(repo_id, filename, *, revision):
        file = tmp_path / repo_id / (revision or "main") / filename
        if not file.exists():
            raise huggingface_hub.errors.EntryNotFoundError("404 Client Error.\n\nEntry Not Found")
        return str(file)

    monkeypatch.setattr(huggingface_hub, "upload_file", upload_file)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return tmp_path


def test_vectors_go_to_the_hub_and_come_back(hub):
    address = emolens.push_vectors(fitted(), "me/mood", filename="tiny.safetensors", revision="v1")
    assert address == "https://hub/me/mood/commit/1"
    back = emolens.pull_vectors("me/mood", filename="tiny.safetensors", revision="v1")
    assert back.provenance == ORIGIN
    assert_close(back.vectors, VALUES, atol=0, rtol=0)
    emolens.push_vectors(fitted(), "me/mood")
    assert (hub / "me/mood/main/vectors.safetensors").is_file()
    assert emolens.pull_vectors("me/mood").layers == (0, 1, 2)


def test_what_is_not_on_the_hub_is_one_line(hub):
    with pytest.raises(ArtefactError, match=r"cannot pull .* \(404 Client Error\.\): check the id"):
        emolens.pull_vectors("me/nothing")


def test_a_hub_that_refuses_is_one_line(hub, monkeypatch):
    def refuse(**_):
        raise huggingface_hub.errors.HFValidationError("Repo id must be 'a/b'\nnot 'x'")

    monkeypatch.setattr(huggingface_hub, "upload_file", refuse)
    with pytest.raises(ArtefactError, match=r"cannot push .* 'x' \(Repo id must be 'a/b'\): check"):
        emolens.push_vectors(fitted(), "x")


# Damaged bytes: what is not read is refused in one line, and nothing else is ever raised

NAMED = "layer_{layer}__{emotion}"
READERS = {
    "ours.safetensors": load_vectors,
    "calm.gguf": lambda file: emolens.load_gguf(file, "calm"),
    "v.safetensors": lambda file: emolens.load_directions(file, NAMED),
    "v.npz": lambda file: emolens.load_directions(file, NAMED),
    "v.pt": lambda file: emolens.load_directions(file, NAMED),
    "matrix.npz": lambda file: emolens.load_directions(
        file, "tensor", emotions=["calm", "fear"], layers=[4, 5, 6]
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One sound file for each reader, as bytes, and a folder to write damaged ones to."""
    folder = tmp_path_factory.mktemp("good")
    fitted().save(folder / "ours.safetensors")
    emolens.save_gguf(fitted(), "calm", folder / "calm.gguf", model_type="llama")
    for ending, write in WRITERS.items():
        write(LAYOUTS[NAMED], folder / f"v{ending}")
    np.savez_compressed(folder / "matrix.npz", tensor=VALUES.numpy())
    return folder, {name: (folder / name).read_bytes() for name in READERS}


def check_survives(folder, name, data):
    file = folder / f"damaged-{name}"
    file.write_bytes(data)
    refused = found = None
    try:
        found = READERS[name](file)
    except ArtefactError as error:
        refused = str(error)
    if refused is not None:
        assert len(refused.splitlines()) == 1
        assert file.name in refused
    else:
        assert found.vectors.shape[:2] == (len(found.emotions), len(found.layers))
        assert repr(found)


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read(good, name):
    folder, whole = good
    (folder / f"sound-{name}").write_bytes(whole[name])
    assert len(READERS[name](folder / f"sound-{name}").emotions) in (1, 2)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@fuzz
def test_damaged_bytes_are_one_error_or_numbers(good, name, damage, data):
    folder, whole = good
    check_survives(folder, name, data.draw(damage(whole[name])))


@pytest.mark.parametrize("name", ["v.npz", "v.pt"])
@given(places=st.lists(st.tuples(PLACES, st.integers(0, 7)), min_size=1, max_size=6))
@fuzz
def test_turned_bits_under_right_checksums_are_one_error_or_numbers(good, name, places):
    folder, whole = good
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole[name])) as old, zipfile.ZipFile(packed, "w") as new:
        for member in old.namelist():
            new.writestr(member, flipped(old.read(member) or b"\0", places))
    check_survives(folder, name, packed.getvalue())


@given(data=st.data(), value=JSON)
@fuzz
def test_a_label_of_another_kind_is_one_error(good, data, value):
    folder, _ = good
    with safe_open(folder / "ours.safetensors", framework="pt") as reader:
        header = reader.metadata()
        tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    key = data.draw(st.sampled_from(sorted(header)))
    if key == "provenance":
        origin = json.loads(header[key])
        inner = data.draw(st.sampled_from(sorted(origin)) | st.text(max_size=4))
        header[key] = json.dumps(origin | {inner: value})
    else:
        header[key] = json.dumps(value)
    save_file(tensors, folder / "labels", metadata=header)
    check_survives(folder, "ours.safetensors", (folder / "labels").read_bytes())


@given(
    name=st.sampled_from(["vectors", "mean", "residual_norm", "other"]),
    shape=st.lists(st.integers(0, 3), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
)
@fuzz
def test_a_tensor_of_another_shape_or_kind_is_one_error(good, name, shape, dtype):
    folder, _ = good
    with safe_open(folder / "ours.safetensors", framework="pt") as reader:
        header = reader.metadata()
        tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    tensors[name] = torch.zeros(shape, dtype=dtype)
    save_file(tensors, folder / "shapes", metadata=header)
    check_survives(folder, "ours.safetensors", (folder / "shapes").read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_one_error(good, name):
    with pytest.raises(ArtefactError, match=f"nothing-{name}"):
        READERS[name](good[0] / f"nothing-{name}")
