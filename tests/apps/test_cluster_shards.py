"""Shards are read to the end, and what cannot be used is named, never lost."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from phaseveil.apps.cluster_shards import ParquetReader, ParquetWriter, TarReader, TarWriter

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'cluster'")
parquet = pytest.importorskip("pyarrow.parquet")


def tar(path: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = len(data), 1_600_000_000, "somebody"
            archive.addfile(member, io.BytesIO(data))
    return path


def read(path: Path, *keep: str) -> tuple[TarReader, list[tuple[str, bytes | None]]]:
    reader = TarReader(path, keep)
    return reader, [(job.name, job.data) for job in reader.jobs()]


def test_images_come_in_order_with_names_of_their_outputs(tmp_path: Path) -> None:
    files = [("a/1.left.jpg", b"1"), ("a/1.right.JPG", b"2"), ("a/1.txt", b"who"), ("a/2.webp", b"3")]
    reader, jobs = read(tar(tmp_path / "s.tar", *files))
    assert jobs == [("a/1.left.png", b"1"), ("a/1.right.png", b"2"), ("a/2.png", b"3")]
    assert reader.problems == []
    assert [job.path.name for job in TarReader(tmp_path / "s.tar", ()).jobs()] == [
        "1.left.jpg",
        "1.right.JPG",
        "2.webp",
    ]


def test_names_that_would_clash_do_not(tmp_path: Path) -> None:
    reader, jobs = read(tar(tmp_path / "s.tar", ("a.jpg", b"1"), ("a.png", b"2"), ("a.png", b"3")))
    assert jobs == [("a.png", b"1"), ("a.png.png", b"2")]
    assert reader.problems == [("a.png", "its name occurs twice in the shard; rename it")]


def test_nothing_but_images_and_named_fields_goes_on(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "s.tar", ("1.jpg", b"x"), ("1.cls", b"3"), ("1.txt", b"who"), ("2.jpg", b"x"), ("2.cls", b"4")
    )
    reader = TarReader(path, ("cls",))
    writer = TarWriter(tmp_path / "out.tar", reader)
    for job in reader.jobs():
        if job.name == "2.png":  # the first is a bad image: its field stays behind, too
            writer.add(job.name, b"new")
    writer.close()
    with tarfile.open(tmp_path / "out.tar") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["2.png", "2.cls"]
        assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
        assert archive.extractfile("2.png").read() == b"new"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "x/../../a.jpg", "..\\a.jpg"])
def test_unsafe_names_are_dead(tmp_path: Path, name: str) -> None:
    reader, jobs = read(tar(tmp_path / "s.tar", (name, b"1"), ("b.jpg", b"2")))
    assert jobs == [("b.png", b"2")]
    assert reader.problems == [(name, "unsafe name in the shard")]


def test_links_are_dead(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    reader, jobs = read(tmp_path / "s.tar")
    assert jobs == []
    assert reader.problems == [("a.jpg", "a link or device in the shard")]


@pytest.mark.parametrize("cut", ["content", "header", "mark", "damaged header"])
def test_a_shard_that_breaks_off_is_named(tmp_path: Path, cut: str) -> None:
    path = tar(tmp_path / "s.tar", ("a.jpg", b"1" * 600), ("b.jpg", b"2" * 600))
    data = bytearray(path.read_bytes())
    second = 512 + 1024
    if cut == "damaged header":
        data[second + 150] ^= 0xFF
    path.write_bytes(data[: {"content": second + 700, "header": second + 100, "mark": second}.get(cut, len(data))])
    reader, jobs = read(path)
    assert jobs == [("a.png", b"1" * 600)]
    ((sample, reason),) = reader.problems
    assert sample is None
    assert "its images up to there are done" in reason


def test_a_file_that_is_no_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"plain" * 200)
    reader, jobs = read(tmp_path / "s.tar")
    assert jobs == []
    assert "not a tar file" in reader.problems[0][1]


def table(path: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_rows_are_called_by_key_or_path_or_number(tmp_path: Path) -> None:
    images = [{"bytes": b"1", "path": "x/1.jpg"}, {"bytes": b"2", "path": None}, {"bytes": None, "path": None}]
    reader = ParquetReader(table(tmp_path / "s.parquet", image=images), "image", ())
    assert [(job.name, job.data, job.path.name) for job in reader.jobs()] == [("0", b"1", "1.jpg"), ("1", b"2", "s-1")]
    assert reader.problems == [("row 2", "no image in this row")]
    keyed = ParquetReader(table(tmp_path / "k.parquet", image=[b"1"], key=["face.png"]), "image", ())
    assert [job.path.name for job in keyed.jobs()] == ["face.png"]


def test_tables_keep_named_columns_in_order(tmp_path: Path) -> None:
    count = 300
    columns = {"photo": [b"x"] * count, "label": list(range(count)), "name": ["who"] * count}
    reader = ParquetReader(table(tmp_path / "s.parquet", **columns), "photo", ("label",))
    writer = ParquetWriter(tmp_path / "out.parquet", reader, "photo")
    for job in reader.jobs():
        if job.name != "7":
            writer.add(job.name, b"new")
    writer.close()
    new = parquet.read_table(tmp_path / "out.parquet")
    assert new.column_names == ["key", "photo", "label"]
    assert new["label"].to_pylist() == [number for number in range(count) if number != 7]
    assert set(new["photo"].to_pylist()) == {b"new"}


def test_tables_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = table(tmp_path / "s.parquet", image=["text"])
    (tmp_path / "no.parquet").write_bytes(b"no table at all")
    for reader, reason in (
        (ParquetReader(path, "image", ()), "column 'image' holds string, not image files"),
        (ParquetReader(path, "photo", ()), "no column 'photo'; there are image"),
        (ParquetReader(path, "image", ("label",)), "no column 'label'; there are image"),
        (ParquetReader(tmp_path / "no.parquet", "image", ()), "damaged or no Parquet"),
    ):
        assert list(reader.jobs()) == []
        ((sample, why),) = reader.problems
        assert sample is None
        assert reason in why
