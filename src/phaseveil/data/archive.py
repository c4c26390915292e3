"""Zip archives from strangers: members checked before anything is read, sizes limited, nothing written outside."""

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from phaseveil.errors import InputError

MAX_MEMBER = 1 << 30  # bytes of one unpacked file
MAX_TOTAL = 200 << 30  # bytes of all
_CHUNK = 1 << 20


@contextmanager
def open_zip(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading.

    Raises:
        InputError: Missing, unreadable or not a zip archive.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: damaged or not a zip archive; fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    with archive:
        yield archive


def member_problem(member: zipfile.ZipInfo) -> str | None:
    """Why a member must not be unpacked; ``None`` for a plain file or folder of reasonable size."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.filename:
        return "unsafe name in the archive"
    mode = member.external_attr >> 16
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
        return "a link or device in the archive"
    if member.flag_bits & 1:
        return "encrypted in the archive"
    return "too large in the archive" if member.file_size > MAX_MEMBER else None


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Whole content of a member, its checksum verified.

    Raises:
        InputError: Unsafe (see :func:`member_problem`) or damaged.
    """
    if (problem := member_problem(member)) is not None:
        raise InputError(f"{member.filename}: {problem}")
    try:
        with archive.open(member) as file:
            return file.read(MAX_MEMBER)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise InputError(f"{member.filename}: damaged in the archive ({error})") from error


def first_damaged(path: str | Path) -> str | None:
    """Name of the first member whose checksum is wrong, by reading all of them; ``None`` for a sound archive.

    Raises:
        InputError: Not a zip archive at all.
    """
    with open_zip(path) as archive:
        for member in archive.infolist():
            try:
                with archive.open(member) as file:
                    while file.read(_CHUNK):
                        pass
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError):
                return member.filename
    return None


def extract(path: str | Path, folder: str | Path) -> Path:
    """Unpack an archive into a new folder, which appears only when complete.

    Args:
        path: Zip archive.
        folder: Must not exist yet.

    Raises:
        InputError: A member is unsafe or damaged, or there are too many bytes. Nothing is left behind then.
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with open_zip(path) as archive:
            _extract_members(archive, temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _extract_members(archive: zipfile.ZipFile, folder: Path) -> None:
    members = archive.infolist()
    for member in members:
        if (problem := member_problem(member)) is not None:
            raise InputError(f"{archive.filename}: {member.filename}: {problem}; it was not unpacked")
    if sum(member.file_size for member in members) > MAX_TOTAL:
        raise InputError(f"{archive.filename}: unpacks to more than {MAX_TOTAL >> 30} GiB; it was not unpacked")
    for member in members:
        target = folder / member.filename.replace("\\", "/")
        if member.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise InputError(f"{archive.filename}: {member.filename}: damaged ({error}); fetch it again") from error
