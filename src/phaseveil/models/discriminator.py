"""Multi-domain discriminator that judges a face with its heatmap, so that geometry is learned by both sides."""

import itertools
import math
from collections.abc import Sequence
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


class FeatureDiscriminator(nn.Module):
    """Real/fake logits from the activations of a frozen network that knows natural images: one head a stage, behind a
    fixed random mixture of the stage's channels [Sauer et al. 2021, arXiv 2111.01007, cross-channel mixing].

    What is natural it need not learn, and the frozen network forgets nothing while the generator moves. Every head
    halves its stage until few places are left, so that it sees how parts fit each other and not only their texture.

    Args:
        stages: Channels and side of each stage's activations, as :meth:`phaseveil.losses.perceptual.LPIPS.shapes` says.
        width: Channels of the heads at their first resolution, doubled per halving up to four times.
        heatmaps: Channels of the heatmap.
        domains: Number of domains.
    """

    side = 4
    """Logits across and down, of each head."""

    def __init__(self, stages: Sequence[tuple[int, int]], width: int, heatmaps: int, domains: int) -> None:
        super().__init__()
        for stage, (count, _) in enumerate(stages):
            self.register_buffer(f"mixture{stage}", torch.randn(width, count, 1, 1) / math.sqrt(count))
        self.heads = nn.ModuleList(_head(width + heatmaps, width, side, self.side, domains) for _, side in stages)

    def forward(self, activations: Sequence[Tensor], heatmap: Tensor, domain: Tensor) -> Tensor:
        """Activations ``(B, C, H, W)`` a stage, heatmaps ``(B, K, H/2, W/2)``, domains ``(B,)`` → logits ``(B, L)``,
        as many of each stage."""
        logits = []
        for stage, (features, head) in enumerate(zip(activations, self.heads, strict=True)):
            mixed = functional.conv2d(features, self.get_buffer(f"mixture{stage}"))
            geometry = functional.adaptive_avg_pool2d(heatmap, mixed.shape[-1])
            verdict = head(torch.cat([mixed, geometry.to(mixed.dtype)], dim=1))
            logits.append(by_domain(functional.adaptive_avg_pool2d(verdict, self.side).flatten(2), domain))
        return torch.cat(logits, dim=1).float()


def _head(inputs: int, width: int, side: int, last: int, domains: int) -> nn.Sequential:
    """3 × 3 convolutions that halve ``side`` to ``last`` or less, one more, and a logit per domain and place."""
    halvings = max(0, math.ceil(math.log2(side / last)))
    channels = [inputs, *(width * min(2**level, 4) for level in range(halvings))]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [conv3(before, after, stride=2), nn.LeakyReLU(0.2)]
    verdict = channels[-1] if halvings else width
    return nn.Sequential(*layers, conv3(channels[-1], verdict), nn.LeakyReLU(0.2), nn.Conv2d(verdict, domains, 1))


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
