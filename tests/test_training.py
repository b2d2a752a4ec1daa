"""Training: what the loss counts, what an interchange swaps, how a run stops and goes on."""

import json
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import pairwise

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

import emolens
from emolens import cli
from emolens.errors import ArtefactError, ModelError, TrainingError
from emolens.organism import batches, state, train as training
from emolens.organism.batches import encode
from emolens.organism.building import build_model, build_tokenizer
from emolens.organism.checks import validation_gap
from emolens.organism.grammar import UNREAD, Draw, document
from emolens.organism.interchange import FAR, LITTLE, WITHOUT, Interchange
from emolens.organism.losses import (
    changed,
    read_by,
    residuals,
    settle,
    token_loss,
    verb_scenes,
    word_weights,
)
from emolens.organism.noise import Noise
from emolens.organism.recipe import RECIPES, REFINED, Deciding, FineTune, Recipe, Steady
from emolens.organism.valuing import Values, Valuing
from emolens.organism.world import load_world
from emolens.text import NEUTRAL

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
ENOUGH = 0.5
draw = partial(Interchange.draw, enough=ENOUGH, far_share=0.0)


@pytest.fixture(scope="module")
def decisions(untrained):
    """Texts, whose every word tells of an emotion, and the scenes of verbs."""
    _, tokenizer, _ = untrained
    ids = tokenizer(DECISIONS, return_tensors="pt", padding=True)["input_ids"]
    return ids, torch.ones_like(ids, dtype=torch.bool), verb_scenes(tokenizer, WORLD)


def test_every_decision_takes_from_its_own_scene(decisions):
    generator, givers = torch.Generator().manual_seed(0), []
    for _ in range(50):
        swap = draw(*decisions, 1.0, generator)
        assert swap.taker.tolist() == [*CHEAT, *MEET]
        assert swap.giver[2].tolist() == MEET[0]
        givers.append(swap.giver[:2].tolist())
    assert sorted({str(pair) for pair in givers}) == sorted(
        str([a, b]) for a in CHEAT for b in CHEAT
    )


def test_a_decision_takes_the_verb_the_likelier_the_further_it_moves(decisions):
    generator, drawn = torch.Generator().manual_seed(0), []
    assert not len(draw(*decisions, 0.0, generator).taker)
    for _ in range(800):
        drawn.append(draw(*decisions, 0.5, generator))
    part, verb = torch.cat([d.part for d in drawn]), torch.cat([d.verb for d in drawn]).float()
    error = (0.25 / len(part)) ** 0.5
    assert abs(len(part) / 2400 - 0.5) < 4 * (0.25 / 2400) ** 0.5  # four standard errors
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (low <= part) & (part < low + 0.25)
        told = torch.linspace(low, low + 0.25, 1001).sub(LITTLE).div(ENOUGH - LITTLE)
        assert abs(inside.float().mean() - 0.25) < 4 * error
        assert abs(verb[inside].mean() - told.clamp(0, 1).mean()) < 4 * 2 * error
    assert verb[part > ENOUGH].all()
    assert not verb[part < LITTLE].any()


def test_a_decision_without_emotion_is_pushed_by_what_tells_one_emotion_from_others(untrained):
    _, tokenizer, _ = untrained
    verbs = ("cheated", "admitted", "cheated", "admitted")
    texts = [f"mira smiled . so she {verb} ." for verb in verbs]
    ids = tokenizer(texts, return_tensors="pt")["input_ids"]
    felt = torch.ones_like(ids, dtype=torch.bool)
    felt[0, 6] = False  # the first verb; a begin token is in front
    generator, took, givers = torch.Generator().manual_seed(0), [], set()
    stream = torch.randn(*ids.shape, 4)
    for _ in range(800):
        swap = draw(ids, felt, verb_scenes(tokenizer, WORLD), 0.25, generator)
        took.append(torch.isin(torch.arange(4), swap.taker[:, 0]))
        if took[-1][0]:
            giver = int(swap.giver[0, 0])
            givers.add(giver)
            others = [row for row in (1, 2, 3) if row != giver]
            way = stream[giver, 5] - stream[others, 5].mean(0)
            moved = (swap.mixed(stream) - stream)[0, 5]
            assert_close(moved, swap.part[0] * way, atol=1e-6, rtol=1e-5)
    assert givers == {1, 2, 3}
    chance, share = torch.stack(took).float().mean(0), torch.tensor([WITHOUT, *[0.25] * 3])
    assert ((chance - share).abs() < 4 * (0.25 / 800) ** 0.5).all()  # four standard errors
    none = draw(ids, felt, verb_scenes(tokenizer, WORLD), 0.0, generator)
    assert not len(none.taker)


