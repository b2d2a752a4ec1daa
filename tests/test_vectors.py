"""Vectors: planted directions come back, denoising removes what it should, files are checked."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.decomposition import PCA
from torch.testing import assert_close

from emolens.activations import Activations
from emolens.errors import ArtefactError, CorpusError, SelectionError
from emolens.provenance import Provenance
from emolens.vectors import (
    EmotionVectors,
    centred_cosine,
    control_vectors,
    fit_vectors,
    load_vectors,
    principal_space,
)

ORIGIN = Provenance("tiny", (1.0, 2.0), "raw", "float32", "resid_post", {"all": 1}, "0", 1, 0)


def activations(pooled, emotions, **changes):
    layers = tuple(range(pooled.shape[1]))
    made = Activations(
        pooled, layers, tuple(emotions), ("",) * len(emotions), torch.ones(len(layers)), ORIGIN
    )
    return dataclasses.replace(made, **changes)


def planted(noise=0.05, emotions=("joy", "fear", "rage"), per=40, d_model=16):
    """Stories whose class means are known orthogonal directions on a large common offset."""
    directions = torch.linalg.qr(torch.randn(d_model, d_model))[0][: len(emotions)]
    rows = torch.stack([directions[i // per] for i in range(per * len(emotions))])
    pooled = rows + 7 + noise * torch.randn_like(rows)
    labels = [e for e in emotions for _ in range(per)]
    return activations(pooled[:, None], labels), directions


def neutral(d_model=16, scale=1e-3, axis=0):
    pooled = scale * torch.randn(30, 1, d_model)
    pooled[:, 0, axis] *= 1000
    return activations(pooled, ["neutral"] * 30)


def test_planted_directions_come_back_with_their_sign():
    stories, directions = planted()
    vectors = fit_vectors(stories, neutral(), variance=0.0)
    expected = directions - directions.mean(0)
    assert_close(vectors.at(0), expected, atol=0.05, rtol=0)
    assert vectors.emotions == ("joy", "fear", "rage")


def test_the_vectors_of_one_layer_sum_to_zero_before_and_after_denoising():
    stories, _ = planted()
    for variance in (0.0, 0.5):
        vectors = fit_vectors(stories, neutral(), variance=variance)
        assert_close(vectors.at(0).sum(0), torch.zeros(16), atol=1e-5, rtol=0)


def test_denoising_removes_the_neutral_axis_and_nothing_else():
    stories, _ = planted()
    plain = fit_vectors(stories, neutral(axis=3), variance=0.0)
    clean = fit_vectors(stories, neutral(axis=3), variance=0.5)
    assert plain.at(0)[:, 3].abs().max() > 0.1
    assert clean.at(0)[:, 3].abs().max() < 1e-3
    assert clean.neutral_components == (1,)
    others = [i for i in range(16) if i != 3]
    assert_close(clean.at(0)[:, others], plain.at(0)[:, others], atol=1e-2, rtol=0)


@given(seed=st.integers(0, 1000), variance=st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_neutral_components_agree_with_scikit_learn(seed, variance):
    pooled = torch.randn(25, 6, generator=torch.Generator().manual_seed(seed)).double()
    ours = principal_space(pooled, variance)
    explained = PCA().fit(pooled.numpy()).explained_variance_ratio_.cumsum()
    assert explained[len(ours) - 1] >= variance - 1e-9
    assert len(ours) == 1 or explained[len(ours) - 2] < variance
    assert_close(ours @ ours.T, torch.eye(len(ours)).double(), atol=1e-9, rtol=0)


def test_the_fit_does_not_depend_on_the_order_of_texts():
    stories, _ = planted()
    turned = activations(stories.pooled.flip(0), stories.emotions[::-1])
    still = neutral()
    one, other = fit_vectors(stories, still), fit_vectors(turned, still)
    order = [other.emotions.index(e) for e in one.emotions]
    assert_close(one.vectors, other.vectors[order], atol=1e-6, rtol=1e-6)


def test_neutral_stories_are_not_an_emotion():
    stories, _ = planted()
    more = activations(
        torch.cat([stories.pooled, 100 * torch.ones(5, 1, 16)]),
        [*stories.emotions, *["neutral"] * 5],
    )
    still = neutral()
    assert_close(fit_vectors(more, still).vectors, fit_vectors(stories, still).vectors)


def test_the_centred_readout_finds_the_emotion_where_the_uncentred_one_cannot():
    stories, directions = planted(noise=0.01)
    stories = activations(stories.pooled + 50 * directions[2], stories.emotions)
    vectors = fit_vectors(stories, neutral(), variance=0.0)
    truth = torch.tensor([vectors.emotions.index(e) for e in stories.emotions])
    centred = centred_cosine(vectors.at(0), vectors.mean[0], stories.at(0)).argmax(1)
    raw = centred_cosine(vectors.at(0), torch.zeros(16), stories.at(0)).argmax(1)
    assert (centred == truth).float().mean() == 1
    assert (raw == raw[0]).all(), "one vector wins everywhere without centring"


def test_a_step_has_the_asked_length_in_residual_norms():
    stories, _ = planted()
    vectors = fit_vectors(
        activations(stories.pooled, stories.emotions, residual_norm=torch.tensor([8.0])), neutral()
    )
    assert vectors.step("fear", 0, 0.25).norm().item() == pytest.approx(2.0, rel=1e-5)


def test_one_emotion_is_refused():
    stories, _ = planted(emotions=("joy",))
    with pytest.raises(CorpusError, match=r"1 emotion\(s\) \(joy\)"):
        fit_vectors(stories, neutral())


def test_recordings_of_two_models_are_refused():
    stories, _ = planted()
    other = dataclasses.replace(
        neutral(), provenance=dataclasses.replace(ORIGIN, fingerprint=(9.0, 2.0))
    )
    with pytest.raises(SelectionError, match="another model"):
        fit_vectors(stories, other)


def test_unknown_emotions_and_layers_are_named():
    vectors = fit_vectors(planted()[0], neutral())
    with pytest.raises(SelectionError, match="unknown emotion 'hangry': these vectors have joy"):
        vectors.of("hangry")
    with pytest.raises(SelectionError, match="no vectors at layer 4"):
        vectors.at(4)


def test_a_saved_file_comes_back_whole(tmp_path):
    vectors = fit_vectors(planted()[0], neutral())
    vectors.save(tmp_path / "v.safetensors")
    back = load_vectors(tmp_path / "v.safetensors")
    for field in dataclasses.fields(EmotionVectors):
        ours, theirs = getattr(vectors, field.name), getattr(back, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_a_file_cut_short_is_one_error_that_names_it(tmp_path):
    file = tmp_path / "v.safetensors"
    fit_vectors(planted()[0], neutral()).save(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ArtefactError, match=r"v\.safetensors is missing, damaged or cut short"):
        load_vectors(file)


def test_a_file_of_another_kind_or_version_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"format": "other"})
    with pytest.raises(
        ArtefactError, match=r"holds other version unknown, expected emolens\.vectors"
    ):
        load_vectors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("header", "tensors", "said"),
    [
        ({"emotions": '["joy"]'}, {}, r"vectors is \(3, 1, 16\), not floats of \(1, 1, 16\)"),
        ({"layers": '["0"]'}, {}, "layers is not a list of int"),
        ({"layers": "[0, 1]"}, {}, "neutral_components are 1 for 2 layers"),
        ({"emotions": "[" * 10_000}, {}, "recursion"),
        ({"provenance": "[]"}, {}, "provenance is not readable"),
        ({}, {"mean": torch.zeros(16)}, r"mean is \(16,\), not floats of \(1, 16\)"),
        ({}, {"residual_norm": torch.zeros(1).long()}, "residual_norm is"),
        ({}, {"vectors": torch.tensor(1.0)}, "not enough values"),
    ],
)
def test_a_file_whose_labels_and_tensors_disagree_is_refused(tmp_path, header, tensors, said):
    from safetensors import safe_open
    from safetensors.torch import save_file

    fit_vectors(planted()[0], neutral()).save(tmp_path / "v.safetensors")
    with safe_open(tmp_path / "v.safetensors", framework="pt") as reader:
        labels = reader.metadata() | header
        parts = {name: reader.get_tensor(name) for name in reader.keys()} | tensors  # noqa: SIM118
    save_file(parts, tmp_path / "x.safetensors", metadata=labels)
    with pytest.raises(ArtefactError, match=rf"x\.safetensors contradicts itself \(.*{said}"):
        load_vectors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model", 3, "model must be a str"),
        ("fingerprint", ["x"], "could not convert"),
        ("fingerprint", [10**400], "too large"),
        ("positions", {"all": "1"}, "positions must be counts"),
        ("versions", {"torch": 2}, "versions must be strings"),
    ],
)
def test_provenance_refuses_fields_of_another_kind(field, value, said):
    with pytest.raises(ArtefactError, match=said):
        Provenance.from_json(json.dumps(json.loads(ORIGIN.to_json()) | {field: value}))


def test_provenance_refuses_unknown_fields():
    text = json.dumps(json.loads(ORIGIN.to_json()) | {"shoe_size": 43})
    assert Provenance.from_json(ORIGIN.to_json()) == ORIGIN
    with pytest.raises(ArtefactError, match="shoe_size"):
        Provenance.from_json(text)


def test_neutral_texts_that_are_all_the_same_take_nothing_away():
    rows = torch.randn(1, 16).expand(5, 16)
    assert len(principal_space(rows, 0.5)) == 0
    assert len(principal_space(rows[:1], 0.5)) == 0
    two = torch.cat([rows, rows[:1] + torch.eye(16)[:1]])
    assert_close(principal_space(two, 0.99).abs(), torch.eye(16, dtype=torch.float64)[:1])


def test_recordings_of_other_hardware_are_of_one_model():
    stories, still = planted()[0], neutral()
    near = tuple(x * (1 + 1e-5) for x in ORIGIN.fingerprint)
    moved = dataclasses.replace(
        still, provenance=dataclasses.replace(still.provenance, fingerprint=near)
    )
    assert_close(fit_vectors(stories, moved).vectors, fit_vectors(stories, still).vectors)


def test_some_layers_of_a_set_are_those_of_the_whole(vectors, tmp_path):
    some = vectors.only([4, 1])
    some.save(tmp_path / "v.safetensors")
    again = load_vectors(tmp_path / "v.safetensors")
    assert again.layers == (4, 1)
    for layer in again.layers:
        assert torch.equal(again.at(layer), vectors.at(layer))
        assert torch.equal(again.step("calm", layer, 0.5), vectors.step("calm", layer, 0.5))
        assert torch.equal(again.mean[again.column(layer)], vectors.mean[vectors.column(layer)])
    with pytest.raises(ArtefactError, match=r"cannot write .*: choose a file"):
        some.save(tmp_path / "none" / "v.safetensors")


def test_controls_are_the_concept_the_neutral_place_and_nothing():
    stories, directions = planted(noise=0.01)
    concept = ["she" if i % 5 < 3 else "he" for i in range(len(stories.emotions))]
    way = torch.linalg.qr(torch.cat([directions, torch.randn(2, 16)]).T)[0].T[3:]
    lift = torch.tensor([[c == "she"] for c in concept]) * 2 * way[0]
    moved = dataclasses.replace(stories, pooled=stories.pooled + lift[:, None])
    plain = neutral(scale=0.0)
    at_rest = moved.pooled.mean(0, keepdim=True) + 3 * way[1]
    plain = dataclasses.replace(plain, pooled=at_rest + 0 * plain.pooled)
    found = control_vectors(moved, plain, concept, shuffles=3)
    assert found.emotions == (*(f"shuffled labels {i}" for i in range(3)), "neutral", "she")
    cosine = torch.cosine_similarity
    assert cosine(found.at(0)[found.row("she")], way[0], 0) > 0.99
    assert cosine(found.at(0)[found.row("neutral")], way[1], 0) > 0.99
    own = fit_vectors(moved, plain).at(0).norm(dim=1).mean()
    assert (found.at(0)[:3].norm(dim=1) < own / 2).all()
    assert torch.cdist(found.at(0)[:3], found.at(0)[:3]).fill_diagonal_(1).min() > 1e-3, "seeds"
    with pytest.raises(CorpusError, match="labels for"):
        control_vectors(moved, plain, concept[1:])
