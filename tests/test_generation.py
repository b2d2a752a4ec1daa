"""Generation: Hugging Face's own where nothing is changed; each text's own change where it is.

Greedy text is compared token for token. Chances of near ties are small: of the organism's logits
the likeliest two differ by .01 or more at nearly every token, and sums in another order by 1e-5.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from scipy.stats import chisquare
from torch.testing import assert_close

import emolens
from emolens.errors import HookError, ModelError, SelectionError
from emolens.generation import (
    Steering,
    fading,
    from_step,
    generate,
    never,
    steered,
    throughout,
)
from emolens.interventions import Ablate, Steer, unit
from emolens.positions import Positions, everything, last, nowhere, span
from emolens.text import Span, Text

LAYERS = 6
WIDTH = 160


@pytest.fixture(scope="module")
def texts():
    return [
        replace(t, text=t.text[: t.spans[0].end], spans=(Span("who", 0, len(t.text.split()[0])),))
        for t in emolens.organism_stories(1)
    ]


def pushes(count):
    """Steerings that differ in layers, vector, strength, prompt tokens and schedule."""
    draw = torch.Generator().manual_seed(0)
    rules = [everything, last, span("who"), specials_too]
    schedules = [throughout, never, from_step(2), fading(3.0)]
    made = []
    for i in range(count):
        steps = {
            k: Steer(1.5 * (i % 5) * torch.randn(WIDTH, generator=draw))
            for k in range(i % LAYERS + 1)
        }
        if i % 3 == 0:  # a clamp, which is no addition
            direction = unit(torch.randn(1, WIDTH, generator=draw))
            steps[i % LAYERS] = Ablate(direction, torch.tensor([2.0]))
        made.append(Steering(steps, rules[i % 4], schedules[i // 2 % 4]))
    return made


def specials_too(texts, tokens):
    return Positions(tokens.mask, ("specials too",) * len(texts))


def without_cache(model, text, plan, count):
    """Greedy ids of one text, every token from a whole pass, changed by plain means."""
    tokens = model.tokenize([text])
    ids, prompt = tokens.ids, plan.positions([text], tokens).mask[0].float()
    for step in range(count):
        weights = torch.cat([prompt, torch.tensor([plan.written(n) for n in range(step)])])

        def at(change, weights=weights):
            return lambda r: r + weights[None, :, None] * (change(r) - r)

        with emolens.hooked(model, {emolens.Site(k): at(c) for k, c in plan.changes.items()}):
            logits = model.forward(ids, torch.ones_like(ids, dtype=torch.bool))[0, -1]
        ids = torch.cat([ids, logits.argmax()[None, None]], 1)
        if int(ids[0, -1]) == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(ids[0, tokens.ids.shape[1] :], skip_special_tokens=True)


def test_without_a_change_the_text_is_hugging_faces_own(organism, texts):
    written = generate(organism, texts, tokens=12, temperature=0.0)
    host = organism.host.original_model
    for text, ours in zip(texts, written, strict=True):
        ids = organism.tokenize([text]).ids
        found = host.generate(ids, max_new_tokens=12, do_sample=False)[0]
        assert text.text + ours == organism.tokenizer.decode(found, skip_special_tokens=True)
        assert ours


def test_a_steered_text_is_that_of_whole_passes_changed_token_by_token(organism, texts):
    plans = pushes(len(texts))
    written = generate(organism, texts, plans, tokens=8, temperature=0.0)
    bare = generate(organism, texts, tokens=8, temperature=0.0)
    told = [without_cache(organism, t, p, 8) for t, p in zip(texts, plans, strict=True)]
    assert [w.split() for w in written] == [t.split() for t in told]
    assert sum(w != b for w, b in zip(written, bare, strict=True)) >= len(texts) // 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_text_of_a_batch_gets_what_it_gets_alone(organism, texts, temperature):
    plans, options = pushes(len(texts)), {"tokens": 12, "temperature": temperature}
    together = generate(organism, texts, plans, seed=[7 + i for i in range(len(texts))], **options)
    alone = [
        generate(organism, [text], [plan], seed=[7 + i], **options)[0]
        for i, (text, plan) in enumerate(zip(texts, plans, strict=True))
    ]
    assert together == alone
    assert generate(organism, texts, plans, seed=3, together=2, **options) == generate(
        organism, texts, plans, seed=3, together=64, **options
    )


def test_logits_of_a_steered_batch_are_those_of_single_runs(organism, texts):
    plans, tokens = pushes(len(texts)), organism.tokenize(texts)
    with steered(organism, texts, tokens, plans):
        together = organism.forward(tokens.ids, tokens.mask)
    for i, (text, plan) in enumerate(zip(texts, plans, strict=True)):
        own = organism.tokenize([text])
        place = plan.positions([text], own).mask

        def at(change, place=place):
            return emolens.At(place, change)

        with emolens.hooked(organism, {emolens.Site(k): at(c) for k, c in plan.changes.items()}):
            alone = organism.forward(own.ids, own.mask)[0]
        # logits are up to 20 here; float32 sums of another batch shape were off by 1e-5 of that
        assert_close(together[i, : len(alone)], alone, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "qwen3", "neox", "mixtral"])
def test_padding_and_company_change_nothing_in_other_families(tiny_folder, name):
    name = next(f for f in FAMILIES if name in f)
    model = emolens.load(tiny_folder(name))
    texts = [Text(" ".join(f"word{(i * 7 + n) % 60}" for i in range(n))) for n in (9, 2, 17, 1, 5)]
    step = Steer(0.5 * torch.randn(model.d_model))
    plans = [Steering(dict.fromkeys(range(i % model.n_layers + 1), step)) for i in range(5)]
    together = generate(model, texts, plans, tokens=8, temperature=0.0)
    alone = [
        generate(model, [t], [p], tokens=8, temperature=0.0)[0]
        for t, p in zip(texts, plans, strict=True)
    ]
    told = [without_cache(model, t, p, 8) for t, p in zip(texts, plans, strict=True)]
    assert together == alone
    assert [w.split() for w in together] == [t.split() for t in told]


def test_steps_of_zero_change_nothing(organism, texts):
    nothing = Steering({k: Steer(torch.zeros(WIDTH)) for k in range(LAYERS)})
    assert generate(organism, texts, nothing, tokens=12) == generate(organism, texts, tokens=12)
    tokens = organism.tokenize(texts)
    with steered(organism, texts, tokens, [nothing] * len(texts)):
        changed = organism.forward(tokens.ids, tokens.mask)
    assert torch.equal(changed, organism.forward(tokens.ids, tokens.mask))


def test_special_tokens_are_left_by_default(organism, texts):
    tokens = organism.tokenize(texts)
    plan = [Steering({2: Steer(torch.ones(WIDTH))})] * len(texts)
    with (
        steered(organism, texts, tokens, plan),
        emolens.reading(organism, (2,)) as found,
    ):
        organism.forward(tokens.ids, tokens.mask)
    with emolens.reading(organism, (2,)) as before:
        organism.forward(tokens.ids, tokens.mask)
    moved = (found[2] - before[2]).abs().sum(-1)
    assert bool((moved[tokens.words] > WIDTH / 2).all())
    assert float(moved[tokens.mask & ~tokens.words].max()) == 0


def test_draws_follow_the_models_distribution(organism):
    text, count = "mira walked past the", 4000
    written = generate(organism, [text] * count, tokens=1, seed=11, together=500)
    tokens = organism.tokenize([text])
    logits = organism.forward(tokens.ids, tokens.mask)[0, -1].double()
    p = logits.softmax(-1).detach().numpy()
    ids = [organism.tokenizer(w, add_special_tokens=False)["input_ids"] for w in written]
    drawn = np.bincount([row[0] for row in ids if row], minlength=len(p))
    common = p > 5 / count
    assert common.sum() > 1
    observed = np.append(drawn[common], count - drawn[common].sum())
    expected = np.append(p[common], 1 - p[common].sum()) * count
    kept = expected > 0.5
    assert (
        chisquare(observed[kept], expected[kept] * observed[kept].sum() / expected[kept].sum())[1]
        > 1e-3
    )
    cold = generate(organism, [text] * 20, tokens=1, temperature=1e-4)
    assert set(cold) == {generate(organism, [text], tokens=1, temperature=0.0)[0]}


def test_sampling_depends_on_its_seed_alone(organism, texts):
    state = torch.random.get_rng_state()
    first = generate(organism, texts[:2], tokens=12, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert generate(organism, texts[:2], tokens=12, seed=1) == first
    assert generate(organism, texts[:2], tokens=12, seed=2) != first
    twins = generate(organism, [texts[0]] * 2, tokens=12, seed=1)
    assert twins[0] != twins[1]


def test_habits_of_sampling_that_a_model_brings_along_are_set_aside(organism, texts):
    own = organism.host.original_model.generation_config
    first = generate(organism, texts[:4], tokens=12, seed=1)
    common = [organism.tokenizer.get_vocab()[word] for word in ("so", "she", "he", ".")]
    habits = {
        "repetition_penalty": 3.0,
        "suppress_tokens": common,
        "bad_words_ids": [[i] for i in common],
        "min_new_tokens": 12,
        "forced_eos_token_id": common[0],
    }
    for name, value in habits.items():
        before = getattr(own, name, None)
        setattr(own, name, value)
        try:
            assert generate(organism, texts[:4], tokens=12, seed=1) == first, name
            assert organism.host.original_model.generation_config is own
        finally:
            setattr(own, name, before)


def test_what_fills_a_text_up_behind_its_end_is_not_its_own(organism, texts, monkeypatch):
    """With a word in the place of padding and another as the closing one."""
    whole = generate(organism, texts, tokens=12, seed=1)
    closing, filler = "the", "goat"
    assert len({words.split().index(closing) for words in whole if closing in words.split()}) > 1
    tokenizer = deepcopy(organism.tokenizer)
    tokenizer.pad_token = filler
    model = replace(organism, tokenizer=tokenizer)
    monkeypatch.setattr(
        organism.host.original_model.generation_config,
        "eos_token_id",
        organism.tokenizer.convert_tokens_to_ids(closing),
    )
    ended = generate(model, texts, tokens=12, seed=1)
    for words, told in zip(whole, ended, strict=True):
        kept = words.split()
        upto = kept.index(closing) + 1 if closing in kept else len(kept)
        assert told.split() == kept[:upto]


class Ending:
    """Ends the second text at its third token."""

    layers = ()
    hears = True

    def begin(self, rows, _prompts):
        self.rows, self.written = rows, 0

    def see(self, _layer, stream):
        return stream

    def wrote(self, _tokens):
        self.written += 1
        return {self.rows.index(1)} if self.written == 3 else set()

    def end(self, written):
        self.all = written


def test_what_an_observer_ends_has_ended_where_nothing_else_ends_a_text(
    organism, texts, monkeypatch
):
    """A model without a closing token goes on filling that text with what it would write."""
    whole = generate(organism, texts[:4], tokens=8, temperature=0.0)
    tokenizer = deepcopy(organism.tokenizer)
    tokenizer.eos_token = None
    model = replace(organism, tokenizer=tokenizer)
    monkeypatch.setattr(organism.host.original_model.generation_config, "eos_token_id", None)
    ending = Ending()
    cut = generate(model, texts[:4], tokens=8, temperature=0.0, observer=ending)
    assert sorted(map(len, ending.all)) == [3, 8, 8, 8]
    assert cut[1].split() == whole[1].split()[:3]
    assert [cut[i] for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]


def test_a_text_near_the_end_of_the_context_leaves_others_their_room(organism):
    long, short = " ".join(["mira fed the goat ."] * 50), "mira fed the goat ."
    options = {"tokens": 20, "temperature": 0.0}
    together = generate(organism, [long, short], **options)
    assert together == [generate(organism, [t], **options)[0] for t in (long, short)]
    assert len(together[0].split()) == 256 - len(organism.tokenize([long]).ids[0])


def test_what_cannot_be_written_is_refused(organism):
    with pytest.raises(SelectionError, match="leaves no room to write in a context of 256"):
        generate(organism, ["so " * 300], tokens=4)
    with pytest.raises(ModelError, match="generation needs next-token logits"):
        generate(replace(organism, causal=False), ["so she"], tokens=4)
    with pytest.raises(SelectionError, match="2 steerings of 1 texts"):
        generate(organism, ["so she"], [Steering({})] * 2, tokens=4)
    with pytest.raises(SelectionError, match="layer 6 is out of range"):
        generate(organism, ["so she"], Steering({6: Steer(torch.zeros(WIDTH))}), tokens=4)
    for wrong in ({"tokens": 0}, {"tokens": 4, "temperature": -1.0}):
        with pytest.raises(SelectionError, match="cannot be written"):
            generate(organism, ["so she"], **wrong)
    for seed in (-1, [1, -1], [1], []):
        with pytest.raises(SelectionError, match="seeds of 2 texts"):
            generate(organism, ["so she", "so he"], tokens=4, seed=seed)
    tokens = organism.tokenize(["so she"])
    with (
        pytest.raises(SelectionError, match="0 steerings of 1 texts"),
        steered(organism, [Text("so she")], tokens, []),
    ):
        pass
    with (
        pytest.raises(HookError, match="never ran"),
        steered(organism, [Text("so she")], tokens, [Steering({1: Steer(torch.zeros(WIDTH))})]),
    ):
        pass


def test_hooks_in_force_apply_and_steering_acts_through_them(organism, texts):
    """With a hook in force blocks keep TransformerLens's wrappers: slower, the same text."""
    plans, options = pushes(len(texts)), {"tokens": 8, "temperature": 0.0}
    with emolens.reading(organism, (1,)):
        through = generate(organism, texts, plans, **options)
    assert through == generate(organism, texts, plans, **options)
    step = Steer(4 * torch.randn(WIDTH))
    with emolens.hooked(organism, {emolens.Site(2): step}):
        hooked = generate(organism, texts, **options)
    whole = Steering({2: step}, specials_too)
    assert hooked == generate(organism, texts, whole, **options, together=1)
    assert hooked != generate(organism, texts, **options)


