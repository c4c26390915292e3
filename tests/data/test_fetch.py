"""Downloads survive bad networks, and never leave a wrong file under the right name."""

import hashlib
import io
import json
import socket
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from file_server import FileServer

from phaseveil.data import fetch as fetch_module
from phaseveil.data.fetch import LOCK_NAME, RemoteFile, digest, fetch, install_copy
from phaseveil.errors import DownloadError

CONTENT = bytes(range(256)) * 40


def remote(server: FileServer, name: str = "weights.bin", sha256: str | None = None) -> RemoteFile:
    server.files.setdefault(f"/{name}", CONTENT)
    return RemoteFile(f"{server.url}/{name}", name, sha256)


def zipped(content: bytes = CONTENT) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/b.bin", content)
    return buffer.getvalue()


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_whole_with_progress_and_lock(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(remote(server), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert leftovers(tmp_path) == {"weights.bin", LOCK_NAME}
    entry = json.loads((tmp_path / LOCK_NAME).read_text())["weights.bin"]
    assert entry["sha256"] == hashlib.sha256(CONTENT).hexdigest() == digest(path)
    assert entry["bytes"] == len(CONTENT)


def test_a_present_file_is_verified_but_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    file = remote(server)
    fetch(file, tmp_path)
    fetch(file, tmp_path)
    assert len(server.requests) == 1
    (tmp_path / "weights.bin").write_bytes(b"tampered")
    with pytest.raises(DownloadError, match="differs from the first download"):
        fetch(file, tmp_path)
    assert (tmp_path / "weights.bin").read_bytes() == b"tampered"


def test_a_broken_connection_is_continued_where_it_ended(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [1000, 500]
    path = fetch(remote(server), tmp_path, pause=0)
    assert path.read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=1000-", "bytes=1500-"]


def test_an_interrupted_download_is_continued_by_the_next_call(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [1000]
    with pytest.raises(DownloadError, match=r"ended after 1,000 of 10,240 bytes; run the command again"):
        fetch(remote(server), tmp_path, retries=0)
    assert not (tmp_path / "weights.bin").exists()
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=1000-"


def test_a_server_without_ranges_is_asked_for_everything(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    server.cut_after = [1000]
    assert fetch(remote(server), tmp_path, pause=0).read_bytes() == CONTENT


@pytest.mark.parametrize("honest", [True, False])
def test_a_changed_file_is_begun_anew(server: FileServer, tmp_path: Path, honest: bool) -> None:
    server.cut_after = [1000]
    with pytest.raises(DownloadError):
        fetch(remote(server), tmp_path, retries=0)
    server.files["/weights.bin"], server.etag, server.honour_if_range = b"new" * 2000, '"v2"', honest
    assert fetch(remote(server), tmp_path).read_bytes() == b"new" * 2000


def test_a_file_that_has_shrunk_is_begun_anew(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [5000]
    with pytest.raises(DownloadError):
        fetch(remote(server), tmp_path, retries=0)
    server.files["/weights.bin"] = b"short"
    server.honour_if_range = False
    assert fetch(remote(server), tmp_path).read_bytes() == b"short"


def test_without_a_validator_nothing_is_resumed(server: FileServer, tmp_path: Path) -> None:
    server.etag = None
    server.cut_after = [1000]
    assert fetch(remote(server), tmp_path, pause=0).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, None]


def test_a_complete_part_is_only_verified_and_renamed(server: FileServer, tmp_path: Path) -> None:
    file = remote(server)
    (tmp_path / "weights.bin.part").write_bytes(CONTENT)
    state = {"url": file.url, "validator": '"v1"', "size": len(CONTENT)}
    (tmp_path / "weights.bin.part.json").write_text(json.dumps(state))
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert not server.requests


def test_a_server_may_keep_the_length_to_itself(server: FileServer, tmp_path: Path) -> None:
    server.with_length = False
    seen: list[int | None] = []
    assert fetch(remote(server), tmp_path, progress=lambda _, total: seen.append(total)).read_bytes() == CONTENT
    assert set(seen) == {None}


def test_server_errors_are_tried_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert fetch(remote(server), tmp_path, pause=0).read_bytes() == CONTENT


def test_missing_files_say_so_at_once(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"404 Not Found; fetch it with a browser and give it with --from FILE"):
        fetch(RemoteFile(f"{server.url}/nothing", "nothing"), tmp_path)
    assert len(server.requests) == 1


def test_offline_says_so_at_once(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match=r"cannot be reached .*check the network, or .*--from FILE"):
        fetch(RemoteFile(f"http://127.0.0.1:{port}/file", "file"), tmp_path)


def test_a_web_page_is_no_file(server: FileServer, tmp_path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page instead of the file"):
        fetch(remote(server), tmp_path)


def test_only_http_is_fetched(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    with pytest.raises(DownloadError, match="only http and https"):
        fetch(RemoteFile(secret.as_uri(), "stolen"), tmp_path)


@pytest.mark.parametrize("length", [8, 64])
def test_a_published_digest_is_enforced(server: FileServer, tmp_path: Path, length: int) -> None:
    right = hashlib.sha256(CONTENT).hexdigest()[:length]
    assert fetch(remote(server, "right.bin", right), tmp_path).is_file()
    with pytest.raises(DownloadError, match="is published for"):
        fetch(remote(server, "wrong.bin", "0" * length), tmp_path)
    assert leftovers(tmp_path) == {"right.bin", LOCK_NAME}


def test_a_later_download_must_equal_the_first(server: FileServer, tmp_path: Path) -> None:
    fetch(remote(server), tmp_path).unlink()
    server.files["/weights.bin"] = b"exchanged"
    with pytest.raises(DownloadError, match=f"remove its entry from .*{LOCK_NAME}"):
        fetch(remote(server), tmp_path)
    assert leftovers(tmp_path) == {LOCK_NAME}


@pytest.mark.parametrize("text", ["not json", "[]", '{"weights.bin": 3}', '{"weights.bin": {"sha256": 3}}'])
def test_a_damaged_lock_file_is_not_trusted(server: FileServer, tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_NAME).write_text(text)
    with pytest.raises(DownloadError, match="damaged lock file"):
        fetch(remote(server), tmp_path)


def test_archives_are_read_through_before_they_count(server: FileServer, tmp_path: Path) -> None:
    server.files["/good.zip"] = zipped()
    damaged = bytearray(zipped())
    damaged[100] ^= 0xFF
    server.files["/damaged.zip"] = bytes(damaged)
    assert fetch(remote(server, "good.zip"), tmp_path).is_file()
    with pytest.raises(DownloadError, match=r"damaged archive \(first at a/b.bin\)"):
        fetch(remote(server, "damaged.zip"), tmp_path)
    with pytest.raises(DownloadError, match="not a zip archive"):
        fetch(remote(server, "text.zip"), tmp_path)
    assert leftovers(tmp_path) == {"good.zip", LOCK_NAME}


def test_too_little_space_is_noticed_before(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: usage(1000, 900, 100))
    with pytest.raises(DownloadError, match=r"10,240 bytes are needed, 100 are free; free some space"):
        fetch(remote(server), tmp_path)


def test_a_disk_that_fills_up_is_one_clear_line(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_module, "_receive", full)
    with pytest.raises(DownloadError, match="the disk is full; free some space"):
        fetch(remote(server), tmp_path)


def test_the_users_own_copy_is_verified_and_stays(tmp_path: Path) -> None:
    copy = tmp_path / "Downloads" / "file (1).bin"
    copy.parent.mkdir()
    copy.write_bytes(CONTENT)
    seen: list[tuple[int, int | None]] = []
    file = RemoteFile("https://example.org/weights.bin", "weights.bin", hashlib.sha256(CONTENT).hexdigest())
    path = install_copy(file, tmp_path / "out", copy, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == copy.read_bytes() == CONTENT
    assert seen == [(len(CONTENT), len(CONTENT))]
    copy.write_bytes(b"other")
    with pytest.raises(DownloadError, match="is published"):
        install_copy(file, tmp_path / "elsewhere", copy)
    assert leftovers(tmp_path / "elsewhere") == set()
    with pytest.raises(DownloadError, match="no such file; give the file fetched by hand"):
        install_copy(file, tmp_path, tmp_path / "nothing")
