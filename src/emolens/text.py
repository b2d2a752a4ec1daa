"""A text with its emotion, the group that a split keeps together, and spans; its tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from jaxtyping import Bool, Int
from torch import Tensor

from emolens.errors import CorpusError

NEUTRAL = "neutral"
OPENING = "("  # a reply is begun with it where what comes next should be a letter
Role = Literal["system", "user", "assistant"]
SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Span:
    """A named half-open range of characters of one text."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Text:
    """One text.

    Attributes:
        text: what the model reads.
        emotion: the emotion the text conveys, or `"neutral"`.
        group: topic or template; texts of one group stay on one side of a split.
        spans: named parts in order of appearance; a story's first one is its opening.
        id: name of the text in its file, for tables and errors.
    """

    text: str
    emotion: str = NEUTRAL
    group: str = ""
    spans: tuple[Span, ...] = ()
    id: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says.

    A last turn of the assistant without words is one that the model is yet to speak.

    Attributes:
        role: who speaks.
        text: what is said.
        reasoning: what the assistant thought before it spoke.
        spans: named parts of what is said.
        thought: named parts of the reasoning.
    """

    role: Role
    text: str
    reasoning: str = ""
    spans: tuple[Span, ...] = ()
    thought: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Dialogues:
    """Texts in which several speak, each with an emotion of its own.

    Attributes:
        texts: spans named by speaker cover what it says.
        felt: by speaker, the emotion it feels in each text.
        shown: by speaker, the emotion it shows in each text; differs where it wears a mask.
    """

    texts: tuple[Text, ...]
    felt: Mapping[str, tuple[str, ...]]
    shown: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Tokens:
    """Texts as right-padded token ids.

    Attributes:
        ids: token ids; what stands right of a text's end does not matter.
        mask: which entries are tokens of the text, special tokens included.
        offsets: character range of each token; empty (start = end) for special tokens.
        cut: indices of texts that were longer than the context and lost their end.
    """

    ids: Int[Tensor, "text token"]
    mask: Bool[Tensor, "text token"]
    offsets: Int[Tensor, "text token 2"]
    cut: tuple[int, ...] = ()

    @cached_property
    def words(self) -> Bool[Tensor, "text token"]:
        """The mask without special tokens (begin, separator), whose residuals are outliers."""
        return self.mask & (self.offsets[..., 1] > self.offsets[..., 0])

    def only(self, rows: Sequence[int]) -> "Tokens":
        """Those texts alone, no wider than the longest of them."""
        width = int(self.mask[rows].sum(1).max())
        return Tokens(self.ids[rows, :width], self.mask[rows, :width], self.offsets[rows, :width])

    def __len__(self) -> int:
        """How many texts."""
        return len(self.ids)


def groups_of(texts: Sequence[Text]) -> list[str]:
    """Topic or template of each text, what intervals and halves go by; else each its own.

    >>> groups_of([Text("a", group="work"), Text("b")])
    ['work', '1']
    """
    return [text.group or str(i) for i, text in enumerate(texts)]


def plain(turns: Sequence[Turn], *, emotion: str = NEUTRAL, group: str = "") -> Text:
    r"""The dialogue in the paper's format, for base models: `Human:` and `Assistant:`.

    Spans are named by role, in order; that of a turn without words is empty and stands where it
    would begin. Named parts of a turn follow it. Reasoning has no place in this format and is left
    out.

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
    require_turns(turns)
    text, spans = "", []
    for turn in turns:
        text += f"\n\n{SPEAKERS[turn.role]}:"
        start = len(text) + bool(turn.text)
        text += f" {turn.text}" if turn.text else ""
        spans += [Span(turn.role, start, len(text)), *moved(turn.spans, start)]
    return Text(text, emotion, group, tuple(spans))


def begun(text: Text, words: str) -> Text:
    """The text with the first words of what comes next, after a space unless one is there.

    >>> begun(Text("Assistant:"), "(").text
    'Assistant: ('
    """
    return replace(text, text=text.text + (words if text.text[-1:].isspace() else f" {words}"))


def moved(spans: Sequence[Span], by: int) -> list[Span]:
    """Spans as they stand in a text that holds theirs from there on."""
    return [replace(span, start=span.start + by, end=span.end + by) for span in spans]


def require_turns(turns: Sequence[Turn]) -> None:
    """Raise `CorpusError` if nobody says anything."""
    if not turns:
        raise CorpusError("a dialogue without turns: give at least one")
