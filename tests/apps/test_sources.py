from pathlib import Path

import numpy as np
import pytest
import torch

from phaseveil.apps.batch import Job
from phaseveil.apps.sources import Acquisitions, AlignedCrops, Photographs, check_alignment, crop_detector
from phaseveil.data.align import template_points
from phaseveil.data.image_io import write_png
from phaseveil.data.landmarks import FaceDetection, default_detector
from phaseveil.errors import InputError


def job(path: Path) -> Job:
    return Job(path, path.stem)


def face_at(points: np.ndarray) -> FaceDetection:
    return FaceDetection((0.0, 0.0, 1.0, 1.0), 0.9, points)


def test_a_crop_is_resized_and_its_output_is_as_large(face_file: Path, face_crop: np.ndarray) -> None:
    task = AlignedCrops(crop_detector, 32).load(job(face_file))
    assert task.faces.shape == (1, 3, 32, 32)
    assert abs(task.faces.mean().item() - face_crop.mean() / 255) < 0.01
    assert task.compose([np.zeros((32, 32, 3), np.uint8)]).shape == (96, 96, 3)
    larger = AlignedCrops(crop_detector, 32, output_size=200).load(job(face_file))
    assert larger.compose([np.zeros((32, 32, 3), np.uint8)]).shape == (200, 200, 3)


def test_a_crop_without_a_face_is_refused(tmp_path: Path) -> None:
    blank = write_png(tmp_path / "blank.png", np.full((64, 64, 3), 127, np.uint8))
    with pytest.raises(InputError, match=r"blank\.png: no face found; give an aligned crop, or --align"):
        AlignedCrops(crop_detector, 32).load(job(blank))


def test_a_face_far_from_its_place_is_refused() -> None:
    template = template_points(160)
    check_alignment([face_at(template + 10), face_at(template + 80)], 160, "ok.png")
    with pytest.raises(InputError, match=r"off\.png: the face is not where an aligned crop has it; add --align"):
        check_alignment([face_at(template + 20)], 160, "off.png")


def test_an_acquisition_needs_no_face(tmp_path: Path) -> None:
    frame = write_png(tmp_path / "frame.png", np.full((64, 64, 3), 51, np.uint8))
    task = Acquisitions(32).load(job(frame))
    torch.testing.assert_close(task.faces, torch.full((1, 3, 32, 32), 0.2))
    assert task.compose([np.zeros((32, 32, 3), np.uint8)]).shape == (64, 64, 3)


def test_every_face_of_a_photograph_is_replaced(tmp_path: Path, astronaut: np.ndarray) -> None:
    head = astronaut[:256, 96:352]
    pair = write_png(tmp_path / "pair.png", np.concatenate([head, head[:, ::-1]], axis=1))
    task = Photographs(default_detector, 64).load(job(pair))
    assert task.faces.shape == (2, 3, 64, 64)
    green = np.zeros((64, 64, 3), np.uint8)
    green[..., 1] = 255
    picture = task.compose([green, green])
    assert picture.shape == (256, 512, 3)
    assert np.array_equal(picture[-40:, :20], head[-40:, :20])
    for middle in (128, 384):
        assert (picture[110:130, middle - 5 : middle + 5, 1] > 200).all()


def test_a_photograph_without_a_face_is_refused(tmp_path: Path) -> None:
    blank = write_png(tmp_path / "blank.png", np.full((80, 120, 3), 127, np.uint8))
    with pytest.raises(InputError, match="no face found; give a larger or clearer photograph"):
        Photographs(default_detector, 32).load(job(blank))
