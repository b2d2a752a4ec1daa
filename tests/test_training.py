"""The training loss: what it counts, what the early reading reads, what an interchange swaps."""

import json
from dataclasses import fields
from importlib import resources

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


def test_a_share_of_decisions_takes_the_verb_as_often_as_the_residual(decisions):
    generator, drawn = torch.Generator().manual_seed(0), []
    assert not len(Interchange.draw(*decisions, 0.0, generator).taker)
    for _ in range(800):
        drawn.append(Interchange.draw(*decisions, 0.5, generator))
    part, verb = torch.cat([d.part for d in drawn]), torch.cat([d.verb for d in drawn]).float()
    error = (0.25 / len(part)) ** 0.5
    assert abs(len(part) / 2400 - 0.5) < 4 * (0.25 / 2400) ** 0.5  # four standard errors
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (low <= part) & (part < low + 0.25)
        assert abs(inside.float().mean() - 0.25) < 4 * error
        assert abs(verb[inside].mean() - low - 0.125) < 4 * 2 * error


def pushed(part: float, *, verb: bool) -> Interchange:
    """The first decision moved by `part` toward the second, with its verb or not."""
    taker, giver = torch.tensor([CHEAT[0]]), torch.tensor([CHEAT[1]])
    return Interchange(taker, giver, torch.tensor([part]), torch.tensor([verb]))


@torch.no_grad()
@pytest.mark.parametrize("part", [0.0, 0.25, 1.0])
def test_a_decision_is_computed_from_the_mixed_residual(untrained, decisions, part):
    model, _, _ = untrained
    ids, _ = decisions
    plain = residuals(model, ids)
    with pushed(part, verb=True).after(model.model.layers[0]):
        read, mixed = residuals(model, ids)[1:]
    assert_close(read, plain[1], atol=0, rtol=0)  # the early reading sees the stream before it
    own, other = plain[1][tuple(CHEAT[0])], plain[1][tuple(CHEAT[1])]

    def put(_module, _args, output):
        output = output.clone()
        output[tuple(CHEAT[0])] = (1 - part) * own + part * other
        return output

    handle = model.model.layers[0].register_forward_hook(put)
    expected = residuals(model, ids)[-1]
    handle.remove()
    assert_close(mixed, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(mixed, plain[-1]) == (part == 0)
    assert_close(residuals(model, ids)[-1], plain[-1], atol=0, rtol=0)  # closed again


def test_the_verb_goes_with_the_residual_where_it_is_told(decisions):
    ids, _ = decisions
    row, column = CHEAT[0]
    for verb in (False, True):
        changed = torch.nonzero(pushed(0.5, verb=verb).told(ids[:, 1:]) != ids[:, 1:])
        assert changed.tolist() == ([[row, column]] if verb else [])
    told = pushed(0.5, verb=True).told(ids[:, 1:])
    assert told[row, column] == ids[1, CHEAT[1][1] + 1]


def test_what_is_felt_stands_where_the_verbs_are():
    tokenizer, kinds, exact = build_tokenizer(WORLD), set(), []
    scene_of = verb_scenes(tokenizer, WORLD)
    for seed in range(150):
        made = document(WORLD, Draw(seed))
        [(ids, felt)] = encode(tokenizer, [made])
        changed = [i for i, (a, b) in enumerate(zip(ids, felt, strict=True)) if a != b]
        assert changed == torch.nonzero(scene_of[torch.tensor(ids)])[:, 0].tolist()
        named = [made.felt.split()[i - 1] for i in changed]
        kinds.add(made.kind)
        if made.kind in ("story", "quantity"):
            latent = WORLD.emotion(made.text.emotion)
            near = WORLD.scene("react").probabilities(latent)
            assert all(near[name] > 1e-4 for name in named)
            exact += [name == latent.name for name in named]
    assert kinds == {"story", "two_characters", "quantity", "neutral_text"}
    assert 0.5 < sum(exact) / len(exact) < 1  # mostly itself, sometimes a neighbour


def test_the_shipped_weights_are_of_the_recipe_as_it_stands():
    folder = resources.files("emolens.organism") / "weights"
    shipped = json.loads((folder / "recipe.json").read_text("utf-8"))
    assert Recipe(**shipped) == Recipe(seed=shipped["seed"])
    assert set(shipped) == {f.name for f in fields(Recipe)}
