"""Work in stages that run beside each other, each in its own thread, with bounded queues between."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_PATIENCE = 0.1  # seconds between looks at whether the taker is still there


class _End:
    """Marks the end of a stage, with the error that ended it, if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def beside(items: Iterator[Item], depth: int, name: str) -> Generator[Item, None, None]:
    """Draw items from an iterator in a thread of its own, at most ``depth`` ahead of who takes them.

    Stages are stacked by giving one to the next. What a stage raises comes out at the end of the stack. Closing a stage
    stops its thread and waits until it has stopped; a stack is closed from its last stage to its first.

    Args:
        items: What the stage does; it is closed in its thread, where it is a generator.
        depth: Items that may wait.
        name: Of the thread.
    """
    waiting: queue.Queue[Item | _End] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Item | _End) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=_PATIENCE)
            except queue.Full:
                continue

    def work() -> None:
        error = None
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    break
        except BaseException as raised:  # handed on, whatever it is
            error = raised
        finally:
            if hasattr(items, "close"):
                items.close()
            put(_End(error))

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()
