"""Dialogues in a model's own chat template, as texts whose turns are spans."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jinja2 import TemplateError

from emolens.errors import CorpusError, ModelError, first_line
from emolens.model import HookedModel
from emolens.text import NEUTRAL, Span, Text, Turn, moved, plain, require_turns

OPENS, CLOSES = "\ue000", "\ue001"  # private characters, which no text should hold


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
    the assistant's reasoning is a span of its own, `"reasoning"`, before that of its words, and
    named parts of a turn follow it. If the last turn is the assistant's and has no words, the text
    ends where the model would begin. White space around what is said is taken off; what the
    template leaves out (earlier reasoning, in some) has no span.

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
    require_turns(turns)
    if not model.tokenizer.chat_template:
        raise ModelError(f"{model.name!r} has no chat template: use emolens.plain for a base model")
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
                "give them as it expects, or use emolens.plain"
            ) from None
        return _without_begin(model.tokenizer, text)

    # words are looked for by marks in their place: a short turn may also occur in the template
    parts = [(t.text, t.spans) for t in said] + [(t.reasoning, t.thought) for t in said]
    words = [raw.strip() for raw, _ in parts]
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
            raw, named = parts[number]
            spans += moved(named, len(text) - (len(raw) - len(raw.lstrip())))
            piece = words[number]
        text += piece
    if text != rendered(
        [replace(t, text=t.text.strip(), reasoning=t.reasoning.strip()) for t in said]
    ):
        raise CorpusError(
            f"the template of {model.name!r} changes what is said, so turns cannot be told from "
            "it: use emolens.plain"
        )
    if open_ended:
        spans.append(Span("assistant", len(text), len(text)))
    return Text(text, emotion, group, tuple(spans))


def usual_render(model: HookedModel) -> Callable[..., Text]:
    """How a model reads a dialogue: by its chat template, else as the paper writes it."""
    return partial(chat, model) if model.tokenizer.chat_template else plain


def _mark(number: int) -> str:
    return f"{OPENS}{number}{CLOSES}"


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
