"""Likelihoods of words against whole passes over one text, and Hugging Face's own loss."""

import shutil
from dataclasses import replace

import pytest
import torch
from pandas.testing import assert_frame_equal
from test_generation import pushes, specials_too
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

import emolens
from emolens.behaviour import Behaviour, Contest
from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Steering, from_step
from emolens.interventions import Steer
from emolens.preferences import compare
from emolens.scoring import (
    decide_options,
    divergence,
    logprobs_of,
    option_logprobs,
    token_logprobs,
    word_ranks,
)
from emolens.text import Span, Text

PROMPTS = [
    Text("mira fed the goat ."),
    Text("iris walked past the tower on the way home ."),
    Text("so"),
]
OPTIONS = [" so she spoke .", " mira", " the goat was"]


def whole_pass(model, text):
    """Ids of one text and, at each, the log-probabilities of what comes next."""
    ids = model.tokenize([text]).ids
    logits = model.forward(ids, torch.ones_like(ids, dtype=torch.bool))[0]
    return ids[0], logits.float().log_softmax(-1).detach()


def test_an_option_is_as_likely_as_its_tokens_one_after_the_other(organism):
    found = option_logprobs(organism, PROMPTS, OPTIONS)
    for i, prompt in enumerate(PROMPTS):
        start = organism.tokenize([prompt]).ids.shape[1]
        for j, option in enumerate(OPTIONS):
            ids, logprobs = whole_pass(organism, prompt.text + option)
            told = sum(float(logprobs[k - 1, ids[k]]) for k in range(start, len(ids)))
            assert float(found[i, j]) == pytest.approx(told, abs=1e-4)


def test_words_of_one_token_decide_as_a_trial_does(organism):
    behaviour = emolens.organism_behaviour("threat", per_emotion=5)
    trial = Trial.prepare(organism, behaviour)
    step = Steer(3 * torch.randn(organism.d_model))
    with emolens.hooked(organism, {emolens.Site(3): step}):
        told = trial.run()
    found = decide_options(organism, behaviour, Steering({3: step}, specials_too))
    assert found.target == told.target
    assert_close(found.logit_difference, told.logit_difference, atol=1e-4, rtol=0)
    for name, p in told.probability.items():
        assert_close(found.probability[name], p, atol=1e-5, rtol=0)


def test_an_options_own_tokens_are_changed_as_written_ones_are(organism):
    step, ids = Steer(3 * torch.randn(organism.d_model)), organism.tokenize
    prompt, option = PROMPTS[0], OPTIONS[0]
    read, whole = ids([prompt]).ids.shape[1], ids([prompt.text + option])
    for written in (from_step(0), from_step(2)):
        found = option_logprobs(
            organism, [prompt], [option], Steering({2: step}, specials_too, written)
        )
        weights = torch.tensor(
            [1.0] * read + [written(n) for n in range(whole.ids.shape[1] - read)]
        )
        mask = weights[None] > 0
        with emolens.hooked(organism, {emolens.Site(2): emolens.At(mask, step)}):
            _, logprobs = whole_pass(organism, prompt.text + option)
        told = sum(float(logprobs[k - 1, whole.ids[0, k]]) for k in range(read, whole.ids.shape[1]))
        assert float(found) == pytest.approx(told, abs=1e-4)


def test_each_prompt_of_a_batch_is_scored_as_alone(organism):
    texts = [replace(t, spans=(Span("who", 0, 4),)) for t in emolens.organism_stories(1)[:12]]
    plans = pushes(len(texts))
    together = option_logprobs(organism, texts, OPTIONS, plans)
    for i, (text, plan) in enumerate(zip(texts, plans, strict=True)):
        assert_close(
            together[i : i + 1], option_logprobs(organism, [text], OPTIONS, plan), atol=1e-4, rtol=0
        )
    whole, read = token_logprobs(organism, texts, plans)
    for i, (text, plan) in enumerate(zip(texts, plans, strict=True)):
        own, _ = token_logprobs(organism, [text], plan)
        assert_close(whole[i, : own.shape[1]], own[0], atol=1e-4, rtol=0, equal_nan=True)
    assert bool((whole.isnan().sum(1) == 1 + (~read.mask).sum(1)).all())


