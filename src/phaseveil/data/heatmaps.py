"""Landmark geometry: dlib's 68 points, their semantic groups, and Gaussian heatmaps drawn from them."""

import torch
from torch import Tensor

GROUPS: dict[str, tuple[int, ...]] = {
    "jaw": tuple(range(17)),
    "brows": tuple(range(17, 27)),
    "nose": tuple(range(27, 36)),
    "eyes": tuple(range(36, 48)),
    "mouth": tuple(range(48, 68)),
}
NUM_LANDMARKS = 68
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)  # as seen in the image

_EYES_MIRRORED = (45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40)
_MOUTH_MIRRORED = (*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1))
# Where each point goes when the image is mirrored: mirrored[i] = points[MIRROR[i]] with x turned about.
MIRROR: tuple[int, ...] = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *_EYES_MIRRORED,
    *_MOUTH_MIRRORED,
)


def draw_heatmaps(landmarks: Tensor, size: int, sigma: float = 0.02) -> Tensor:
    """Teacher heatmaps: one channel per semantic group, the maximum of Gaussians of height 1 at its points.

    Args:
        landmarks: Points (x, y), normalised to [0, 1]. Shape ``(B, 68, 2)``.
        size: Height and width of the maps, pixels.
        sigma: Standard deviation, share of the frame.

    Returns:
        0 to 1. Shape ``(B, 5, size, size)``; differentiable with respect to the landmarks.
    """
    axis = (torch.arange(size, device=landmarks.device, dtype=landmarks.dtype) + 0.5) / size
    along_x = torch.exp(-0.5 * ((axis - landmarks[..., 0:1]) / sigma) ** 2)
    along_y = torch.exp(-0.5 * ((axis - landmarks[..., 1:2]) / sigma) ** 2)
    maps = []
    for points in GROUPS.values():
        index = list(points)
        maps.append((along_y[:, index, :, None] * along_x[:, index, None, :]).amax(dim=1))
    return torch.stack(maps, dim=1)


def interocular_distance(landmarks: Tensor) -> Tensor:
    """Distance between the centres of the two eyes, in the landmarks' unit. ``(..., 68, 2)`` → ``(...)``."""
    return (landmarks[..., LEFT_EYE, :].mean(dim=-2) - landmarks[..., RIGHT_EYE, :].mean(dim=-2)).norm(dim=-1)


def normalised_mean_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean point-to-point distance over the 68 points, divided by the target's inter-ocular distance, per face.

    As in 300-W [Sagonas et al. 2016, Image and Vision Computing 47, 3], with the distance of the eye centres, which is
    about 0.7 of that of the outer corners and so the stricter of the two usual norms. ``(B, 68, 2)`` twice → ``(B,)``.
    """
    return (predicted - target).norm(dim=-1).mean(dim=-1) / interocular_distance(target)


def misplaced_eyes(landmarks: Tensor) -> Tensor:
    """How far a set's eyes lie from where most faces have them, median eye distances; ``(N, 68, 2)`` → ``(N, 2)``.

    In aligned crops, landmarks with eyes far away are more likely the detector's mistake than the face's shape.
    """
    eyes = torch.stack([landmarks[:, side].mean(dim=1) for side in (LEFT_EYE, RIGHT_EYE)], dim=1)
    usual = eyes.quantile(0.5, dim=0)
    return (eyes - usual).norm(dim=-1) / (usual[1] - usual[0]).norm()
