"""What a run over a data set has finished, on disk, so that workers and driver may die at any time.

An output appears by renaming; then its worker writes a file that says so, one for each unit of work, into the hidden
folder ``.ledger`` beside the outputs. The driver folds these files into ``manifest.jsonl`` and ``dead-letters.jsonl``
when it starts and when it ends. Doing a unit twice writes the same bytes to the same names.
"""

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from phaseveil.apps.batch import MANIFEST, Job, Record
from phaseveil.checkpoint import replace_atomically
from phaseveil.data.image_io import write_problem
from phaseveil.errors import ConfigError, InputError

DEAD_LETTERS = "dead-letters.jsonl"
FOLDER = ".ledger"
_TEMPORARY = re.compile(r"\.(?P<output>.+)\.[a-z0-9_]{8}\.[a-z]+")  # see replace_atomically


@dataclass(frozen=True)
class DeadLetter:
    """Something that has no output.

    Attributes:
        input: The file.
        sample: Which part of it: a member of an archive, a row of a table; ``None`` for the file as a whole.
        reason: Why, in a line.
    """

    input: str
    sample: str | None
    reason: str


@dataclass(frozen=True)
class Result:
    """What became of one input.

    Attributes:
        record: Its line of the manifest.
        dead: All of it that has no output.
    """

    record: Record
    dead: tuple[DeadLetter, ...] = ()


@dataclass(frozen=True)
class Unit:
    """Work that is done and recorded as one: some images, or one shard.

    Attributes:
        kind: ``images``, ``tar`` or ``parquet``.
        inputs: Files, each with the stem of its output.
    """

    kind: str
    inputs: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """ASCII that :meth:`parse` reads, also where a file's name is no text."""
        return json.dumps([self.kind, self.inputs])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what :attr:`text` gave."""
        kind, inputs = json.loads(text)
        return cls(kind, tuple((path, name) for path, name in inputs))

    @property
    def key(self) -> str:
        """Name of the unit's file in the ledger."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    @property
    def jobs(self) -> list[Job]:
        """The inputs as jobs."""
        return [Job(Path(path), name) for path, name in self.inputs]


class Ledger:
    """The ledger of one output folder.

    Args:
        out: Output folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.manifest, self.dead_letters = out / MANIFEST, out / DEAD_LETTERS
        self._folder = out / FOLDER
        self._units = self._folder / "units"

    @contextmanager
    def open(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Hold the folder for one driver, whose settings must be those that it was begun with.

        Args:
            settings: Whatever decides about the outputs, as plain values.

        Raises:
            ConfigError: The folder was begun with other settings, or another run works in it.
            InputError: It cannot be written.
        """
        with _writing(self.out):
            self._units.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it when the driver dies
            except BlockingIOError as error:
                raise ConfigError(f"{self.out}: another run works in this folder; choose another --out") from error
            self._begin(dict(settings))
            yield

    def _begin(self, settings: dict[str, Any]) -> None:
        path = self._folder / "run.json"
        if path.is_file():
            begun = next(_lines(path), {})
            other = sorted(key for key in settings if begun.get(key) != settings[key])
            if other:
                raise ConfigError(f"{self.out}: begun with another {', '.join(other)}; choose another --out")
            return
        with _writing(path):
            self.manifest.unlink(missing_ok=True)  # of a run that did not say how it made its outputs
            _write(path, [json.dumps(settings)])

    def record(self, unit: Unit, results: Iterable[Result]) -> None:
        """Note that a unit is finished; its outputs must be in place.

        Raises:
            InputError: The folder cannot be written.
        """
        path = self._units / f"{unit.key}.json"
        with _writing(path):
            _write(path, [json.dumps(asdict(result)) for result in results])

    def begin(self, unit: Unit) -> int:
        """Note that a unit is begun; returns how often it has been in this run.

        Raises:
            InputError: The folder cannot be written.
        """
        path = self._units / f"{unit.key}.begun"
        with _writing(path), path.open("a", encoding="ascii") as file:
            file.write(".")
            return file.tell()

    def has(self, unit: Unit) -> bool:
        """Whether this unit is finished."""
        return (self._units / f"{unit.key}.json").is_file()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A place for an output in the making, to be renamed; :meth:`fold` removes what a killed worker left there.

        Raises:
            InputError: The folder cannot be written.
        """
        with _writing(self.out):
            handle, name = tempfile.mkstemp(dir=self._units, suffix=".part")
            os.close(handle)
            path = Path(name)
            path.chmod(0o644)
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)

    def fold(self, planned: Mapping[str, str]) -> dict[str, Result]:
        """Bring all that is finished into manifest and dead letters; sweep up what killed workers left half-written.

        Args:
            planned: Names of the outputs by input.

        Returns:
            Results of the planned inputs, in their order: those whose outputs are in place, and those without output.

        Raises:
            InputError: The folder cannot be written.
        """
        found = {line["input"]: Result(Record(**line)) for line in _lines(self.manifest)}
        for line in _lines(self.dead_letters):
            letter = DeadLetter(**line)
            if letter.input in found:
                found[letter.input] = Result(found[letter.input].record, (*found[letter.input].dead, letter))
        for path in sorted(self._units.glob("*.json")):
            found |= {result.record.input: result for result in map(_result, _lines(path))}
        with _writing(self.out):
            _sweep(self.out, set(planned.values()))
            present = {path.name for path in self.out.iterdir()}
            ordered = [path for path in [*planned, *sorted(found.keys() - planned.keys())] if path in found]
            kept = {path: found[path] for path in ordered if _stands(found[path].record, planned, present)}
            letters = [letter for result in kept.values() for letter in result.dead]
            _write(self.dead_letters, [json.dumps(asdict(letter)) for letter in letters])
            _write(self.manifest, [result.record.line() for result in kept.values()])
            for path in self._units.iterdir():
                path.unlink(missing_ok=True)
        return {path: result for path, result in kept.items() if path in planned}


def _stands(record: Record, planned: Mapping[str, str], present: Collection[str]) -> bool:
    """Whether a record holds: of a planned input without output, or of an output that is there and nobody else's."""
    if record.output is None:
        return record.input in planned
    name = Path(record.output).name
    if record.input in planned:
        return name == planned[record.input] and name in present
    return name in present and name not in set(planned.values())


def _sweep(folder: Path, outputs: Collection[str]) -> None:
    """Remove temporary files of these outputs."""
    for path in folder.glob(".*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["output"] in outputs:
            path.unlink(missing_ok=True)


def _result(line: Mapping[str, Any]) -> Result:
    return Result(Record(**line["record"]), tuple(DeadLetter(**letter) for letter in line["dead"]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a file of JSON, none where it is missing.

    Raises:
        InputError: It is not what this module wrote.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text("utf-8", errors="surrogateescape").splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number} is damaged; remove the file to do its inputs again") from error


def _write(path: Path, lines: Iterable[str]) -> None:
    with replace_atomically(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), "utf-8", errors="surrogateescape")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the system says about a place into one sentence."""
    try:
        yield
    except FileExistsError as error:
        raise InputError(f"{path}: is a file, not a folder; choose another --out") from error
    except OSError as error:
        raise InputError(f"{path}: {write_problem(error)}") from error
