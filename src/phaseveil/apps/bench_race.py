"""Timing on machines that do other work, too: everything that is compared takes turns in one process."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WARM_UP = 2
Contestants = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One measured case.

    Attributes:
        case: What ran.
        p50, p95: Median and 95th percentile of the time by the clock, milliseconds; ``None`` where nothing ran.
        rate: Images, or whatever the section counts, a second, by the median.
        ratio: Time over that of the section's first case, median over the rounds, each compared within itself.
        work_ratio: The same of the processor's time, all threads together: what a busy machine disturbs less.
        share: FLOP/s over the machine's best convolution in the same rounds, each in its shortest lap.
        note: What else is to be known, such as how far values differ.
    """

    case: str
    p50: float | None = None
    p95: float | None = None
    rate: float | None = None
    ratio: float | None = None
    work_ratio: float | None = None
    share: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Cases that are compared with the first of them.

    Attributes:
        title: What all have in common.
        rows: The cases.
        peak_memory: Largest memory of the process until then, MiB.
    """

    title: str
    rows: tuple[Row, ...]
    peak_memory: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_markdown(self) -> str:
        """A heading and a table; columns that no case fills are left out."""
        columns: dict[str, Callable[[Row], str]] = {
            "case": lambda row: row.case,
            "p50, ms": lambda row: _number(row.p50, ".2f"),
            "p95, ms": lambda row: _number(row.p95, ".2f"),
            "a second": lambda row: _number(row.rate, ".1f"),
            "time over the first's": lambda row: _number(row.ratio, ".2f"),
            "processor time over the first's": lambda row: _number(row.work_ratio, ".2f"),
            "of the convolution peak": lambda row: _number(row.share, ".0%"),
            "note": lambda row: row.note,
        }
        cells = {name: [read(row) for row in self.rows] for name, read in columns.items()}
        cells = {name: column for name, column in cells.items() if any(column)}
        lines = [f"### {self.title}", "", f"| {' | '.join(cells)} |", "|" + "---|" * len(cells)]
        lines += [f"| {' | '.join(row)} |" for row in zip(*cells.values(), strict=True)]
        return "\n".join([*lines, "", f"Peak memory of the process so far: {self.peak_memory:.0f} MiB."])


class Laps(NamedTuple):
    """Seconds that a contestant took, a value a round.

    Attributes:
        clock: By the clock. Shape ``(rounds,)``.
        processor: Of the processor, all threads together. Shape ``(rounds,)``.
    """

    clock: NDArray[np.float64]
    processor: NDArray[np.float64]

    @property
    def best(self) -> float:
        """Shortest by the clock: what the machine can do when nothing else runs."""
        return float(self.clock.min())


def race(contestants: Contestants, rounds: int) -> dict[str, Laps]:
    """What each takes.

    Each runs once a round, each round begins with another: what slows the machine for a while slows all alike.

    Args:
        contestants: What runs, by its name. Each has run :data:`WARM_UP` times before.
        rounds: At least 1.
    """
    names = list(contestants)
    for name in names * WARM_UP:
        contestants[name]()
    laps: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter(), time.process_time()
            contestants[name]()
            laps[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return {name: Laps(*np.array(values).T) for name, values in laps.items()}


def rows_of(
    found: Mapping[str, Laps],
    items: int | Mapping[str, int] = 0,
    shares: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> tuple[Row, ...]:
    """A race as rows.

    Args:
        found: From :func:`race`; the first is the yardstick.
        items: What one run works off, for the rate, of all or by name; none where 0.
        shares: See :class:`Row`, by name.
        notes: By name.
    """
    yardstick = next(iter(found.values()))
    rows = []
    for name, laps in found.items():
        count = items if isinstance(items, int) else items.get(name, 0)
        p50, p95 = np.percentile(laps.clock, [50, 95])
        rows.append(
            Row(
                case=name,
                p50=1e3 * float(p50),
                p95=1e3 * float(p95),
                rate=count / float(p50) if count else None,
                ratio=float(np.median(laps.clock / yardstick.clock)),
                work_ratio=float(np.median(laps.processor / yardstick.processor)),
                share=(shares or {}).get(name),
                note=(notes or {}).get(name, ""),
            )
        )
    return tuple(rows)


def section(title: str, rows: tuple[Row, ...]) -> Section:
    """Rows with the memory that the process has needed so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return Section(title, rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)
