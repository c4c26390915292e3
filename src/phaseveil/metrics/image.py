"""Image distances: PSNR, SSIM, and how different the outputs of one source are (LPIPS diversity)."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.errors import ConfigError

PairDistance = Callable[[Tensor, Tensor], Tensor]

_WINDOW_SIGMA = 1.5
_WINDOW_RADIUS = 5
_C1, _C2 = 0.01**2, 0.03**2  # for a data range of 1


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, decibels.

    Args:
        image: sRGB, 0 to 1. Shape ``(B, C, H, W)``.
        reference: Same shape.

    Returns:
        Shape ``(B,)``; infinite for equal images.
    """
    return -10 * torch.log10((image - reference).square().mean(dim=(1, 2, 3)))


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity with a Gaussian window (σ = 1.5 px, 11 taps), mean over channels and inner pixels.

    Wang, Bovik, Sheikh, Simoncelli, *Image quality assessment*, IEEE Trans. Image Processing 13(4), 2004, equation 13.

    Args:
        image: sRGB, 0 to 1. Shape ``(B, C, H, W)``, sides of at least 11 pixels.
        reference: Same shape.

    Returns:
        Shape ``(B,)``, at most 1.

    Raises:
        ConfigError: The images are smaller than the window.
    """
    if min(image.shape[-2:]) <= 2 * _WINDOW_RADIUS:
        raise ConfigError(f"SSIM needs images of at least {2 * _WINDOW_RADIUS + 1} px a side; enlarge them")
    x, y = image.double(), reference.double()  # variances cancel badly in single precision
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x, variance_y = _window_mean(x * x) - mean_x**2, _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).mean(dim=(1, 2, 3)).to(image.dtype)


def diversity(outputs: Tensor, distance: PairDistance) -> Tensor:
    """Mean distance over all pairs of one source's outputs (StarGAN v2, arXiv 1912.01865, section 4: LPIPS over ten).

    Args:
        outputs: For each of B sources, N ≥ 2 outputs. Shape ``(B, N, 3, H, W)``.
        distance: Of two batches ``(B, 3, H, W)``, giving ``(B,)``; such as :class:`phaseveil.losses.perceptual.LPIPS`.

    Returns:
        Shape ``(B,)``.

    Raises:
        ConfigError: Fewer than two outputs a source.
    """
    count = outputs.shape[1]
    if count < 2:
        raise ConfigError("diversity needs at least two outputs of each source; use more seeds")
    pairs = [distance(outputs[:, i], outputs[:, j]) for i, j in combinations(range(count), 2)]
    return torch.stack(pairs).mean(dim=0)


def _window_mean(values: Tensor) -> Tensor:
    """Gaussian-weighted mean around each inner pixel."""
    taps = torch.arange(-_WINDOW_RADIUS, _WINDOW_RADIUS + 1, dtype=values.dtype, device=values.device)
    window = torch.exp(-0.5 * (taps / _WINDOW_SIGMA) ** 2)
    window = window / window.sum()
    planes = values.flatten(0, 1)[:, None]
    planes = functional.conv2d(functional.conv2d(planes, window[None, None, :, None]), window[None, None, None, :])
    return planes[:, 0].unflatten(0, values.shape[:2])
