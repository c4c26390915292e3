"""The heatmap network U: geometry read from a blurred acquisition (stage I's digital half)."""

import itertools
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phaseveil import checkpoint
from phaseveil.config import from_mapping, to_mapping
from phaseveil.data.heatmaps import GROUPS, NUM_LANDMARKS
from phaseveil.errors import ConfigError
from phaseveil.models.blocks import NormalisedBlock, conv3, double


@dataclass
class HeatmapConfig:
    """Heatmap network.

    Attributes:
        size: Side of the acquisitions that it is trained on, pixels; a multiple of 16.
        width: Channels at half resolution; doubled at each of three further scales.
    """

    size: int = 128
    width: int = 32

    def __post_init__(self) -> None:
        if self.size % 16 or not 32 <= self.size <= 4096 or not 1 <= self.width <= 1024:
            raise ConfigError(
                "heatmap network: size must be a multiple of 16 from 32 to 4096, width 1 to 1024; "
                f"got {self.size}, {self.width}"
            )


class HeatmapOutput(NamedTuple):
    """What the heatmap network says.

    Attributes:
        logits: Semantic heatmaps before the sigmoid. Shape ``(B, 5, H/2, W/2)``.
        landmarks: 68 points (x, y), normalised to [0, 1]. Shape ``(B, 68, 2)``, float32.
    """

    logits: Tensor
    landmarks: Tensor

    @property
    def heatmap(self) -> Tensor:
        """Semantic heatmaps, 0 to 1. Shape ``(B, 5, H/2, W/2)``."""
        return self.logits.float().sigmoid()


class HeatmapNet(nn.Module):
    """U-Net [Ronneberger et al. 2015, arXiv 1505.04597] with two heads: semantic heatmaps, and a map per landmark whose
    soft-argmax is the landmark [Sun et al. 2018, integral regression, arXiv 1711.08229]."""

    def __init__(self, config: HeatmapConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**level for level in range(4)]
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), conv3(12, widths[0], bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.down = nn.ModuleList(
            nn.Sequential(
                conv3(a, b, stride=2, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                NormalisedBlock(b, b),
                NormalisedBlock(b, b),
            )
            for a, b in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(NormalisedBlock(b + a, a) for a, b in itertools.pairwise(widths))
        self.heatmap_head = nn.Conv2d(widths[0], len(GROUPS), 1)
        self.landmark_head = nn.Conv2d(widths[1], NUM_LANDMARKS, 1)
        assert self.heatmap_head.bias is not None
        nn.init.constant_(self.heatmap_head.bias, -3.0)  # most of a heatmap is empty

    def forward(self, acquisition: Tensor) -> HeatmapOutput:
        """Read geometry from acquisitions (B, 3, H, W), sRGB, 0 to 1; H and W multiples of 16."""
        features = [self.stem(acquisition * 2 - 1)]
        for down in self.down:
            features.append(down(features[-1]))
        eighth = self.up[2](torch.cat([double(features[3]), features[2]], dim=1))
        quarter = self.up[1](torch.cat([double(eighth), features[1]], dim=1))
        half = self.up[0](torch.cat([double(quarter), features[0]], dim=1))
        return HeatmapOutput(self.heatmap_head(half), soft_argmax(self.landmark_head(quarter)))


def soft_argmax(logits: Tensor) -> Tensor:
    """Expected position under the softmax of each map, in float32.

    Args:
        logits: Shape ``(B, P, H, W)``.

    Returns:
        Points (x, y), normalised to [0, 1] with pixel centres at (i + 0.5)/W. Shape ``(B, P, 2)``.
    """
    height, width = logits.shape[-2:]
    weights = logits.float().flatten(2).softmax(dim=-1).unflatten(2, (height, width))
    x = (torch.arange(width, device=logits.device) + 0.5) / width
    y = (torch.arange(height, device=logits.device) + 0.5) / height
    return torch.stack([(weights.sum(dim=-2) * x).sum(dim=-1), (weights.sum(dim=-1) * y).sum(dim=-1)], dim=-1)


def save_heatmap_net(path: str | Path, network: HeatmapNet, metadata: dict[str, Any] | None = None) -> Path:
    """Write the network in fp16.

    Raises:
        CheckpointError: The file cannot be written.
    """
    tensors = checkpoint.half({f"network.{name}": tensor for name, tensor in network.state_dict().items()})
    return checkpoint.save(path, "heatmap", to_mapping(network.config), tensors, metadata)


def load_heatmap_net(path: str | Path | None = None, size: int | None = None) -> HeatmapNet:
    """Read a heatmap network. In evaluation mode.

    Args:
        path: File; the bundled network where ``None``.
        size: Side of the acquisitions that it will be trained on, pixels; what it was trained on where ``None``. Its
            weights fit any size, but need some training to read another one well.

    Raises:
        ConfigError: An impossible size.
        CheckpointError: Missing, damaged, of another kind or shape.
    """
    path = path or Path(str(resources.files("phaseveil"))) / "weights" / "heatmap.safetensors"
    stored = checkpoint.load(path, kind="heatmap")
    own = from_mapping(HeatmapConfig, stored.config)
    config = own if size is None else replace(own, size=size)
    return checkpoint.load_module(lambda: HeatmapNet(config), stored.part("network"), path).eval()
