"""What becomes of each face in a frame of a video, and the blur for those without a new one. It fails closed.

The blur is a few flat cells across a place, softened: eight cells across a face can still be linked by an attacker who
trains on them, see the low-resolution baseline in ``docs/measuring.md``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from phaseveil.apps.tracking import Sighting
from phaseveil.data.detections import Box, widen
from phaseveil.data.image_io import ImageArray, resize
from phaseveil.errors import ConfigError

MISSES = ("blur", "keep", "drop")

_CELLS = 4  # across a blurred place, or the shorter side of a blurred frame
_RIM = 1.15  # the blur fades out beyond its place, up to so many times its width


@dataclass(frozen=True)
class Verdict:
    """What is to happen to a frame.

    Attributes:
        replaced: Faces that get a new one.
        blurred: Places to be blurred, pixels.
        missed: Whether a face that should have been replaced was not found, or none at all was.
        whole: Whether all of the frame is blurred.
        dropped: Whether the frame is left out.
    """

    replaced: tuple[Sighting, ...]
    blurred: tuple[Box, ...]
    missed: bool
    whole: bool
    dropped: bool


@dataclass(frozen=True)
class Redaction:
    """Whose faces are replaced, and what happens where none is found.

    Attributes:
        on_miss: ``blur`` the last known place of a lost face, and all of a frame without any; ``keep`` them as they
            are; ``drop`` such frames.
        only: Numbers of the persons to replace; all where empty.
        keep_others: Leave the other persons as they are instead of blurring them.
    """

    on_miss: str = "blur"
    only: frozenset[int] = frozenset()
    keep_others: bool = False

    def __post_init__(self) -> None:
        if self.on_miss not in MISSES:
            raise ConfigError(f"--on-miss {self.on_miss}: unknown; choose from {','.join(MISSES)}")
        if any(number < 1 for number in self.only):
            raise ConfigError("--only: persons are numbered from 1; see the tracks.json of an earlier run")
        if self.keep_others and not self.only:
            raise ConfigError("--keep-others needs --only, with the persons to replace")

    @classmethod
    def of(cls, on_miss: str, only: str, keep_others: bool) -> Self:
        """From the words of a command line.

        Args:
            on_miss: See :class:`Redaction`.
            only: Numbers with commas between; all persons where empty.
            keep_others: See :class:`Redaction`.

        Raises:
            ConfigError: A word is unknown, or not a number.
        """
        numbers = [number.strip() for number in only.split(",")] if only.strip() else []
        if not all(number.isdecimal() for number in numbers):
            raise ConfigError(f"--only {only}: need the persons' numbers with commas between, such as 1,3")
        return cls(on_miss, frozenset(map(int, numbers)), keep_others)

    def replaces(self, sighting: Sighting) -> bool:
        """Whether a sighting gets a new face."""
        return sighting.points is not None and self._concerns(sighting)

    def judge(self, sightings: Sequence[Sighting]) -> Verdict:
        """Decide about a frame."""
        lost = [sighting.box for sighting in sightings if sighting.points is None and self._concerns(sighting)]
        others = [] if self.keep_others else [found.box for found in sightings if not self._concerns(found)]
        nobody = not any(sighting.track for sighting in sightings)
        missed = nobody or bool(lost)
        return Verdict(
            replaced=tuple(sighting for sighting in sightings if self.replaces(sighting)),
            blurred=(*others, *(lost if self.on_miss == "blur" else ())),
            missed=missed,
            whole=nobody and self.on_miss == "blur",
            dropped=missed and self.on_miss == "drop",
        )

    def _concerns(self, sighting: Sighting) -> bool:
        return not self.only or sighting.track in self.only


def blur_places(image: ImageArray, boxes: Sequence[Box]) -> ImageArray:
    """Blur places beyond recognition; the blur fades out outside them.

    Args:
        image: Frame, shape ``(H, W, 3)``, uint8.
        boxes: Places, pixels; what lies outside the frame is left out.

    Returns:
        A new frame.
    """
    result = image.copy()
    for box in boxes:
        left, top, right, bottom = _pixels(widen(box, _RIM), image)
        if left < right and top < bottom:
            region = result[top:bottom, left:right]
            weight = _ramp(box, left, right, 0)[None, :, None] * _ramp(box, top, bottom, 1)[:, None, None]
            region[:] = np.rint(region + weight * (_cells(region, _CELLS, _CELLS) - region)).astype(np.uint8)
    return result


def blur_frame(image: ImageArray) -> ImageArray:
    """Blur all of a frame ``(H, W, 3)``, however large a face in it may be."""
    height, width = image.shape[:2]
    cell = min(height, width) / _CELLS
    return np.rint(_cells(image, round(height / cell), round(width / cell))).astype(np.uint8)


def _cells(region: ImageArray, rows: int, columns: int) -> NDArray[np.float32]:
    """Means of a grid of cells, softly joined."""
    height, width = region.shape[:2]
    small = resize(region, (min(rows, height), min(columns, width))).astype(np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _pixels(box: Box, image: ImageArray) -> tuple[int, int, int, int]:
    """The pixels of a box that lie in a frame."""
    height, width = image.shape[:2]
    left, top = (int(np.floor(value)) for value in box[:2])
    right, bottom = (int(np.ceil(value)) + 1 for value in box[2:])
    return max(0, left), max(0, top), min(width, right), min(height, bottom)


def _ramp(box: Box, start: int, stop: int, axis: int) -> NDArray[np.float64]:
    """Weight of the blur along an axis: 1 within the box, falling to 0 at the rim."""
    position = np.arange(start, stop)
    outside = np.maximum(box[axis] - position, position - box[axis + 2]).clip(0)
    return (1 - outside / ((_RIM - 1) / 2 * (box[axis + 2] - box[axis]) + 1e-9)).clip(0, 1)
