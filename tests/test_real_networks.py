"""Trained networks of other people: parity and the reading half on real text.

Folders come from the environment, so that nothing is downloaded: EMOLENS_MINILM (the model folder
of all-MiniLM-L6-v2), EMOLENS_DECODERS (a folder of decoder folders), EMOLENS_STORIES (a corpus).
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from torch.testing import assert_close

import emolens
from emolens import positions
from emolens.experiments.reproduce import corpus_inputs, reproduce
from emolens.experiments.words import own_word_counts, own_words

pytestmark = pytest.mark.real
TEXTS = ["A cold wind blew over the harbour.", "She laughed.", "Why did the lights go out again?"]


def folder(name):
    if name not in os.environ:
        pytest.skip(f"{name} names no folder")
    return Path(os.environ[name])


def test_residuals_of_minilm_equal_hugging_face_at_every_layer():
    from transformers import AutoModel

    path = folder("EMOLENS_MINILM")
    model = emolens.load(path)
    assert not model.causal
    tokens = model.tokenize(TEXTS)
    with torch.inference_mode(), emolens.reading(model, tuple(range(6))) as found:
        model.forward(tokens.ids, tokens.mask)
    hf = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    with torch.inference_mode():
        out = hf(tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True)
    for layer in range(6):
        ours, theirs = found[layer][tokens.mask], out.hidden_states[layer + 1][tokens.mask]
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_minilm_does_not_depend_on_batch_size():
    model = emolens.load(folder("EMOLENS_MINILM"))
    texts = [emolens.Text(t) for t in TEXTS]
    whole = emolens.record(model, texts).pooled
    assert_close(whole, emolens.record(model, texts, batch_tokens=1).pooled, atol=1e-5, rtol=1e-5)


def test_the_reading_half_runs_on_every_decoder_and_beats_chance():
    corpus = emolens.load_corpus(folder("EMOLENS_STORIES"))
    for path in sorted(p for p in folder("EMOLENS_DECODERS").iterdir() if p.is_dir()):
        done = reproduce(emolens.load(path), corpus_inputs(corpus, None), layers=[2])
        assert done.summary["probe_accuracy_by_layer"][0] > 2 / len(corpus.emotions)
        assert "logit_lens" in done.tables


TWELVE = (  # of the paper's Table 1, with forty stories each
    *("happy", "inspired", "loving", "proud", "calm", "desperate"),
    *("angry", "guilty", "sad", "afraid", "nervous", "surprised"),
)


@pytest.fixture(scope="module")
def twelve():
    return [text for text in emolens.bundled_corpus().stories if text.emotion in TWELVE]


@pytest.fixture(scope="module")
def minilm():
    return emolens.load(folder("EMOLENS_MINILM"))


def test_minilm_reads_more_in_the_bundled_stories_than_their_words_tell(minilm, twelve):
    """Over four draws of the folds, at block 2, too: block 4 falls half a point short of the
    ten.
    """
    stories = emolens.record(minilm, twelve, layers=[2])
    words, probe = (
        [read(seed).accuracy.item() for seed in range(4)]
        for read in (
            lambda seed: emolens.text_baseline(twelve, seed=seed),
            lambda seed: emolens.probe_layers(stories, methods=["LDA"], seed=seed),
        )
    )
    assert sum(probe) / 4 > sum(words) / 4 + 0.1


def test_vectors_of_the_bundled_stories_agree_between_halves_of_the_topics(minilm, twelve):
    stories = emolens.record(minilm, twelve, layers=[2])
    neutral = emolens.record(minilm, emolens.bundled_corpus().neutral, layers=[2])
    found = emolens.vector_reliability(stories, neutral, layer=2)
    assert found.split_half.mean() >= 0.6


def test_no_main_component_can_be_asked_for_more_valence_than_minilm_holds(minilm, record_property):
    """What of VADER's valence a ridge regression on whole vectors tells of words that it was not
    fitted on bounds what one component could; the components have less, whatever they are.
    """
    corpus = emolens.bundled_corpus()
    stories, neutral = (emolens.record(minilm, t) for t in (corpus.stories, corpus.neutral))
    vectors = emolens.fit_vectors(stories, neutral)
    rated = emolens.vader_valence(vectors.emotions)
    rows = [vectors.row(word) for word in rated]
    truth, folds = np.array([*rated.values()]), KFold(10, shuffle=True, random_state=0)
    told, shown = {}, {}
    for layer in vectors.layers:
        ridge = RidgeCV(np.logspace(-3, 3, 13))
        guess = cross_val_predict(ridge, vectors.at(layer)[rows].numpy(), truth, cv=folds)
        told[layer] = float(np.corrcoef(guess, truth)[0, 1])
        found = emolens.correlations(vectors, layer, {"valence": rated})
        shown[layer] = float(found.r.abs().max())
    record_property("valence", {"words": len(rated), "ridge": told, "best of PC1-2": shown})
    assert len(rated) == 139
    assert 0.4 < max(told.values()) < 0.7
    assert max(shown.values()) < max(told.values())


def test_every_evaluation_set_is_read_on_minilm(minilm):
    from emolens.corpus.bundled import EVALUATIONS

    for name in EVALUATIONS:
        found = emolens.evaluation_set(name)
        read = emolens.record(minilm, found.texts(), layers=[3], positions=positions.span("user"))
        assert read.pooled.isfinite().all()


@pytest.mark.parametrize("name", ["stories260k", "babyllama-361"])
def test_own_words_under_steering_on_trained_decoders(name, twelve, record_property):
    """Fig. 52, whatever it is: only the controls have to be at chance, one word of twelve."""
    model = emolens.load(folder("EMOLENS_DECODERS") / name)
    layers = [emolens.two_thirds(range(model.n_layers))]
    stories = emolens.record(model, twelve, layers=layers)
    told = emolens.record(model, emolens.bundled_corpus().neutral, layers=layers)
    found = own_words(model, emolens.fit_vectors(stories, told), layers=layers)
    counts = own_word_counts(found).set_index("kind")
    record_property("own words", counts.round(2).to_json())
    assert list(counts["of"]) == [12, 12, 12]
    for kind in ("random", "permuted"):
        assert 0.3 < counts.rises_most[kind] < 2.2
