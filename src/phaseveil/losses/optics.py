"""Stage-I terms on the optics: privacy, regularity, and the constraint that keeps them from destroying geometry."""

import math

import torch
from torch import Tensor

from phaseveil.optics.psf import psf_correlation
from phaseveil.optics.sensor import SensorConfig, noise_variance

MID_GREY = 0.2
"""Linear light of mid-grey."""

SCENE_VARIANCE = 0.05
"""Variance of linear light over a portrait's frame, within a channel."""


def privacy_loss(acquisition: Tensor, source: Tensor) -> Tensor:
    """1 - MSE of acquisition and source (published privacy term). Images 0 to 1, ``(B, 3, H, W)`` → scalar."""
    return 1 - (acquisition - source).square().mean()


def detail_loss(psf: Tensor, lowest: float = 4.0, size: int = 128) -> Tensor:
    r"""MTF suppression: logarithm of the energy of a natural image that the optics let through above ``lowest``.

    .. math:: \log \sum_{f > f_0} |OTF(f)|^2 f^{-2} \Big/ \sum_{f > f_0} f^{-2}

    The power spectrum of natural images falls as 1/f² [Field 1987, J. Opt. Soc. Am. A 4, 2379]. Unlike the MSE it does
    not reward a contrast reversal, which hides nothing.

    Args:
        psf: Unit sum per channel. Shape ``(3, K, K)``.
        lowest: f₀, cycles per frame.
        size: Pixels of the frame that the PSF was sampled for.

    Returns:
        Scalar, 0 for a clear lens, negative below.
    """
    otf = torch.fft.rfft2(psf, s=(size, size))
    square = _squared_frequencies(size, psf.device)
    weight = torch.where(square > lowest**2, 1 / square.clamp_min(1), 0)
    return (((otf.real**2 + otf.imag**2) * weight).sum() / (weight.sum() * len(psf))).clamp_min(1e-12).log()


def information_loss(psf: Tensor, sensor: SensorConfig, lowest: float = 4.0, size: int = 128) -> Tensor:
    r"""What a camera lets through above ``lowest`` as a noisy channel: mean information of a Fourier mode, bits.

    .. math:: \sum_{f > f_0} f^{-2} \log_2\Big(1 + \frac{|OTF(f)|^2 S(f)}{N}\Big) \Big/ \sum_{f > f_0} f^{-2}

    The capacity of parallel Gaussian channels [Shannon 1949, Proc. IRE 37, 10; of imaging: Fellgett and Linfoot 1955,
    Phil. Trans. A 247, 369], every octave weighing alike. S is the spectrum of a natural scene, 1/f² with the contrast
    :data:`SCENE_VARIANCE`, and N the noise of the sensor at mid-grey. Unlike :func:`detail_loss` it does not forgive a
    faint plateau of the MTF above the noise, from which deconvolution restores a face.

    Args:
        psf: Unit sum per channel. Shape ``(3, K, K)``.
        sensor: Its noise and bit depth.
        lowest: f₀, cycles per frame.
        size: Pixels of the frame that the PSF was sampled for.

    Returns:
        Scalar, at least 0.
    """
    otf = torch.fft.rfft2(psf, s=(size, size))
    square = _squared_frequencies(size, psf.device)
    natural = torch.where(square > 0, 1 / square.clamp_min(1), 0)
    twice = torch.full_like(natural, 2.0)  # rfft2 leaves out the mirror images of these columns
    twice[:, 0] = 1.0
    scene = SCENE_VARIANCE * natural / (natural * twice).sum()
    noise = noise_variance(sensor, MID_GREY) / size**2
    bits = torch.log2(1 + (otf.real**2 + otf.imag**2) * (scene / noise))
    weight = torch.where(square > lowest**2, natural * twice, 0)
    return (bits * weight).sum() / (weight.sum() * len(psf))


def _squared_frequencies(size: int, device: torch.device) -> Tensor:
    """Squared frequencies of ``rfft2``'s bins, cycles per frame. Shape ``(size, size // 2 + 1)``."""
    vertical = torch.fft.fftfreq(size, device=device) * size
    horizontal = torch.fft.rfftfreq(size, device=device) * size
    return vertical[:, None] ** 2 + horizontal[None, :] ** 2


