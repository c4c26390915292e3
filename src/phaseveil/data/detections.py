"""Face detections, and the search of a photograph of any size with a detector that sees small frames only.

Coordinates are pixels of the given photograph, x to the right, y down; integers are pixel centres.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from phaseveil.data.image_io import ImageArray, resize

Box = tuple[float, float, float, float]
Points = NDArray[np.float64]

_FRAME = 640  # longer side of the frames that the detectors see, pixels, border apart
_LARGEST_FRAME = 960  # pixels: more than that the detectors do not take at once
_TILE_OVERLAP = 160  # pixels; larger faces are found in the whole frame
_BORDER = 0.25  # black border around every frame, in its longer side: tight crops are not found without
_MIN_FRAME = 160  # smaller photographs are enlarged to this
_EDGE = 4  # a box this near to a tile's edge is cut by it, pixels
_SAME_FACE = 0.5  # overlap above which two detections are one face


@dataclass(frozen=True)
class FaceDetection:
    """A face in a photograph.

    Attributes:
        box: Left, top, right, bottom, pixels.
        score: The detector's confidence; comparable only within one detector.
        points: Eyes (image left, right), nose tip, mouth corners (image left, right); shape ``(5, 2)``, pixels.
            ``None`` from a detector that has no points.
    """

    box: Box
    score: float
    points: Points | None

    @property
    def area(self) -> float:
        """Area of the box, square pixels."""
        return max(0.0, self.box[2] - self.box[0]) * max(0.0, self.box[3] - self.box[1])

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, x and y, pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


FrameDetector = Callable[[ImageArray], list[FaceDetection]]


class Detector(Protocol):
    """Finds faces."""

    def detect(self, image: ImageArray) -> list[FaceDetection]:
        """Faces in a photograph of shape ``(H, W, 3)``, uint8, RGB; the largest first, empty where there is none."""
        ...


def most_prominent(faces: Sequence[FaceDetection], image: ImageArray) -> FaceDetection:
    """The subject of a photograph: the largest face, nearness to the middle counting too.

    Args:
        faces: At least one.
        image: The photograph, shape ``(H, W, 3)``.
    """
    height, width = image.shape[:2]

    def prominence(face: FaceDetection) -> float:
        x, y = face.centre
        off_centre = math.hypot(x - width / 2, y - height / 2) / (0.5 * math.hypot(width, height))
        return face.area * (1 - 0.5 * off_centre)

    return max(faces, key=prominence)


def overlap(first: Box, second: Box) -> float:
    """Intersection over the smaller of two boxes' areas, 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(0.0, width) * max(0.0, height) / smaller if smaller > 0 else 0.0


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - width * height
    return width * height / both if both > 0 else 0.0


