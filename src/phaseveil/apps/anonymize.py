"""The main job: folders of faces in, new faces out. Decoding and writing run in threads beside the networks."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phaseveil.apps.batch import Job, Manifest, Record, Summary, ahead, plan, summarise
from phaseveil.apps.sources import Source, Task
from phaseveil.data.align import align_face
from phaseveil.data.image_io import ImageArray, read_image, to_array, to_tensor, write_png
from phaseveil.data.landmarks import Detector
from phaseveil.errors import ConfigError, InputError, printable
from phaseveil.figures import colour_heatmap, contact_sheet
from phaseveil.pipeline import Generated, PhaseVeil
from phaseveil.progress import Report
from phaseveil.seeds import face_seed, require_seed

EXTRAS = ("acquisition", "heatmap", "sheet")
HEADINGS = ("source", "acquisition", "heatmap", "new face")
ROWS_A_SHEET = 12
WORKERS = 2
HELD_PIXELS = 64_000_000  # photographs kept in memory while a batch fills up

Styles = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Attributes:
        seed: Of every input's (first) face; where ``None``, each input draws its own from its file name.
        save: What to keep besides the new faces; some of :data:`EXTRAS`.
        batch_size: Faces that go through the networks at once.
    """

    seed: int | None = None
    save: frozenset[str] = frozenset()
    batch_size: int = 16

    def __post_init__(self) -> None:
        unknown = sorted(self.save - set(EXTRAS))
        if unknown:
            raise ConfigError(f"--save {','.join(unknown)}: unknown; choose from {','.join(EXTRAS)}")
        if self.batch_size < 1:
            raise ConfigError(f"the batch size must be at least 1, got {self.batch_size}")
        if self.seed is not None:
            require_seed(self.seed)

    def seed_of(self, job: Job) -> int:
        """Seed of an input's first face."""
        if self.seed is not None:
            return self.seed
        return int.from_bytes(hashlib.sha256(job.path.name.encode("utf-8", "surrogateescape")).digest()[:4], "big")


@dataclass(frozen=True)
class Loaded:
    """An input after reading: its task, or why there is none."""

    job: Job
    task: Task | None
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """An input after the networks."""

    loaded: Loaded
    generated: Generated | None
    seconds: float


@dataclass(frozen=True)
class Written:
    """A finished input with its rows for the contact sheet."""

    record: Record
    rows: list[tuple[ImageArray, ...]] = field(default_factory=list)


