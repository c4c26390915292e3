"""Photographs into training data (aligned crops, 68 landmarks, domains), and into aligned crops alone.

A prepared folder holds ``images/<split>/<domain>/<name>.webp``, one line a face in ``index.jsonl``, one line a refused
photograph in ``skipped.jsonl``, and the settings in ``prepare.json``. An interrupted run is continued by a second one.
"""

import itertools
import json
import multiprocessing
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from phaseveil.checkpoint import replace_atomically
from phaseveil.data.align import align_face
from phaseveil.data.archive import open_zip, read_member
from phaseveil.data.crops import CropKeeper, CropMaker, FaceAligner
from phaseveil.data.datasets import DOMAINS
from phaseveil.data.image_io import (
    IMAGE_SUFFIXES,
    ImageArray,
    Progress,
    decode_image,
    list_images,
    read_image,
    unique_stems,
    write_png,
    write_problem,
    write_webp,
)
from phaseveil.data.landmarks import Detector, default_detector
from phaseveil.errors import InputError

Method = Literal["align", "keep"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Skipped:
    """A photograph that gave no face.

    Attributes:
        source: Its name in the source.
        reason: Why, in a few words; details follow a comma, bracket or semicolon.
    """

    source: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without its details, for counting."""
        return re.split(r"[,;(]", self.reason)[0].strip()


@dataclass
class PrepareReport:
    """What :func:`prepare` did.

    Attributes:
        total: Photographs in the source.
        written: Faces stored by this run.
        kept: Faces that an earlier run had stored.
        skipped: Photographs without a face.
        seconds: Duration of this run.
    """

    total: int = 0
    written: int = 0
    kept: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def reasons(self) -> Counter[str]:
        """How many photographs were skipped for each kind of reason."""
        return Counter(skip.kind for skip in self.skipped)


@dataclass
class AlignReport:
    """What :func:`align_images` did.

    Attributes:
        written: Crops, in the order of the inputs.
        skipped: Photographs without a crop.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def prepare(
    source: str | Path,
    out: str | Path,
    size: int = 256,
    workers: int = 1,
    progress: Progress | None = None,
) -> PrepareReport:
    """Detect, align and store the most prominent face of every photograph, with its 68 landmarks.

    Args:
        source: Folder (searched recursively) or zip archive. ``train``, ``val``, ``test`` and ``female``, ``male``
            among a file's folders give its split and domain; without them it is ``all`` and ``unknown``.
        out: Prepared folder; continued where it exists.
        size: Side of the crops, pixels.
        workers: Processes.
        progress: Called as ``progress(done, total)`` after each photograph.

    Raises:
        InputError: No photographs, a damaged archive, an unwritable ``out``, or one prepared with other settings.
        ConfigError: dlib or a detector is not installed.
    """
    return _prepare(Path(source), Path(out), _Settings(size, "align"), workers, progress)


def prepare_aligned(
    source: str | Path,
    out: str | Path,
    size: int = 256,
    workers: int = 1,
    progress: Progress | None = None,
) -> PrepareReport:
    """As :func:`prepare`, for photographs that already are aligned square crops: they are only resized.

    Raises:
        InputError: As :func:`prepare`.
        ConfigError: As :func:`prepare`.
    """
    return _prepare(Path(source), Path(out), _Settings(size, "keep"), workers, progress)


def align_images(
    inputs: Sequence[str | Path],
    out: str | Path,
    size: int = 256,
    detector: Detector | None = None,
    progress: Progress | None = None,
) -> AlignReport:
    """Cut every face of every photograph into ``OUT/<stem>.png``, further faces of it into ``OUT/<stem>_2.png`` and on.

    A number that another photograph's name or face has taken is left out.

    Args:
        inputs: Files, folders, glob patterns.
        out: Folder for the crops.
        size: Side of the crops, pixels.
        detector: Face detector with five points; :func:`~phaseveil.data.landmarks.default_detector` where ``None``.
        progress: Called as ``progress(done, total)`` after each photograph.

    Raises:
        InputError: Nothing to read, or ``out`` cannot be written. A single bad photograph is skipped and reported.
    """
    paths = list_images(inputs)
    detector = detector or default_detector()
    report = AlignReport()
    stems = unique_stems(paths)
    taken = {stem.casefold() for stem in stems}
    for done, (path, stem) in enumerate(zip(paths, stems, strict=True), start=1):
        try:
            crops = _all_crops(read_image(path), detector, size)
        except InputError as error:
            report.skipped.append(Skipped(str(path), error.without(path)))
            crops = []
        for name, crop in zip(_face_names(stem, taken), crops, strict=False):
            taken.add(name.casefold())
            report.written.append(write_png(Path(out) / f"{name}.png", crop))
        if progress is not None:
            progress(done, len(paths))
    return report


def _face_names(stem: str, taken: Collection[str]) -> Iterator[str]:
    """Names for the faces of a photograph: its stem, then the stem with each number from 2 that is free."""
    yield stem
    for number in itertools.count(2):
        if (name := f"{stem}_{number}").casefold() not in taken:
            yield name


def _all_crops(image: ImageArray, detector: Detector, size: int) -> list[ImageArray]:
    points = [face.points for face in detector.detect(image) if face.points is not None]
    if not points:
        raise InputError("no face found")
    return [align_face(image, five, size).crop for five in points]


@dataclass(frozen=True)
class _Settings:
    size: int
    method: Method


@dataclass(frozen=True)
class _Item:
    """A photograph to prepare: its name in the source and where the crop goes."""

    name: str
    split: str
    domain: str
    file: str


def _prepare(source: Path, out: Path, settings: _Settings, workers: int, progress: Progress | None) -> PrepareReport:
    start = time.monotonic()
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out}: lies inside the source; choose a folder outside {source}")
    items = _items(source)
    try:
        _claim(out, settings)
        done = _read_index(out)
        todo = [item for item in items if item.name not in done]
        report = PrepareReport(total=len(items), kept=len(items) - len(todo))
        with (out / "index.jsonl").open("a") as index, (out / "skipped.jsonl").open("w") as skipped:
            for result in _results(source, out, settings, todo, workers):
                if isinstance(result, Skipped):
                    report.skipped.append(result)
                    print(json.dumps(asdict(result)), file=skipped, flush=True)
                else:
                    report.written += 1
                    print(json.dumps(result), file=index, flush=True)
                if progress is not None:
                    progress(report.kept + report.written + len(report.skipped), report.total)
    except OSError as error:
        raise InputError(f"{out}: {write_problem(error)}") from error
    report.seconds = time.monotonic() - start
    return report


