"""Geometry kept by de-identification: FD, BB and LM between source and generated faces, by any detector.

All distances are in pixels of a 256×256 frame, whatever the model's size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phaseveil.data.image_io import ImageArray, resize
from phaseveil.data.landmarks import Box, Detector, Points, most_prominent

FRAME = 256
"""Side of the frame in which distances are measured, pixels."""

PredictLandmarks = Callable[[ImageArray, Box], Points]
FaceReader = Callable[[ImageArray], "FoundFace | None"]


@dataclass(frozen=True)
class FoundFace:
    """A detected face.

    Attributes:
        box: Left, top, right, bottom, pixels.
        landmarks: Shape ``(P, 2)``, pixels.
    """

    box: Box
    landmarks: Points

    @property
    def centre(self) -> NDArray[np.float64]:
        """Middle of the box, x and y, pixels."""
        left, top, right, bottom = self.box
        return np.array([(left + right) / 2, (top + bottom) / 2])


@dataclass(frozen=True)
class DetectionScore:
    """How well generated faces keep the sources' geometry, by one detector.

    Attributes:
        pairs: Source and generated images compared.
        sources_undetected: Sources without a detected face; BB and LM leave those pairs out, FD does not.
        generated_undetected: Generated images without a detected face.
        compared: Pairs with a face in both, over which ``bb`` and ``lm`` are taken.
        fd: Share of generated images with a detected face, 0 to 1.
        bb: Mean distance of the boxes' centres, pixels; NaN where nothing could be compared.
        lm: Mean absolute difference of landmark coordinates, pixels; NaN where nothing could be compared.
        lm_euclidean: Mean distance of landmarks, pixels; NaN where nothing could be compared.
    """

    pairs: int
    sources_undetected: int
    generated_undetected: int
    compared: int
    fd: float
    bb: float
    lm: float
    lm_euclidean: float


def read_by_points(detector: Detector) -> FaceReader:
    """Reader whose landmarks are the detector's own five points, for MTCNN."""

    def read(image: ImageArray) -> FoundFace | None:
        faces = [face for face in detector.detect(image) if face.points is not None]
        if not faces:
            return None
        face = most_prominent(faces, image)
        return None if face.points is None else FoundFace(face.box, face.points)

    return read


def read_by_predictor(detector: Detector, predict: PredictLandmarks) -> FaceReader:
    """Reader that predicts landmarks inside the detector's box, for dlib."""

    def read(image: ImageArray) -> FoundFace | None:
        faces = detector.detect(image)
        if not faces:
            return None
        box = most_prominent(faces, image).box
        return FoundFace(box, predict(image, box))

    return read


def from_afar(image: ImageArray, share: float) -> ImageArray:
    """A picture shrunk about its centre to a share of its frame; mirrored at its border, it fills the rest.

    Detectors answer more finely the smaller a face is in the frame, so figures compare only where faces are equally
    large. What surrounds an aligned crop is not at hand; its mirror image has the same colours and no edge.

    Args:
        image: Square, ``(S, S, 3)``, uint8.
        share: Above 1/3, below which one mirror image a side would not reach, up to 1.

    Returns:
        As large as the image. A point at x pixels from its centre comes to lie at about ``share * x``.
    """
    side = len(image)
    border = round(side * (1 / share - 1) / 2)
    return resize(np.pad(image, ((border, border), (border, border), (0, 0)), mode="symmetric"), side)


def find_faces(images: Sequence[ImageArray], reader: FaceReader) -> list[FoundFace | None]:
    """The subject's face in each image, brought to the 256-px frame first; ``None`` where there is none.

    Args:
        images: Square, ``(S, S, 3)``, uint8, RGB.
        reader: From :func:`read_by_points` or :func:`read_by_predictor`.
    """
    return [reader(resize(image, FRAME)) for image in images]


def detection_score(sources: Sequence[FoundFace | None], generated: Sequence[FoundFace | None]) -> DetectionScore:
    """FD, BB and LM of generated faces against their sources, undetected ones counted.

    Args:
        sources: From :func:`find_faces`, one a pair, at least one.
        generated: From :func:`find_faces`, in the same order.
    """
    both = [(s, g) for s, g in zip(sources, generated, strict=True) if s is not None and g is not None]
    shifts = [s.centre - g.centre for s, g in both]
    differences = [s.landmarks - g.landmarks for s, g in both]
    return DetectionScore(
        pairs=len(sources),
        sources_undetected=sum(face is None for face in sources),
        generated_undetected=sum(face is None for face in generated),
        compared=len(both),
        fd=sum(face is not None for face in generated) / len(generated),
        bb=float(np.linalg.norm(shifts, axis=-1).mean()) if both else float("nan"),
        lm=float(np.abs(differences).mean()) if both else float("nan"),
        lm_euclidean=float(np.linalg.norm(differences, axis=-1).mean()) if both else float("nan"),
    )
