"""The training loss: what it counts, and that the early reading is what the model itself reads."""

import pytest
import torch
from torch.testing import assert_close

from emolens.organism.train import (
    Recipe,
    build_model,
    build_tokenizer,
    residuals,
    token_loss,
    word_weights,
)
from emolens.organism.world import load_world

WORLD = load_world()
TEXTS = ["mira felt desperate . so she frowned .", "the ring stood by the door ."]


@pytest.fixture(scope="module")
def untrained():
    tokenizer = build_tokenizer(WORLD)
    recipe = Recipe(n_layers=2, d_model=32, n_heads=2, d_mlp=48)
    model = build_model(recipe, tokenizer).eval()
    return model, tokenizer, tokenizer(TEXTS, return_tensors="pt", padding=True)["input_ids"]


@torch.no_grad()
def test_the_last_stream_gives_the_logits_of_the_model(untrained):
    model, tokenizer, ids = untrained
    logits = model(ids, attention_mask=(ids != tokenizer.pad_token_id).long()).logits
    assert_close(model.lm_head(residuals(model, ids)[-1]), logits, atol=0, rtol=0)


@torch.no_grad()
def test_the_loss_is_the_mean_over_real_tokens_and_padding_adds_nothing(untrained):
    model, tokenizer, ids = untrained
    ones = torch.ones(len(tokenizer))
    total, weight = token_loss(model, residuals(model, ids)[-1], ids, ones)
    single = []
    for text in TEXTS:
        row = tokenizer(text, return_tensors="pt")["input_ids"]
        single.append(model(row, labels=row).loss * (row.shape[1] - 1))
    assert weight == sum(len(text.split()) for text in TEXTS)
    # two batch shapes in float32
    assert_close(total, sum(single), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_words_of_weight_zero_do_not_count(untrained):
    model, tokenizer, ids = untrained
    weights = word_weights(tokenizer, WORLD.emotion_words(), 2.0, rest=0.0)
    normed = residuals(model, ids)[-1]
    total, weight = token_loss(model, normed, ids, weights)
    place = TEXTS[0].split().index("desperate")
    target = tokenizer.convert_tokens_to_ids("desperate")
    expected = -2 * model.lm_head(normed[0, place]).log_softmax(-1)[target]
    assert weight == 2.0
    assert_close(total, expected, atol=1e-5, rtol=1e-5)
