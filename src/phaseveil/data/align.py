"""Faces into aligned square crops and back into their photographs.

Matrices are ``(2, 3)`` similarity transforms that take pixel coordinates of the photograph to pixel coordinates of the
crop; integer coordinates are pixel centres in both.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseveil.data.image_io import ImageArray, resize
from phaseveil.errors import InputError

Matrix = NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)

# Mean of the detector's five points over CelebA-like aligned crops of 256 px, made symmetric about x = 127.
_TEMPLATE_256 = np.array([(86.0, 85.0), (168.0, 85.0), (127.0, 134.0), (91.0, 171.5), (163.0, 171.5)])

_FEATHER = 0.06  # width of the blended rim, in crop sides
_CORNER = 0.25  # radius of the pasted region's corners, in crop sides
_COLOUR_RIM = 0.10  # rim on which the colours are compared
_COLOUR_REACH = 0.25  # how far inwards the colour correction fades
_COLOUR_GRID = 64  # side of the grid on which the correction is computed, pixels
_OVERSAMPLING = 1.5  # samples of the finer grid per input pixel, a side; 1 leaves some aliasing near Nyquist
_FINEST_SHRINK = 2  # larger reductions average blocks of the input first


@dataclass(frozen=True)
class AlignedFace:
    """A face cut out of a photograph.

    Attributes:
        crop: Shape ``(size, size, 3)``, uint8, RGB.
        matrix: Photograph to crop, shape ``(2, 3)``.
    """

    crop: ImageArray
    matrix: Matrix


def template_points(size: int) -> NDArray[np.float64]:
    """Where the five points lie in an aligned crop: eyes (image left, right), nose, mouth corners (left, right).

    Args:
        size: Side of the crop, pixels.

    Returns:
        Shape ``(5, 2)``, x and y, pixels.
    """
    return (_TEMPLATE_256 + 0.5) * (size / 256) - 0.5


def similarity(src: ArrayLike, dst: ArrayLike) -> Matrix:
    """Similarity transform (rotation, uniform scale, translation) that best takes ``src`` to ``dst``.

    Least squares after Umeyama, *Least-squares estimation of transformation parameters between two point patterns*,
    IEEE PAMI 13(4), 1991, equations 40 to 42.

    Args:
        src: Points, shape ``(N, 2)``, N ≥ 2.
        dst: Their targets, shape ``(N, 2)``.

    Returns:
        Shape ``(2, 3)``; ``dst ≈ src @ m[:, :2].T + m[:, 2]``.

    Raises:
        InputError: The points coincide or are not finite.
    """
    source, target = np.asarray(src, dtype=np.float64), np.asarray(dst, dtype=np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    variance = float(((source - source_mean) ** 2).sum(axis=1).mean())
    if not np.isfinite(source).all() or variance < 1e-12:
        raise InputError("the face's points coincide or are not finite; no alignment is possible")
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    mirror = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    linear = float(singular @ mirror) / variance * (u * mirror) @ vt
    return np.column_stack([linear, target_mean - linear @ source_mean])


def align_face(image: ImageArray, points: ArrayLike, size: int) -> AlignedFace:
    """Cut a face out, upright and at the template's scale.

    Args:
        image: Photograph, shape ``(H, W, 3)``, uint8.
        points: Five points of the face in it (see :func:`template_points`), shape ``(5, 2)``, pixels.
        size: Side of the crop, pixels.

    Raises:
        InputError: The points coincide.
    """
    matrix = similarity(points, template_points(size))
    return AlignedFace(crop=warp(image, matrix, size), matrix=matrix)


def transform(points: ArrayLike, matrix: Matrix) -> NDArray[np.float64]:
    """Apply a ``(2, 3)`` matrix to points of shape ``(N, 2)``."""
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: Matrix) -> Matrix:
    """Inverse of a ``(2, 3)`` affine matrix."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def warp(image: ImageArray, matrix: Matrix, size: int | tuple[int, int]) -> ImageArray:
    """Resample an image through an affine matrix, without aliasing where it shrinks.

    Each output pixel is the area average of a finer cubic resampling; a large reduction first averages blocks of the
    input. Beyond the image, its edge pixels are repeated.

    Args:
        image: Shape ``(H, W, C)``, uint8.
        matrix: Input to output pixel coordinates, shape ``(2, 3)``.
        size: Side of a square output, or ``(height, width)``, pixels.

    Returns:
        Shape ``(height, width, C)``, uint8.
    """
    height, width = (size, size) if isinstance(size, int) else size
    image, matrix = _crop_to_need(image, matrix, height, width)
    shrink = 1 / math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    block = max(1, math.floor(shrink / _FINEST_SHRINK))
    if block > 1:
        image, matrix = _average_blocks(image, matrix, block)
    fine = 1 if shrink < 1 + 1e-6 else math.ceil(_OVERSAMPLING * shrink / block)
    output_to_fine = np.array([[fine, 0, (fine - 1) / 2], [0, fine, (fine - 1) / 2]])
    resampled = cv2.warpAffine(
        image,
        _compose(output_to_fine, matrix),
        (width * fine, height * fine),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return resize(np.asarray(resampled, dtype=np.uint8), (height, width))


def paste_back(image: ImageArray, face: ImageArray, matrix: Matrix) -> ImageArray:
    """Put a face back where its crop was taken from, without a visible seam.

    The face replaces the crop's area fully up to 6 % from its edge (rounded corners) and fades to the photograph from
    there; near the rim its low-frequency colour is shifted to the photograph's. Pixels outside stay.

    Args:
        image: Photograph, shape ``(H, W, 3)``, uint8.
        face: New face, shape ``(S, S, 3)``, uint8; ``S`` may differ from the crop's size.
        matrix: What :func:`align_face` returned for a crop of side ``S`` (see :func:`rescale`).

    Returns:
        A new image, shape ``(H, W, 3)``, uint8.
    """
    result = image.copy()
    size = face.shape[0]
    corners = transform(
        [(-0.5, -0.5), (size - 0.5, -0.5), (-0.5, size - 0.5), (size - 0.5, size - 0.5)], invert(matrix)
    )
    left, top = np.floor(corners.min(axis=0)).astype(int).clip(0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (image.shape[1], image.shape[0]))
    if left >= right or top >= bottom:
        return result
    to_region = invert(matrix) - np.array([[0, 0, left], [0, 0, top]])
    pasted = warp(_match_rim_colour(image, face, matrix), to_region, (bottom - top, right - left))
    x, y = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)[:, None]
    across, down, start = (matrix / size).astype(np.float32).T[..., None, None]
    position = across * x + down * y + (start + np.float32(0.5 / size))
    weight = _smoothstep(edge_distance(np.moveaxis(position, 0, -1)) / _FEATHER)[..., None]
    region = result[top:bottom, left:right]
    region[:] = np.rint(region + weight * (pasted.astype(np.float32) - region)).astype(np.uint8)
    return result


