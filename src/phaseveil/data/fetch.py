"""One file over HTTP, or from the user's own copy: resumed, verified, and in place only when complete."""

import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from phaseveil.checkpoint import replace_atomically
from phaseveil.data.archive import first_damaged
from phaseveil.data.image_io import write_problem
from phaseveil.errors import DownloadError, InputError

ByteProgress = Callable[[int, int | None], None]
"""Called as ``progress(bytes done, bytes in all or None where the server does not say)``."""

LOCK_NAME = "downloads.lock.json"
_CHUNK = 1 << 20
_BY_HAND = "fetch it with a browser and give it with --from FILE"


@dataclass(frozen=True)
class RemoteFile:
    """A file of the catalogue.

    Attributes:
        url: Where it is, http or https.
        name: File name here.
        sha256: Digest, or its first characters, that is known for certain; ``None`` where it is not: then the digest of
            the first download is recorded in the lock file and enforced from there on.
    """

    url: str
    name: str
    sha256: str | None = None


def fetch(
    remote: RemoteFile,
    folder: str | Path,
    progress: ByteProgress | None = None,
    retries: int = 3,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Download a file; an interrupted download is continued by the next call.

    Args:
        remote: What to fetch.
        folder: Where to; the lock file lies there too.
        progress: Called after each chunk.
        retries: Further attempts after a broken connection, each from where the last one ended.
        pause: Seconds before the first of them, doubled every time.
        timeout: Seconds without an answer after which a connection counts as broken.

    Raises:
        DownloadError: Offline, missing, short, not what it should be, or no space.
    """
    path = Path(folder) / remote.name
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _verify(path, remote, path)
            return path
        part = _part(path)
        for attempt in range(retries + 1):
            try:
                _transfer(remote.url, part, progress, timeout)
                break
            except _BrokenError as error:
                if attempt == retries:
                    raise DownloadError(f"{remote.url}: {error}; run the command again to continue") from error
                time.sleep(pause * 2**attempt)
        _install(part, remote, path)
    return path


def install_copy(
    remote: RemoteFile, folder: str | Path, copy: str | Path, progress: ByteProgress | None = None
) -> Path:
    """Put the user's own copy of a file in place, verified as a download is. The copy stays.

    Raises:
        DownloadError: No such copy, not what it should be, or no space.
    """
    copy, path = Path(copy), Path(folder) / remote.name
    if not copy.is_file():
        raise DownloadError(f"{copy}: no such file; give the file fetched by hand from {remote.url}")
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part, total, done = path.with_name(path.name + ".copy"), copy.stat().st_size, 0
        _require_space(path.parent, total)
        with copy.open("rb") as source, part.open("wb") as sink:
            while chunk := source.read(_CHUNK):
                sink.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        _install(part, remote, path)
    return path


def digest(path: str | Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _BrokenError(Exception):
    """The connection ended early; trying again from the same place may help."""


class _StaleError(Exception):
    """What is here already is not the beginning of what the server has now."""


@dataclass
class _PartState:
    """What the server said of a file begun, to tell whether the rest still belongs to it."""

    url: str
    validator: str | None
    size: int | None


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, progress: ByteProgress | None, timeout: float) -> None:
    """Bring ``part`` to the remote file's full length, from what is here of it where that still fits."""
    have, state = _resumable(url, part)
    if state is None:
        _discard(part)
    elif state.size == have:
        return
    try:
        _continue(url, part, have, state, progress, timeout)
    except _StaleError:
        _discard(part)
        _continue(url, part, 0, None, progress, timeout)


def _continue(
    url: str, part: Path, have: int, state: _PartState | None, progress: ByteProgress | None, timeout: float
) -> None:
    headers = {"User-Agent": "phaseveil", "Accept-Encoding": "identity"}
    if state is not None and state.validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": state.validator}
    with _open(url, headers, timeout) as response:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(f"{url}: the server sent a web page instead of the file; {_BY_HAND}")
        have = _start_of(response, state, have)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        _require_space(part.parent, 0 if total is None else total - have)
        if have == 0:
            _state_path(part).write_text(json.dumps(asdict(_PartState(url, _validator(response.headers), total))))
        _receive(response, part, have, total, progress)


def _resumable(url: str, part: Path) -> tuple[int, _PartState | None]:
    """Bytes already here and what they are of; nothing where the rest could not be matched to them."""
    try:
        state = _PartState(**json.loads(_state_path(part).read_text()))
        have = part.stat().st_size
    except (OSError, ValueError, TypeError, RecursionError):
        return 0, None
    fits = state.url == url and state.validator is not None and (state.size is None or have <= state.size)
    return (have, state) if fits and have > 0 else (0, None)


@contextmanager
def _open(url: str, headers: dict[str, str], timeout: float) -> Iterator[Any]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise DownloadError(f"{url}: only http and https addresses can be fetched")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
            raise _StaleError from error
        if error.code >= 500 or error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise _BrokenError(f"the server answered {error.code} {error.reason}") from error
        raise DownloadError(f"{url}: the server answered {error.code} {error.reason}; {_BY_HAND}") from error
    except urllib.error.URLError as error:
        raise DownloadError(
            f"{parts.netloc} cannot be reached ({error.reason}); check the network, or {_BY_HAND}"
        ) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _BrokenError(f"the connection broke ({error or type(error).__name__})") from error


def _start_of(response: Any, state: _PartState | None, have: int) -> int:
    """First byte that the answer brings: where we are (206), or 0 from a server that sends all again (200)."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    same = state is not None and _validator(response.headers) in (None, state.validator)
    if start != str(have) or not same:
        raise _StaleError
    return have


def _validator(headers: Message) -> str | None:
    """What identifies this version of a file (RFC 9110, section 13.1.5: strong entity tags and dates only)."""
    tag = headers.get("ETag")
    return tag if tag is not None and not tag.startswith("W/") else headers.get("Last-Modified")


def _receive(response: Any, part: Path, have: int, total: int | None, progress: ByteProgress | None) -> None:
    with part.open("ab" if have else "wb") as file:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            have += len(chunk)
            if progress is not None:
                progress(have, total)
    if total is not None and have != total:
        raise _BrokenError(f"the connection ended after {have:,} of {total:,} bytes")


def _install(part: Path, remote: RemoteFile, path: Path) -> None:
    """Verify a complete file and give it its name; a wrong one is deleted."""
    try:
        _verify(part, remote, path)
    except DownloadError:
        _discard(part)
        raise
    part.replace(path)
    _discard(part)


def _verify(file: Path, remote: RemoteFile, path: Path) -> None:
    """Compare with the published digest and with the lock file; record the digest there at first sight."""
    if path.suffix == ".zip":
        _verify_zip(file, remote)
    found = digest(file)
    if remote.sha256 is not None and not found.startswith(remote.sha256):
        raise DownloadError(
            f"{path}: SHA-256 is {found[:16]}…, but {remote.sha256[:16]}… is published for {remote.url}; "
            "delete the file and fetch it again"
        )
    lock = path.parent / LOCK_NAME
    known = _read_lock(lock)
    if remote.name not in known:
        known[remote.name] = {"url": remote.url, "sha256": found, "bytes": file.stat().st_size}
        with replace_atomically(lock) as temporary:
            temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    elif known[remote.name]["sha256"] != found:
        raise DownloadError(
            f"{path}: differs from the first download (SHA-256 {found[:16]}…, recorded "
            f"{known[remote.name]['sha256'][:16]}…); if its publisher changed it, remove its entry from {lock}"
        )


def _verify_zip(file: Path, remote: RemoteFile) -> None:
    try:
        damaged = first_damaged(file)
    except InputError as error:
        raise DownloadError(f"{remote.name}: what came is not a zip archive; {_BY_HAND}") from error
    if damaged is not None:
        raise DownloadError(f"{remote.name}: damaged archive (first at {damaged}); delete it and fetch it again")


def _read_lock(lock: Path) -> dict[str, dict[str, Any]]:
    if not lock.exists():
        return {}
    try:
        known = json.loads(lock.read_text())
        if all(isinstance(entry["sha256"], str) for entry in known.values()):
            return known
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DownloadError(f"{lock}: damaged lock file; restore it or delete it to begin anew") from error
    raise DownloadError(f"{lock}: damaged lock file; restore it or delete it to begin anew")


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(f"{folder}: {needed:,} bytes are needed, {free:,} are free; free some space")


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DownloadError(f"{path}: {write_problem(error)}") from error
