"""Dialogues: turns become spans, whatever a template puts around them."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import emolens
from emolens import positions
from emolens.dialogue import chat
from emolens.errors import CorpusError, ModelError
from emolens.positions import pick
from emolens.text import Span, Turn, plain

ASKED = [Turn("user", "I lost my dog."), Turn("assistant", "")]
TOLD = [
    Turn("system", "Be brief."),
    Turn("user", "I lost my dog."),
    Turn("assistant", "I am sorry.", reasoning="A dog is dear."),
    Turn("user", "I am sorry."),
    Turn("assistant", "So am I."),
]
# As Qwen 3 does: reasoning is kept in its own tags, and a reply that is not to reason is opened
# with an empty stretch of it.
THINKER = """{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
# As Llama 3 does: the begin token is part of the template.
BEGINNER = """{{ bos_token }}\
{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[/]{% endfor %}\
{% if add_generation_prompt %}[assistant]{% endif %}"""
UPPER = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE trained on a few words, with a begin token before every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<bos>", "<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "Human: Assistant: I lost my dog. I am sorry. So am I. Be brief."
    bpe.train_from_iterator([words] * 20, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", pad_token="<pad>")


@pytest.fixture
def speaking(tiny_folder, tokenizer):
    """A model with that tokenizer and a chat template."""

    def make(template):
        tokenizer.chat_template = template
        return replace(emolens.load(tiny_folder("llama")), tokenizer=tokenizer)

    return make


def said(text):
    return [(s.name, text.text[s.start : s.end]) for s in text.spans]


def read(model, rule, text):
    tokens = model.tokenize([text])
    mask = pick(rule, [text], tokens).mask[0]
    return model.tokenizer.decode(tokens.ids[0][mask])


def test_plain_turns_are_spans():
    assert said(plain(TOLD)) == [(turn.role, turn.text) for turn in TOLD]
    assert plain(ASKED).text == "\n\nHuman: I lost my dog.\n\nAssistant:"
    assert plain(ASKED, emotion="sad", group="pets").emotion == "sad"


@pytest.mark.parametrize("template", [THINKER, BEGINNER])
def test_chat_turns_are_spans_without_what_the_template_puts_around_them(speaking, template):
    reasoned = [("reasoning", TOLD[2].reasoning)] if template == THINKER else []
    turns = TOLD if reasoned else [replace(turn, reasoning="") for turn in TOLD]
    told = [(turn.role, turn.text) for turn in TOLD]
    assert said(chat(speaking(template), turns)) == [*told[:2], *reasoned, *told[2:]]


@pytest.mark.parametrize("template", [THINKER, BEGINNER])
def test_named_parts_of_a_turn_are_found_in_the_text(speaking, template):
    lost, aloud = Span("event", 9, 12), Span("kind", 0, 5)
    turns = [
        Turn("user", "  I lost dog. ", spans=(lost,)),
        Turn("assistant", "Sorry.", "He is sad." * (template == THINKER), (aloud,)),
    ]
    parts = [("user", "I lost dog."), ("event", "dog"), ("assistant", "Sorry."), ("kind", "Sorry")]
    if template == THINKER:
        turns[1] = replace(turns[1], thought=(Span("guess", 6, 9),))
        parts[2:2] = [("reasoning", "He is sad."), ("guess", "sad")]
    assert said(chat(speaking(template), turns)) == parts
    stripped = [replace(turns[0], text="I lost dog.", spans=(Span("event", 7, 10),)), turns[1]]
    assert said(plain(stripped)) == [
        part for part in parts if part[0] not in ("reasoning", "guess")
    ]


def test_a_turn_that_also_stands_in_the_template_is_told_from_it(speaking):
    turns = [Turn("user", "s"), Turn("assistant", "user")]
    text = chat(speaking(BEGINNER), turns)
    assert text.text == "[user]s[/][assistant]user[/]"
    assert [(s.start, s.end) for s in text.spans] == [(6, 7), (21, 25)]


def test_there_is_one_begin_token_whether_or_not_the_template_writes_one(speaking):
    for template in (THINKER, BEGINNER):
        model = speaking(template)
        ids = model.tokenize([chat(model, ASKED)]).ids[0].tolist()
        assert ids.count(model.tokenizer.bos_token_id) == 1


def test_thinking_is_off_unless_asked_for(speaking):
    model = speaking(THINKER)
    assert chat(model, ASKED).text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert chat(model, ASKED, thinking=True).text.endswith("<|im_start|>assistant\n")


def test_the_colon_is_the_last_token_before_the_reply(speaking):
    model = speaking(BEGINNER)
    for turns in (ASKED, [*ASKED[:1], Turn("assistant", "I am sorry.")]):
        assert read(model, positions.colon, plain(turns)).endswith(":")
        assert read(model, positions.colon, chat(model, turns)).endswith("]")


def test_the_users_end_is_its_last_token_not_that_of_the_template(speaking):
    model = speaking(THINKER)
    for text in (plain(ASKED), chat(model, ASKED), chat(model, TOLD)):
        assert read(model, positions.user_end, text).endswith(".")


def test_turns_of_a_role_are_read_by_their_span(speaking):
    model = speaking(THINKER)
    text = chat(model, TOLD)
    assert read(model, positions.span("reasoning"), text) == TOLD[2].reasoning
    assert read(model, positions.span("assistant"), text) == "I am sorry.So am I."


def test_a_text_without_such_a_turn_is_named(speaking):
    model = speaking(BEGINNER)
    with pytest.raises(emolens.EmolensError, match="'colon' picks no token in 1 of 1 texts"):
        read(model, positions.colon, emolens.Text("I lost my dog."))


def test_from_token_counts_words_not_special_tokens(organism):
    text = emolens.Text("mira fed the goat .")
    tokens = organism.tokenize([text])
    found = pick(positions.from_token(3), [text], tokens)
    assert organism.tokenizer.decode(tokens.ids[0][found.mask[0]]) == "goat ."
    assert found.used == ("from_token(3)",)


def test_what_cannot_be_a_dialogue_is_named(speaking):
    with pytest.raises(CorpusError, match="dialogue without turns"):
        plain([])
    with pytest.raises(CorpusError, match="changes what is said"):
        chat(speaking(UPPER), ASKED)
    with pytest.raises(ModelError, match="has no chat template: use"):
        chat(speaking(None), ASKED)
    with pytest.raises(CorpusError, match=r"does not take these turns \(no system\): give them as"):
        chat(speaking("{{ raise_exception('no system') }}"), ASKED)
