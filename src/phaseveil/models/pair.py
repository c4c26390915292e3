"""Heatmap network and generator as one network: from an acquisition and a style code to a new face."""

from typing import NamedTuple

from torch import Tensor, nn

from phaseveil.models.generator import Generator
from phaseveil.models.heatmap import HeatmapNet


class Redrawn(NamedTuple):
    """New faces and the geometry that they were drawn with.

    Attributes:
        face: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
        heatmap: Landmark heatmaps read from the acquisition, 0 to 1. Shape ``(B, 5, S/2, S/2)``.
        landmarks: 68 points (x, y) read from the acquisition, normalised to [0, 1]. Shape ``(B, 68, 2)``.
    """

    face: Tensor
    heatmap: Tensor
    landmarks: Tensor


class Pair(nn.Module):
    """The two networks that run on every acquisition.

    Args:
        heatmap_net: Reads the geometry from acquisitions.
        generator: Draws faces with that geometry.
    """

    def __init__(self, heatmap_net: HeatmapNet, generator: Generator) -> None:
        super().__init__()
        self.heatmap_net = heatmap_net
        self.generator = generator

    def forward(self, acquisition: Tensor, style_code: Tensor) -> Redrawn:
        """Draw new faces.

        Args:
            acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``, S a multiple of 16.
            style_code: Codes of unit RMS. Shape ``(B, style_dim)``.
        """
        geometry = self.heatmap_net(acquisition)
        heatmap = geometry.heatmap
        return Redrawn(self.generator(acquisition, heatmap, style_code), heatmap, geometry.landmarks)