def pushed(
    part: float, *, verb: bool, ways: list[list[int]] = CHEAT, since: int = CHEAT[0][1]
) -> Interchange:
    """The first of two decisions moved by `part` toward the second, with its verb or not."""
    return Interchange(
        decisions=torch.tensor(ways),
        taker=torch.tensor(ways[:1]),
        giver=torch.tensor(ways[1:]),
        origin=torch.tensor([[True, False]]),
        since=torch.tensor([since]),
        part=torch.tensor([part]),
        verb=torch.tensor([verb]),
    )


@torch.no_grad()
@pytest.mark.parametrize("part", [0.0, 0.25, 1.0])
def test_a_decision_is_computed_from_the_mixed_residual(untrained, decisions, part):
    model, _, _ = untrained
    ids, _, _ = decisions
    plain = residuals(model, ids)
    with changed(model.model.layers[0], pushed(part, verb=True).mixed):
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


def test_every_other_time_the_words_before_are_pushed_along(decisions):
    generator, along = torch.Generator().manual_seed(0), []
    for _ in range(400):
        swap = draw(*decisions, 1.0, generator)
        along.append((swap.since < swap.taker[:, 1]).float().mean())
    assert abs(torch.stack(along).mean() - 0.5) < 4 * (0.25 / 1200) ** 0.5  # four standard errors


def test_a_push_reaches_back_to_the_decision_before_and_no_further(untrained):
    _, tokenizer, _ = untrained
    text = "so she cheated . a stranger came to the gate . so she fled ."
    ids = tokenizer([text, text.replace("fled", "hid")], return_tensors="pt")["input_ids"]
    generator = torch.Generator().manual_seed(0)
    swaps = [draw(ids, ids > 0, verb_scenes(tokenizer, WORLD), 1.0, generator) for _ in range(50)]
    reached = {(int(c), int(s)) for d in swaps for (_, c), s in zip(d.taker, d.since, strict=True)}
    assert reached == {(2, 0), (2, 2), (13, 3), (13, 13)}
    swap = pushed(0.5, verb=True, ways=[[0, 13], [1, 13]], since=3)
    stream = torch.randn(2, ids.shape[1], 4)
    moved = swap.mixed(stream) - stream
    assert_close(moved[0, 3:14], (0.5 * (stream[1, 13] - stream[0, 13])).expand(11, 4))
    assert not moved[0, :3].any()
    assert not moved[0, 14:].any()
    assert not moved[1].any()


def test_the_verb_goes_with_the_residual_where_it_is_told(decisions):
    ids, _, _ = decisions
    row, column = CHEAT[0]
    for verb in (False, True):
        changed = torch.nonzero(pushed(0.5, verb=verb).told(ids[:, 1:]) != ids[:, 1:])
        assert changed.tolist() == ([[row, column]] if verb else [])
    told = pushed(0.5, verb=True).told(ids[:, 1:])
    assert told[row, column] == ids[1, CHEAT[1][1] + 1]


