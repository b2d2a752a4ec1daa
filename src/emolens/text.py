"""A text with its emotion, the group that a split keeps together, and spans; its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Int
from torch import Tensor

NEUTRAL = "neutral"


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
    """

    text: str
    emotion: str = NEUTRAL
    group: str = ""
    spans: tuple[Span, ...] = ()


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

    def __len__(self) -> int:
        """How many texts."""
        return len(self.ids)
