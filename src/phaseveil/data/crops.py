"""One photograph into one training crop with its 68 landmarks: by alignment, or kept as it is."""

from typing import Protocol

import numpy as np

from phaseveil.data.align import rescale, similarity, template_points, transform, warp
from phaseveil.data.image_io import ImageArray, resize
from phaseveil.data.landmarks import (
    Box,
    DlibDetector,
    LandmarkPredictor,
    Points,
    default_detector,
    dlib_box,
    most_prominent,
    overlap,
)
from phaseveil.errors import InputError

_FRAME = 256  # side at which landmarks are read, pixels
_MARGIN = 32  # context around it, for dlib's detector
_MIN_FACE = 40  # narrower faces hold too little to learn from, pixels
_SAME_FACE = 0.5  # overlap, and share of the area, above which dlib's box and the aligned face are one
_MAX_DISAGREEMENT = 0.35  # mean distance of the detectors' points, in eye distances


class CropMaker(Protocol):
    """A way to make a training crop."""

    def make(self, image: ImageArray, size: int) -> tuple[ImageArray, Points]:
        """Crop of shape ``(size, size, 3)``, uint8, and its landmarks, shape ``(68, 2)``, pixels of the crop.

        Raises:
            InputError: No usable face.
        """
        ...


class FaceAligner:
    """Aligns the most prominent face of a photograph by its five points.

    Raises:
        ConfigError: dlib, its models or a run-time detector are not installed.
    """

    def __init__(self) -> None:
        self._detector = default_detector()
        self._reader = _LandmarkReader()

    def make(self, image: ImageArray, size: int) -> tuple[ImageArray, Points]:
        """See :class:`CropMaker`."""
        faces = [face for face in self._detector.detect(image) if face.points is not None]
        if not faces:
            raise InputError("no face found")
        face = most_prominent(faces, image)
        width = face.box[2] - face.box[0]
        if width < _MIN_FACE:
            raise InputError(f"face too small ({width:.0f} px wide, at least {_MIN_FACE} are needed)")
        matrix = similarity(face.points, template_points(_FRAME))  # type: ignore[arg-type]  # filtered above
        shift = np.array([[0.0, 0.0, _MARGIN], [0.0, 0.0, _MARGIN]])
        frame = warp(image, matrix + shift, _FRAME + 2 * _MARGIN)
        template = template_points(_FRAME)
        landmarks = self._reader.read(frame, dlib_box(template + _MARGIN)) - _MARGIN
        eye_distance = float(np.linalg.norm(template[1] - template[0]))
        if np.linalg.norm(five_points(landmarks) - template, axis=1).mean() > _MAX_DISAGREEMENT * eye_distance:
            raise InputError("landmarks disagree with the detected face; too dark, hidden or turned away")
        return warp(image, rescale(matrix, size / _FRAME), size), _resized(landmarks, size)


class CropKeeper:
    """Keeps square crops that are aligned already; they are only resized.

    Raises:
        ConfigError: dlib, its models or a run-time detector are not installed.
    """

    def __init__(self) -> None:
        self._detector = default_detector()
        self._reader = _LandmarkReader()

    def make(self, image: ImageArray, size: int) -> tuple[ImageArray, Points]:
        """See :class:`CropMaker`."""
        if image.shape[0] != image.shape[1]:
            raise InputError(f"not a square crop ({image.shape[1]}×{image.shape[0]} px); align it instead")
        frame = resize(image, _FRAME)
        padded = np.pad(frame, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), mode="edge")
        expected = dlib_box(template_points(_FRAME) + _MARGIN)
        landmarks = self._reader.read_detected(padded, expected)
        if landmarks is None:
            faces = [face for face in self._detector.detect(frame) if face.points is not None]
            if not faces:
                raise InputError("no face found")
            points: Points = most_prominent(faces, frame).points  # type: ignore[assignment]  # filtered above
            landmarks = self._reader.read(padded, dlib_box(points + _MARGIN))
        return resize(image, size), _resized(landmarks - _MARGIN, size)


class _LandmarkReader:
    """dlib's landmarks in dlib's own box where its detector fires: the predictor was trained on such boxes."""

    def __init__(self) -> None:
        self._detector = DlibDetector()
        self._predictor = LandmarkPredictor()

    def read_detected(self, image: ImageArray, expected: Box) -> Points | None:
        """Landmarks of the face about where it is expected, ``None`` where dlib's detector sees none there."""
        whole = (expected[2] - expected[0]) * (expected[3] - expected[1])
        faces = [face for face in self._detector.detect(image) if overlap(face.box, expected) > _SAME_FACE]
        faces = [face for face in faces if face.area > _SAME_FACE * whole]
        if not faces:
            return None
        return self._predictor.predict(image, max(faces, key=lambda face: face.score).box)

    def read(self, image: ImageArray, box: Box) -> Points:
        """Landmarks of the face in a box like dlib's."""
        detected = self.read_detected(image, box)
        return self._predictor.predict(image, box) if detected is None else detected


def five_points(landmarks: Points) -> Points:
    """Eyes, nose tip and mouth corners of dlib's 68 landmarks. ``(68, 2)`` → ``(5, 2)``."""
    right_eye, left_eye = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)  # the person's own right, left
    return np.stack([right_eye, left_eye, landmarks[30], landmarks[48], landmarks[54]])


def _resized(landmarks: Points, size: int) -> Points:
    return transform(landmarks, rescale(np.eye(2, 3), size / _FRAME))
