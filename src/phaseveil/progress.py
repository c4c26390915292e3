"""Progress of long work, on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_INTERVAL = 10.0  # seconds between lines where standard error is not a terminal

Report = Callable[[int, int | None], None]
"""Called as ``report(done, total)`` after each item; ``total`` is ``None`` where it is unknown."""


@contextmanager
def progress(description: str) -> Iterator[Report]:
    """Show how far a piece of work has come while the block runs.

    Args:
        description: What is being done, such as ``anonymize``.

    Yields:
        A function to call with the number of items finished so far and their total.
    """
    with _bar(description) if sys.stderr.isatty() else _lines(description) as report:
        yield report


@contextmanager
def _bar(description: str) -> Iterator[Report]:
    """A bar that disappears when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _lines(description: str) -> Iterator[Report]:
    """A line every :data:`PLAIN_INTERVAL` seconds, none for short work."""
    last = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_INTERVAL:
            last = time.monotonic()
            print(f"{description}: {done}" + (f" of {total}" if total is not None else ""), file=sys.stderr, flush=True)

    yield report
