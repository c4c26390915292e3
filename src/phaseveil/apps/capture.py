"""Photograph images with a simulated camera."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch

from phaseveil.apps.batch import Job, Manifest, Record, Summary, plan, summarise
from phaseveil.data.image_io import resize, to_array, to_tensor, write_png
from phaseveil.errors import InputError
from phaseveil.optics.camera import Camera
from phaseveil.pipeline import noise_generator, square
from phaseveil.progress import Report

FRAMES = 4  # frame sizes whose transfer function is kept


def capture(
    inputs: Sequence[str | Path],
    out: Path,
    camera: Camera,
    report: Report,
    warn: Callable[[str], None],
    seed: int = 0,
    size: int | None = None,
) -> Summary:
    """Write the acquisition of every input to ``OUT/<stem>.png``.

    Args:
        inputs: Files, folders, glob patterns; square images.
        out: Output folder.
        camera: What photographs them.
        report: Told the progress.
        warn: Told each input that is skipped, with the reason.
        seed: Of the sensor's noise, the same for every input.
        size: Side that images are resized to first, pixels; their own where ``None``.

    Raises:
        InputError: Nothing to read, or the output folder cannot be written. A single bad input is skipped.
    """
    jobs = plan(inputs, out)
    manifest = Manifest(out, jobs)
    frozen = lru_cache(maxsize=FRAMES)(camera.frozen)
    records: list[Record] = []
    start = time.perf_counter()
    for job in jobs:
        record = _capture(job, out, frozen, seed, size)
        manifest.add(record)
        records.append(record)
        if record.reason:
            warn(f"skipped {record.input}: {record.reason}")
        report(len(records), len(jobs))
    return summarise(records, time.perf_counter() - start, manifest.path)


def _capture(job: Job, out: Path, frozen: Callable[[int], Camera], seed: int, size: int | None) -> Record:
    start = time.perf_counter()
    try:
        pixels = square(job.path)
    except InputError as error:
        reason = error.without(job.path)
        return Record(str(job.path), "skipped", seconds=time.perf_counter() - start, reason=reason)
    scene = to_tensor(resize(pixels, size or len(pixels)))[None]
    with torch.inference_mode():
        acquisition = frozen(scene.shape[-1])(scene, noise_generator(seed))[0]
    output = write_png(out / f"{job.name}.png", to_array(acquisition))
    return Record(str(job.path), "done", str(output), seconds=time.perf_counter() - start, seed=seed)