def test_perplexity_is_hugging_faces_loss(organism):
    texts = list(emolens.organism_neutral(3))
    found, _ = token_logprobs(organism, texts)
    for row, text in zip(found, texts, strict=True):
        ids = organism.tokenize([text]).ids
        loss = organism.host.original_model(ids, labels=ids).loss
        assert float(-row.nanmean()) == pytest.approx(float(loss), abs=1e-5)


def test_ranks_are_places_in_the_sorted_vocabulary(organism):
    found = word_ranks(organism, PROMPTS, [" mira", " goat"])
    for row in found.itertuples():
        _, logprobs = whole_pass(organism, PROMPTS[row.prompt].text)
        word = organism.tokenizer(row.word, add_special_tokens=False)["input_ids"][0]
        assert row.rank == logprobs[-1].argsort(descending=True).tolist().index(word) + 1
        assert row.logprob == pytest.approx(float(logprobs[-1, word]), abs=1e-5)
        assert row.tokens == 1


def test_nothing_done_diverges_by_nothing_and_a_push_by_more(organism):
    none = Steering({2: Steer(torch.zeros(organism.d_model))})
    assert float(divergence(organism, PROMPTS, none).abs().max()) < 1e-6
    push = [Steering({2: Steer(s * torch.ones(organism.d_model))}) for s in (0.1, 0.5, 2.0)]
    found = [float(divergence(organism, PROMPTS, p).mean()) for p in push]
    assert 0 < found[0] < found[1] < found[2]


def test_options_that_cannot_be_scored_are_refused(organism):
    with pytest.raises(SelectionError, match="'' must be of known tokens"):
        option_logprobs(organism, PROMPTS, [""])
    with pytest.raises(SelectionError, match="' zyx' must be of known tokens"):
        option_logprobs(organism, PROMPTS, [" zyx"])
    with pytest.raises(SelectionError, match="of 257 tokens do not go into a context of 256"):
        option_logprobs(organism, [Text("so " * 255)], [" so"])


@pytest.fixture(scope="module")
def opened(tiny_folder, tmp_path_factory):
    """Open a tiny Llama with another tokenizer: byte-pair pieces, split and closed as told."""

    def make(blank, split, closed):
        folder = tmp_path_factory.mktemp("pieces")
        shutil.copytree(tiny_folder("llama"), folder, dirs_exist_ok=True)
        merges = [(blank, "A"), (blank, "("), ("y", "e"), ("ye", "s"), (blank, "yes")]
        words = ["<unk>", "<s>", "</s>", *f"{blank}:()?ABabcdefhinorstuwyz"]
        ids = {word: i for i, word in enumerate([*words, *map("".join, merges)])}
        tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.post_processor = split, closed
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="</s>",
        ).save_pretrained(folder)
        return emolens.load(folder)

    return make


def template(single):
    special = [("<s>", 1), ("</s>", 2)]
    return processors.TemplateProcessing(single=single, special_tokens=special)


@pytest.fixture(scope="module")
def pieces(opened):
    """Its tokenizer begins a text with a blank and ends it with a closing token."""
    return opened("▁", pre_tokenizers.Metaspace(), template("<s> $A </s>"))


def test_nothing_is_written_after_a_closing_token(opened, pieces):
    bare = opened("▁", pre_tokenizers.Metaspace(), template("<s> $A"))
    prompts = ["would rather be safe (", "the other is another one (", "yes"]
    told = emolens.generate(bare, prompts, tokens=6, temperature=0.0)
    assert emolens.generate(pieces, prompts, tokens=6, temperature=0.0) == told
    assert any(told)


