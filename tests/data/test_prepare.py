"""Preparing: every photograph ends in the index or among the skipped, and a second run continues."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dlib", reason="preparing needs the extra 'train' (dlib-bin)")
pytest.importorskip("yuface", reason="the run-time detector has no wheel for this Python")

from phaseveil.data import prepare as prepare_module
from phaseveil.data.align import align_face, template_points, warp
from phaseveil.data.crops import FaceAligner, five_points
from phaseveil.data.datasets import load_faces
from phaseveil.data.image_io import read_image, resize, write_png
from phaseveil.data.prepare import align_images, prepare, prepare_aligned
from phaseveil.errors import InputError

POINTS = np.array([(205.0, 103.0), (247.0, 104.0), (225.0, 127.0), (204.0, 143.0), (243.0, 144.0)])


@pytest.fixture(scope="module")
def photographs(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of photographs with two faces and five that cannot be used."""
    root = tmp_path_factory.mktemp("photographs")
    head = astronaut[:300, 70:370]
    write_png(root / "train/female/a.png", head)
    write_png(root / "val/male/b.png", head[:, ::-1])
    write_png(root / "train/male/blank.png", np.full((90, 90, 3), 127, dtype=np.uint8))
    write_png(root / "train/male/tiny.png", resize(head, 100))
    (root / "train/male/empty.png").touch()
    (root / "train/male/text.png").write_text("not an image")
    (root / "train/male/notes.txt").write_text("ignored")
    return root


@pytest.fixture(scope="module")
def prepared(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, prepare_module.PrepareReport]:
    """The tree, prepared at 128 px."""
    out = tmp_path_factory.mktemp("prepared")
    return out, prepare(photographs, out, size=128)


def records(out: Path, name: str = "index.jsonl") -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def test_every_photograph_is_accounted_for(prepared: tuple[Path, prepare_module.PrepareReport]) -> None:
    out, report = prepared
    assert (report.total, report.written, report.kept) == (6, 2, 0)
    assert dict(report.reasons) == {
        "no face found": 1,
        "face too small": 1,
        "the file is empty": 1,
        "not an image that can be read": 1,
    }
    assert records(out, "skipped.jsonl") == [{"source": s.source, "reason": s.reason} for s in report.skipped]
    assert report.seconds > 0


def test_the_index_is_what_training_reads(prepared: tuple[Path, prepare_module.PrepareReport]) -> None:
    out, _ = prepared
    first, second = records(out)
    assert first["file"] == "images/train/female/a.webp"
    assert first["source"] == "train/female/a.png"
    assert (second["split"], second["domain"], second["size"]) == ("val", "male", 128)
    assert read_image(out / first["file"]).shape == (128, 128, 3)
    assert np.array(first["landmarks"]).shape == (68, 2)


def test_landmarks_are_in_the_crops_pixels(prepared: tuple[Path, prepare_module.PrepareReport]) -> None:
    for record in records(prepared[0]):
        five = five_points(np.array(record["landmarks"]))
        assert np.linalg.norm(five - template_points(128), axis=1).max() < 12


def test_training_loads_what_was_prepared(photographs: Path, tmp_path: Path) -> None:
    for domain in ("female", "male"):
        (tmp_path / "source/train" / domain).mkdir(parents=True)
        shutil.copy(photographs / "train/female/a.png", tmp_path / "source/train" / domain)
    prepare(tmp_path / "source", tmp_path / "out", size=64)
    faces = load_faces(tmp_path / "out", "train", 32)
    assert faces.names == ["images/train/female/a.webp", "images/train/male/a.webp"]


def test_a_second_run_writes_nothing_new(
    photographs: Path, prepared: tuple[Path, prepare_module.PrepareReport]
) -> None:
    out, first = prepared
    before = (out / "index.jsonl").read_bytes()
    calls: list[tuple[int, int]] = []
    report = prepare(photographs, out, size=128, progress=lambda done, total: calls.append((done, total)))
    assert (report.written, report.kept) == (0, 2)
    assert report.reasons == first.reasons
    assert (out / "index.jsonl").read_bytes() == before
    assert calls == [(3, 6), (4, 6), (5, 6), (6, 6)]


