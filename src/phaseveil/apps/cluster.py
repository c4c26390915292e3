"""Data sets of any size: images, WebDataset shards or Parquet tables, through workers on this machine or a cluster.

Exactly one output for each input, whoever dies on the way: see :mod:`phaseveil.apps.cluster_ledger`.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseveil import __version__
from phaseveil.apps.anonymize_settings import Settings
from phaseveil.apps.batch import Job, Summary, plan, summarise
from phaseveil.apps.cluster_ledger import Ledger, Result, Unit
from phaseveil.apps.cluster_ray import capacity, cluster_ray, local_ray, map_units
from phaseveil.apps.cluster_worker import SUFFIXES, Worker
from phaseveil.data.image_io import IMAGE_SUFFIXES
from phaseveil.errors import InputError
from phaseveil.progress import Report

IMAGES_A_UNIT = 4  # batches; what a killed worker has to do again


@dataclass(frozen=True)
class Cluster:
    """Where the workers run.

    Attributes:
        address: Of a Ray cluster; this machine where ``None``.
        workers: How many; as many as there are cores (GPUs, with such a device) where ``None``.
    """

    address: str | None = None
    workers: int | None = None


def anonymize(
    inputs: Sequence[str],
    out: Path,
    settings: Settings,
    cluster: Cluster,
    report: Report,
    say: Callable[[str], None],
) -> tuple[Summary, int]:
    """Replace the faces of a data set; what an interrupted run has finished is not done again.

    Args:
        inputs: Files, folders, glob patterns: images, ``.tar`` shards, ``.parquet`` tables.
        out: Output folder, where every worker reaches it.
        settings: How inputs become outputs.
        cluster: Where the workers run.
        report: Told the inputs finished.
        say: Told each input that has no output, with the reason.

    Returns:
        What is finished, by this run and those before it; the number of inputs that those before had finished.

    Raises:
        ConfigError: Ray is missing, or the folder was begun with other settings.
        InputError: Nothing to do, an output cannot be written, or workers die again and again.
        CheckpointError: The weights cannot be loaded.
    """
    start = time.perf_counter()
    named = plan(inputs, out, IMAGE_SUFFIXES | {".tar", ".parquet"}, "images or shards")
    jobs = [Job(job.path.absolute(), job.name) for job in named]
    settings, out = settings.anywhere(), out.absolute()
    planned = {str(job.path): f"{job.name}{SUFFIXES[kind_of(job)]}" for job in jobs}
    settings.styles(settings.pipeline(say))  # an error shows before workers start, and an engine's file is written once
    ledger = Ledger(out)
    with ledger.open(fingerprint(settings)):
        before = {path for path, result in ledger.fold(planned).items() if result.record.output is not None}
        rest = [job for job in jobs if str(job.path) not in before]
        if rest:
            _work(list(units(rest, settings.options.batch_size)), out, settings, cluster, report)
        results = ledger.fold(planned)
    _tell(results, say)
    if len(results) < len(planned):
        raise InputError(f"{out}: {len(planned) - len(results)} inputs are not done; run the command again")
    records = [result.record for result in results.values()]
    return summarise(records, time.perf_counter() - start, ledger.manifest), len(before)


def kind_of(job: Job) -> str:
    """Kind of unit that an input is done in."""
    return {".tar": "tar", ".parquet": "parquet"}.get(job.path.suffix.lower(), "images")


def units(jobs: Sequence[Job], batch_size: int) -> Iterator[Unit]:
    """Shards one by one, images some batches at a time."""
    images = [job for job in jobs if kind_of(job) == "images"]
    step = IMAGES_A_UNIT * batch_size
    groups = [images[first : first + step] for first in range(0, len(images), step)]
    for group in [*([job] for job in jobs if kind_of(job) != "images"), *groups]:
        yield Unit(kind_of(group[0]), tuple((str(job.path), job.name) for job in group))


def fingerprint(settings: Settings) -> dict[str, Any]:
    """Whatever decides about the outputs, as plain values: files by their content.

    Raises:
        ConfigError: A file cannot be read.
    """
    weights = sorted(settings.weights.glob("*.safetensors")) if settings.weights is not None else []
    camera = Path(settings.camera) if settings.camera is not None and Path(settings.camera).is_file() else None
    return {
        "version": __version__,
        "seed": settings.options.seed,
        "weights": [_digest(path) for path in weights],
        "camera": _digest(camera) if camera is not None else settings.camera,
        "reference": _digest(settings.reference) if settings.reference is not None else None,
        "domain": settings.domain,
        "erase-shape": settings.erase_shape,
        "kind of input": settings.kind,
        "size": settings.size,
        "engine": settings.engine,
        "keep-fields": list(settings.keep_fields),
        "image-column": settings.image_column,
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _work(todo: Sequence[Unit], out: Path, settings: Settings, cluster: Cluster, report: Report) -> None:
    """Have units done.

    Raises:
        InputError: A worker says why nothing can go on.
    """
    cores = "GPU" if settings.device.startswith("cuda") else "CPU"
    total, done = sum(len(unit.inputs) for unit in todo), 0
    here = cluster.workers or os.cpu_count() or 1
    with local_ray(here) if cluster.address is None else cluster_ray(cluster.address):
        workers = min(cluster.workers or capacity(cores), len(todo))
        answers = map_units([unit.text for unit in todo], Worker, (settings, out), workers, settings.device)
        for inputs, error in answers:
            if error:
                raise InputError(error)
            done += inputs
            report(done, total)


def _tell(results: Mapping[str, Result], say: Callable[[str], None]) -> None:
    for result in results.values():
        for letter in result.dead:
            say(f"skipped {letter.input}{f', {letter.sample}' if letter.sample else ''}: {letter.reason}")
