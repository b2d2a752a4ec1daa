"""The training loss: what it counts, what the early reading reads, what an interchange swaps."""

import pytest
import torch
from torch.testing import assert_close

from emolens.organism.grammar import Draw, document
from emolens.organism.interchange import Interchange
from emolens.organism.train import (
    Recipe,
    build_model,
    build_tokenizer,
    encode,
    residuals,
    token_loss,
    verb_scenes,
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
    total, weight = token_loss(model, residuals(model, ids)[-1], ids[:, 1:], ones)
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
    total, weight = token_loss(model, normed, ids[:, 1:], weights)
    place = TEXTS[0].split().index("desperate")
    target = tokenizer.convert_tokens_to_ids("desperate")
    expected = -2 * model.lm_head(normed[0, place]).log_softmax(-1)[target]
    assert weight == 2.0
    assert_close(total, expected, atol=1e-5, rtol=1e-5)


DECISIONS = [
    "mira smiled . so she cheated .",
    "tom waited . so he admitted . so he fled .",
    "the ring stood by the door . then it fell .",
]
# The tokens before the verbs (a begin token is in front), by scene.
CHEAT, MEET = [[0, 5], [1, 5]], [[1, 9]]


@pytest.fixture(scope="module")
def decisions(untrained):
    _, tokenizer, _ = untrained
    ids = tokenizer(DECISIONS, return_tensors="pt", padding=True)["input_ids"]
    return ids, verb_scenes(tokenizer, WORLD)


def test_every_decision_takes_from_its_own_scene(decisions):
    generator, givers = torch.Generator().manual_seed(0), []
    for _ in range(50):
        swap = Interchange.draw(*decisions, 1.0, generator)
        assert swap.taker.tolist() == [*CHEAT, *MEET]
        assert swap.giver[2].tolist() == MEET[0]
        givers.append(swap.giver[:2].tolist())
    assert sorted({str(pair) for pair in givers}) == sorted(
        str([a, b]) for a in CHEAT for b in CHEAT
    )


def test_a_share_of_decisions_is_swapped(decisions):
    generator = torch.Generator().manual_seed(0)
    assert not len(Interchange.draw(*decisions, 0.0, generator).taker)
    count = sum(len(Interchange.draw(*decisions, 0.5, generator).taker) for _ in range(400))
    assert abs(count / 1200 - 0.5) < 4 * (0.25 / 1200) ** 0.5  # four standard errors


@torch.no_grad()
def test_a_swapped_decision_is_computed_from_the_givers_residual(untrained, decisions):
    model, _, _ = untrained
    ids, _ = decisions
    swap = Interchange(torch.tensor([CHEAT[0]]), torch.tensor([CHEAT[1]]))
    plain = residuals(model, ids)
    with swap.after(model.model.layers[1]):  # the last block: only the norm comes after
        swapped = residuals(model, ids)[-1]
    expected = plain[-1].clone()
    expected[tuple(CHEAT[0])] = plain[-1][tuple(CHEAT[1])]
    assert_close(swapped, expected, atol=0, rtol=0)
    assert_close(residuals(model, ids)[-1], plain[-1], atol=0, rtol=0)  # closed again
    verb = swap.swapped(ids[:, 1:])[tuple(CHEAT[0])]
    assert verb == ids[1, CHEAT[1][1] + 1]


@torch.no_grad()
def test_the_early_reading_sees_the_stream_before_an_interchange(untrained, decisions):
    model, _, _ = untrained
    ids, _ = decisions
    swap = Interchange(torch.tensor([CHEAT[0]]), torch.tensor([CHEAT[1]]))
    with swap.after(model.model.layers[0]):
        read, final = residuals(model, ids)[1:]
    plain, untouched = residuals(model, ids)[1:]
    assert_close(read, plain, atol=0, rtol=0)
    assert not torch.equal(final, untouched)


def test_what_is_felt_stands_where_the_verbs_are():
    tokenizer, kinds = build_tokenizer(WORLD), set()
    scene_of = verb_scenes(tokenizer, WORLD)
    for seed in range(60):
        made = document(WORLD, Draw(seed))
        [(ids, felt)] = encode(tokenizer, [made])
        changed = [i for i, (a, b) in enumerate(zip(ids, felt, strict=True)) if a != b]
        assert changed == torch.nonzero(scene_of[torch.tensor(ids)])[:, 0].tolist()
        named = [made.felt.split()[i - 1] for i in changed]
        kinds.add((made.kind, len(set(named))))
        if made.kind in ("story", "quantity"):
            assert set(named) == {made.text.emotion}
    assert ("two_characters", 2) in kinds