def widen(box: Box, factor: float) -> Box:
    """The box ``factor`` times as wide and high around its middle."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_width, half_height = factor * (box[2] - box[0]) / 2, factor * (box[3] - box[1]) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def search(image: ImageArray, detect_frame: FrameDetector, reach: int) -> list[FaceDetection]:
    """Faces in a whole photograph and, where it is large, in tiles of it; where both find one, the tile's is finer.

    Args:
        image: Photograph, shape ``(H, W, 3)``, uint8.
        detect_frame: Detector for frames of up to 960 px a side.
        reach: Longer side, pixels, to which the photograph is reduced before it is cut into tiles.

    Returns:
        Each face once, the largest first.
    """
    longest = max(image.shape[:2])
    found = _search_whole(image, detect_frame)
    if min(longest, reach) > _FRAME:
        found = _search_tiles(image, min(reach / longest, 1.0), detect_frame, (_FRAME, _FRAME)) + found
    return _each_once(found)


def search_video(image: ImageArray, detect_frame: FrameDetector, reach: int) -> list[FaceDetection]:
    """Faces in a frame of a video: like :func:`search`, with fewer and larger tiles and no border, in half the time.

    Faces are found up to nearly twice the frame's height. Small frames are searched like photographs.

    Args:
        image: Frame, shape ``(H, W, 3)``, uint8.
        detect_frame: Detector for frames of up to 960 px a side.
        reach: Longer side, pixels, to which the frame is reduced.

    Returns:
        Each face once, the largest first.
    """
    longest = max(image.shape[:2])
    if min(longest, reach) <= _FRAME:
        return search(image, detect_frame, _FRAME)
    scale = min(1.0, reach / longest)
    height, width = (_tile_side(round(side * scale)) for side in image.shape[:2])
    found = _search_tiles(image, scale, detect_frame, (height, width))
    if scale * longest > _LARGEST_FRAME:
        whole = _FRAME / longest
        found += [_to_photograph(face, whole, 0, 0) for face in detect_frame(_scaled(image, whole))]
    return _each_once(found)


def _each_once(found: Sequence[FaceDetection]) -> list[FaceDetection]:
    """Detections without those of faces that were there before, the largest first."""
    kept: list[FaceDetection] = []
    for face in found:
        if all(overlap(face.box, other.box) < _SAME_FACE for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda face: -face.area)


def _search_whole(image: ImageArray, detect_frame: FrameDetector) -> list[FaceDetection]:
    longest = max(image.shape[:2])
    scale = _FRAME / longest if longest > _FRAME else max(1.0, _MIN_FRAME / longest)
    frame = _scaled(image, scale)
    border = round(_BORDER * max(frame.shape[:2]))
    frame = np.pad(frame, ((border, border), (border, border), (0, 0)))
    return [_to_photograph(face, scale, -border, -border) for face in detect_frame(frame)]


def _search_tiles(
    image: ImageArray, scale: float, detect_frame: FrameDetector, tile: tuple[int, int]
) -> list[FaceDetection]:
    """Faces in tiles (height, width) of an image that is reduced first."""
    frame = _scaled(image, scale)
    size = frame.shape[:2]
    found = []
    for top in _tile_starts(size[0], tile[0]):
        for left in _tile_starts(size[1], tile[1]):
            faces = detect_frame(np.ascontiguousarray(frame[top : top + tile[0], left : left + tile[1]]))
            whole = (face for face in faces if not _is_cut(face.box, (top, left), size, tile))
            found += [_to_photograph(face, scale, left, top) for face in whole]
    return found


def _tile_side(length: int) -> int:
    """Side of the fewest, equal tiles of at most :data:`_LARGEST_FRAME` that cover a side with the usual overlap."""
    count = max(1, math.ceil((length - _TILE_OVERLAP) / (_LARGEST_FRAME - _TILE_OVERLAP)))
    return math.ceil((length + (count - 1) * _TILE_OVERLAP) / count)


def _tile_starts(length: int, tile: int) -> list[int]:
    """First pixels of the tiles that cover a side, overlapping by at least :data:`_TILE_OVERLAP`."""
    count = max(1, math.ceil((length - _TILE_OVERLAP) / (tile - _TILE_OVERLAP)))
    return [round(start) for start in np.linspace(0, max(0, length - tile), count)]


def _is_cut(box: Box, start: tuple[int, int], size: tuple[int, int], tile: tuple[int, int]) -> bool:
    """Whether a tile's edge, other than the frame's own, runs through a face; another tile then holds it whole.

    Start of the tile, size of the frame and of the tile are (vertical, horizontal).
    """
    return any(
        (start[axis] > 0 and box[1 - axis] < _EDGE)
        or (start[axis] + tile[axis] < size[axis] and box[3 - axis] > tile[axis] - _EDGE)
        for axis in (0, 1)
    )


def _scaled(image: ImageArray, scale: float) -> ImageArray:
    if scale == 1.0:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return resize(image, (height, width))


def _to_photograph(face: FaceDetection, scale: float, left: int, top: int) -> FaceDetection:
    """A detection in a frame, in the photograph's pixels; the frame begins at (left, top) of the scaled photograph."""

    def back(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return (values + (left, top) + 0.5) / scale - 0.5

    x0, y0, x1, y1 = back(np.array(face.box).reshape(2, 2)).reshape(4).tolist()
    return FaceDetection((x0, y0, x1, y1), face.score, None if face.points is None else back(face.points))