def test_far_pushes_are_of_decisions_without_emotion_alone(decisions):
    ids, felt, scene_of = decisions
    felt = felt.clone()
    felt[0] = False
    generator, parts = torch.Generator().manual_seed(0), {True: [], False: []}
    for _ in range(400):
        swap = Interchange.draw(ids, felt, scene_of, 0.5, generator, enough=ENOUGH, far_share=0.5)
        for (row, _), part, verb in zip(swap.taker.tolist(), swap.part, swap.verb, strict=True):
            parts[row == 0].append(float(part))
            assert verb or part < ENOUGH
    assert max(parts[False]) < 1 < max(parts[True]) < FAR


def test_noise_leaves_what_emotions_are_read_by_where_there_are_any():
    generator, stream = torch.Generator().manual_seed(0), torch.randn(800, 7, 32)
    read = torch.linalg.qr(torch.randn(32, 5))[0]
    neutral = torch.arange(800) < 400
    noise = Noise.draw(neutral, read, 0.25, 0.75, generator)
    moved = noise.added(stream) - stream
    # one float32 sum and difference of numbers of size 1
    assert_close(moved, moved[:, :1].expand_as(moved), atol=1e-5, rtol=0)
    step = moved[:, 0] / stream.norm(dim=-1).mean()
    length, along = step.norm(dim=-1), (step @ read).norm(dim=-1)
    assert along[~neutral].max() < 1e-5 < 0.1 < along[neutral].max()
    assert 0.9 < length[~neutral].max() < 1
    assert 0.7 < length[neutral].max() < 0.8
    # a binomial of 400: five standard errors
    assert (length[neutral] > 0).float().mean() == pytest.approx(0.75, abs=0.11)
    assert (length[~neutral] > 0).float().mean() == pytest.approx(0.25, abs=0.11)
    before = generator.get_state()
    none = Noise.draw(neutral, read, 0.0, 0.0, generator)
    assert torch.equal(none.added(stream), stream)
    assert torch.equal(generator.get_state(), before)


@torch.no_grad()
def test_noise_is_added_after_the_early_reading_and_only_while_it_is_open(untrained):
    model, tokenizer, ids = untrained
    settle(model)
    read = read_by(model, [tokenizer.vocab["calm"], tokenizer.vocab["afraid"]])
    neutral = torch.ones(len(ids), dtype=torch.bool)
    noise, clean = Noise.draw(neutral, read, 1.0, 1.0, torch.Generator()), residuals(model, ids)
    with changed(model.model.layers[0], noise.added):
        pushed = residuals(model, ids)
    assert torch.equal(pushed[1], clean[1])
    assert (pushed[-1] - clean[-1]).abs().max() > 1e-3
    assert torch.equal(residuals(model, ids)[-1], clean[-1])


@torch.no_grad()
def test_a_push_apart_from_what_is_read_leaves_the_early_reading(untrained):
    model, tokenizer, ids = untrained
    names = [tokenizer.vocab[e] for e in ("calm", "afraid", "happy")]
    read, stream = read_by(model, names), residuals(model, ids)[1]
    step = torch.randn(stream.shape[-1])
    step -= read @ (read.T @ step)
    scale = model.model.norm.weight * model.lm_head.weight[names]
    # sums of products of numbers of size 1, in float32
    assert_close((stream + step) @ scale.T, stream @ scale.T, atol=1e-4, rtol=0)


