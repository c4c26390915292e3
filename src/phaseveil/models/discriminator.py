"""Multi-domain discriminator that judges a face with its heatmap, so that geometry is learned by both sides."""

import itertools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseveil import checkpoint
from phaseveil.models.blocks import ResidualBlock, by_domain, conv3, halve


class Discriminator(nn.Module):
    """One real/fake logit per domain [StarGAN v2, arXiv 1912.01865, §2.1], with the batch's spread as a last map
    [Karras et al. 2018, arXiv 1710.10196, §3].

    Args:
        size: Side of the faces, pixels; a power of two from 32 on.
        width: Channels at half resolution, doubled per scale up to four times.
        heatmaps: Channels of the heatmap.
        domains: Number of domains.
    """

    def __init__(self, size: int, width: int, heatmaps: int, domains: int) -> None:
        super().__init__()
        levels = int(math.log2(size)) - 3
        channels = [width * min(2**level, 4) for level in range(levels + 1)]
        self.unshuffle = nn.PixelUnshuffle(2)
        self.stem = conv3(12 + heatmaps, width)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in itertools.pairwise(channels))
        self.last = conv3(channels[-1] + 1, channels[-1])
        self.heads = nn.Linear(channels[-1] * 16, domains)

    def forward(self, face: Tensor, heatmap: Tensor, domain: Tensor) -> Tensor:
        """Faces ``(B, 3, H, W)`` in 0 to 1, heatmaps ``(B, K, H/2, W/2)``, domains ``(B,)`` → logits ``(B,)``."""
        features = self.stem(torch.cat([self.unshuffle(face * 2 - 1), heatmap], dim=1))
        for block in self.blocks:
            features = halve(block(features))
        spread = (features.float().var(dim=0, correction=0) + 1e-8).sqrt().mean().to(features.dtype)
        features = torch.cat([features, spread.expand(len(features), 1, *features.shape[2:])], dim=1)
        features = functional.leaky_relu(self.last(features), 0.2)
        return by_domain(self.heads(features.flatten(1)).float(), domain)


def save_discriminator(path: str | Path, discriminator: Discriminator, metadata: dict[str, Any] | None = None) -> Path:
    """Write a discriminator in fp16, for runs that go on from its generator.

    Raises:
        CheckpointError: The file cannot be written.
    """
    return checkpoint.save(path, "discriminator", {}, checkpoint.half(discriminator.state_dict()), metadata)


def load_discriminator(path: str | Path, into: Discriminator) -> None:
    """Fill a discriminator with what a file holds, whose shapes say which sizes it is of.

    Raises:
        CheckpointError: Missing, damaged, of another kind or shape.
    """
    checkpoint.load_into(into, checkpoint.load(path, kind="discriminator").tensors, path)