class Batch:
    """One run over many inputs.

    Args:
        pipeline: The networks.
        source: The kind of input.
        styles: Style codes ``(F, style_dim)`` for the seeds of F faces.
        options: How to run.
        out: Output folder.
    """

    def __init__(self, pipeline: PhaseVeil, source: Source, styles: Styles, options: Options, out: Path) -> None:
        self._pipeline, self._source, self._styles = pipeline, source, styles
        self._options, self._out = options, out

    def run(self, inputs: Sequence[str | Path], report: Report, warn: Callable[[str], None]) -> Summary:
        """Replace the faces of all inputs, in their order.

        Args:
            inputs: Files, folders, glob patterns.
            report: Told the progress.
            warn: Told each input that is skipped, with the reason.

        Raises:
            InputError: Nothing to read, or the output folder cannot be written. A single bad input is skipped.
        """
        jobs = plan(inputs, self._out)
        manifest = Manifest(self._out, jobs)
        sheet = Sheet(self._out)
        start = time.perf_counter()
        records: list[Record] = []
        for written in self.work(jobs):
            manifest.add(written.record)
            records.append(written.record)
            if written.record.reason:
                warn(f"skipped {written.record.input}: {written.record.reason}")
            sheet.add(written)
            report(len(records), len(jobs))
        sheet.flush()
        return summarise(records, time.perf_counter() - start, manifest.path, sheet.pages)

    def work(self, jobs: Iterable[Job]) -> Iterator[Written]:
        """Replace the faces of inputs whose outputs are named, in their order; a bad one has a record with its reason.

        Raises:
            InputError: The output folder cannot be written.
        """
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="phaseveil")
        try:
            loaded = ahead(self._load, jobs, pool, self._source.depth)
            yield from ahead(self._write, self._draw(loaded), pool, 2 * self._options.batch_size)
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, job: Job) -> Loaded:
        start = time.perf_counter()
        try:
            task = self._source.load(job)
        except InputError as error:
            reason = error.without(job.path)
            return Loaded(job, None, reason, time.perf_counter() - start)
        return Loaded(job, task, None, time.perf_counter() - start)

    def _draw(self, inputs: Iterator[Loaded]) -> Iterator[Drawn]:
        """Run the networks on batches of faces, whichever inputs they come from."""
        group: list[Loaded] = []
        for loaded in inputs:
            group.append(loaded)
            tasks = [member.task for member in group if member.task is not None]
            full = sum(len(task.faces) for task in tasks) >= self._options.batch_size
            if full or not tasks or sum(task.pixels for task in tasks) >= HELD_PIXELS:
                yield from self._draw_group(group)
                group = []
        yield from self._draw_group(group)

    def _draw_group(self, group: Sequence[Loaded]) -> Iterator[Drawn]:
        tasks = [loaded.task for loaded in group if loaded.task is not None]
        if not tasks:
            yield from (Drawn(loaded, None, 0.0) for loaded in group)
            return
        start = time.perf_counter()
        seeds = [seed for task in tasks for seed in self._seeds(task)]
        generated = self._generate(torch.cat([task.faces for task in tasks]), seeds)
        seconds_a_face = (time.perf_counter() - start) / len(seeds)
        first = 0
        for loaded in group:
            count = len(loaded.task.faces) if loaded.task is not None else 0
            part = generated.slice(first, first + count) if count else None
            yield Drawn(loaded, part, seconds_a_face * count)
            first += count

    def _generate(self, faces: Tensor, seeds: Sequence[int]) -> Generated:
        """New faces in batches of at most the configured size."""
        size = self._options.batch_size
        parts = [
            self._source.draw(self._pipeline, part, self._styles(chosen), chosen)
            for part, chosen in ((faces[i : i + size], seeds[i : i + size]) for i in range(0, len(seeds), size))
        ]
        return Generated(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _seeds(self, task: Task) -> list[int]:
        first = self._options.seed_of(task.job)
        return [face_seed(first, index) for index in range(len(task.faces))]

    def _write(self, drawn: Drawn) -> Written:
        job, task = drawn.loaded.job, drawn.loaded.task
        if task is None or drawn.generated is None:
            reason = drawn.loaded.reason
            return Written(Record(str(job.path), "skipped", seconds=drawn.loaded.seconds, reason=reason))
        start = time.perf_counter()
        faces = [to_array(face) for face in drawn.generated.face]
        rows = self._write_extras(task, drawn.generated, faces)
        output = self._keep(job, task.compose(faces))
        seconds = task.seconds + drawn.seconds + time.perf_counter() - start
        seed = self._options.seed_of(job)
        return Written(Record(str(job.path), "done", output, len(faces), seconds, seed), rows)

    def _keep(self, job: Job, picture: ImageArray) -> str:
        """Write an output; returns its place."""
        return str(write_png(self._out / f"{job.name}.png", picture))

    def _write_extras(
        self, task: Task, generated: Generated, faces: Sequence[ImageArray]
    ) -> list[tuple[ImageArray, ...]]:
        """Keep what was asked for besides the output, and return the rows of the contact sheet."""
        if not self._options.save:
            return []
        acquisitions = [to_array(image) for image in generated.acquisition]
        heatmaps = [colour_heatmap(np.asarray(heatmap)) for heatmap in generated.heatmap]
        for kind, pictures in (("acquisition", acquisitions), ("heatmap", heatmaps)):
            if kind in self._options.save:
                for index, picture in enumerate(pictures):
                    name = f"{task.job.name}.png" if index == 0 else f"{task.job.name}/{index + 1}.png"
                    write_png(self._out / kind / name, picture)
        if "sheet" not in self._options.save:
            return []
        return list(zip(map(to_array, task.faces), acquisitions, heatmaps, faces, strict=True))


class Sheet:
    """Contact sheets ``OUT/sheet/page-N.png``, a row a face, written as soon as a page is full."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "sheet"
        self._rows: list[tuple[ImageArray, ...]] = []
        self._captions: list[str] = []
        self.pages: list[Path] = []

    def add(self, written: Written) -> None:
        """Take in a finished input."""
        for row in written.rows:
            self._rows.append(row)
            self._captions.append(f"{printable(Path(written.record.input).name)}, seed {written.record.seed}")
            if len(self._rows) == ROWS_A_SHEET:
                self.flush()

    def flush(self) -> None:
        """Write the page that has been begun, if any."""
        if self._rows:
            page = contact_sheet(self._rows, HEADINGS, self._captions)
            self.pages.append(write_png(self._folder / f"page-{len(self.pages) + 1}.png", page))
            self._rows, self._captions = [], []


def latent_styles(pipeline: PhaseVeil, domain: str | None) -> Styles:
    """Styles of nobody, drawn from each seed."""
    return lambda seeds: pipeline.latent_styles(seeds, domain)


def reference_styles(pipeline: PhaseVeil, reference: Path, detector: Detector, domain: str | None) -> Styles:
    """The style of the largest face in a photograph (or aligned crop), the same for every seed.

    Raises:
        InputError: The reference is unreadable or shows no face.
    """
    image = read_image(reference)
    points = [face.points for face in detector.detect(image) if face.points is not None]
    if not points:
        raise InputError(f"{reference}: no face found in the reference; give a larger or clearer photograph")
    style = pipeline.reference_style(to_tensor(align_face(image, points[0], pipeline.size).crop), domain)
    return lambda seeds: style.expand(len(seeds), -1)
