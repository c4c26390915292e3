"""Finished parts of an evaluation on disk: one array file a shard, written whole or not at all."""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phaseveil.apps.evaluate_inputs import slices
from phaseveil.data.image_io import write_atomically

Row = dict[str, NDArray]
"""All numbers of one source by name; a name always has the same shape."""


class Shards:
    """Rows of numbers in files of ``size`` sources.

    Args:
        folder: Where they lie; of one run's settings.
        count: Sources of the whole run.
        size: Sources in a file.
    """

    def __init__(self, folder: Path, count: int, size: int) -> None:
        self._folder = folder
        self._parts = list(slices(count, size))
        self._missing = [part for part in self._parts if not _whole(self._path(part), part.stop - part.start)]

    @property
    def missing(self) -> list[int]:
        """Places of the sources that have still to be measured, ascending."""
        return [place for part in self._missing for place in range(part.start, part.stop)]

    def write(self, rows: Iterable[Row]) -> Iterator[int]:
        """Keep the rows of the missing places, each file as soon as it is full; yields how many rows have come.

        Raises:
            InputError: The folder is not writable or the disk full.
        """
        held: list[Row] = []
        waiting = iter(self._missing)
        part = next(waiting, None)
        for done, row in enumerate(rows, start=1):
            held.append(row)
            if part is not None and len(held) == part.stop - part.start:
                self._save(part, held)
                held, part = [], next(waiting, None)
            yield done
        self._missing = []

    def read(self) -> Iterator[Row]:
        """All shards in order, the rows of each stacked."""
        for part in self._parts:
            with np.load(self._path(part), allow_pickle=False) as stored:
                yield dict(stored)

    def _save(self, part: slice, rows: Sequence[Row]) -> None:
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        write_atomically(self._path(part), lambda temporary: np.savez(temporary, **stacked))  # type: ignore[arg-type]

    def _path(self, part: slice) -> Path:
        return self._folder / f"sources-{part.start:06d}-{part.stop:06d}.npz"


def _whole(path: Path, count: int) -> bool:
    """Whether a shard is there and can be read to its end."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return bool(stored.files) and all(len(stored[name]) == count for name in stored.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False
