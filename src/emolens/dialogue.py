"""Dialogues as texts whose turns are spans: plain Human/Assistant, or a model's chat template."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jinja2 import TemplateError

from emolens.errors import CorpusError, ModelError, first_line
from emolens.model import HookedModel
from emolens.text import NEUTRAL, Span, Text

Role = Literal["system", "user", "assistant"]
OPENS, CLOSES = "\ue000", "\ue001"  # private characters, which no text should hold
SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says; `reasoning` is what the assistant thought before it spoke.

    A last turn of the assistant without words is one that the model is yet to speak.
    """

    role: Role
    text: str
    reasoning: str = ""


def plain(turns: Sequence[Turn], *, emotion: str = NEUTRAL, group: str = "") -> Text:
    r"""The dialogue in the paper's format, for base models: `Human:` and `Assistant:`.

    Spans are named by role, in order; that of a turn without words is empty and stands where it
    would begin. Reasoning has no place in this format and is left out.

    Args:
        turns: who says what.
        emotion: label of the text.
        group: topic, what a split keeps together.

    Raises:
        CorpusError: if there are no turns.

    >>> text = plain([Turn("user", "I lost my dog."), Turn("assistant", "")])
    >>> text.text
    '\n\nHuman: I lost my dog.\n\nAssistant:'
    >>> [span.name for span in text.spans]
    ['user', 'assistant']
    """
    _require_turns(turns)
    text, spans = "", []
    for turn in turns:
        text += f"\n\n{SPEAKERS[turn.role]}:"
        start = len(text) + bool(turn.text)
        text += f" {turn.text}" if turn.text else ""
        spans.append(Span(turn.role, start, len(text)))
    return Text(text, emotion, group, tuple(spans))


def chat(
    model: HookedModel,
    turns: Sequence[Turn],
    *,
    emotion: str = NEUTRAL,
    group: str = "",
    thinking: bool = False,
) -> Text:
    """The dialogue in the model's own chat template, for models trained on it.

    Spans are named by role, in order, and cover what is said, not what the template puts around it;
    the assistant's reasoning is a span of its own, `"reasoning"`, before that of its words. If the
    last turn is the assistant's and has no words, the text ends where the model would begin. White
    space around what is said is taken off; what the template leaves out (earlier reasoning, in
    some) has no span.

    Args:
        model: whose template it is.
        turns: who says what.
        emotion: label of the text.
        group: topic, what a split keeps together.
        thinking: whether the template may open a stretch of reasoning. Off, because a model that
            thinks first has not yet decided at the colon; templates that know no such mode take
            no notice.

    Raises:
        CorpusError: if there are no turns, or the template refuses them or changes their words.
        ModelError: if the model has no chat template.
    """
    _require_turns(turns)
    if not model.tokenizer.chat_template:
        raise ModelError(
            f"{model.name!r} has no chat template: use emolens.dialogue.plain for a base model"
        )
    open_ended = turns[-1] == Turn("assistant", "")
    said = turns[:-1] if open_ended else turns

    def rendered(some: Sequence[Turn]) -> str:
        try:
            text = model.tokenizer.apply_chat_template(
                [_message(turn) for turn in some],
                tokenize=False,
                add_generation_prompt=open_ended,
                enable_thinking=thinking,
            )
        except TemplateError as error:
            raise CorpusError(
                f"the template of {model.name!r} does not take these turns ({first_line(error)}): "
                "give them as it expects, or use emolens.dialogue.plain"
            ) from None
        return _without_begin(model.tokenizer, text)

    # words are looked for by marks in their place: a short turn may also occur in the template
    words = [turn.text.strip() for turn in said] + [turn.reasoning.strip() for turn in said]
    names = [turn.role for turn in said] + ["reasoning"] * len(said)
    marked = [
        Turn(turn.role, _mark(i), _mark(len(said) + i) if turn.reasoning else "")
        for i, turn in enumerate(said)
    ]
    text, spans = "", []
    for piece in re.split(f"({OPENS}[0-9]+{CLOSES})", rendered(marked)):
        if piece.startswith(OPENS):
            number = int(piece[1:-1])
            spans.append(Span(names[number], len(text), len(text) + len(words[number])))
            piece = words[number]
        text += piece
    if text != rendered(
        [replace(t, text=t.text.strip(), reasoning=t.reasoning.strip()) for t in said]
    ):
        raise CorpusError(
            f"the template of {model.name!r} changes what is said, so turns cannot be told from "
            "it: use emolens.dialogue.plain"
        )
    if open_ended:
        spans.append(Span("assistant", len(text), len(text)))
    return Text(text, emotion, group, tuple(spans))


def _mark(number: int) -> str:
    return f"{OPENS}{number}{CLOSES}"


def _require_turns(turns: Sequence[Turn]) -> None:
    if not turns:
        raise CorpusError("a dialogue without turns: give at least one")


def _message(turn: Turn) -> dict[str, str]:
    """One message as templates expect it; `reasoning_content` is Qwen 3's name for reasoning."""
    message = {"role": turn.role, "content": turn.text}
    return message | ({"reasoning_content": turn.reasoning} if turn.reasoning else {})


def _without_begin(tokenizer: Any, text: str) -> str:
    """The text without the begin token that the tokenizer puts in front of every text anyway."""
    begin = tokenizer.bos_token
    if (
        begin
        and text.startswith(begin)
        and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    ):
        return text[len(begin) :]
    return text
