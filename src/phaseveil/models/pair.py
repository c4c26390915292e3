"""Heatmap network and generator as one network: from an acquisition and a style code to a new face."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from phaseveil.models.generator import Generator
from phaseveil.models.heatmap import HeatmapNet, HeatmapOutput
from phaseveil.models.shape import ShapeEraser, Warp


class Redrawn(NamedTuple):
    """New faces and the geometry that they were drawn with.

    Attributes:
        face: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
        heatmap: Landmark heatmaps, 0 to 1. Shape ``(B, 5, S/2, S/2)``.
        landmarks: 68 points (x, y), normalised to [0, 1]. Shape ``(B, 68, 2)``.
    """

    face: Tensor
    heatmap: Tensor
    landmarks: Tensor


class Drawable(NamedTuple):
    """What new faces are drawn from.

    Attributes:
        acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
        heatmap: Landmark heatmaps, 0 to 1. Shape ``(B, 5, S/2, S/2)``.
        landmarks: 68 points (x, y), normalised to [0, 1]. Shape ``(B, 68, 2)``.
    """

    acquisition: Tensor
    heatmap: Tensor
    landmarks: Tensor


class Pair(nn.Module):
    """The two networks that run on every acquisition.

    Args:
        heatmap_net: Reads the geometry from acquisitions.
        generator: Draws faces with that geometry.
        eraser: Takes identity out of it first; nothing does where ``None``.
    """

    def __init__(self, heatmap_net: HeatmapNet, generator: Generator, eraser: ShapeEraser | None = None) -> None:
        super().__init__()
        self.heatmap_net = heatmap_net
        self.generator = generator
        self.eraser = eraser

    def forward(self, acquisition: Tensor, style_code: Tensor) -> Redrawn:
        """Draw new faces.

        Args:
            acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``, S a multiple of 16.
            style_code: Codes of unit RMS. Shape ``(B, style_dim)``.
        """
        drawable = self.drawable(acquisition, self.heatmap_net(acquisition))
        face = self.generator(drawable.acquisition, drawable.heatmap, style_code)
        return Redrawn(face, drawable.heatmap, drawable.landmarks)

    def drawable(self, acquisition: Tensor, geometry: HeatmapOutput) -> Drawable:
        """What faces are drawn from: acquisition and geometry, both without the identity in their shape if so set.

        Args:
            acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
            geometry: What the heatmap network read from it.
        """
        heatmap, landmarks = geometry.heatmap, geometry.landmarks
        if self.eraser is None:
            return Drawable(acquisition, heatmap, landmarks)
        with torch.autocast(acquisition.device.type, enabled=False):
            moved = self.eraser(landmarks)
            field = Warp(landmarks, moved)
            return Drawable(field(acquisition).clamp(0, 1), field(heatmap).clamp(0, 1), moved)
