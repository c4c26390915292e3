"""Augmentations of whole batches, images and landmarks together; all randomness from an explicit generator."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.data.heatmaps import MIRROR


@dataclass
class JitterConfig:
    """How far a random similarity and colour change may go.

    Attributes:
        degrees: Largest rotation.
        scale: Largest change of scale, share.
        shift: Largest shift, share of the frame.
        brightness: Largest change of brightness, share.
        contrast: Largest change of contrast, share.
    """

    degrees: float = 8.0
    scale: float = 0.08
    shift: float = 0.04
    brightness: float = 0.2
    contrast: float = 0.2


def random_mirror(image: Tensor, landmarks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror each face with probability one half, its points renamed to stay semantic.

    Args:
        image: Shape ``(B, 3, H, W)``.
        landmarks: Normalised to [0, 1]. Shape ``(B, 68, 2)``.
        generator: On the CPU.
    """
    chosen = torch.rand(len(image), generator=generator).to(image.device) < 0.5
    mirrored = landmarks[:, list(MIRROR)] * landmarks.new_tensor([-1.0, 1.0]) + landmarks.new_tensor([1.0, 0.0])
    return (
        torch.where(chosen[:, None, None, None], image.flip(-1), image),
        torch.where(chosen[:, None, None], mirrored, landmarks),
    )


def random_similarity(
    image: Tensor, landmarks: Tensor, config: JitterConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rotate, scale and shift each face a little; the border is continued by reflection.

    Args:
        image: Shape ``(B, 3, H, W)``.
        landmarks: Normalised to [0, 1]. Shape ``(B, 68, 2)``.
        config: Ranges.
        generator: On the CPU.
    """
    draws = (torch.rand(len(image), 4, generator=generator) * 2 - 1).to(image.device)
    angle, zoom = draws[:, 0] * math.radians(config.degrees), 1 + draws[:, 1] * config.scale
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = draws[:, 2:] * (2 * config.shift)
    # Forward map in [-1, 1] coordinates: p' = M p + t; grid_sample wants its inverse.
    forward = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    inverse = torch.linalg.inv(forward)
    theta = torch.cat([inverse, -(inverse @ shift[:, :, None])], dim=-1)
    grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
    moved = functional.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    points = ((landmarks * 2 - 1) @ forward.transpose(-1, -2) + shift[:, None, :] + 1) / 2
    return moved, points


def random_colour(image: Tensor, config: JitterConfig, generator: torch.Generator) -> Tensor:
    """Change brightness and contrast of each image a little. Shape ``(B, 3, H, W)``, 0 to 1, kept."""
    draws = (torch.rand(len(image), 2, 1, 1, 1, generator=generator) * 2 - 1).to(image.device)
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    contrasted = mean + (image - mean) * (1 + draws[:, 0] * config.contrast)
    return (contrasted * (1 + draws[:, 1] * config.brightness)).clamp(0, 1)
