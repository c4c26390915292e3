"""The generator: acquisition + heatmap + style code → new face."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseveil.models.blocks import ResidualBlock, conv3, double, halve


class ModulatedConv(nn.Module):
    r"""Convolution whose input channels are scaled by the style, its output brought back to unit variance.

    AdaIN's successor without statistics of the image [Karras et al. 2020, arXiv 1912.04958, eqs. 1-3]:
    :math:`w'_{oik} = s_i w_{oik}`, :math:`w''_{oik} = w'_{oik} / \sqrt{\sum_{ik} w'^2_{oik} + \epsilon}`. Scaling
    features instead of weights gives the same result and one convolution for the whole batch.

    Args:
        inputs, outputs: Channels.
        style_dim: Length of the style code.
        gain: Standard deviation of the output for inputs of unit variance.
        kernel: 1 or 3.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, gain: float = 1.0, kernel: int = 3) -> None:
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = nn.Linear(style_dim, inputs)
        nn.init.normal_(self.affine.weight, std=1 / math.sqrt(style_dim))
        nn.init.ones_(self.affine.bias)

    def energy(self) -> Tensor:
        """Sum of the squared weights between each input and output channel, float32. Shape ``(inputs, outputs)``."""
        return self.weight.float().square().sum(dim=(2, 3)).t()

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Features ``(B, inputs, H, W)`` and codes ``(B, style_dim)`` → ``(B, outputs, H, W)``."""
        with torch.autocast(features.device.type, enabled=False):
            scale = functional.linear(style.float(), self.affine.weight.float(), self.affine.bias.float())
            restore = self.gain * torch.rsqrt(scale.square() @ self.energy() + 1e-6)
        modulated = features * scale.to(features.dtype)[:, :, None, None]
        result = functional.conv2d(modulated, self.weight.to(features.dtype), padding=self.weight.shape[-1] // 2)
        bias, restore = self.bias.to(result.dtype), restore.to(result.dtype)
        return torch.addcmul(bias[:, None, None], result, restore[:, :, None, None])


class StyledBlock(nn.Module):
    """Residual block of two modulated convolutions; the heatmap at this scale joins the features where it is given.

    ``(B, inputs, H, W)`` [+ ``(B, extra, H, W)``] and a style code → ``(B, outputs, H, W)``.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, extra: int = 0) -> None:
        super().__init__()
        self.first = ModulatedConv(inputs + extra, outputs, style_dim, gain=math.sqrt(2))
        self.second = ModulatedConv(outputs, outputs, style_dim)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, features: Tensor, style: Tensor, heatmap: Tensor | None = None) -> Tensor:
        joined = features if heatmap is None else torch.cat([features, heatmap.to(features.dtype)], dim=1)
        residual = functional.leaky_relu(self.first(joined, style), 0.2)
        residual = functional.leaky_relu(self.second(residual, style), 0.2)
        return torch.add(residual, self.shortcut(features), alpha=math.sqrt(0.5))


class Generator(nn.Module):
    """Encoder without normalisation, styled residual bottleneck and decoder, after StarGAN v2 (arXiv 1912.01865).

    The heatmap enters at the input and at half and quarter resolution, where its detail belongs.

    Args:
        width: Channels at half resolution.
        style_dim: Length of the style code.
        heatmaps: Channels of the heatmap.
        bottleneck: Styled blocks at an eighth of the resolution.
    """

    def __init__(self, width: int, style_dim: int, heatmaps: int, bottleneck: int) -> None:
        super().__init__()
        w = width
        self.stem = conv3(12 + heatmaps, w)
        self.unshuffle = nn.PixelUnshuffle(2)
        self.encoder = nn.ModuleList(
            [ResidualBlock(w, 2 * w), ResidualBlock(2 * w, 4 * w), ResidualBlock(4 * w, 4 * w)]
        )
        self.bottleneck = nn.ModuleList(StyledBlock(4 * w, 4 * w, style_dim) for _ in range(bottleneck))
        self.at_quarter = StyledBlock(4 * w, 2 * w, style_dim, heatmaps)
        self.at_half = StyledBlock(2 * w, w, style_dim, heatmaps)
        self.at_full = StyledBlock(w, w // 2, style_dim)
        self.to_rgb = nn.Conv2d(w // 2, 3, 1)

    def forward(self, acquisition: Tensor, heatmap: Tensor, style: Tensor) -> Tensor:
        """Draw a face.

        Args:
            acquisition: sRGB, 0 to 1. Shape ``(B, 3, H, W)``, sides multiples of 8.
            heatmap: 0 to 1. Shape ``(B, K, H/2, W/2)``.
            style: Codes of unit RMS. Shape ``(B, style_dim)``.

        Returns:
            Face, sRGB, 0 to 1. Shape ``(B, 3, H, W)``, float32.
        """
        features = self.stem(torch.cat([self.unshuffle(acquisition * 2 - 1), heatmap], dim=1))
        first, second, third = self.encoder
        features = third(halve(second(halve(first(features)))))
        for block in self.bottleneck:
            features = block(features, style)
        features = self.at_quarter(double(features), style, halve(heatmap))
        features = self.at_half(double(features), style, heatmap)
        features = self.at_full(double(features), style)
        return (torch.tanh(self.to_rgb(features).float()) + 1) / 2
