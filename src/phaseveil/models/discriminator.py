"""Multi-domain discriminator that judges a face with its heatmap, so that geometry is learned by both sides."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

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


class FeatureDiscriminator(nn.Module):
    """Real/fake logits from the activations of a frozen network that knows natural images: one small head a stage,
    behind a fixed random mixture of the stage's channels [Sauer et al. 2021, arXiv 2111.01007, cross-channel mixing].

    What is natural it need not learn, and the frozen network forgets nothing while the generator moves. Spectral
    normalisation [Miyato et al. 2018, arXiv 1802.05957] bounds the heads, so that no gradient penalty is needed.

    Args:
        channels: Of each stage's activations.
        width: Channels of the heads.
        heatmaps: Channels of the heatmap.
        domains: Number of domains.
    """

    side = 8
    """Logits across and down, of each head."""

    def __init__(self, channels: Sequence[int], width: int, heatmaps: int, domains: int) -> None:
        super().__init__()
        for stage, count in enumerate(channels):
            self.register_buffer(f"mixture{stage}", torch.randn(width, count, 1, 1) / math.sqrt(count))
        self.heads = nn.ModuleList(_head(width + heatmaps, width, domains) for _ in channels)

    def forward(self, activations: Sequence[Tensor], heatmap: Tensor, domain: Tensor) -> Tensor:
        """Activations ``(B, C, H, W)`` a stage, heatmaps ``(B, K, H/2, W/2)``, domains ``(B,)`` → logits ``(B, L)``,
        as many of each stage."""
        logits = []
        for stage, (features, head) in enumerate(zip(activations, self.heads, strict=True)):
            mixed = functional.conv2d(features, self.get_buffer(f"mixture{stage}"))
            geometry = functional.adaptive_avg_pool2d(heatmap, mixed.shape[-1])
            seen = torch.cat([mixed, geometry.to(mixed.dtype)], dim=1)
            if seen.shape[-1] == 1:
                # The same logits. At stride 2 oneDNN leaves parts of one pixel's weight gradient unwritten in bfloat16.
                seen = functional.pad(seen, (0, 1, 0, 1))
            verdict = head(seen)
            logits.append(by_domain(functional.adaptive_avg_pool2d(verdict, self.side).flatten(2), domain))
        return torch.cat(logits, dim=1).float()


def _head(inputs: int, width: int, domains: int) -> nn.Sequential:
    """Two 3 × 3 convolutions, the first at half resolution, and a logit per domain and place."""
    return nn.Sequential(
        spectral_norm(conv3(inputs, width, stride=2)),
        nn.LeakyReLU(0.2),
        spectral_norm(conv3(width, 2 * width)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(2 * width, domains, 1)),
    )


AnyDiscriminator = Discriminator | FeatureDiscriminator


def save_discriminator(
    path: str | Path, discriminator: AnyDiscriminator, metadata: dict[str, Any] | None = None
) -> Path:
    """Write a discriminator in fp16, for runs that go on from its generator.

    Raises:
        CheckpointError: The file cannot be written.
    """
    return checkpoint.save(path, "discriminator", {}, checkpoint.half(discriminator.state_dict()), metadata)


def load_discriminator(path: str | Path, into: AnyDiscriminator) -> None:
    """Fill a discriminator with what a file holds, whose shapes say which sizes it is of.

    Raises:
        CheckpointError: Missing, damaged, of another kind or shape.
    """
    checkpoint.load_into(into, checkpoint.load(path, kind="discriminator").tensors, path)