def test_a_blank_at_the_end_of_a_prompt_counts(opened):
    """Byte-level tokenizers trim a blank's offsets away, as if it were no part of the text."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = opened("Ġ", split, processors.ByteLevel(trim_offsets=True))
    with_blank, without = (model.tokenize([t]) for t in ("safe: ", "safe:"))
    assert int(model.ends(with_blank)) == int(model.ends(without)) + 1
    logits = model.forward(with_blank.ids, with_blank.mask)[0, -1].log_softmax(-1)
    found = option_logprobs(model, [Text("safe: ")], ["yes"])[0, 0]
    told = logits[model.tokenizer.get_vocab()["yes"]].detach()
    assert_close(found, told, atol=1e-4, rtol=0)


def test_a_text_that_was_cut_is_scored_as_far_as_it_goes(organism):
    texts = [Text("mira fed the goat . " * 60), Text("so she spoke .")]
    read = organism.tokenize(texts)
    found = logprobs_of(organism, texts, read, [UNCHANGED] * 2)
    assert found.shape == (2, 256)
    assert not found[0, 1:].isnan().any()
    assert_close(found[1, :5], token_logprobs(organism, texts[1:])[0][0], equal_nan=True)


def test_an_option_is_read_as_it_goes_on_from_the_prompt(pieces):
    """Alone, "A" is another token than after a bracket; and nothing comes after a closing token."""
    prompt = Text("would rather be safe (")
    vocabulary = pieces.tokenizer.get_vocab()
    ids = pieces.tokenize([prompt]).ids[:, :-1]
    assert pieces.tokenizer("A", add_special_tokens=False)["input_ids"] == [vocabulary["▁A"]]
    told = pieces.forward(ids, torch.ones_like(ids, dtype=torch.bool))[0, -1].log_softmax(-1)
    longer = replace(prompt, text="the other is another one (")
    found = option_logprobs(pieces, [prompt, longer], ["A", " yes"])
    expected = told[[vocabulary["A"], vocabulary["▁yes"]]].detach()
    assert_close(found[0], expected, atol=1e-4, rtol=0)
    ranked = word_ranks(pieces, [prompt, longer], ["A", " yes"]).logprob[:2]
    assert_close(torch.tensor(ranked.to_numpy()).float(), expected, atol=1e-4, rtol=0)
    behaviour = Behaviour("letters", "A", {"A": ("A",), "B": ("B",)}, (prompt, longer))
    assert Trial.prepare(pieces, behaviour).ids["A"].tolist() == [vocabulary["A"]]
    contest = Contest((prompt,), (("one", "two"),), (("A", "B"),))
    difference = told[vocabulary["A"]] - told[vocabulary["B"]]
    compared = compare(pieces, contest).logit_difference[0]
    assert compared == pytest.approx(float(difference), abs=1e-4)


@pytest.mark.parametrize("measured", [divergence, word_ranks, token_logprobs])
def test_a_text_beyond_the_context_is_refused(organism, measured):
    given = {divergence: [UNCHANGED], word_ranks: [[" so"]], token_logprobs: []}[measured]
    with pytest.raises(SelectionError, match="longer than the context of 256"):
        measured(organism, [Text("so " * 300)], *given)


def test_ranks_and_divergence_come_in_batches(organism, monkeypatch):
    push = [Steering({3: Steer(k * torch.ones(organism.d_model))}, specials_too) for k in (0, 1, 2)]
    whole = word_ranks(organism, PROMPTS, OPTIONS), divergence(organism, PROMPTS, push)
    monkeypatch.setattr("emolens.scoring.usual_batch", lambda _model: 1)
    alone = word_ranks(organism, PROMPTS, OPTIONS), divergence(organism, PROMPTS, push)
    assert_frame_equal(alone[0], whole[0], check_exact=False, atol=1e-4)
    assert_close(alone[1], whole[1], atol=1e-4, rtol=1e-3)
