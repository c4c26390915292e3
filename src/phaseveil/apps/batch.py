"""What every batch command shares: output places, work ahead in threads, and the manifest."""

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from phaseveil.checkpoint import replace_atomically
from phaseveil.data.image_io import IMAGE_SUFFIXES, list_files, unique_stems, write_problem
from phaseveil.errors import InputError

MANIFEST = "manifest.jsonl"

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Job:
    """One input of a batch.

    Attributes:
        path: The input.
        name: Stem of its outputs, unlike every other job's.
        data: Content of the input where it is no file of its own, such as a member of an archive.
    """

    path: Path
    name: str
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Record:
    """What became of one input; a line of the manifest.

    Attributes:
        input: The input as it was given or found.
        status: ``done``, ``partial`` (a damaged video: what can be read of it) or ``skipped``.
        output: File that was written, ``None`` where skipped.
        faces: Number of faces replaced.
        seconds: Time spent on it, waiting left out.
        seed: Seed of its (first) face, ``None`` where none was used.
        reason: Why it was skipped, or what of it could not be used.
        frames: Frames of a video that were written.
        missed: Frames of it in which a face was not found.
    """

    input: str
    status: str
    output: str | None = None
    faces: int = 0
    seconds: float = 0.0
    seed: int | None = None
    reason: str | None = None
    frames: int | None = None
    missed: int | None = None

    def line(self) -> str:
        """The record as one line of JSON, without what does not concern it."""
        values = asdict(self) | {"seconds": round(self.seconds, 4)}
        optional = ("reason", "frames", "missed")
        kept = {key: value for key, value in values.items() if key not in optional or value is not None}
        return json_line(kept)


def json_line(values: Mapping[str, Any]) -> str:
    r"""One line of JSON, readable, but nothing in it that moves a cursor: such characters become ``\\u`` escapes."""
    text = json.dumps(values, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Summary:
    """What a batch did.

    Attributes:
        done: Inputs finished.
        skipped: Inputs left out, wholly or in part, each with its reason in the manifest.
        faces: Faces replaced.
        seconds: Time from the first input to the last output, loading the networks left out.
        manifest: One line of JSON an input.
        sheets: Contact sheets written.
    """

    done: int
    skipped: int
    faces: int
    seconds: float
    manifest: str
    sheets: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the rate."""
        rate = (self.done + self.skipped) / self.seconds if self.seconds > 0 else 0.0
        return asdict(self) | {"seconds": round(self.seconds, 3), "images_per_second": round(rate, 2)}


def summarise(records: Sequence[Record], seconds: float, manifest: Path, sheets: Sequence[Path] = ()) -> Summary:
    """Add up the records of a batch that took ``seconds``."""
    return Summary(
        done=sum(record.status == "done" for record in records),
        skipped=sum(record.status != "done" for record in records),
        faces=sum(record.faces for record in records),
        seconds=seconds,
        manifest=str(manifest),
        sheets=[str(path) for path in sheets],
    )


def combine(summaries: Sequence[Summary]) -> Summary:
    """Add up batches of one run, at least one, whose outputs share a folder."""
    return Summary(
        done=sum(summary.done for summary in summaries),
        skipped=sum(summary.skipped for summary in summaries),
        faces=sum(summary.faces for summary in summaries),
        seconds=sum(summary.seconds for summary in summaries),
        manifest=summaries[0].manifest,
        sheets=[sheet for summary in summaries for sheet in summary.sheets],
    )


def plan(
    inputs: Sequence[str | Path], out: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, kind: str = "images"
) -> list[Job]:
    """Name the outputs of a batch, no two alike and none an input.

    Args:
        inputs: Files, folders, glob patterns. Where a folder holds ``out``, its search leaves earlier outputs out.
        out: Folder of the outputs.
        suffixes: Of the inputs, see :func:`phaseveil.data.image_io.list_files`.
        kind: What messages call them.

    Raises:
        InputError: Nothing to do, or an input lies in the output folder, where an output could replace it.
    """
    place = out.resolve()
    holds_out = any(place != Path(given).resolve() and place.is_relative_to(Path(given).resolve()) for given in inputs)
    found = list_files(inputs, suffixes, kind)
    inside = [path for path in found if path.resolve().is_relative_to(place)]
    if inside and not holds_out:
        raise InputError(f"{inside[0]}: lies in the output folder and could be replaced; choose another --out")
    paths = [path for path in found if path not in set(inside)]
    if not paths:
        raise InputError(f"no {kind} but earlier outputs in {', '.join(map(str, inputs))}")
    return [Job(path, name) for path, name in zip(paths, unique_stems(paths), strict=True)]


def ahead(function: Callable[[Item], Answer], items: Iterable[Item], pool: Executor, depth: int) -> Iterator[Answer]:
    """Map in order on a pool, with at most ``depth`` items begun and not taken; answers come as soon as they can."""
    waiting: deque[Future[Answer]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        while waiting and (len(waiting) >= depth or waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class Manifest:
    """``manifest.jsonl`` in the output folder: a line an input, appended as soon as the input is finished.

    Lines of earlier runs stay, but for inputs or outputs that this run takes up again.

    Args:
        out: Output folder; made where missing.
        jobs: The inputs of this run.
        suffixes: That their outputs may have.

    Raises:
        InputError: The folder is a file, not writable, or the disk is full.
    """

    def __init__(self, out: Path, jobs: Sequence[Job], suffixes: Sequence[str] = (".png",)) -> None:
        self.path = out / MANIFEST
        outputs = {str(out / f"{job.name}{suffix}") for job in jobs for suffix in suffixes}
        taken = {str(job.path) for job in jobs} | outputs
        try:
            out.mkdir(parents=True, exist_ok=True)
            kept = [line for line in self._lines() if not taken & {line.get("input"), line.get("output")}]
            with replace_atomically(self.path) as temporary:
                temporary.write_text("".join(json_line(line) + "\n" for line in kept), "utf-8")
        except FileExistsError as error:
            raise InputError(f"{out}: is a file, not a folder; choose another --out") from error
        except OSError as error:
            raise InputError(f"{out}: {write_problem(error)}") from error

    def add(self, record: Record) -> None:
        """Append a line.

        Raises:
            InputError: The disk is full.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(record.line() + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: {write_problem(error)}") from error

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Whole lines of an earlier manifest; one that a crash cut short is dropped."""
        if not self.path.is_file():
            return
        for line in self.path.read_text("utf-8", errors="replace").splitlines():
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(values, dict) and all(
                isinstance(values.get(key, ""), str | None) for key in ("input", "output")
            ):
                yield values
