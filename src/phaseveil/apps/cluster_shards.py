"""Shards in and out: WebDataset's tar files and Parquet tables, read a sample at a time, written in the same order.

Of a sample only its images go in. Its other fields may tell who it is (captions, file paths, EXIF): they are left out
unless they are named.
"""

import io
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from phaseveil.apps.batch import Job
from phaseveil.data.image_io import IMAGE_SUFFIXES
from phaseveil.engines.packages import need

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

MAX_MEMBER = 1 << 28  # bytes of one file in a shard
ROWS = 128  # of a Parquet row group
_BLOCK = 512  # bytes; the unit of tar

Problem = tuple[str | None, str]
"""A sample that cannot be used (the whole shard where ``None``), and why."""


class Reader(Protocol):
    """A shard that is read.

    Attributes:
        problems: What could not be used, known in full after the last job.
    """

    problems: list[Problem]

    def jobs(self) -> Iterator[Job]:
        """The images, each with its content; their names are what :meth:`Writer.add` is given."""
        ...


class Writer(Protocol):
    """A shard that is written."""

    def add(self, name: str, png: bytes) -> None:
        """Append the new image of the job of this name."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


@dataclass
class _Sample:
    """Files of a tar shard that belong together: their names are alike up to the first dot."""

    images: list[tuple[str, bytes]] = field(default_factory=list)
    fields: list[tuple[str, bytes]] = field(default_factory=list)


class TarReader:
    """A WebDataset shard: a tar file (https://github.com/webdataset/webdataset) without compression.

    Args:
        path: The shard.
        keep: Endings of other files to keep, such as ``cls`` or ``txt``.
    """

    def __init__(self, path: Path, keep: Collection[str]) -> None:
        self._path, self._keep = path, {f".{name}" for name in keep}
        self.problems: list[Problem] = []
        self.fields: dict[str, list[tuple[str, bytes]]] = {}
        self._names: set[str] = set()

    def jobs(self) -> Iterator[Job]:
        """See :class:`Reader`; a name is that of the output's member."""
        for key, sample in self._samples():
            self.fields[key] = sample.fields
            for member, data in sample.images:
                plain = member.removesuffix(PurePosixPath(member).suffix)
                name = next((name for name in (f"{plain}.png", f"{member}.png") if name not in self._names), None)
                if name is None:
                    self.problems.append((member, "its name occurs twice in the shard; rename it"))
                    continue
                self._names.add(name)
                yield Job(self._path / member, name, data)

    def _samples(self) -> Iterator[tuple[str, _Sample]]:
        key, sample = "", _Sample()
        for member, data in self._files():
            if sample_key(member) != key:
                yield key, sample
                key, sample = sample_key(member), _Sample()
            is_image = PurePosixPath(member).suffix.lower() in IMAGE_SUFFIXES
            (sample.images if is_image else sample.fields).append((member, data))
        yield key, sample

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of images and of files to keep."""
        try:
            with tarfile.open(self._path, "r:") as archive:
                while (member := archive.next()) is not None:
                    if member.isdir() or not self._wanted(member.name):
                        continue
                    problem = _member_problem(member)
                    if problem is not None:
                        self.problems.append((member.name, problem))
                        continue
                    file = archive.extractfile(member)
                    assert file is not None  # a regular file, see _member_problem
                    yield member.name, file.read()
                if not _ends(archive):
                    self.problems.append((None, "damaged: the shard breaks off; its images up to there are done"))
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            self.problems.append((None, f"damaged or not a tar file ({error}); its images up to there are done"))

    def _wanted(self, name: str) -> bool:
        suffix = PurePosixPath(name).suffix.lower()
        return suffix in IMAGE_SUFFIXES or any(name.endswith(ending) for ending in self._keep)


class TarWriter:
    """The new shard. Nothing but names and contents goes in: no times, no owners.

    Args:
        path: Where to.
        reader: The shard that the images are from.
    """

    def __init__(self, path: Path, reader: TarReader) -> None:
        self._archive = tarfile.open(path, "w:", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (closed by close)
        self._reader = reader

    def add(self, name: str, png: bytes) -> None:
        """Append an image; with the first of a sample, the fields to keep."""
        self._add(name, png)
        for kept, data in self._reader.fields.pop(sample_key(name), []):
            self._add(kept, data)

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._archive.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        """See :class:`Writer`."""
        self._archive.close()


def sample_key(member: str) -> str:
    """Name of a member's sample: all up to the first dot of the file's name."""
    folder, _, file = member.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _member_problem(member: tarfile.TarInfo) -> str | None:
    """Why a member cannot be used; ``None`` for a plain file of reasonable size."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return "unsafe name in the shard"
    if not member.isreg():
        return "a link or device in the shard"
    return f"too large in the shard (over {MAX_MEMBER >> 20} MiB)" if member.size > MAX_MEMBER else None


def _ends(archive: tarfile.TarFile) -> bool:
    """Whether the end mark follows: ``tarfile`` takes a damaged header for the end."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    return archive.fileobj.read(_BLOCK) == bytes(_BLOCK)


class ParquetReader:
    """A Parquet table with a column of image files: bytes, or Hugging Face's struct of ``bytes`` and ``path``.

    What a row is called (its seed depends on it): its ``key`` or ``__key__``, its ``path``, else the file's name and
    the row's number.

    Args:
        path: The table.
        column: Of the images.
        keep: Columns to keep.

    Raises:
        ConfigError: ``pyarrow`` is not installed.
    """

    def __init__(self, path: Path, column: str, keep: Collection[str]) -> None:
        need("pyarrow", extra="cluster")
        self._path, self._column = path, column
        self._keep = [name for name in keep if name not in ("key", column)]
        self.problems: list[Problem] = []
        self.rows: dict[str, dict[str, Any]] = {}
        self.schema: pyarrow.Schema | None = None

    def jobs(self) -> Iterator[Job]:
        """See :class:`Reader`; a name is the row's number."""
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self._path) as table:
                problem = self._column_problem(table.schema_arrow)
                if problem is not None:
                    self.problems.append((None, problem))
                    return
                self.schema = self._new_schema(table.schema_arrow)
                names = [name for name in ("key", "__key__") if name in table.schema_arrow.names]
                columns = dict.fromkeys([self._column, *names, *self._keep])
                number = 0
                for batch in table.iter_batches(ROWS, columns=list(columns)):
                    for row in batch.to_pylist():
                        yield from self._job(number, row)
                        number += 1
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            self.problems.append((None, f"damaged or no Parquet ({reason}); its images up to there are done"))

    def _job(self, number: int, row: dict[str, Any]) -> Iterator[Job]:
        image = row[self._column]
        data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        key = row.get("key") or row.get("__key__") or path or f"{self._path.stem}-{number}"
        if not data:
            self.problems.append((f"row {number}", "no image in this row"))
            return
        self.rows[str(number)] = {"key": str(key), **{name: row[name] for name in self._keep}}
        yield Job(self._path / str(key), str(number), data)

    def _column_problem(self, schema: "pyarrow.Schema") -> str | None:
        import pyarrow

        missing = [name for name in (self._column, *self._keep) if name not in schema.names]
        if missing:
            return f"no column {missing[0]!r}; there are {', '.join(schema.names)}"
        kind = schema.field(self._column).type
        if pyarrow.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(kind.num_fields)]:
            kind = kind.field("bytes").type
        if not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
            return f"column {self._column!r} holds {kind}, not image files; name another by --image-column"
        return None

    def _new_schema(self, schema: "pyarrow.Schema") -> "pyarrow.Schema":
        """Key, image, columns to keep; without what libraries note in a table's metadata."""
        import pyarrow

        kept = [schema.field(name).remove_metadata() for name in self._keep]
        return pyarrow.schema([("key", pyarrow.string()), (self._column, pyarrow.binary()), *kept])


class ParquetWriter:
    """The new table: ``key``, the images as PNG, the columns to keep.

    Args:
        path: Where to.
        reader: The table that the images are from.
        column: Of the images.
    """

    def __init__(self, path: Path, reader: ParquetReader, column: str) -> None:
        self._path, self._reader, self._column = path, reader, column
        self._rows: list[dict[str, Any]] = []
        self._file: Any = None

    def add(self, name: str, png: bytes) -> None:
        """Append a row."""
        self._rows.append({**self._reader.rows.pop(name), self._column: png})
        if len(self._rows) == ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._file is None:
            self._file = parquet.ParquetWriter(self._path, self._reader.schema)
        self._file.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._reader.schema))
        self._rows = []

    def close(self) -> None:
        """See :class:`Writer`."""
        if self._rows:
            self._flush()
        if self._file is not None:
            self._file.close()