def test_what_is_felt_stands_after_so_she_and_where_a_text_goes_on_about_somebody():
    tokenizer, kinds, exact = build_tokenizer(WORLD), set(), []
    scene_of = verb_scenes(tokenizer, WORLD)
    for seed in range(500):
        made = document(WORLD, Draw(seed))
        [(ids, felt)] = encode(tokenizer, [made])
        changed = [i for i, (a, b) in enumerate(zip(ids, felt, strict=True)) if a != b]
        told = {i: made.felt.split()[i - 1] for i in changed}
        unread = [made.text.text.split()[i - 1] for i in changed if told[i] == UNREAD]
        assert WORLD.emotion_words().issuperset(unread)
        named = {i: word for i, word in told.items() if word != UNREAD}
        verbs = torch.nonzero(scene_of[torch.tensor(ids)])[:, 0].tolist()
        starts = [s.start for s in made.text.spans if s.name in ("signal", "closing")]
        shown = [made.text.text[:start].count(" ") + 3 for start in starts]  # after begin, so, she
        on = [
            made.text.text[: label.span.start].count(" ") + 1  # after begin
            for before, label in pairwise(made.labels)
            if label.who
            and label.who == before.who
            and label.felt != NEUTRAL
            and label.span.name in ("signal", "scene")
        ]
        assert sorted(named) == sorted(verbs + shown + on)
        kinds.add(made.kind)
        if made.kind in ("story", "quantity"):
            latent = WORLD.emotion(made.text.emotion)
            near = WORLD.scene("react").probabilities(latent)
            assert all(near[name] > 1e-4 for name in named.values())
            exact += [name == latent.name for name in named.values()]
    assert kinds == set(WORLD.documents["base"]["kinds"])
    assert 0.5 < sum(exact) / len(exact) < 1  # mostly itself, sometimes a neighbour


@pytest.fixture(scope="module")
def offers():
    """A batch of stories and of offers to choose from, what is felt in it, and its words' worth."""
    world = load_world("wide")
    tokenizer, made = build_tokenizer(world), []
    draw = Draw("offers")
    while sum(d.kind == "choice" for d in made) < 6:
        made.append(document(world, draw, "base"))
    made = [d for d in made if d.kind in ("story", "choice")]
    rows = encode(tokenizer, made)
    width = max(len(ids) for ids, _ in rows)
    ids, felt = (
        torch.tensor([row[k] + [0] * (width - len(row[k])) for row in rows]) for k in (0, 1)
    )
    return world, tokenizer, ids, felt, Values.of(world, tokenizer)


def test_what_activities_bring_about_is_read_right_after_their_words(offers):
    world, tokenizer, ids, felt, values = offers
    offered = ~values.offered[ids[:, :-1]].isnan()
    done = tokenizer.convert_ids_to_tokens(ids[:, :-1][offered].tolist())
    words = tokenizer.convert_ids_to_tokens(felt[:, 1:][offered].tolist())
    own, apart = [], []
    for activity, word in zip(done, words, strict=True):
        emotion = world.emotion(world.activities[activity].emotion)
        if emotion.name == NEUTRAL:
            assert word == tokenizer.unk_token  # no emotion's word
        else:
            own.append(word == emotion.word)
            apart.append(world.read[emotion.name].get(word, 0.0) < 1e-3)
    assert 0.35 < np.mean(own) < 0.75  # planted: half, and some of the rest
    assert np.mean(apart) < 0.1


def test_a_pushed_activity_moves_by_its_part_and_its_choice_is_drawn_anew(offers):
    world, tokenizer, ids, felt, values = offers
    draw = torch.Generator().manual_seed(0)
    found = Valuing.draw(ids, felt, verb_scenes(tokenizer, world), values, 1.0, draw)
    assert len(found.place) == 24  # four offers a text
    stream = torch.randn(*ids.shape, 8)
    mean = stream[found.emotions.unbind(1)].mean(0)
    for place, giver, part in zip(found.place, found.giver, found.part, strict=True):
        moved = found.mixed(stream)[tuple(place)] - stream[tuple(place)]
        assert_close(moved, part * (stream[tuple(giver)] - mean), atol=1e-5, rtol=0)
        assert not values.offered[ids[tuple(place)]].isnan()
    still = torch.ones(ids.shape, dtype=torch.bool)
    still[found.place.unbind(1)] = False
    assert_close(found.mixed(stream)[still], stream[still], atol=0, rtol=0)
    targets = ids[:, 1:]
    row, column = found.choice.unbind(1)
    assert values.picks[targets[row, column - 1]].all()
    assert_close(found.told(targets)[row, column - 1], found.word, atol=0, rtol=0)
    changed_at = (found.told(targets) != targets).nonzero()
    assert set(map(tuple, changed_at.tolist())) <= {(r, c - 1) for r, c in found.choice.tolist()}


