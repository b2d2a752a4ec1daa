"""Activations of every token on disk: equal to those read at once, resumable, whole or refused."""

import json

import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens import store as storing
from emolens.errors import ArtefactError, CorpusError, HookError, SelectionError
from emolens.positions import everything
from emolens.store import MANIFEST, open_store, shard_file, store_tokens
from emolens.text import Text

LAYERS = [1, 3]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(storing, "SHARD_TOKENS", 200)
    monkeypatch.setattr(storing, "usual_batch", lambda _: 90)


@pytest.fixture(scope="module")
def texts():
    return emolens.organism_stories(1)


@pytest.fixture
def made(organism, texts, tmp_path):
    return store_tokens(organism, texts, tmp_path, layers=LAYERS)


def test_means_of_what_is_stored_are_what_record_gives(organism, texts, made):
    whole = emolens.record(organism, texts, layers=LAYERS, positions=everything)
    assert len(made) == len(texts)
    assert len(made.shards) > 3
    opened = open_store(made.folder)
    assert opened == made or opened.lengths == made.lengths
    for i in range(len(texts)):
        assert_close(opened.text(i).mean(0), whole.pooled[i], atol=1e-5, rtol=0)
        assert opened.text(i).shape == (opened.lengths[i], 2, organism.d_model)


def test_a_stopped_run_goes_on_after_its_last_whole_shard(organism, texts, made, monkeypatch):
    before = [shard_file(made.folder, i).read_bytes() for i in range(len(made.shards))]
    shard_file(made.folder, 2).unlink()
    with pytest.raises(ArtefactError, match="lacks shard 3 of"):
        open_store(made.folder)
    read = []
    whole = storing.residuals
    monkeypatch.setattr(
        storing, "residuals", lambda m, ids, *rest: (read.append(len(ids)), whole(m, ids, *rest))[1]
    )
    again = store_tokens(organism, texts, made.folder, layers=LAYERS)
    start, end = made.shards[2]
    assert sum(read) == end - start
    assert [shard_file(again.folder, i).read_bytes() for i in range(len(before))] == before


def test_half_precision_takes_half_the_room(organism, texts, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    half = store_tokens(organism, texts, folder, layers=LAYERS, dtype=torch.bfloat16)
    assert half.text(0).dtype == torch.bfloat16
    assert_close(half.text(0).float(), made.text(0), rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("change", ["texts", "layers", "dtype", "model"])
def test_a_folder_of_another_store_is_refused(organism, texts, made, change):
    model = emolens.load("organism-small") if change == "model" else organism
    with pytest.raises(ArtefactError, match=f"differs in {change}: choose another folder"):
        store_tokens(
            model,
            texts[::-1] if change == "texts" else texts,
            made.folder,
            layers=[1, 2] if change == "layers" else LAYERS,
            dtype=torch.float16 if change == "dtype" else torch.float32,
        )


def test_damage_is_named(made):
    file = shard_file(made.folder, 0)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtefactError, match="is missing or damaged"):
        made.text(0)
    manifest = made.folder / MANIFEST
    raw = json.loads(manifest.read_text())
    for bad in ("{", json.dumps(raw | {"version": 2}), json.dumps(raw | {"shards": [1]}), "[]"):
        manifest.write_text(bad)
        with pytest.raises(ArtefactError, match=r"is no manifest of emolens\.tokens version 1"):
            open_store(made.folder)


def test_what_is_not_there_is_told(organism, made, tmp_path):
    with pytest.raises(SelectionError, match=r"no text 99: the store holds texts 0\.\.24"):
        made.text(99)
    with pytest.raises(CorpusError, match="no texts to store"):
        store_tokens(organism, [], tmp_path)


def test_a_shard_of_other_texts_or_cut_short_is_written_again(organism, texts, made):
    before = [shard_file(made.folder, i).read_bytes() for i in range(len(made.shards))]
    (made.folder / MANIFEST).unlink()
    other = [Text(t.text.replace("a", "the"), t.emotion) for t in reversed(texts)]
    found = store_tokens(organism, other, made.folder, layers=LAYERS)
    expected = emolens.record(organism, other, layers=LAYERS, positions=everything)
    assert_close(found.text(0).mean(0), expected.pooled[0], atol=1e-5, rtol=0)
    (made.folder / MANIFEST).unlink()
    shard_file(made.folder, 1).write_bytes(before[1][:-40])
    store_tokens(organism, texts, made.folder, layers=LAYERS)
    assert [shard_file(made.folder, i).read_bytes() for i in range(len(before))] == before


def test_what_a_hook_makes_of_a_model_is_not_kept_under_its_name(organism, texts, tmp_path):
    steps = {emolens.Site(1): emolens.Steer(torch.ones(organism.d_model))}
    with emolens.hooked(organism, steps):
        for keep in (store_tokens, lambda m, t, to: emolens.record(m, t, folder=to)):
            with pytest.raises(HookError, match=r"what a hook at \S+ made of 'organism'"):
                keep(organism, texts, tmp_path / "kept")
        steered = emolens.record(organism, texts, layers=[1])
    assert not (tmp_path / "kept").exists()
    plain = store_tokens(organism, texts, tmp_path / "kept", layers=[1])
    assert plain.text(0).shape[1] == steered.pooled.shape[1]
