"""One worker of a run over a data set: it loads the networks once, then does units of work, one after another."""

from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseveil.apps.anonymize import Batch, Options, Styles
from phaseveil.apps.anonymize_settings import Settings
from phaseveil.apps.batch import Job, Record
from phaseveil.apps.cluster_ledger import DEAD_LETTERS, DeadLetter, Ledger, Result, Unit
from phaseveil.apps.cluster_shards import ParquetReader, ParquetWriter, Reader, TarReader, TarWriter, Writer
from phaseveil.apps.sources import Source
from phaseveil.data.image_io import ImageArray, encode_png
from phaseveil.errors import PhaseVeilError
from phaseveil.pipeline import PhaseVeil

SUFFIXES = {"images": ".png", "tar": ".tar", "parquet": ".parquet"}  # of outputs, by kind of unit

MAX_TRIES = 6  # of a unit; then an input is taken for what kills the workers


class InMemoryBatch(Batch):
    """The plain command's work, whose outputs stay in memory until they are taken from ``files``."""

    def __init__(self, pipeline: PhaseVeil, source: Source, styles: Styles, options: Options, out: Path) -> None:
        super().__init__(pipeline, source, styles, options, out)
        self.files: dict[str, bytes] = {}

    def _keep(self, job: Job, picture: ImageArray) -> str:
        self.files[job.name] = encode_png(picture)
        return job.name


class Worker:
    """Does units of work; Ray makes one in each of its worker processes.

    Args:
        settings: How inputs become outputs.
        out: Output folder.
    """

    def __init__(self, settings: Settings, out: Path) -> None:
        self._settings, self._ledger = settings, Ledger(out)
        torch.set_num_threads(1)  # a worker is one core; more cores, more workers

    @cached_property
    def _parts(self) -> tuple[PhaseVeil, Source, Styles, Options, Path]:
        """What a batch is made of; the networks are loaded at the first unit."""
        pipeline, settings = self._settings.pipeline(lambda message: None), self._settings
        return pipeline, settings.source(pipeline.size), settings.styles(pipeline), settings.options, self._ledger.out

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """Do the units of some rows.

        Args:
            rows: Column ``unit``, see :attr:`~phaseveil.apps.cluster_ledger.Unit.text`.

        Returns:
            Columns ``inputs`` (number of the unit's inputs) and ``error`` (why all must stop; empty as a rule).
        """
        units = [Unit.parse(str(text)) for text in rows["unit"]]
        return {"inputs": [len(unit.inputs) for unit in units], "error": [self._finish(unit) for unit in units]}

    def _finish(self, unit: Unit) -> str:
        """Do a unit unless it is done: a worker may die between that and its answer."""
        try:
            if not self._ledger.has(unit):
                if self._ledger.begin(unit) > MAX_TRIES:
                    return f"{unit.inputs[0][0]}: {MAX_TRIES} workers died at it or at those after it; leave it out"
                self._ledger.record(unit, self.do(unit))
        except PhaseVeilError as error:
            return str(error)
        return ""

    def do(self, unit: Unit) -> list[Result]:
        """Write the outputs of a unit; tells what became of each input.

        Raises:
            InputError: An output cannot be written.
            CheckpointError: The weights cannot be loaded.
        """
        if unit.kind == "images":
            return [_of_image(written.record) for written in Batch(*self._parts).work(unit.jobs)]
        settings = self._settings
        results = []
        for job in unit.jobs:
            with self._ledger.scratch() as temporary:
                reader: TarReader | ParquetReader
                writer: TarWriter | ParquetWriter
                if unit.kind == "tar":
                    reader = TarReader(job.path, settings.keep_fields)
                    writer = TarWriter(temporary, reader)
                else:
                    reader = ParquetReader(job.path, settings.image_column, settings.keep_fields)
                    writer = ParquetWriter(temporary, reader, settings.image_column)
                results.append(self._shard(job, reader, writer, temporary, SUFFIXES[unit.kind]))
        return results

    def _shard(self, job: Job, reader: Reader, writer: Writer, temporary: Path, suffix: str) -> Result:
        """Do a shard; its output appears when it is whole, and only if there is anything in it."""
        batch, records = InMemoryBatch(*self._parts), []
        with closing(writer):
            for written in batch.work(reader.jobs()):
                records.append(written.record)
                if written.record.output is not None:
                    writer.add(written.record.output, batch.files.pop(written.record.output))
        done = sum(record.status == "done" for record in records)
        place = self._ledger.out / f"{job.name}{suffix}"
        if done:
            temporary.replace(place)
        dead = [DeadLetter(str(job.path), sample, reason) for sample, reason in reader.problems]
        for record in records:
            if record.reason is not None:
                dead.append(DeadLetter(str(job.path), record.input.removeprefix(f"{job.path}/"), record.reason))
        if not records and not dead:
            dead.append(DeadLetter(str(job.path), None, "no images in this shard"))
        return Result(_of_shard(job.path, place if done else None, records, len(dead)), tuple(dead))


def _of_shard(path: Path, place: Path | None, records: Sequence[Record], dead: int) -> Record:
    """The shard's line of the manifest, from those of its images."""
    return Record(
        str(path),
        "skipped" if place is None else "partial" if dead else "done",
        str(place) if place is not None else None,
        sum(record.faces for record in records),
        sum(record.seconds for record in records),
        reason=f"{dead} left out, see {DEAD_LETTERS}" if dead else None,
    )


def _of_image(record: Record) -> Result:
    dead = () if record.reason is None else (DeadLetter(record.input, None, record.reason),)
    return Result(record, dead)
