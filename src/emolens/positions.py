"""Position rules: which tokens of a text are read. A rule is a function; write one to add one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
from jaxtyping import Bool
from torch import Tensor

from emolens.errors import SelectionError
from emolens.text import Span, Text, Tokens

STORY_SKIP = 50
STORY_MINIMUM = 80


@dataclass(frozen=True)
class Positions:
    """The tokens a rule picked, and the name of what it applied to each text."""

    mask: Bool[Tensor, "text token"]
    used: tuple[str, ...]


PositionRule = Callable[[Sequence[Text], Tokens], Positions]


def last(texts: Sequence[Text], tokens: Tokens) -> Positions:
    """The last token of each text, a closing special token not counted."""
    index = torch.arange(tokens.ids.shape[1])
    final = torch.where(tokens.words, index, -1).amax(1, keepdim=True)
    return Positions((index == final) & tokens.words, ("last",) * len(texts))


def everything(texts: Sequence[Text], tokens: Tokens) -> Positions:
    """Every token but the special ones."""
    return Positions(tokens.words, ("all",) * len(texts))


def nowhere(texts: Sequence[Text], tokens: Tokens) -> Positions:
    """No token: for steering of what is written alone."""
    return Positions(torch.zeros_like(tokens.mask), ("nowhere",) * len(texts))


def span(*names: str) -> PositionRule:
    """The tokens of every span of that name, or of any of several."""

    def rule(texts: Sequence[Text], tokens: Tokens) -> Positions:
        mask = torch.zeros_like(tokens.mask)
        for i, text in enumerate(texts):
            for s in text.spans:
                if s.name in names:
                    mask[i] |= (tokens.offsets[i, :, 0] < s.end) & (
                        tokens.offsets[i, :, 1] > s.start
                    )
        return Positions(mask & tokens.words, (f"span({', '.join(names)})",) * len(texts))

    return rule


def from_token(first: int) -> PositionRule:
    """Every token from the `first`-th on, special tokens not counted.

    >>> from_token(50).__name__
    'from_token(50)'
    """

    def rule(texts: Sequence[Text], tokens: Tokens) -> Positions:
        mask = tokens.words & (tokens.words.cumsum(1) > first)
        return Positions(mask, (f"from_token({first})",) * len(texts))

    rule.__name__ = f"from_token({first})"
    return rule


def colon(texts: Sequence[Text], tokens: Tokens) -> Positions:
    """The last token before the assistant's last turn, or of the text where that turn is empty.

    In plain dialogues it is the colon after "Assistant", the paper's "A:"; in a chat template the
    end of what opens the turn. Nothing of the reply has been read there.
    """
    return _last_before("colon", "assistant", attrgetter("start"), texts, tokens)


def user_end(texts: Sequence[Text], tokens: Tokens) -> Positions:
    """The last token of the user's last turn."""
    return _last_before("user_end", "user", attrgetter("end"), texts, tokens)


def _last_before(
    name: str, role: str, edge: Callable[[Span], int], texts: Sequence[Text], tokens: Tokens
) -> Positions:
    """The last token that ends at or before an edge of the last turn of that role.

    None in a text that the context cut off before it.
    """
    mask = torch.zeros_like(tokens.words)
    for i, text in enumerate(texts):
        turns = [s for s in text.spans if s.name == role]
        if not turns or (i in tokens.cut and int(tokens.offsets[i].max()) < edge(turns[-1])):
            continue
        before = tokens.words[i] & (tokens.offsets[i, :, 1] <= edge(turns[-1]))
        mask[i, before.nonzero().flatten()[-1:]] = True
    return Positions(mask, (name,) * len(texts))


def story(texts: Sequence[Text], tokens: Tokens) -> Positions:
    """The default for stories: where the emotion has been established.

    From the 50th token on (PAPER 1.1) where a text has at least 80 tokens; a shorter text is
    read whole, after its opening span if it has one.
    """
    long = tokens.words.sum(1) >= STORY_MINIMUM
    openings = torch.tensor([text.spans[0].end if text.spans else 0 for text in texts])
    later = tokens.words.cumsum(1) > STORY_SKIP
    after = tokens.offsets[..., 0] >= openings[:, None]
    short = ["after opening" if text.spans else "all" for text in texts]
    used = [
        f"from_token({STORY_SKIP})" if n else s for n, s in zip(long.tolist(), short, strict=True)
    ]
    return Positions(tokens.words & torch.where(long[:, None], later, after), tuple(used))


def pick(rule: PositionRule, texts: Sequence[Text], tokens: Tokens) -> Positions:
    """Apply a rule and see that it picked something in every text.

    Raises:
        SelectionError: if a text has no token that the rule picks.
    """
    found = rule(texts, tokens)
    empty = (~found.mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise SelectionError(
            f"position rule {found.used[empty[0]]!r} picks no token in {len(empty)} of "
            f"{len(texts)} texts, the first is {texts[empty[0]].text[:60]!r}: "
            "choose another rule or drop these texts"
        )
    return found
