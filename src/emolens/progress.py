"""One look for every long job: what, how far, how fast, how long still; on standard error."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text as RichText

T = TypeVar("T")


class RateColumn(ProgressColumn):
    """Units per second, with a decimal where there are few."""

    def render(self, task: Task) -> RichText:
        """The rate, or nothing before the first unit is done."""
        speed = task.finished_speed or task.speed
        if not speed:
            return RichText("")
        number = f"{speed:,.1f}" if speed < 10 else f"{speed:,.0f}"
        return RichText(f"{number} {task.fields['unit']}/s", no_wrap=True)


_live: list[Progress] = []  # bars that are shown now


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with count, rate, time spent and time left; add tasks with `unit=`.

    Within the work of another bar it is not shown: two at once tear a terminal's lines, and a
    notebook that is executed without a screen loses track of its outputs.
    """
    bar = Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        # without ipywidgets rich would print a new bar into the notebook at every refresh
        console=Console(stderr=True, force_jupyter=None if find_spec("ipywidgets") else False),
        disable=bool(_live),
    )
    _live.append(bar)
    try:
        with bar:
            yield bar
    finally:
        _live.remove(bar)


def track(items: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """Yield `items` while a bar shows how far the work is."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, task_id=bar.add_task(what, total=total, unit=unit))


@contextmanager
def no_bars() -> Iterator[None]:
    """Inside, no bar is drawn: two at once are never shown, and this one is not seen."""
    with ExitStack() as stack:
        with redirect_stderr(StringIO()):  # it would hide and show the cursor
            bar = stack.enter_context(progress_bar())
            bar.stop()
        bar.disable = True  # else it would end with an empty line
        yield