def rescale(matrix: Matrix, factor: float) -> Matrix:
    """Matrix for the same crop at ``factor`` times the size."""
    return _compose(np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]]), matrix)


def edge_distance(position: NDArray[Real]) -> NDArray[Real]:
    """Distance to the edge of the pasted region, a unit square with rounded corners; positive inside.

    Args:
        position: Shape ``(..., 2)``, in crop sides, the crop being [0, 1]².

    Returns:
        Shape ``(...)``, in crop sides.
    """
    x, y = np.moveaxis(np.abs(position - 0.5) - (0.5 - _CORNER), -1, 0)
    outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2)
    return _CORNER - outside - np.minimum(np.maximum(x, y), 0)


def _compose(second: Matrix, first: Matrix) -> Matrix:
    """Matrix that applies ``first``, then ``second``."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def _crop_to_need(image: ImageArray, matrix: Matrix, height: int, width: int) -> tuple[ImageArray, Matrix]:
    """Part of the image that the output can see, so that the cost follows the output and not the photograph."""
    corners = transform([(-1, -1), (width, -1), (-1, height), (width, height)], invert(matrix))
    shrink = 1 / math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    margin = 4 + 2 * shrink
    limit = np.array([image.shape[1], image.shape[0]])
    start = np.clip(np.floor(corners.min(axis=0) - margin).astype(int), 0, limit - 1)
    stop = np.clip(np.ceil(corners.max(axis=0) + margin).astype(int), start + 1, limit)
    shift = np.array([[1.0, 0.0, start[0]], [0.0, 1.0, start[1]]])
    return np.ascontiguousarray(image[start[1] : stop[1], start[0] : stop[0]]), _compose(matrix, shift)


def _average_blocks(image: ImageArray, matrix: Matrix, block: int) -> tuple[ImageArray, Matrix]:
    """Reduce an image ``block`` times by averaging, with the matrix that then belongs to it."""
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, -height % block, 0, -width % block, cv2.BORDER_REPLICATE)
    small = cv2.resize(padded, (padded.shape[1] // block, padded.shape[0] // block), interpolation=cv2.INTER_AREA)
    enlarge = np.array([[block, 0, (block - 1) / 2], [0, block, (block - 1) / 2]])
    return np.asarray(small, dtype=np.uint8), _compose(matrix, enlarge)


def _match_rim_colour(image: ImageArray, face: ImageArray, matrix: Matrix) -> ImageArray:
    """Face whose low-frequency colour meets the photograph's along the rim.

    The difference on the rim is spread by normalised convolution (Knutsson and Westin, CVPR 1993) and fades inwards.
    """
    size, grid = face.shape[0], _COLOUR_GRID
    small = rescale(matrix, grid / size)
    difference = warp(image, small, grid).astype(np.float32) - resize(face, grid).astype(np.float32)
    centres = np.stack(np.meshgrid(np.arange(grid), np.arange(grid)), axis=-1).astype(np.float64)
    depth = edge_distance((centres + 0.5) / grid)
    source = transform(centres.reshape(-1, 2), invert(small)).reshape(grid, grid, 2)
    seen = ((source >= 0) & (source <= (image.shape[1] - 1, image.shape[0] - 1))).all(axis=-1)
    weight = ((depth < _COLOUR_RIM) & seen).astype(np.float32)[..., None] + 1e-6
    sigma = 0.06 * grid
    total = cv2.GaussianBlur(weight * difference, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    spread = total / cv2.GaussianBlur(weight, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[..., None]
    fade = 1 - _smoothstep(depth / _COLOUR_REACH)[..., None]
    correction = cv2.resize((spread * fade).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.rint(face + correction).clip(0, 255).astype(np.uint8)


def _smoothstep(x: NDArray[Real]) -> NDArray[Real]:
    """Cubic step from 0 (x ≤ 0) to 1 (x ≥ 1) with flat ends."""
    t = x.clip(0, 1)
    return t * t * (3 - 2 * t)
