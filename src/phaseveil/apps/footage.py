"""Kinds of footage: scenes that show clear faces, and recordings of the real coded camera."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from phaseveil.apps.tracking import Finder, Sighting, Tracker
from phaseveil.data.align import Matrix, align_face, paste_back, template_points
from phaseveil.data.image_io import ImageArray, resize, to_tensor
from phaseveil.errors import ConfigError, InputError
from phaseveil.pipeline import Generated, PhaseVeil

FINDABLE = 20  # pixels: the smallest face that the detector finds in the frame that it searches
SEEN = 0.5  # peak of the weakest heatmap channel from which on an acquisition shows a face


class CutOut(NamedTuple):
    """A face ready for the networks.

    Attributes:
        sighting: Whose.
        face: sRGB, 0 to 1. Shape ``(3, S, S)``.
        matrix: Frame to crop, shape ``(2, 3)``.
    """

    sighting: Sighting
    face: Tensor
    matrix: Matrix


class Footage(Protocol):
    """A kind of footage."""

    def view(self, image: ImageArray) -> ImageArray:
        """The part of a decoded frame that the output shows.

        Raises:
            InputError: The frame has not got it.
        """
        ...

    def follow(self, images: Sequence[ImageArray], times: Sequence[float]) -> list[list[Sighting]]:
        """See :meth:`phaseveil.apps.tracking.Tracker.follow`."""
        ...

    def see(self, image: ImageArray, time: float) -> None:
        """See :meth:`phaseveil.apps.tracking.Tracker.see`."""
        ...

    def state(self) -> dict[str, Any]:
        """See :meth:`phaseveil.apps.tracking.Tracker.state`."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`phaseveil.apps.tracking.Tracker.restore`."""
        ...

    def cut_out(self, image: ImageArray, sighting: Sighting) -> CutOut:
        """The face of a sighting that has points."""
        ...

    def draw(self, pipeline: PhaseVeil, faces: Tensor, styles: Tensor, seeds: Sequence[int]) -> Generated:
        """New faces."""
        ...

    def shows(self, generated: Generated) -> list[bool]:
        """Whether there was a face to be replaced, for each."""
        ...

    def put(self, image: ImageArray, face: ImageArray, matrix: Matrix) -> ImageArray:
        """The frame with a new face in it."""
        ...


class Scenes(Tracker):
    """Ordinary video: people anywhere in the frame, found, followed, and photographed with the simulated camera.

    Args:
        finder: Finds faces in single frames.
        size: Side of the model's images, pixels.
    """

    def __init__(self, finder: Finder, size: int) -> None:
        super().__init__(finder)
        self._side = size

    def view(self, image: ImageArray) -> ImageArray:
        """All of it."""
        return image

    def cut_out(self, image: ImageArray, sighting: Sighting) -> CutOut:
        """See :class:`Footage`."""
        assert sighting.points is not None
        aligned = align_face(image, sighting.points, self._side)
        return CutOut(sighting, to_tensor(aligned.crop), aligned.matrix)

    def draw(self, pipeline: PhaseVeil, faces: Tensor, styles: Tensor, seeds: Sequence[int]) -> Generated:
        """See :class:`Footage`."""
        return pipeline.generate(faces, styles, seeds)

    def shows(self, generated: Generated) -> list[bool]:
        """Always: the detector has seen it."""
        return [True] * len(generated.face)

    def put(self, image: ImageArray, face: ImageArray, matrix: Matrix) -> ImageArray:
        """See :class:`Footage`."""
        return paste_back(image, face, matrix)


@dataclass(frozen=True)
class Region:
    """Where the coded camera's frame shows the face.

    Attributes:
        x: First column, pixels.
        y: First row, pixels.
        side: Of the square, pixels.
    """

    x: int
    y: int
    side: int

    @classmethod
    def parse(cls, text: str) -> "Region":
        """Read ``x,y,side``.

        Raises:
            ConfigError: It is not that.
        """
        parts = text.split(",")
        if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts) or int(parts[2]) < 16:
            raise ConfigError(f"--region {text}: need x,y,side in whole pixels, side at least 16")
        return cls(*map(int, parts))


class AcquiredFootage:
    """Footage of the real coded camera: every frame is an acquisition already.

    No detector finds a face behind the mask, and nothing may be turned or scaled without changing what the mask did;
    so the face is read from one constant square, by the heatmap network, and the output shows this square alone. There
    is a face in it where all five heatmap channels have a peak (bundled weights: 0.6 and more on faces, at most 0.5 on
    anything else that was tried).

    Args:
        size: Side of the model's images, pixels.
        region: The square; the whole frame, which then has to be square, where ``None``.
    """

    def __init__(self, size: int, region: Region | None = None) -> None:
        self._size, self._region = size, region

    def view(self, image: ImageArray) -> ImageArray:
        """The square.

        Raises:
            InputError: It reaches beyond the frame, or none was given and the frame is not square.
        """
        height, width = image.shape[:2]
        if self._region is None:
            if height != width:
                raise InputError(f"the frame is not square ({width}×{height} px); say where the face is with --region")
            return image
        x, y, side = self._region.x, self._region.y, self._region.side
        if x + side > width or y + side > height:
            raise InputError(f"--region {x},{y},{side} reaches beyond the frame of {width}×{height} px")
        return np.ascontiguousarray(image[y : y + side, x : x + side])

    def follow(self, images: Sequence[ImageArray], times: Sequence[float]) -> list[list[Sighting]]:
        """Person 1, in every frame."""
        return [[_whole(image)] for image in images]

    def see(self, image: ImageArray, time: float) -> None:
        """Nothing is remembered."""

    def state(self) -> dict[str, Any]:
        """Nothing is remembered."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is remembered."""

    def cut_out(self, image: ImageArray, sighting: Sighting) -> CutOut:
        """See :class:`Footage`."""
        return CutOut(sighting, to_tensor(resize(image, self._size)), np.eye(2, 3))

    def draw(self, pipeline: PhaseVeil, faces: Tensor, styles: Tensor, seeds: Sequence[int]) -> Generated:
        """See :class:`Footage`."""
        return pipeline.redraw(faces, styles)

    def shows(self, generated: Generated) -> list[bool]:
        """See :class:`Footage`."""
        weakest: list[float] = torch.amax(generated.heatmap, dim=(-2, -1)).amin(dim=1).tolist()
        return [peak >= SEEN for peak in weakest]

    def put(self, image: ImageArray, face: ImageArray, matrix: Matrix) -> ImageArray:
        """The new face, as large as the square."""
        return resize(face, len(image))


def reach(longest: int, min_face: int) -> int:
    """Longer side, pixels, to which a frame may be reduced so that faces of ``min_face`` pixels are still found."""
    return math.ceil(longest * FINDABLE / min_face)


def _whole(image: ImageArray) -> Sighting:
    side = float(len(image))
    return Sighting(1, (0.0, 0.0, side - 1, side - 1), template_points(len(image)))
