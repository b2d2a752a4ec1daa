"""One look for every long job: what, how far, how fast, how long still; on standard error."""

from collections.abc import Iterable, Iterator
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
    """Units per second."""

    def render(self, task: Task) -> RichText:
        """The rate, or nothing before the first unit is done."""
        speed = task.finished_speed or task.speed
        return RichText(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "")


def progress_bar() -> Progress:
    """A bar with count, rate, time spent and time left; add tasks with `unit=`."""
    return Progress(
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def track(items: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """Yield `items` while a bar shows how far the work is."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, task_id=bar.add_task(what, total=total, unit=unit))
