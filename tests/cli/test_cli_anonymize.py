"""``phaseveil anonymize`` with images: what it writes, what it skips, every failure as one clear line."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcome import assert_one_error, manifest
from PIL import Image

from phaseveil.data import image_io
from phaseveil.data.image_io import read_image, write_png
from phaseveil.models.face import FaceConfig, FaceNetworks, save_face_networks
from phaseveil.pipeline import PhaseVeil


def test_anonymize_writes_a_face_a_manifest_and_a_summary(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    outcome = anonymize(face_file, "--out", tmp_path / "out", "--seed", "3", "--save", "sheet")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert outcome.out.startswith("1 done, 0 skipped in ")
    assert read_image(tmp_path / "out/face.png").shape == (96, 96, 3)
    assert str(tmp_path / "out/sheet/page-1.png") in outcome.out
    assert manifest(tmp_path / "out")[0]["seed"] == 3


def test_the_summary_can_be_json(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    outcome = anonymize(face_file, "--out", tmp_path / "out", "--json", "--size", "40")
    summary = json.loads(outcome.out)
    assert (summary["done"], summary["skipped"], summary["faces"]) == (1, 0, 1)
    assert read_image(tmp_path / "out/face.png").shape == (40, 40, 3)


def test_same_command_same_bytes(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        anonymize(face_file, "--out", tmp_path / name, "--seed", seed)
    first, again, other = ((tmp_path / name / "face.png").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_photographs_references_and_acquisitions(
    anonymize: Any, astronaut: np.ndarray, face_file: Path, tmp_path: Path
) -> None:
    photograph = write_png(tmp_path / "astronaut.png", astronaut)
    assert anonymize(photograph, "--out", tmp_path / "a", "--align", "--reference", photograph).code == 0
    assert read_image(tmp_path / "a/astronaut.png").shape == astronaut.shape
    assert anonymize(face_file, "--out", tmp_path / "b", "--acquired", "--domain", "male").code == 0
    assert anonymize(face_file, "--out", tmp_path / "c", "--camera", "low-resolution").code == 0


def test_bad_files_in_a_batch_are_skipped_and_told(anonymize: Any, face_crop: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_png(folder / "good.png", face_crop)
    write_png(folder / "noface.png", np.full((64, 64, 3), 90, np.uint8))
    write_png(folder / "wide.png", np.concatenate([face_crop, face_crop], axis=1))
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not a picture")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:1000])
    Image.new("L", (20_000, 16)).save(folder / "huge.png")
    outcome = anonymize(folder, "--out", tmp_path / "out", "--seed", "1")
    reasons = {Path(line["input"]).stem: line.get("reason", "") for line in manifest(tmp_path / "out")}
    assert outcome.code == 1
    assert outcome.out.startswith("1 done, 6 skipped")
    assert outcome.err.count("\n") == 6
    assert reasons["good"] == ""
    assert "no face found" in reasons["noface"]
    assert "not square" in reasons["wide"]
    assert "0 bytes" in reasons["empty"]
    assert "not an image" in reasons["text"]
    assert "damaged" in reasons["cut"]
    assert "too large" in reasons["huge"]
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["good.png"]


def test_one_bad_file_alone_is_skipped(anonymize: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    outcome = anonymize(tmp_path / "text.png", "--out", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.startswith(f"skipped {tmp_path / 'text.png'}: not an image")


def test_missing_inputs_are_an_error(anonymize: Any, tmp_path: Path) -> None:
    assert_one_error(
        anonymize(tmp_path / "absent.png", "--out", tmp_path / "out"), "absent.png: no such file or folder"
    )
    (tmp_path / "empty").mkdir()
    assert_one_error(anonymize(tmp_path / "empty", "--out", tmp_path / "out"), "no images found")


def test_an_output_that_is_a_file(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("keep me")
    assert_one_error(anonymize(face_file, "--out", tmp_path / "out"), "is a file, not a folder; choose another --out")
    assert_one_error(anonymize(face_file, "--out", tmp_path / "out" / "below"), "choose another output folder")
    assert (tmp_path / "out").read_text() == "keep me"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "no permission to write here"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_keeps_the_old_one(
    anonymize: Any, face_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, part: str
) -> None:
    anonymize(face_file, "--out", tmp_path / "out", "--seed", "1")
    before = (tmp_path / "out/face.png").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(code, "it failed")

    monkeypatch.setattr(image_io, "replace_atomically", refuse)
    assert_one_error(anonymize(face_file, "--out", tmp_path / "out", "--seed", "2"), "face.png", part)
    assert (tmp_path / "out/face.png").read_bytes() == before


def test_weights_that_do_not_fit(
    run: Any, face_file: Path, tiny_weights: Path, tiny_face_config: FaceConfig, tmp_path: Path
) -> None:
    for name in ("camera", "heatmap", "face"):
        (tmp_path / f"{name}.safetensors").write_bytes((tiny_weights / f"{name}.safetensors").read_bytes())
    call = ("anonymize", face_file, "--out", tmp_path / "out", "--weights", tmp_path)
    tiny_face_config = FaceConfig(**vars(tiny_face_config) | {"size": 64})
    save_face_networks(tmp_path / "face.safetensors", FaceNetworks(tiny_face_config))
    assert_one_error(run(*call), "works at 32 pixels, the face networks at 64")
    (tmp_path / "face.safetensors").write_bytes(b"nonsense")
    assert_one_error(run(*call), "face.safetensors", "damaged")
    (tmp_path / "heatmap.safetensors").unlink()
    assert_one_error(run(*call), "heatmap.safetensors", "no such weights file")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_ends_cleanly(
    anonymize: Any, face_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PhaseVeil, "redraw", interrupt)
    outcome = anonymize(face_file, "--out", tmp_path / "out")
    assert outcome.code == 130
    assert outcome.err == "interrupted; finished outputs are intact\n"
    assert not list((tmp_path / "out").glob(".*"))


def test_shape_is_erased_on_request(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    plain, erased, again = (tmp_path / name for name in ("plain", "erased", "again"))
    assert anonymize(face_file, "--out", plain, "--save", "acquisition,heatmap").code == 0
    for out in (erased, again):
        assert anonymize(face_file, "--out", out, "--erase-shape", "20", "--save", "acquisition,heatmap").code == 0
    faces = [read_image(out / "face.png") for out in (plain, erased, again)]
    assert not np.array_equal(faces[0], faces[1])
    assert np.array_equal(faces[1], faces[2])
    seen = [read_image(out / "acquisition" / "face.png") for out in (plain, erased)]
    assert np.array_equal(seen[0], seen[1])  # what the camera recorded is what it recorded
    assert_one_error(anonymize(face_file, "--out", tmp_path / "many", "--erase-shape", "41"), "1 to 40 directions")


def test_anonymize_runs_on_another_engine(anonymize: Any, exported: Path, face_file: Path, tmp_path: Path) -> None:
    call = ("--seed", "3", "--engine", "onnxruntime", "--engine-dir", exported)
    assert anonymize(face_file, "--out", tmp_path / "a", *call).code == 0
    assert anonymize(face_file, "--out", tmp_path / "b", "--seed", "3").code == 0
    found, expected = (read_image(tmp_path / name / "face.png").astype(int) for name in "ab")
    assert np.abs(found - expected).mean() < 1  # PyTorch's may be in bfloat16
    assert_one_error(
        anonymize(face_file, "--out", tmp_path / "c", "--engine", "onnxruntime", "--engine-dir", tmp_path),
        "no pair.onnx here; write it by 'phaseveil export onnx",
    )
