"""Where styles come from: a latent (mapping network) or a reference face (style encoder). Codes have unit RMS."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseveil.models.blocks import ResidualBlock, by_domain, conv3, halve


def unit_rms(code: Tensor) -> Tensor:
    """Scale each code to unit root mean square, in float32, so that both sources share one sphere. ``(B, S)`` kept."""
    code = code.float()
    return code * torch.rsqrt(code.square().mean(dim=-1, keepdim=True) + 1e-6)


class MappingNetwork(nn.Module):
    """Latent → style code, one head per domain [StarGAN v2, Choi et al. 2020, arXiv 1912.01865, §2.1].

    Args:
        latent_dim: Length of the latent.
        style_dim: Length of the style code.
        domains: Number of domains.
        width: Hidden units.
    """

    def __init__(self, latent_dim: int, style_dim: int, domains: int, width: int = 256) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        hidden = [nn.Linear(latent_dim, width), *(nn.Linear(width, width) for _ in range(2))]
        self.trunk = nn.Sequential(*(part for layer in hidden for part in (layer, nn.LeakyReLU(0.2))))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, style_dim))
            for _ in range(domains)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):  # with the usual biases every latent gives nearly the same code
                nn.init.kaiming_normal_(layer.weight, a=0.2)
                nn.init.zeros_(layer.bias)

    def forward(self, latent: Tensor, domain: Tensor) -> Tensor:
        """Latents ``(B, latent_dim)``, standard normal, and domains ``(B,)`` → codes ``(B, style_dim)``, float32."""
        features = self.trunk(latent)
        return unit_rms(by_domain(torch.stack([head(features) for head in self.heads], dim=1), domain))


class StyleEncoder(nn.Module):
    """Face → style code, one head per domain [StarGAN v2, §2.1]; the same for a face and its mirror image.

    So no style says from which side its face was lit: that is for the acquisition to say.

    Args:
        size: Side of the faces, pixels; a power of two from 32 on.
        width: Channels at half resolution, doubled per scale up to four times.
        style_dim: Length of the style code.
        domains: Number of domains.
    """

    def __init__(self, size: int, width: int, style_dim: int, domains: int) -> None:
        super().__init__()
        levels = int(math.log2(size)) - 3
        channels = [width * min(2**level, 4) for level in range(levels + 1)]
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), conv3(12, width))
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in itertools.pairwise(channels))
        self.heads = nn.Linear(channels[-1] * 16, domains * style_dim)
        self.domains = domains

    def forward(self, face: Tensor, domain: Tensor) -> Tensor:
        """Faces ``(B, 3, H, W)``, sRGB, 0 to 1, and domains ``(B,)`` → codes ``(B, style_dim)``, float32."""
        features = self.stem(torch.cat([face, face.flip(-1)]) * 2 - 1)
        for block in self.blocks:
            features = halve(block(features))
        codes = self.heads(functional.leaky_relu(features, 0.2).flatten(1)).unflatten(0, (2, -1)).mean(dim=0)
        return unit_rms(by_domain(codes.unflatten(1, (self.domains, -1)), domain))
