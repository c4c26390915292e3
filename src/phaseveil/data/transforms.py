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


def draw_recolouring(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Affine changes of colour: saturation 0 to 2, any hue, contrast 0.6 to 1.4 about mid-grey, brightness by 0.2.

    Args:
        count: Images.
        share: How many of them change, 0 to 1; the rest stay exactly as they are.
        generator: On the CPU.

    Returns:
        Matrices and offsets for :func:`recolour`. Shape ``(count, 3, 4)``.
    """
    draws = torch.rand(5, count, 1, 1, generator=generator)
    saturation, contrast = 2 * draws[0], 0.6 + 0.8 * draws[2]
    angle = 2 * math.pi * draws[1]
    grey, eye = torch.full((3, 3), 1 / 3), torch.eye(3)
    # Rodrigues' rotation about the grey axis.
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    turned = angle.cos() * (eye - grey) + angle.sin() * cross
    matrix = contrast * (grey + saturation * turned)
    offset = (0.5 * (1 - contrast) + 0.4 * draws[3] - 0.2).expand(-1, 3, 1)
    same = torch.cat([eye, torch.zeros(3, 1)], dim=1)
    return torch.where(draws[4] < share, torch.cat([matrix, offset], dim=2), same)


def recolour(image: Tensor, changes: Tensor) -> Tensor:
    """Colours through an affine map each. Images ``(B, 3, H, W)``, maps ``(B, 3, 4)`` → ``(B, 3, H, W)``, unclipped,
    channels last."""
    matrix, offset = changes[:, :, :3, None, None], changes[:, :, 3:, None]
    return ((matrix * image[:, None]).sum(dim=2) + offset).contiguous(memory_format=torch.channels_last)
