import math

import numpy as np
import pytest
from numpy.typing import NDArray

from phaseveil.data.landmarks import FaceDetection
from phaseveil.metrics.detection import (
    FRAME,
    FoundFace,
    detection_score,
    find_faces,
    from_afar,
    read_by_points,
    read_by_predictor,
)

POINTS = np.array([(86.0, 85.0), (168.0, 85.0), (127.0, 134.0), (91.0, 171.5), (163.0, 171.5)])
BOX = (30.0, 30.0, 220.0, 230.0)


class BrightFaces:
    """Stands for a detector: finds its faces wherever the image is not black."""

    def __init__(self, *faces: FaceDetection) -> None:
        self.faces = list(faces)

    def detect(self, image: NDArray[np.uint8]) -> list[FaceDetection]:
        assert image.shape == (FRAME, FRAME, 3)
        return self.faces if image.any() else []


def image(value: int, size: int = 128) -> NDArray[np.uint8]:
    return np.full((size, size, 3), value, np.uint8)


def moved(face: FoundFace, x: float, y: float) -> FoundFace:
    left, top, right, bottom = face.box
    return FoundFace((left + x, top + y, right + x, bottom + y), face.landmarks + np.array([x, y]))


FACE = FoundFace(BOX, POINTS)


def test_the_same_faces_score_perfectly() -> None:
    score = detection_score([FACE, FACE], [FACE, FACE])
    assert (score.fd, score.bb, score.lm, score.compared) == (1, 0, 0, 2)


def test_a_shift_is_measured_in_pixels() -> None:
    score = detection_score([FACE], [moved(FACE, 3, -4)])
    assert score.bb == pytest.approx(5)
    assert score.lm == pytest.approx(3.5)  # mean of |3| and |-4|
    assert score.lm_euclidean == pytest.approx(5)


def test_undetected_faces_are_counted_on_each_side() -> None:
    score = detection_score([FACE, None, FACE, FACE], [FACE, FACE, None, moved(FACE, 2, 0)])
    assert (score.pairs, score.sources_undetected, score.generated_undetected, score.compared) == (4, 1, 1, 2)
    assert score.fd == pytest.approx(0.75)
    assert score.bb == pytest.approx(1)


def test_nothing_to_compare_is_not_a_number() -> None:
    score = detection_score([FACE], [None])
    assert score.fd == 0
    assert math.isnan(score.bb)
    assert math.isnan(score.lm)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        detection_score([FACE, FACE], [FACE])


def test_reader_by_points_takes_the_largest_face_and_none_where_there_is_none() -> None:
    small = FaceDetection((0.0, 0.0, 40.0, 40.0), 0.9, POINTS / 6)
    large = FaceDetection(BOX, 0.8, POINTS)
    found = find_faces([image(200), image(0)], read_by_points(BrightFaces(small, large)))
    assert found[1] is None
    assert found[0] is not None
    assert found[0].box == BOX
    assert np.array_equal(found[0].landmarks, POINTS)


def test_reader_by_points_needs_points() -> None:
    reader = read_by_points(BrightFaces(FaceDetection(BOX, 0.8, None)))
    assert find_faces([image(200)], reader) == [None]


def test_reader_by_predictor_reads_landmarks_in_the_detectors_box() -> None:
    reader = read_by_predictor(BrightFaces(FaceDetection(BOX, 0.8, None)), lambda _, box: np.tile(box[:2], (68, 1)))
    found, missing = find_faces([image(200, size=256), image(0)], reader)
    assert missing is None
    assert found is not None
    assert found.landmarks.shape == (68, 2)
    assert np.all(found.landmarks == BOX[0])
    assert np.array_equal(found.centre, (125, 130))


@pytest.mark.parametrize("share", [0.4, 0.75, 1.0])
def test_from_afar_every_point_is_nearer_to_the_centre_and_no_border_is_seen(share: float) -> None:
    near = image(200, size=FRAME)
    near[58:62, 176:184] = 0  # its middle 68 px above the centre, 52 px to the right
    far = from_afar(near, share)
    assert far.shape == near.shape
    border = round(FRAME * (1 - share) / 2)  # beyond it lie mirror images of the point
    within = far[border : FRAME - border, border : FRAME - border, 0]
    rows, columns = (places.mean() + border + 0.5 - FRAME / 2 for places in np.nonzero(within < 150))
    assert (columns, rows) == (pytest.approx(52 * share, abs=1), pytest.approx(-68 * share, abs=1))
    assert (from_afar(image(200, size=FRAME), share) == 200).all()
