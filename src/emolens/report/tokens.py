"""A text token by token: what its interactive view and its printed strip are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from emolens.errors import SelectionError
from emolens.report.safe import data_island, visible, visible_token

PERCENTILE = 0.99  # of magnitude: that is 1 on the scale of colours, as in the paper
LEVELS = 10  # of colour, to each side of 0


@dataclass(frozen=True, eq=False)
class TokenView:
    """One text, token by token, coloured by several values.

    Attributes:
        caption: what the text is and what is to be seen.
        tokens: as the tokenizer writes them; joined they are the text.
        values: in any one unit; colours are scaled so that 1 is the 99th percentile of magnitude
            over all names of this text. What was not measured is NaN.
        names: of the values. The first colours the printed strip; a dozen can be hovered over.

    Raises:
        SelectionError: where there is not one value for each token and name.
    """

    caption: str
    tokens: Sequence[str]
    values: Float[Tensor, "token name"]
    names: Sequence[str]

    def __post_init__(self) -> None:
        """Count."""
        given, needed = tuple(self.values.shape), (len(self.tokens), len(self.names))
        if given != needed or 0 in needed:
            raise SelectionError(
                f"token view {self.caption!r}: values have shape {given}, its tokens and names "
                f"are {needed}; pass one value for each, and at least one of both"
            )

    @property
    def unit(self) -> float:
        """The value that is drawn as 1."""
        largest = float(torch.nanquantile(self.values.detach().double().abs(), PERCENTILE))
        return largest if largest > 0 else 1.0

    @property
    def scaled(self) -> Float[Tensor, "token name"]:
        """Values in that unit."""
        return self.values.detach().double().cpu() / self.unit

    @property
    def strip(self) -> list[tuple[str, str, str]]:
        """Of each token: its text, the class of its colour, and the first value in words."""
        pairs = zip(self.tokens, self.scaled[:, 0].tolist(), strict=True)
        return [
            (visible_token(token), _level(v), "" if v != v else f"{v:+.2f}") for token, v in pairs
        ]

    @property
    def properties(self) -> Markup:
        """What CircuitsVis's ColoredTokensMulti takes, as JSON."""
        return data_island(
            {
                "tokens": [_inert(visible_token(token)) for token in self.tokens],
                "values": self.scaled.tolist(),
                "labels": [visible(name) for name in self.names],
                "positiveBounds": [1] * len(self.names),
                "negativeBounds": [-1] * len(self.names),
            }
        )


def _level(value: float) -> str:
    """The class of a colour: p10 is 1 and more, n10 the opposite."""
    if value != value:
        return "none"
    level = round(min(abs(value), 1.0) * LEVELS)
    return f"{'p' if value >= 0 else 'n'}{level}" if level else ""


def _inert(token: str) -> str:
    """A token that is not HTML when set as such, and looks the same.

    CircuitsVis puts tokens into innerHTML and the same text, as text, into what hovering shows:
    entities would be right in the first and wrong in the second. A non-joiner has no width, and
    after it neither a tag nor an entity can begin.
    """
    return token.replace("<", "<\u200c").replace("&", "&\u200c")


def library() -> str:
    """CircuitsVis's own script, from the installed package: rendering by its Python calls home."""
    return (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text("utf-8")
