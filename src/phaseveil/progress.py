"""Progress of long work, on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from phaseveil.errors import printable

PLAIN_INTERVAL = 10.0  # seconds between lines where standard error is not a terminal

Report = Callable[[int, int | None], None]
"""Called as ``report(done, total)`` after each item; ``total`` is ``None`` where it is unknown."""


@contextmanager
def progress(description: str, unit: str | None = None) -> Iterator[Report]:
    """Show how far a piece of work has come while the block runs.

    Args:
        description: What is being done, such as ``anonymize``.
        unit: What is counted, such as ``frames``; where given, their number per second is shown, too.

    Yields:
        A function to call with the number of items finished so far and their total.
    """
    description = printable(description)
    with _bar(description, unit) if sys.stderr.isatty() else _lines(description, unit) as report:
        yield report


@contextmanager
def _bar(description: str, unit: str | None) -> Iterator[Report]:
    """A bar that disappears when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Speed(ProgressColumn):
        """Items per second, lately."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} {unit}/s" if task.speed else "")

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Remaining()]
    with Progress(*columns, *([Speed()] if unit else []), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _lines(description: str, unit: str | None) -> Iterator[Report]:
    """A line every :data:`PLAIN_INTERVAL` seconds, none for short work."""
    last = time.monotonic()
    first: tuple[int, float] | None = None

    def report(done: int, total: int | None) -> None:
        nonlocal first, last
        now = time.monotonic()
        first = first or (done, now)
        if now - last < PLAIN_INTERVAL:
            return
        last = now
        line = f"{description}: {done}" + (f" of {total}" if total is not None else "")
        if unit and now > first[1] and done > first[0]:
            speed = (done - first[0]) / (now - first[1])
            line += f", {speed:.1f} {unit}/s"
            line += f", {(total - done) / speed:.0f} s left" if total is not None and total > done else ""
        print(line, file=sys.stderr, flush=True)

    yield report