def test_a_plain_hook_on_a_block_is_not_left_behind(organism, texts):
    plain = generate(organism, texts[:4], tokens=8, temperature=0.0)
    push = 4 * torch.randn(WIDTH)
    block = organism.host.original_model.model.layers[2]
    handle = block.register_forward_hook(lambda _m, _a, out: out + push)
    try:
        hooked = generate(organism, texts[:4], tokens=8, temperature=0.0)
    finally:
        handle.remove()
    step = Steering({2: Steer(push)}, specials_too)
    assert hooked == generate(organism, texts[:4], step, tokens=8, temperature=0.0, together=1)
    assert hooked != plain


def test_rules_by_index_count_from_a_texts_own_first_token(organism, texts):
    def second(texts, tokens):
        mask = torch.zeros_like(tokens.mask)
        mask[:, 1] = True
        return Positions(mask, ("second",) * len(texts))

    plan, options = Steering({1: Steer(8 * torch.randn(WIDTH))}, second), {"tokens": 8}
    some = [texts[0], Text("so"), texts[5]]
    together = generate(organism, some, plan, seed=[1, 2, 3], **options)
    alone = [generate(organism, [t], plan, seed=[i + 1], **options)[0] for i, t in enumerate(some)]
    assert together == alone


def test_a_rule_that_picks_nothing_is_told_and_nowhere_is_meant(organism, texts):
    step = {2: Steer(torch.ones(WIDTH))}
    with pytest.raises(SelectionError, match=r"'span\(nothing\)' picks no token"):
        generate(organism, texts[:1], Steering(step, span("nothing")), tokens=2)
    assert generate(organism, texts[:1], Steering(step, nowhere), tokens=2)
