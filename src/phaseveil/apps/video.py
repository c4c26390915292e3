"""Videos in, videos with new faces out: one after the other, each resumable, nothing half-written."""

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from phaseveil.apps.anonymize import Styles
from phaseveil.apps.batch import Manifest, Record, Summary, summarise
from phaseveil.apps.film import Film, Options
from phaseveil.apps.redaction import Redaction
from phaseveil.apps.video_inputs import CAMERA_FORMAT, OUTPUT_SUFFIXES, Clip, plan_clips
from phaseveil.apps.video_io import ENCODING, VideoError, VideoReader
from phaseveil.apps.video_segments import Segments, output_suffix
from phaseveil.errors import InputError
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import Report
from phaseveil.seeds import face_seed

__all__ = ["Options", "Redaction", "VideoBatch"]

Progress = Callable[[str, str], AbstractContextManager[Report]]
Say = Callable[[str], None]


class VideoBatch:
    """One run over several videos and cameras.

    Args:
        pipeline: The networks.
        styles: Style codes for the seeds of faces.
        options: How to run.
        out: Output folder.
    """

    def __init__(self, pipeline: PhaseVeil, styles: Styles, options: Options, out: Path) -> None:
        self._pipeline, self._styles, self._options, self._out = pipeline, styles, options, out
        modules = (pipeline.camera, pipeline.pair, pipeline.networks)
        self._networks_digest = _digest(tensor for module in modules for tensor in module.state_dict().values())

    def run(self, inputs: Sequence[str], progress: Progress, say: Say) -> Summary:
        """Replace the faces in all videos, in their order.

        Args:
            inputs: Video files, folders, glob patterns, cameras.
            progress: Called with a description and a unit; gives what is told the frames done.
            say: Told what is skipped or noteworthy.

        Raises:
            InputError: Nothing to read, or the output folder cannot be written. A single bad video is skipped.
        """
        clips = plan_clips(inputs, self._out)
        manifest = Manifest(self._out, [clip.job for clip in clips], OUTPUT_SUFFIXES)
        records: list[Record] = []
        begin = time.perf_counter()
        for clip in clips:
            start = time.perf_counter()
            try:
                record = self._anonymize(clip, progress, say)
            except VideoError as error:
                reason = error.without(clip.job.path)
                record = Record(str(clip.job.path), "skipped", seconds=time.perf_counter() - start, reason=reason)
            manifest.add(record)
            records.append(record)
            if record.reason:
                say(f"{'skipped ' if record.status == 'skipped' else ''}{record.input}: {record.reason}")
        return summarise(records, time.perf_counter() - begin, manifest.path)

    def _anonymize(self, clip: Clip, progress: Progress, say: Say) -> Record:
        start = time.perf_counter()
        path, seed = clip.job.path, self._options.faces.seed_of(clip.job)
        with VideoReader(clip.device or path, str(path), CAMERA_FORMAT if clip.device else None) as reader:
            suffix = ".mkv" if clip.device else output_suffix(path)
            output = self._out / f"{clip.job.name}{suffix}"
            if output.is_dir():
                raise InputError(f"{output}: is a folder; remove it, or choose another --out")
            segments = Segments(output, self._identity(clip, seed))
            film = Film(self._pipeline, self._styles, self._options, seed, reader, segments)
            if segments.count:
                say(f"{path}: goes on after frame {film.ledger.read} of an earlier run")
            try:
                with progress(path.name, "frames") as report, _until_interrupted(reader, clip.device is not None):
                    film.run(report)
                begin = film.ledger.begin if clip.device else reader.start
                segments.join(output, None if clip.device else path, reader.format.time_base, begin)
            except VideoError:
                segments.remove()
                raise
        ledger = film.ledger
        ledger.write(output.with_suffix(".tracks.json"), str(path), seed)
        segments.remove()
        for note in ledger.notes(self._options.redaction.only):
            say(f"{path}: {note}")
        status = "partial" if ledger.damage else "done"
        seconds, faces = time.perf_counter() - start, ledger.persons(self._options.redaction.only)
        return Record(
            str(path), status, str(output), faces, seconds, seed, ledger.damage, ledger.written, ledger.missed
        )

    def _identity(self, clip: Clip, seed: int) -> dict[str, Any]:
        """What a run is about, as plain values; only a run of the same goes on with what is there."""
        options, pipeline = self._options, self._pipeline
        file = clip.job.path.stat() if clip.device is None else None
        return {
            "input": [str(clip.job.path.resolve()), file.st_size, file.st_mtime_ns] if file else time.time_ns(),
            "options": repr((options.redaction.on_miss, sorted(options.redaction.only), options.redaction.keep_others)),
            "search": [options.detect_every, options.min_face, options.acquired, repr(options.region)],
            "arithmetic": [options.faces.batch_size, str(pipeline.dtype), str(pipeline.device)],
            "engine": type(pipeline.engine).__name__,
            "seed": seed,
            "style": _digest([self._styles([seed, face_seed(seed, 1)])]),  # of persons 1 and 2
            "networks": self._networks_digest,
            "encoding": ENCODING,
        }


@contextmanager
def _until_interrupted(reader: VideoReader, live: bool) -> Iterator[None]:
    """Let an interrupt (Ctrl-C) end a camera's video instead of the program."""
    if not live or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        reader.stop()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _digest(tensors: Iterable[Tensor]) -> str:
    """Fingerprint of numbers."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()
