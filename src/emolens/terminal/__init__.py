"""Talk to a watched model in the terminal: readouts token by token, gauges, alarms, a guard."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console
from rich.style import Style

from emolens.progress import no_bars
from emolens.serve import opening
from emolens.terminal.chat import Chat, Settings


def talk(chat: Chat, ask: Callable[[str], str], *, typed: bool) -> None:
    """Answer what is asked until it ends.

    Args:
        chat: that answers.
        ask: gives a line after a prompt, and raises EOFError at the end, as `input` does.
        typed: whether whoever asks sees the line already; else it is shown.
    """
    chat.greet()
    going = True
    with no_bars():
        while going:
            try:
                chat.console.print()
                line = ask("you: " if typed else "")
                if not typed:
                    chat.tell(f"you: {line}", Style())
                going = chat.take(line)
            except EOFError:
                going = False
            except KeyboardInterrupt:
                chat.tell("\nCtrl-D or /quit ends")
    if typed:
        chat.console.print()


def terminal() -> Console:
    """Standard output, in colours if it is a terminal and `NO_COLOR` is not set."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    plain = bool(os.environ.get("NO_COLOR"))  # rich alone would keep bold and underlined
    return Console(highlight=False, color_system=None if plain else "auto")


def run(
    model: str, vectors: Path | None, layer: int | None, settings: Settings, device: str | None
) -> None:
    """Open a model and talk to it in this terminal until that ends.

    Args:
        model: these and the next two as in `emolens serve`.
        vectors: a file, or none to fit them.
        layer: 0-based block.
        settings: to begin with.
        device: where the model is.

    Raises:
        EmolensError: for what cannot be opened, read or calibrated.
    """
    with suppress(ImportError):  # lines are edited and recalled where the system can
        import readline  # noqa: F401

    opened = opening.prepared(model, vectors, layer, device=device)
    usual = opening.usual_prompts(opened.monitor.model, opened.render)
    source = f"of {vectors}" if vectors else "fitted on the spot"
    chat = Chat(terminal(), opened, usual, settings, source)
    talk(chat, input, typed=sys.stdin.isatty())