def _items(source: Path) -> list[_Item]:
    """Photographs of a folder or archive, in the order of their names."""
    if source.is_dir():
        names = [path.relative_to(source).as_posix() for path in list_images([source])]
    elif source.is_file():
        with open_zip(source) as archive:
            names = sorted(m.filename for m in archive.infolist() if not m.is_dir() and _is_photograph(m.filename))
    else:
        raise InputError(f"{source}: no such folder or zip archive")
    if not names:
        raise InputError(f"{source}: no images inside")
    taken: Counter[str] = Counter()
    return [_item(name, taken) for name in names]


def _is_photograph(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _item(name: str, taken: Counter[str]) -> _Item:
    """Split and domain by the folders' names; what follows them names the crop."""
    *folders, _ = parts = PurePosixPath(name.replace("\\", "/")).parts
    split = next((part for part in folders if part in SPLITS), "all")
    domain = next((part for part in folders if part in DOMAINS), "unknown")
    labels = [place for place, part in enumerate(folders) if part in (*SPLITS, *DOMAINS)]
    own = parts[labels[-1] + 1 :] if labels else parts
    stem = re.sub(r"[^\w.-]", "_", "-".join([*own[:-1], PurePosixPath(own[-1]).stem]))[-100:].lstrip(".") or "image"
    file = f"images/{split}/{domain}/{stem}"
    taken[file] += 1
    suffix = f"-{taken[file]}" if taken[file] > 1 else ""
    return _Item(name, split, domain, f"{file}{suffix}.webp")


def _claim(out: Path, settings: _Settings) -> None:
    """Record the settings of a new prepared folder, or compare with those that it has."""
    path = out / "prepare.json"
    if not path.exists():
        if (out / "index.jsonl").exists():
            raise InputError(f"{out}: holds an index.jsonl that this command did not write; choose another folder")
        with replace_atomically(path) as temporary:
            temporary.write_text(json.dumps(asdict(settings)) + "\n")
        return
    try:
        found = _Settings(**json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged; delete {out} and prepare it again") from error
    if found != settings:
        raise InputError(
            f"{out}: prepared with size {found.size}, method {found.method}, not {settings.size}, {settings.method}; "
            "choose another folder"
        )


def _read_index(out: Path) -> set[str]:
    """Names of photographs whose crops are stored. A last line torn by an interruption is cut off."""
    path = out / "index.jsonl"
    if not path.exists():
        return set()
    names, good = set(), []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if (out / record["file"]).is_file():
                names.add(record["source"])
                good.append(line)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number < len(lines):
                raise InputError(f"{path}: line {number} is damaged; delete {out} and prepare it again") from error
    with replace_atomically(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in good))
    return names


def _results(
    source: Path, out: Path, settings: _Settings, items: list[_Item], workers: int
) -> Iterator[dict[str, Any] | Skipped]:
    """Index line or skip for each photograph, in order."""
    if workers <= 1 or len(items) < 2:
        with closing(_Worker(source, out, settings)) as worker:
            yield from map(worker.process, items)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(source, out, settings),
    )
    with pool:
        try:
            yield from pool.map(_process_in_worker, items, chunksize=8)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """Makes one photograph after the other into a stored crop."""

    def __init__(self, source: Path, out: Path, settings: _Settings) -> None:
        self._source = source
        self._out = out
        self._size = settings.size
        self._open = ExitStack()
        self._archive = self._open.enter_context(open_zip(source)) if source.is_file() else None
        self._maker: CropMaker = FaceAligner() if settings.method == "align" else CropKeeper()

    def process(self, item: _Item) -> dict[str, Any] | Skipped:
        """Store the crop and give its index line, or the reason why there is none."""
        try:
            crop, landmarks = self._maker.make(self._read(item.name), self._size)
        except InputError as error:
            return Skipped(item.name, error.without(item.name))
        write_webp(self._out / item.file, crop)
        return {
            "file": item.file,
            "split": item.split,
            "domain": item.domain,
            "landmarks": landmarks.round(2).tolist(),
            "size": self._size,
            "source": item.name,
        }

    def close(self) -> None:
        """Close the archive, where the source is one."""
        self._open.close()

    def _read(self, name: str) -> ImageArray:
        if self._archive is not None:
            return decode_image(read_member(self._archive, self._archive.getinfo(name)), name)
        try:
            return decode_image((self._source / name).read_bytes(), name)
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error.strerror})") from error


_worker: _Worker | None = None


def _start_worker(source: Path, out: Path, settings: _Settings) -> None:
    global _worker
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the detector's own OpenMP runtime, which is not loaded yet
    _worker = _Worker(source, out, settings)


def _process_in_worker(item: _Item) -> dict[str, Any] | Skipped:
    if _worker is None:
        raise RuntimeError("the worker process was not initialised")
    return _worker.process(item)
