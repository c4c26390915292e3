"""How inputs become aligned faces and how new faces become outputs: crops, photographs, real acquisitions."""

import importlib.util
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from phaseveil.apps.batch import Job
from phaseveil.data.align import align_face, paste_back, template_points
from phaseveil.data.image_io import ImageArray, decode_image, read_image, resize, to_tensor
from phaseveil.data.landmarks import Detector, FaceDetection, FirstThatFinds, YuFaceDetector, default_detector
from phaseveil.errors import InputError
from phaseveil.pipeline import Generated, PhaseVeil, square

MAX_MISALIGNMENT = 0.12  # mean distance of the five points from the template, in sides; aligned faces stay below 0.07

DETECTION_SIZE = 160  # pixels at which a crop is searched: its face fills it, and a larger search only costs time

Compose = Callable[[Sequence[ImageArray]], ImageArray]


@dataclass(frozen=True)
class Task:
    """An input that was read.

    Attributes:
        job: The input.
        faces: Aligned faces, sRGB, 0 to 1. Shape ``(F, 3, S, S)``, F at least 1.
        compose: Makes the output from the F new faces.
        seconds: Time that reading took.
        pixels: Size of the picture held in memory.
    """

    job: Job
    faces: Tensor
    compose: Compose
    seconds: float
    pixels: int


class Source(Protocol):
    """A kind of input.

    Attributes:
        depth: How many inputs may wait in memory, decoded.
    """

    depth: int

    def load(self, job: Job) -> Task:
        """Read an input.

        Raises:
            InputError: It cannot be used.
        """
        ...

    def draw(self, pipeline: PhaseVeil, faces: Tensor, styles: Tensor, seeds: Sequence[int]) -> Generated:
        """New faces for a batch of aligned ones."""
        ...


class _Scenes:
    """Inputs that a camera has yet to see: a detector looks for the face first.

    Args:
        make_detector: Makes a detector; called once in each thread, since detectors keep state.
        size: Side of the model's images, pixels.
    """

    def __init__(self, make_detector: Callable[[], Detector], size: int) -> None:
        self._make_detector = make_detector
        self._local = threading.local()
        self._size = size

    def _detect(self, image: ImageArray) -> list[FaceDetection]:
        if not hasattr(self._local, "detector"):
            self._local.detector = self._make_detector()
        detector: Detector = self._local.detector
        return [face for face in detector.detect(image) if face.points is not None]

    def draw(self, pipeline: PhaseVeil, faces: Tensor, styles: Tensor, seeds: Sequence[int]) -> Generated:
        """See :class:`Source`."""
        return pipeline.generate(faces, styles, seeds)


class AlignedCrops(_Scenes):
    """Aligned square face crops; the output is as large as the crop, or ``output_size``."""

    depth = 32

    def __init__(self, make_detector: Callable[[], Detector], size: int, output_size: int | None = None) -> None:
        super().__init__(make_detector, size)
        self._output_size = output_size

    def load(self, job: Job) -> Task:
        """See :class:`Source`.

        Raises:
            InputError: Unreadable, not square, no face, or a face that is not where an aligned crop has it.
        """
        start = time.perf_counter()
        crop = square(job.path if job.data is None else decode_image(job.data, str(job.path)))
        searched = resize(crop, DETECTION_SIZE)
        check_alignment(self._detect(searched), DETECTION_SIZE, str(job.path))
        side = self._output_size or len(crop)
        faces = to_tensor(resize(crop, self._size))[None]
        return Task(job, faces, lambda new: resize(new[0], side), time.perf_counter() - start, side * side)


class Acquisitions:
    """Square frames from the real coded camera; there is nothing in them that a detector could find."""

    depth = 32

    def __init__(self, size: int, output_size: int | None = None) -> None:
        self._size = size
        self._output_size = output_size

    def load(self, job: Job) -> Task:
        """See :class:`Source`.

        Raises:
            InputError: Unreadable or not square.
        """
        start = time.perf_counter()
        frame = square(job.path if job.data is None else decode_image(job.data, str(job.path)))
        side = self._output_size or len(frame)
        faces = to_tensor(resize(frame, self._size))[None]
        return Task(job, faces, lambda new: resize(new[0], side), time.perf_counter() - start, side * side)

    def draw(self, pipeline: PhaseVeil, faces: Tensor, styles: Tensor, seeds: Sequence[int]) -> Generated:
        """See :class:`Source`."""
        return pipeline.redraw(faces, styles)


class Photographs(_Scenes):
    """Any photographs: every face is cut out aligned, and the new one pasted back in its place."""

    depth = 3

    def load(self, job: Job) -> Task:
        """See :class:`Source`.

        Raises:
            InputError: Unreadable, or no face.
        """
        start = time.perf_counter()
        photograph = read_image(job.path) if job.data is None else decode_image(job.data, str(job.path))
        points = [face.points for face in self._detect(photograph) if face.points is not None]
        if not points:
            raise InputError(f"{job.path}: no face found; give a larger or clearer photograph")
        aligned = [align_face(photograph, face_points, self._size) for face_points in points]

        def compose(new: Sequence[ImageArray]) -> ImageArray:
            picture = photograph
            for face, place in reversed(list(zip(new, aligned, strict=True))):  # the largest last, on top
                picture = paste_back(picture, face, place.matrix)
            return picture

        faces = torch.stack([to_tensor(face.crop) for face in aligned])
        return Task(job, faces, compose, time.perf_counter() - start, photograph.shape[0] * photograph.shape[1])


def crop_detector() -> Detector:
    """Detector for crops, whose points need not be fine: YuFace in one pass, the careful detector for what it misses.

    Raises:
        ConfigError: No detector is installed.
    """
    quick: list[Detector] = [YuFaceDetector()] if importlib.util.find_spec("yuface") else []
    return FirstThatFinds([*quick, default_detector()])


def check_alignment(faces: Sequence[FaceDetection], size: int, name: str) -> None:
    """Make sure that a crop shows a face where the networks expect it.

    Args:
        faces: What a detector found in the crop.
        size: Side of the crop, pixels.
        name: What error messages call it.

    Raises:
        InputError: No face, or none near its place.
    """
    if not faces:
        raise InputError(f"{name}: no face found; give an aligned crop, or --align with a larger photograph")
    template = template_points(size)
    distances = [np.linalg.norm(face.points - template, axis=1).mean() for face in faces if face.points is not None]
    if min(distances) > MAX_MISALIGNMENT * size:
        raise InputError(f"{name}: the face is not where an aligned crop has it; add --align")
