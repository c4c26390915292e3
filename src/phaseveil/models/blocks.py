"""Small parts that the networks share."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Module = TypeVar("Module", bound=nn.Module)


def conv3(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """3 × 3 convolution that keeps the size (stride 1) or halves it (stride 2)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class NormalisedBlock(nn.Module):
    """Residual block with batch normalisation [He et al. 2016, arXiv 1603.05027], for the heatmap network.

    ``(B, inputs, H, W)`` → ``(B, outputs, H, W)``.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv3(inputs, outputs, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
        self.second = nn.Sequential(conv3(outputs, outputs, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(self.shortcut(features) + self.second(self.first(features)))


class ResidualBlock(nn.Module):
    """Residual block without normalisation; small first weights of its second half keep the variance in bounds.

    ``(B, inputs, H, W)`` → ``(B, outputs, H, W)``.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = conv3(inputs, inputs), conv3(inputs, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        with torch.no_grad():
            for layer, gain in ((self.first, 1.0), (self.second, 0.5)):
                nn.init.kaiming_normal_(layer.weight, a=0.2).mul_(gain)

    def forward(self, features: Tensor) -> Tensor:
        residual = functional.leaky_relu(self.first(features), 0.2)
        residual = functional.leaky_relu(self.second(residual), 0.2)
        return self.shortcut(features) + residual


def to_channels_last(module: Module, device: str | torch.device) -> Module:
    """Move a network and lay its weights out channels-last, which CPU and GPU convolve fastest."""
    module.to(device)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def halve(features: Tensor) -> Tensor:
    """Average of each 2 × 2 block."""
    return functional.avg_pool2d(features, 2)


def double(features: Tensor) -> Tensor:
    """Each pixel as a 2 × 2 block."""
    return functional.interpolate(features, scale_factor=2, mode="nearest")


def by_domain(heads: Tensor, domain: Tensor) -> Tensor:
    """Pick each item's own domain: ``(B, D, ...)`` and ``(B,)`` → ``(B, ...)``."""
    return heads[torch.arange(len(heads), device=heads.device), domain]