def sameness_loss(psf: Tensor, other: Tensor) -> Tensor:
    """How much the PSF of one member of a family tells of another's: Pearson's correlation, mean of the colours.

    1 where all members are one mask. Without it the other losses, which know the member, let a family shrink to one.

    Args:
        psf, other: Of two members. Shape ``(3, K, K)``.

    Returns:
        Scalar, -1 to 1.
    """
    return psf_correlation(psf, other).mean()


def airy_distance(psf: Tensor, airy: Tensor) -> Tensor:
    """Frobenius norm of PSF minus clear-lens PSF (published regulariser, weight 10). ``(3, K, K)`` twice → scalar."""
    return (psf - airy).norm()


def slope_loss(phase: Tensor, aperture: Tensor, limit: float = 0.6 * math.pi) -> Tensor:
    """Mean square excess of phase steps between pupil neighbours over ``limit``: steeper ones lose light.

    Args:
        phase: Unwrapped, radians. Shape ``(L, N, N)``.
        aperture: Transmission. Shape ``(N, N)``.
        limit: Radians per pupil sample, below the sampling limit π.
    """
    inside = aperture > 0
    along_x = (phase.diff(dim=-1).abs() - limit).clamp_min(0) * (inside[:, 1:] & inside[:, :-1])
    along_y = (phase.diff(dim=-2).abs() - limit).clamp_min(0) * (inside[1:] & inside[:-1])
    return (along_x.square().sum() + along_y.square().sum()) / (inside.sum() * len(phase))


def range_loss(height: Tensor, limit: float) -> Tensor:
    """Square excess of a mask's relief over what can be made, in micrometres.

    Args:
        height: Metres. Shape ``(N, N)``.
        limit: Highest difference of heights that costs nothing, metres.
    """
    return (1e6 * (height.amax() - height.amin() - limit)).clamp_min(0).square()


def smoothness_loss(height: Tensor, aperture: Tensor) -> Tensor:
    """Mean square Laplacian of a mask's relief, micrometres per squared hundredth of the diameter.

    Rough reliefs are hard to make, and their finest structure scatters light instead of shaping the PSF.

    Args:
        height: Metres. Shape ``(N, N)``.
        aperture: Transmission, 0 outside. Shape ``(N, N)``.
    """
    scale = 1e6 * (len(height) / 100) ** 2
    along_x = height[1:-1, :-2] + height[1:-1, 2:]
    along_y = height[:-2, 1:-1] + height[2:, 1:-1]
    laplacian = scale * (along_x + along_y - 4 * height[1:-1, 1:-1])
    inside = aperture > 0
    whole = inside[1:-1, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:] & inside[:-2, 1:-1] & inside[2:, 1:-1]
    return (laplacian.square() * whole).sum() / whole.sum()


class ConstraintMultiplier:
    """Multiplier of the constraint ``error ≤ ceiling``, raised while it is broken and lowered while it holds.

    Multiplicative dual ascent on a running mean of the error [Platt & Barr 1987, NIPS, Constrained differential
    optimization]; it stays positive and finds its scale by itself.

    Args:
        ceiling: Highest error allowed.
        rate: Step in log-multiplier per unit of relative violation.
        momentum: Of the running mean.
        start: First multiplier.
    """

    def __init__(self, ceiling: float, rate: float = 0.1, momentum: float = 0.95, start: float = 1.0) -> None:
        self.ceiling, self.rate, self.momentum = ceiling, rate, momentum
        self.value, self.mean_error = start, ceiling

    def update(self, error: float) -> None:
        """Take one observed error into account."""
        self.mean_error = self.momentum * self.mean_error + (1 - self.momentum) * error
        violation = max(-1.0, min(1.0, (self.mean_error - self.ceiling) / self.ceiling))
        self.value = min(1e4, max(1e-3, self.value * math.exp(self.rate * violation)))

    def state(self) -> dict[str, float]:
        """Numbers to resume from."""
        return {"value": self.value, "mean_error": self.mean_error}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from :meth:`state`."""
        self.value, self.mean_error = state["value"], state["mean_error"]


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The tensor itself, its gradient multiplied on the way back: what lies before sees the loss at another weight."""
    still = tensor.detach()
    return still + factor * (tensor - still)
