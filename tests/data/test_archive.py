"""Archives from strangers neither escape nor explode."""

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from phaseveil.data import archive as archive_module
from phaseveil.data.archive import extract, first_damaged, member_problem, open_zip, read_member
from phaseveil.errors import InputError


def save_zip(path: Path, fill: Callable[[zipfile.ZipFile], object]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        fill(archive)
    return path


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("innocent.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize("name", ["../up.png", "/etc/passwd", "a/../../b", "C:\\windows", "..\\up.png", "a/..\\..\\b"])
def test_names_that_climb_out_are_refused(tmp_path: Path, name: str) -> None:
    path = save_zip(tmp_path / "bad.zip", lambda archive: archive.writestr(name, b"x"))
    with pytest.raises(InputError, match="unsafe name in the archive; it was not unpacked"):
        extract(path, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "out").exists()
    assert list((tmp_path / "deep").iterdir()) == []


def test_links_are_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "bad.zip", lambda archive: archive.writestr(link(), "/etc/passwd"))
    with pytest.raises(InputError, match="a link or device"):
        extract(path, tmp_path / "out")
    with open_zip(path) as archive, pytest.raises(InputError, match="a link or device"):
        read_member(archive, archive.infolist()[0])


def test_encrypted_and_giant_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    member = zipfile.ZipInfo("a.png")
    assert member_problem(member) is None
    member.file_size = archive_module.MAX_MEMBER + 1
    assert member_problem(member) == "too large in the archive"
    member.flag_bits = 1
    assert member_problem(member) == "encrypted in the archive"


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MAX_TOTAL", 10)
    path = save_zip(tmp_path / "bomb.zip", lambda archive: [archive.writestr(str(i), b"12345") for i in range(3)])
    with pytest.raises(InputError, match="unpacks to more than"):
        extract(path, tmp_path / "out")


def test_a_sound_archive_is_unpacked_as_it_is(tmp_path: Path) -> None:
    path = save_zip(
        tmp_path / "good.zip", lambda archive: [archive.mkdir("empty"), archive.writestr("a/b.txt", b"text")]
    )
    assert first_damaged(path) is None
    folder = extract(path, tmp_path / "out")
    assert (folder / "a" / "b.txt").read_bytes() == b"text"
    assert (folder / "empty").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.zip", "out"]


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "bad.zip", lambda archive: archive.writestr("a.bin", bytes(1000)))
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert first_damaged(path) == "a.bin"
    with pytest.raises(InputError, match=r"a\.bin: damaged"):
        extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with open_zip(path) as archive, pytest.raises(InputError, match="damaged in the archive"):
        read_member(archive, archive.infolist()[0])


def test_what_is_no_archive_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_bytes(io.BytesIO(b"hello").getvalue())
    with pytest.raises(InputError, match="damaged or not a zip archive"), open_zip(tmp_path / "text.zip"):
        pass
    with pytest.raises(InputError, match="cannot be read"), open_zip(tmp_path / "none.zip"):
        pass
