"""Stages run beside each other, hand errors on, and stop."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from phaseveil.apps.stages import beside


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_order_is_kept_and_work_is_done_in_other_threads() -> None:
    seen: set[str] = set()

    def work(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            seen.add(threading.current_thread().name)
            yield item * item

    stage = beside(work(beside(iter(range(50)), 2, "first")), 2, "second")
    assert list(stage) == [number * number for number in range(50)]
    assert seen == {"second"}
    assert not {"first", "second"} & names()


def test_no_stage_is_further_ahead_than_its_queue() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    stage = beside(make(), 3, "ahead")
    for taken in range(20):
        assert next(stage) == taken
        assert len(made) <= taken + 1 + 3 + 1  # taken, waiting, and one in hand
    stage.close()
    assert len(made) < 30
    assert "ahead" not in names()


def test_an_error_comes_out_at_the_end_after_what_was_made_before() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    stage = beside(beside(fail(), 1, "inner"), 1, "outer")
    assert next(stage) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stage)
    assert not {"inner", "outer"} & names()


def test_a_stack_closes_from_its_last_stage_to_its_first() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with closing(beside(endless(), 1, "inner")) as inner, closing(beside(inner, 1, "outer")) as outer:
        next(outer)
    assert closed.is_set()
    assert not {"inner", "outer"} & names()
