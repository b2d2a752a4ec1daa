"""Readouts: four kinds, token by token, over a corpus; one vector that always wins is told."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens.errors import EmolensError, ModelError, SelectionError
from emolens.readout import _Sample, read_out, top_windows, trace
from emolens.recording import record

LAYER = 3


@pytest.fixture(scope="module")
def stories(organism):
    return record(organism, emolens.organism_stories(2, seed=3))


def test_the_four_kinds_are_what_they_are_called(vectors, stories):
    x, mean = stories.at(LAYER), vectors.mean[LAYER]
    direction = vectors.of("calm")[LAYER] / vectors.of("calm")[LAYER].norm()
    row = vectors.row("calm")
    cosine = torch.cosine_similarity(x, direction[None], dim=-1)
    assert_close(read_out(vectors, x, LAYER, kind="cosine")[:, row], cosine)
    centred = torch.cosine_similarity(x - mean, direction[None], dim=-1)
    assert_close(read_out(vectors, x, LAYER)[:, row], centred)
    projection = read_out(vectors, x, LAYER, kind="projection")
    assert_close(projection[:, row], (x - mean) @ direction, atol=1e-4, rtol=1e-5)
    z = read_out(vectors, x, LAYER, kind="z", reference=stories)
    assert_close(z.mean(0), torch.zeros(24), atol=1e-4, rtol=0)
    assert_close(z.std(0), torch.ones(24))


@pytest.mark.parametrize("kind", ["cosine", "centred"])
def test_a_residual_of_length_zero_has_nothing_of_any_emotion(vectors, stories, kind):
    nothing = torch.zeros(160) if kind == "cosine" else vectors.mean[LAYER]
    x = torch.stack([nothing, stories.at(LAYER)[0]])
    found = read_out(vectors, x, LAYER, kind=kind)
    assert torch.equal(found[0], torch.zeros(24))
    assert_close(found[1:], read_out(vectors, x[1:], LAYER, kind=kind))


def test_half_precision_is_read_in_full(vectors, stories):
    for kind in ("cosine", "centred", "projection"):
        half = stories.at(LAYER)[:4].half()
        assert_close(
            read_out(vectors, half, LAYER, kind=kind),
            read_out(vectors, half.float(), LAYER, kind=kind),
        )


def test_what_has_no_meaning_is_refused(vectors, stories):
    with pytest.raises(SelectionError, match="a z-score needs a reference"):
        read_out(vectors, stories.at(LAYER), LAYER, kind="z")
    with pytest.raises(SelectionError, match="no vectors at layer 9"):
        read_out(vectors, stories.at(LAYER), 9)


def test_a_trace_is_the_recorded_stream_token_by_token(organism, vectors):
    [text] = [t for t in emolens.organism_stories(1) if t.emotion == "desperate"]
    table = trace(organism, vectors, [text], LAYER, kind="projection")
    tokens = organism.tokenize([text])
    assert table.token.nunique() == int(tokens.words.sum())
    whole = record(organism, [text], layers=[LAYER], positions=emolens.positions.everything)
    pooled = read_out(vectors, whole.at(LAYER), LAYER, kind="projection")[0]
    means = table.groupby("emotion").value.mean()
    assert means[list(vectors.emotions)].to_numpy() == pytest.approx(pooled.numpy(), abs=1e-4)
    first = table.iloc[0]
    assert text.text[first.start : first.end] == text.text.split()[0]


def test_the_highest_windows_are_those_of_all_windows(organism, vectors):
    texts = emolens.organism_stories(1)
    found = top_windows(organism, vectors, texts, LAYER, window=4, top=3)
    assert set(found.emotion) == set(vectors.emotions)
    assert found.groupby("emotion")["rank"].apply(list).map(lambda r: r == [1, 2, 3]).all()
    assert found.groupby("emotion").value.apply(lambda v: v.is_monotonic_decreasing).all()
    table = trace(organism, vectors, texts, LAYER)
    own = table[table.emotion == "calm"].sort_values(["text", "token"])
    best = own.groupby("text").value.rolling(4).mean().groupby("text").max()
    mine = found[found.emotion == "calm"]
    assert mine.value.tolist() == pytest.approx(best.nlargest(3).tolist(), abs=1e-5)
    assert mine.text.tolist() == best.nlargest(3).index.tolist()
    assert (mine.percentile > 90).all()
    for row in mine.itertuples():
        assert row.excerpt == texts[row.text].text[row.start : row.end]
        assert len(row.excerpt.split()) == 4
    own_text = found[found["rank"] == 1]
    right = np.mean([texts[r.text].emotion == r.emotion for r in own_text.itertuples()])
    assert right > 0.5  # chance is 1 of 25


def test_a_vector_that_always_wins_is_told(organism, vectors):
    texts = emolens.organism_neutral(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(organism, vectors, emolens.organism_stories(1), LAYER)
    pushed = emolens.Steer(200 * vectors.of("calm")[LAYER])
    with (
        emolens.hooked(organism, {emolens.Site(LAYER): pushed}),
        pytest.warns(UserWarning, match="'calm' is the highest of 24 vectors at 100% of windows"),
    ):
        top_windows(organism, vectors, texts, LAYER)


def test_vectors_of_another_model_are_refused(vectors):
    other = emolens.load("organism-small")
    with pytest.raises(ModelError, match="was made from 'organism'"):
        trace(other, vectors, ["so she"], 3)


def test_a_reservoir_holds_every_row_with_the_same_chance():
    counts = np.zeros(400)
    for seed in range(150):
        sample = _Sample(1, seed, size=100)
        for part in np.split(np.arange(400.0)[:, None], 8):
            sample.add(part)
        assert len(sample.values) == 100
        counts[sample.values[:, 0].astype(int)] += 1
    assert counts.mean() == 150 / 4
    for part in np.split(counts, 8):  # a quarter each, within four standard errors
        assert part.mean() == pytest.approx(37.5, abs=4 * (150 * 0.25 * 0.75 / 50) ** 0.5)


@pytest.mark.parametrize(("texts", "options"), [([], {}), (["mira fed the goat ."], {"window": 0})])
def test_nothing_to_read_is_one_line(organism, vectors, texts, options):
    with pytest.raises(EmolensError, match=r"no texts to read|a window of 0 tokens holds nothing"):
        top_windows(organism, vectors, texts, 3, **options)


def test_an_empty_text_among_others_has_no_window(organism, vectors):
    texts = ["", "mira fed the goat .", "tom slept ."]
    assert set(top_windows(organism, vectors, texts, 3, top=2).text) == {1, 2}


def test_a_z_score_needs_several_texts(vectors, stories):
    one = replace(stories, pooled=stories.pooled[:1], emotions=stories.emotions[:1], groups=("a",))
    with pytest.raises(SelectionError, match="record several texts"):
        read_out(vectors, stories.at(3), 3, kind="z", reference=one)