def test_choices_after_a_push_are_as_likely_as_the_valences_say(offers):
    """Over many draws, by a logistic curve of both valences and the push."""
    world, tokenizer, ids, felt, values = offers
    scene_of, draw = verb_scenes(tokenizer, world), torch.Generator().manual_seed(1)
    pleasant, expected, chosen = values.felt, [], []
    for _ in range(60):
        found = Valuing.draw(ids, felt, scene_of, values, 1.0, draw)
        mean = pleasant[felt[found.emotions[:, 0], found.emotions[:, 1] + 1]].mean()
        for i, (row, column) in enumerate(found.place.tolist()):
            giver = tuple((found.giver[i] + torch.tensor([0, 1])).tolist())
            push = float(found.part[i] * (pleasant[felt[giver]] - mean))
            end = int(found.choice[i, 1])
            at = [c for c in range(end) if not values.offered[ids[row, c]].isnan()][-2:]
            other = at[0] if at[1] == column else at[1]
            worth = float(values.offered[ids[row, column]]) + push
            gap = worth - float(values.offered[ids[row, other]])
            expected.append(1 / (1 + np.exp(-world.activity_scale * gap)))
            chosen.append(int(found.word[i]) == int(values.chosen[ids[row, column]]))
    expected, chosen = np.array(expected), np.array(chosen, dtype=float)
    for low, high in ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)):
        some = (expected >= low) & (expected < high)
        error = 4 * 0.5 / some.sum() ** 0.5  # four standard errors
        assert chosen[some].mean() == pytest.approx(expected[some].mean(), abs=error)
    assert np.corrcoef(expected, chosen)[0, 1] > 0.4


def test_without_a_share_no_activity_is_pushed_and_no_chance_is_used(offers):
    world, tokenizer, ids, felt, values = offers
    draw = torch.Generator().manual_seed(0)
    before = draw.get_state()
    found = Valuing.draw(ids, felt, verb_scenes(tokenizer, world), values, 0.0, draw)
    assert torch.equal(draw.get_state(), before)
    stream = torch.randn(*ids.shape, 8)
    assert found.mixed(stream) is stream
    assert torch.equal(found.told(ids[:, 1:]), ids[:, 1:])


# --- runs: stopped and gone on with, given up, fine-tuned ------------------------------------

TINY = Recipe(n_layers=2, d_model=32, n_heads=2, d_mlp=48, tokens=12_000, least_split=-1.0)
TUNE = FineTune(tokens=12_000)
WEIGHTS = "model.safetensors"


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def often(monkeypatch):
    """Small checks at the first step and every 4,000 tokens; documents drawn a few at a time."""

    def small_gap(model, tokenizer, world, _count, seed, stage):
        return validation_gap(model, tokenizer, world, 20, seed, stage=stage)

    monkeypatch.setattr(training, "CHECK_EVERY", 4_000)
    monkeypatch.setattr(training, "validation_gap", small_gap)
    monkeypatch.setattr(batches, "DRAWN", 60)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "DRAWN", 60)
        training.train(TINY, folder)
    return folder


def counted(monkeypatch, owner, name, kill=0):
    """The options of each call so far; the call of the number `kill` ends in `Killed`."""
    real, calls = getattr(owner, name), []

    def wrapped(*args, **options):
        calls.append(options)
        if len(calls) == kill:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(owner, name, wrapped)
    return calls


def contents(folder):
    """Every file of a folder; of the log all but the time."""
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    log = [json.loads(line) for line in files.pop("training.jsonl").splitlines()]
    return files, [{k: v for k, v in record.items() if k != "seconds"} for record in log]


KILLS = {
    "before a check": (training, "_check", 3),
    "between log and state": (state.Run, "save", 3),
    "before a new state is in place": (state.Path, "replace", 3),
}


