"""Zip archives from strangers: members checked before anything is read, sizes limited, nothing written outside."""

import lzma
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from phaseveil.errors import InputError

MAX_MEMBER = 1 << 30  # bytes of one unpacked file
MAX_TOTAL = 200 << 30  # bytes of all
MAX_DEPTH = 32  # folders inside each other
MAX_RATIO = 200  # bytes unpacked for one packed; photographs and weights come to about 1
_CHUNK = 1 << 20
_SMALL = 64 << 20  # bytes that may be unpacked whatever the ratio

# Names that Windows gives to devices, whatever the suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# What zipfile raises for a damaged member. RuntimeError: marked as encrypted in its own header only.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, RuntimeError, OSError)


@contextmanager
def open_zip(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading.

    Raises:
        InputError: Missing, unreadable or not a zip archive.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: damaged or not a zip archive; fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    with archive:
        yield archive


def member_problem(member: zipfile.ZipInfo) -> str | None:
    """Why a member must not be unpacked; ``None`` for a plain file or folder of reasonable size."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.filename or not path.parts:
        return "unsafe name in the archive"
    if (
        not member.filename.isprintable()
        or len(path.parts) > MAX_DEPTH
        or any(_DEVICE.fullmatch(part.rstrip(" .")) for part in path.parts)
    ):
        return "unsafe name in the archive"
    mode = member.external_attr >> 16
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
        return "a link or device in the archive"
    if member.flag_bits & 1:
        return "encrypted in the archive"
    bomb = member.file_size > max(_SMALL, MAX_RATIO * member.compress_size)
    return "too large in the archive" if member.file_size > MAX_MEMBER or bomb else None


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Whole content of a member, its checksum verified.

    Raises:
        InputError: Unsafe (see :func:`member_problem`) or damaged.
    """
    if (problem := member_problem(member)) is not None:
        raise InputError(f"{member.filename}: {problem}")
    return b"".join(_pieces(archive, member))


def first_damaged(path: str | Path) -> str | None:
    """Name of the first member whose checksum is wrong, by reading all of them; ``None`` for a sound archive.

    Raises:
        InputError: Not a zip archive at all.
    """
    with open_zip(path) as archive:
        for member in archive.infolist():
            try:
                for _ in _pieces(archive, member):
                    pass
            except InputError:
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
    total, packed = (sum(getattr(member, size) for member in members) for size in ("file_size", "compress_size"))
    if total > MAX_TOTAL or total > max(_SMALL, MAX_RATIO * packed):
        limit = f"{MAX_TOTAL >> 30} GiB, or {MAX_RATIO} times what is packed"
        raise InputError(f"{archive.filename}: unpacks to more than {limit}; it was not unpacked")
    for member in members:
        target = folder / member.filename.replace("\\", "/")
        if member.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("xb") as sink:
                sink.writelines(_pieces(archive, member))
        except FileExistsError as error:
            raise InputError(f"{archive.filename}: {member.filename}: twice in the archive; fetch it again") from error
        except InputError as error:
            raise InputError(f"{archive.filename}: {error}; fetch it again") from error


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Content of a member piece by piece, never more than it announces, its checksum verified at the end.

    Raises:
        InputError: Damaged.
    """
    try:
        with archive.open(member) as file:
            while piece := file.read(_CHUNK):
                yield piece
    except _DAMAGED as error:
        raise InputError(f"{member.filename}: damaged in the archive ({error})") from error