def test_an_interrupted_run_is_continued(
    photographs: Path, prepared: tuple[Path, prepare_module.PrepareReport], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    whole = (out / "index.jsonl").read_text()
    first, second = whole.splitlines()
    (out / "index.jsonl").write_text(first + "\n" + second[: len(second) // 2])
    report = prepare(photographs, out, size=128)
    assert (report.written, report.kept) == (1, 1)
    assert (out / "index.jsonl").read_text() == whole
    (out / "images/train/female/a.webp").unlink()
    report = prepare(photographs, out, size=128)
    assert (report.written, report.kept) == (1, 1)
    assert sorted(whole.splitlines()) == sorted((out / "index.jsonl").read_text().splitlines())


def test_damage_inside_the_index_is_not_guessed_away(
    photographs: Path, prepared: tuple[Path, prepare_module.PrepareReport], tmp_path: Path
) -> None:
    shutil.copytree(prepared[0], tmp_path / "out")
    index = tmp_path / "out/index.jsonl"
    index.write_text("damage\n" + index.read_text())
    with pytest.raises(InputError, match="line 1 is damaged"):
        prepare(photographs, tmp_path / "out", size=128)


def test_other_settings_need_another_folder(
    photographs: Path, prepared: tuple[Path, prepare_module.PrepareReport], tmp_path: Path
) -> None:
    out, _ = prepared
    with pytest.raises(InputError, match="prepared with size 128, method align, not 64, align"):
        prepare(photographs, out, size=64)
    with pytest.raises(InputError, match="method align, not 128, keep; choose another folder"):
        prepare_aligned(photographs, out, size=128)
    (tmp_path / "index.jsonl").touch()
    with pytest.raises(InputError, match="did not write; choose another folder"):
        prepare(photographs, tmp_path)
    (tmp_path / "prepare.json").write_text("{")
    with pytest.raises(InputError, match=r"prepare\.json: damaged"):
        prepare(photographs, tmp_path)


def test_two_processes_do_the_same_as_one(
    photographs: Path, prepared: tuple[Path, prepare_module.PrepareReport], tmp_path: Path
) -> None:
    report = prepare(photographs, tmp_path / "out", size=128, workers=2)
    assert report.written == 2
    assert (tmp_path / "out/index.jsonl").read_bytes() == (prepared[0] / "index.jsonl").read_bytes()


def test_an_archive_gives_what_its_folder_gives(
    photographs: Path, prepared: tuple[Path, prepare_module.PrepareReport], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.write(photographs / "train/female/a.png", "celeba_hq/train/female/a.png")
        archive.write(photographs / "train/female/a.png", "../escape.png")
        archive.writestr("__MACOSX/celeba_hq/._a.png", b"rubbish")
        archive.writestr("celeba_hq/readme.txt", b"text")
    report = prepare(tmp_path / "faces.zip", tmp_path / "out", size=128)
    assert (report.total, report.written) == (2, 1)
    assert dict(report.reasons) == {"unsafe name in the archive": 1}
    (record,) = records(tmp_path / "out")
    assert record["file"] == "images/train/female/a.webp"
    assert record["landmarks"] == records(prepared[0])[0]["landmarks"]
    assert not list(tmp_path.rglob("escape*"))


def test_names_without_labels_keep_their_folders(photographs: Path, tmp_path: Path) -> None:
    for place in ("2019 trip/x.png", "2020/x.png", "x.png"):
        (tmp_path / "source" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photographs / "train/female/a.png", tmp_path / "source" / place)
    prepare(tmp_path / "source", tmp_path / "out", size=32)
    files = sorted(record["file"] for record in records(tmp_path / "out"))
    assert files == [f"images/all/unknown/{name}.webp" for name in ("2019_trip-x", "2020-x", "x")]


def test_equal_names_do_not_overwrite_each_other(photographs: Path, tmp_path: Path) -> None:
    items = prepare_module._items(photographs)
    assert len({item.file for item in items}) == len(items)
    (tmp_path / "a").mkdir()
    for name in ("x.png", "x.jpg", "a/x.png", "a-x.png"):
        (tmp_path / name).touch()
    files = [item.file for item in prepare_module._items(tmp_path)]
    assert len(set(files)) == 4


def test_aligned_crops_are_kept_as_they_are(astronaut: np.ndarray, tmp_path: Path) -> None:
    crop = align_face(astronaut, POINTS, 256).crop
    write_png(tmp_path / "source/train/female/a.png", crop)
    write_png(tmp_path / "source/train/female/wide.png", astronaut[:200, :300])
    write_png(tmp_path / "source/train/female/blank.png", np.zeros((64, 64, 3), dtype=np.uint8))
    report = prepare_aligned(tmp_path / "source", tmp_path / "out", size=256)
    assert dict(report.reasons) == {"not a square crop": 1, "no face found": 1}
    (record,) = records(tmp_path / "out")
    assert np.abs(read_image(tmp_path / "out" / record["file"]).astype(int) - crop).mean() < 3
    assert np.linalg.norm(five_points(np.array(record["landmarks"])) - template_points(256), axis=1).max() < 20


def test_crops_that_dlib_misses_fall_back_on_five_points(
    astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phaseveil.data.crops.DlibDetector.detect", lambda *_: [])
    crop, landmarks = prepare_module.CropKeeper().make(align_face(astronaut, POINTS, 128).crop, 128)
    assert crop.shape == (128, 128, 3)
    assert np.linalg.norm(five_points(landmarks) - template_points(128), axis=1).max() < 12


def test_landmarks_that_contradict_the_detector_are_refused(
    astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phaseveil.data.crops.LandmarkPredictor.predict", lambda *_: np.zeros((68, 2)))
    with pytest.raises(InputError, match="landmarks disagree with the detected face"):
        FaceAligner().make(astronaut[:300, 70:370], 64)


def test_sources_without_photographs_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or zip archive"):
        prepare(tmp_path / "none", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(InputError, match="no images inside"):
        prepare(tmp_path / "empty.zip", tmp_path / "out")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(InputError, match="damaged or not a zip archive"):
        prepare(tmp_path / "text.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="lies inside the source"):
        prepare(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(("number", "message"), [(28, "the disk is full"), (30, "no permission to write")])
def test_a_failing_disk_stops_the_run_with_finished_crops_intact(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    prepare(photographs / "train", tmp_path / "out", size=64)
    before = (tmp_path / "out/index.jsonl").read_bytes()

    def fail(*_: object) -> int:
        raise OSError(number, "reason")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match=message):
        prepare(photographs, tmp_path / "out", size=64)
    assert (tmp_path / "out/index.jsonl").read_bytes() == before


def test_align_cuts_every_face_of_every_photograph(astronaut: np.ndarray, tmp_path: Path) -> None:
    head = astronaut[:230, 110:340]
    write_png(tmp_path / "in/one.png", warp(head, np.array([[0.9, -0.3, 60], [0.3, 0.9, -30]]), 240))
    write_png(tmp_path / "in/two.png", np.hstack([head, head[:, ::-1]]))
    write_png(tmp_path / "in/none.png", np.zeros((64, 64, 3), dtype=np.uint8))
    (tmp_path / "in/text.png").write_text("not an image")
    calls: list[tuple[int, int]] = []
    report = align_images([tmp_path / "in"], tmp_path / "out", 96, progress=lambda *at: calls.append(at))
    assert [path.name for path in report.written] == ["one.png", "two.png", "two_2.png"]
    assert {Path(skip.source).name: skip.kind for skip in report.skipped} == {
        "none.png": "no face found",
        "text.png": "not an image that can be read",
    }
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    one, two, mirrored = (read_image(path).astype(int) for path in report.written)
    assert one.shape == (96, 96, 3)
    assert np.abs(one - two).mean() < 25
    assert np.abs(two - mirrored[:, ::-1]).mean() < 20