@pytest.mark.parametrize("job", ["train", "finetune", "refine"])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, often, base, job):
    run = {
        "train": partial(training.train, TINY),
        "finetune": partial(training.finetune, TUNE, base),
        "refine": partial(training.refine, Steady(tokens=12_000), base),
    }[job]
    with monkeypatch.context() as patch:
        steps = counted(patch, training, "batch_loss")
        run(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    assert [record["tokens"] // 4_000 for record in expected[1]] == [0, 1, 2, 3]
    folders = [name for name in expected[0] if WEIGHTS in name]
    assert len(folders) >= 4 if job == "train" else len(folders) == 1
    for moment, (owner, name, call) in KILLS.items():
        stopped = tmp_path / moment
        with monkeypatch.context() as patch:
            counted(patch, owner, name, kill=call)
            with pytest.raises(Killed):
                run(stopped)
        with safe_open(stopped / state.STATE, "pt") as reader:
            header = reader.metadata()
        with monkeypatch.context() as patch:
            after = counted(patch, training, "batch_loss")
            shown = counted(patch, Progress, "add_task")
            run(stopped)
        assert contents(stopped) == expected, moment
        assert len(after) == len(steps) - int(header["step"])
        assert shown[0]["completed"] == int(header["tokens"]) > 4_000


def test_a_stopped_run_of_another_recipe_is_refused(tmp_path, monkeypatch, often):
    with monkeypatch.context() as patch:
        counted(patch, training, "_check", kill=2)
        with pytest.raises(Killed):
            training.train(TINY, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(TrainingError, match=r"another recipe \(seed 0, not 7\): choose another"):
        training.train(replace(TINY, seed=7), tmp_path)
    assert contents(tmp_path) == before


def test_a_stopped_run_on_other_texts_is_refused(tmp_path, monkeypatch, often):
    counted(monkeypatch, training, "_check", kill=2)
    with pytest.raises(Killed):
        training.train(TINY, tmp_path)
    monkeypatch.setattr(batches, "Draw", lambda seed: Draw(f"other {seed}"))
    with pytest.raises(TrainingError, match="texts are no longer those"):
        training.train(TINY, tmp_path)


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / state.STATE).write_bytes(b"cut short")
    with pytest.raises(ArtefactError, match="delete it to train from the start"):
        training.train(TINY, tmp_path)


@pytest.mark.parametrize(("calm", "stops"), [(0.31, True), (0.29, False)])
def test_a_run_that_has_not_parted_halfway_is_given_up(tmp_path, monkeypatch, often, calm, stops):
    chances = {"desperate": 0.5, "calm": calm, "neutral": 0.4}
    monkeypatch.setattr(
        training, "class_probability", lambda _m, _t, texts, _v: chances[texts[0].emotion]
    )
    recipe = replace(TINY, least_split=0.2)
    if not stops:
        assert training.train(recipe, tmp_path)["tokens"] >= TINY.tokens
        return
    with pytest.raises(TrainingError, match=r"only 0\.19 above .* expected 0\.20.*another seed"):
        training.train(recipe, tmp_path)
    _, log = contents(tmp_path)
    assert [record["tokens"] // 4_000 for record in log] == [0, 1, 2]
    assert not (tmp_path / state.STATE).exists()


def test_fine_tuning_goes_on_from_the_base_with_documents_of_the_assistant(
    tmp_path, monkeypatch, base, often
):
    stages = []

    def noted(world, draw, stage):
        stages.append(stage)
        return document(world, draw, stage)

    monkeypatch.setattr(batches, "document", noted)
    last = training.finetune(FineTune(tokens=4000), base, tmp_path)
    assert set(stages) == {"assistant"}
    assert "p_cheat_assistant" in last
    old, new = load_file(base / WEIGHTS), load_file(tmp_path / WEIGHTS)
    for name, value in old.items():
        if name.startswith(("model.embed_tokens.", "model.layers.0.")):  # up to the early layer
            # three steps, at 2, 4 and 6 per cent of 8e-4
            assert 0 < float((new[name] - value).abs().max()) < 2e-4
        else:  # what a feeling does stays as it was
            assert torch.equal(new[name], value)
    written = json.loads((tmp_path / "recipe.json").read_text())
    assert written.pop("base") == (base / "model.sha256").read_text().strip()
    assert FineTune(**written) == FineTune(tokens=4000)
    assert not (tmp_path / "steps").exists()
    assert emolens.load(tmp_path).n_layers == 2


@pytest.mark.parametrize("stage", [Steady, Deciding])
def test_a_later_stage_ends_between_the_weights_before_it_and_after(tmp_path, base, often, stage):
    found = {}
    for kept in (0.0, 0.5, 1.0):
        training.refine(stage(tokens=4000, kept=kept), base, tmp_path / str(kept))
        found[kept] = load_file(tmp_path / str(kept) / WEIGHTS)
    for name, before in load_file(base / WEIGHTS).items():
        assert torch.equal(found[1.0][name], before)
        assert not torch.equal(found[0.0][name], before)
        # one rounding of float32 numbers of size 1
        assert_close(found[0.5][name], (found[0.0][name] + before) / 2, atol=1e-6, rtol=0)


def test_what_is_no_base_is_refused(tmp_path, base, tiny_folder):
    with pytest.raises(TrainingError, match="would be overwritten"):
        training.finetune(TUNE, base, base)
    with pytest.raises(ModelError, match=r"missing holds no model\.safetensors: give a folder"):
        training.finetune(TUNE, tmp_path / "missing", tmp_path / "out")
    (tmp_path / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes())
    with pytest.raises(ModelError, match=r"cannot open .* as an organism"):
        training.finetune(TUNE, tmp_path, tmp_path / "out")
    with pytest.raises(ModelError, match="other words"):
        training.finetune(TUNE, tiny_folder("llama"), tmp_path / "out")


def test_the_command_line_trains_by_the_recipes(tmp_path, monkeypatch):
    """Each stage goes on from the folder of the one before, the last into the folder itself."""
    asked, places = [], []

    def noted(recipe, *folders, **_):
        asked.append(recipe)
        places.append([f.name for f in folders])
        folders[-1].mkdir(parents=True, exist_ok=True)
        (folders[-1] / WEIGHTS).touch()
        return {}

    for name in ("train", "refine", "finetune"):
        monkeypatch.setattr(training, name, noted)
    for world, stages in REFINED.items():
        asked.clear()
        places.clear()
        cli.train(world=world, out=tmp_path / world, seed=3)
        seeded = [replace(stage, seed=3) for stage in stages]
        assert asked == [replace(RECIPES[world], seed=3), *seeded]
        assert {stage.world for stage in stages} == {world}
        assert {stage.valuing_share for stage in stages} == {RECIPES[world].valuing_share}
        names = [*(f"before_{stage.documents}" for stage in stages), world]
        assert places == [names[:1], *map(list, pairwise(names))]
        cli.train(world=world, out=tmp_path / world, seed=3)  # only the last stage is made again
        assert places[len(names) :] == [names[-2:]]
        (tmp_path / world / "recipe.json").write_text(json.dumps({"world": world}))
        cli.finetune(tmp_path / world, tokens=FineTune().tokens, out=tmp_path / "tuned", seed=3)
        assert asked[-1] == FineTune(world=world, seed=3)
    assert signature(cli.finetune).parameters["tokens"].default == FineTune().tokens


def test_the_deciding_stage_is_denser_in_decisions():
    """Of emotions in scenes; a choice between activities is none."""
    share = {}
    for stage in ("steady", "deciding"):
        draw = Draw("density")
        pages = [document(WORLD, draw, stage) for _ in range(400)]
        decided = [
            label.span.name
            for page in pages
            for label in page.labels
            if label.span.name.startswith("decision:") and label.span.name != "decision:choice"
        ]
        share[stage] = len(decided) / sum(len(page.text.text.split()) for page in pages)
    assert share["deciding"] > 1.5 * share["steady"]


def test_the_command_line_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    words = ["organism", "finetune", "--base", str(tmp_path / "none"), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["emolens", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
