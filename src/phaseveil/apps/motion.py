"""How faces move from one frame of a video to the next: sparse optical flow, and scene cuts.

Frames are grey, shape ``(H, W)``, uint8. Points are pixels, x to the right, y down; integers are pixel centres.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from phaseveil.data.align import Matrix, transform
from phaseveil.data.image_io import ImageArray
from phaseveil.data.landmarks import Box, Points, crop_box

Grey = NDArray[np.uint8]
Pixel = NDArray[np.int64]

_FACE_SIDE = 128  # faces are reduced or enlarged to about this many pixels before their motion is read
_ENLARGED = 3.0  # at most so many times
_SMALLEST = 24  # pixels of what is left of a face's surroundings at the frame's edge
_MARGIN = 0.35  # how far around a face the flow is sought, in its sides
_OVAL = (0.6, 0.8)  # width and height of the face in its crop: what lies around it moves otherwise
_CORNERS = 60  # features followed on a face
_WINDOW = (15, 15)  # pixels (resized) around a feature that the flow compares
_FEWEST = 8  # features that must hold together
_SHARE = 0.5  # of the features, that must come back to where they started and move as one
_RETURN = 1.0  # pixels (resized) from its start at which a feature, followed there and back, is lost
_INLIER = 1.5  # pixels (resized) from the common motion
_GROWTH = 1.25  # largest change of scale between two frames
_LIKENESS = 0.6  # least correlation of the face before and after
_THUMBNAIL = (32, 18)
_CUT = 0.6  # correlation of thumbnails below which two frames show different scenes


def grey(image: ImageArray) -> Grey:
    """Luma of a frame ``(H, W, 3)``, RGB. Shape ``(H, W)``, uint8."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def is_cut(before: Grey, after: Grey) -> bool:
    """Whether two frames look like different scenes. A flash is none: brightness and contrast do not count."""
    first, second = (cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA) for frame in (before, after))
    return correlation(np.asarray(first), np.asarray(second)) < _CUT


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Correlation coefficient of two pictures of one shape, −1 to 1; flat pictures resemble each other only."""
    a, b = (picture.astype(np.float64) - picture.mean() for picture in (first, second))
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    flat = [norm < first.size**0.5 for norm in norms]  # spread of less than a grey level
    if any(flat):
        return float(all(flat))
    return float((a * b).sum()) / (norms[0] * norms[1])


def follow(before: Grey, after: Grey, points: Points) -> Points | None:
    """Where a face's points are one frame on, by pyramidal Lucas–Kanade flow.

    Corners on the face are followed there and back (forward–backward error: Kalal, Mikolajczyk and Matas, ICPR 2010);
    those that return give a similarity transform (RANSAC, seeded alike in every call), which moves the points.

    Args:
        before: Frame in which the points are known.
        after: The next (or previous) frame, of the same shape.
        points: Shape ``(5, 2)``, pixels.

    Returns:
        Shape ``(5, 2)``; ``None`` where the face is lost: hidden, gone, or too fast.
    """
    box = crop_box(points)
    start, stop = _surroundings(before, box)
    size = np.rint((stop - start) * min(_FACE_SIDE / (box[2] - box[0]), _ENLARGED)).astype(int)
    if size.min() < _SMALLEST:
        return None
    scale = size / (stop - start)
    first, second = (_cut_out(frame, start, stop, size) for frame in (before, after))
    inside = (points - start + 0.5) * scale - 0.5
    matrix = _common_motion(first, second, inside)
    if matrix is None or not _alike(first, second, matrix, crop_box(inside)):
        return None
    return (transform(inside, matrix) + 0.5) / scale - 0.5 + start


def _surroundings(frame: Grey, box: Box) -> tuple[Pixel, Pixel]:
    """First and past-the-last pixel (x, y) of what lies around a face, within the frame."""
    margin = _MARGIN * (box[2] - box[0])
    limit = np.array([frame.shape[1], frame.shape[0]])
    start = np.floor(np.array(box[:2]) - margin).astype(int).clip(0, limit - 1)
    return start, np.ceil(np.array(box[2:]) + margin).astype(int).clip(start + 1, limit)


def _cut_out(frame: Grey, start: Pixel, stop: Pixel, size: Pixel) -> Grey:
    """Part of a frame at another size (width, height)."""
    part = frame[start[1] : stop[1], start[0] : stop[0]]
    way = cv2.INTER_AREA if size[0] <= part.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (int(size[0]), int(size[1])), interpolation=way), dtype=np.uint8)


def _common_motion(first: Grey, second: Grey, points: Points) -> Matrix | None:
    """Similarity transform of the corners within a face, ``None`` where they do not hold together."""
    left, top, right, bottom = crop_box(points)
    middle, half = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
    face = cv2.ellipse(np.zeros_like(first), (middle, (2 * half * _OVAL[0], 2 * half * _OVAL[1]), 0.0), 255, -1)
    corners = cv2.goodFeaturesToTrack(first, _CORNERS, 0.01, max(3.0, half / 10), mask=face)
    if corners is None or len(corners) < _FEWEST:
        return None
    ahead, there, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, corners.copy(), winSize=_WINDOW, maxLevel=3)
    back, here, _ = cv2.calcOpticalFlowPyrLK(second, first, ahead, corners.copy(), winSize=_WINDOW, maxLevel=3)
    returned = np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < _RETURN
    good = returned & (there.ravel() == 1) & (here.ravel() == 1)
    if good.sum() < max(_FEWEST, _SHARE * len(corners)):
        return None
    matrix, together = cv2.estimateAffinePartial2D(corners[good], ahead[good], ransacReprojThreshold=_INLIER)
    if matrix is None or together.sum() < max(_FEWEST, _SHARE * len(corners)):
        return None
    growth = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    return np.asarray(matrix, dtype=np.float64) if 1 / _GROWTH < growth < _GROWTH else None


def _alike(first: Grey, second: Grey, matrix: Matrix, box: Box) -> bool:
    """Whether the face looks after the motion as it did before."""
    moved = cv2.warpAffine(
        second, matrix, (first.shape[1], first.shape[0]), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    left, top, right, bottom = (max(0, round(value)) for value in box)
    part = slice(top, bottom), slice(left, right)
    return correlation(first[part], np.asarray(moved, dtype=np.uint8)[part]) > _LIKENESS
