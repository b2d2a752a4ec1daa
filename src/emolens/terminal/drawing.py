"""What a terminal shows of readouts: tints, gauges, and words that flow on."""

import re
from dataclasses import dataclass

from rich.cells import cell_len
from rich.color import Color, blend_rgb
from rich.color_triplet import ColorTriplet
from rich.console import Console
from rich.style import Style
from rich.text import Text as RichText

from emolens.report.safe import visible
from emolens.report.tokens import LEVELS

WARM, COLD = ColorTriplet(213, 94, 0), ColorTriplet(0, 114, 178)  # of the report
PAPER, INK = ColorTriplet(23, 25, 28), ColorTriplet(228, 229, 231)  # of its dark page
DEEPEST = 0.6  # share of the full colour in the deepest tint, as in the report
SOFT, BAD = Style(dim=True), Style(color="red")
MARK = "┆"


@dataclass(frozen=True)
class Scale:
    """Where a readout has no colour, and how far from there it has the deepest.

    >>> Scale(1.0, 2.0).level(2.0)
    0.5
    """

    middle: float
    unit: float

    def level(self, value: float) -> float:
        """From -1 to 1; 0 for what is no number."""
        level = (value - self.middle) / self.unit
        return max(-1.0, min(1.0, level)) if level == level else 0.0


def tint(level: float) -> Style:
    """The report's colour of a level from -1 to 1: orange above 0, blue below.

    It comes with a paper and an ink of its own, since a terminal does not tell what it writes on.

    >>> tint(0.0) == tint(0.04)
    True
    """
    share = DEEPEST * round(abs(level) * LEVELS) / LEVELS
    paper = blend_rgb(PAPER, WARM if level > 0 else COLD, share)
    return Style(color=Color.from_triplet(INK), bgcolor=Color.from_triplet(paper))


def gauge(level: float, cut: float | None, half: int) -> RichText:
    """A bar from the middle to a level, and a mark where a threshold is.

    >>> gauge(0.5, 1.0, 4).plain
    '····│██·┆'
    """
    level = Scale(0.0, 1.0).level(level)
    cells = ["·"] * half + ["│"] + ["·"] * half
    whole, part = divmod(round(abs(level) * half * 2), 2)
    side = 1 if level > 0 else -1
    filled = [half + side * (i + 1) for i in range(whole + part)]
    for at in filled:
        cells[at] = "█"
    if part:
        cells[filled[-1]] = "▌" if level > 0 else "▐"
    bar = RichText()
    marked = None if cut is None else half + round(max(-1.0, min(1.0, cut)) * half)
    fill = Style(color=Color.from_triplet(WARM if level > 0 else COLD))
    for place, cell in enumerate(cells):
        if place == marked:
            bar.append(MARK, Style(bold=True))
        else:
            bar.append(cell, fill if place in filled else SOFT)
    return bar


class Flow:
    """Writes on where it left off; lines end between words if the console is a terminal."""

    def __init__(self, console: Console) -> None:
        """At the beginning of a line."""
        self.console, self.column = console, 0
        self.width = console.width if console.is_terminal else None

    def write(self, text: str, style: Style) -> None:
        """More text, made inert."""
        shown = visible(text).replace("\t", "    ")
        for word in re.findall(r"\n| *[^ \n]+| +", shown):
            wide = cell_len(word)
            if word == "\n" or (self.width and self.column + wide > self.width):
                self._put("\n", Style())
                word, self.column = word.lstrip(" \n"), 0
            self._put(word, style)
            self.column += cell_len(word)

    def end(self) -> None:
        """End the line, if one was begun."""
        if self.column:
            self._put("\n", Style())
        self.column = 0

    def _put(self, text: str, style: Style) -> None:
        if text:
            self.console.print(RichText(text, style), end="", soft_wrap=True)
