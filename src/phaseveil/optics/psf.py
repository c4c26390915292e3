"""Point spread functions on the sensor's pixels, and their transfer functions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.optics import grid
from phaseveil.optics.propagation import fraunhofer

Transform = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""A function like :func:`phaseveil.optics.propagation.fraunhofer`."""


def samples_per_pixel(pitch: float, shortest_wavelength: float, distance: float, radius: float) -> int:
    """Points per pixel and axis that sample the intensity at least at its Nyquist pitch λz/(4a)."""
    return max(1, math.ceil(pitch * 4 * radius / (shortest_wavelength * distance)))


def pixel_integrated_psf(
    pupil: Tensor,
    pupil_axis: Tensor,
    wavelengths: Tensor,
    distance: float,
    pixels: int,
    pitch: float,
    per_pixel: int,
    transform: Transform = fraunhofer,
) -> Tensor:
    r"""Share of a point's light that each pixel collects.

    .. math:: H_\lambda = \int_{pixel} |FT\{A e^{i\phi}\}|^2 \Big/ \int |A|^2

    Args:
        pupil: Complex field in the pupil. Shape ``(L, N, N)``.
        pupil_axis: Positions in the pupil, metres. Shape ``(N,)``.
        wavelengths: Metres. Shape ``(L,)``.
        distance: Pupil to sensor, metres.
        pixels: Pixels of the window and axis.
        pitch: Pixel pitch, metres.
        per_pixel: Points per pixel and axis of the midpoint rule.
        transform: Pupil to sensor.

    Returns:
        Shares; each channel sums to the energy that the window holds, at most 1. Shape ``(L, pixels, pixels)``.
    """
    sensor_axis = grid.pixel_axis(pixels, pitch, per_pixel, pupil_axis.dtype).to(pupil_axis.device)
    field = transform(pupil, pupil_axis, sensor_axis, wavelengths, distance)
    intensity = field.real.square() + field.imag.square()
    spacing = pupil_axis[1] - pupil_axis[0]
    total = (pupil.real.square() + pupil.imag.square()).sum(dim=(-2, -1), keepdim=True) * spacing**2
    return (
        functional.avg_pool2d(intensity, per_pixel) * pitch**2 / total
        if per_pixel > 1
        else intensity * pitch**2 / total
    )


def normalise_energy(psf: Tensor) -> Tensor:
    """Scale each channel by itself to unit sum (jointly over the channels would tint the image). Shape kept."""
    return psf / psf.sum(dim=(-2, -1), keepdim=True)


def optical_transfer_function(psf: Tensor, size: int) -> Tensor:
    """Half-plane transfer function of a centred PSF on a periodic ``size`` grid.

    Args:
        psf: Odd-sized, centred. Shape ``(L, K, K)``.
        size: Grid of the convolution, at least K.

    Returns:
        Complex. Shape ``(L, size, size // 2 + 1)``.
    """
    support = psf.shape[-1]
    padded = functional.pad(psf, (0, size - support, 0, size - support))
    return torch.fft.rfft2(torch.roll(padded, (-(support // 2), -(support // 2)), dims=(-2, -1)))


def fast_fft_size(at_least: int) -> int:
    """Smallest even integer of factors 2, 3 and 5 not below ``at_least``: sizes that FFT libraries do quickly."""
    size = at_least + at_least % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def convolve_linear(image: Tensor, transfer: Tensor, margin: int) -> Tensor:
    """Linear convolution with the scene continued beyond the frame by its border pixels, cropped back.

    Args:
        image: Linear light. Shape ``(B, L, H, H)``.
        transfer: From :func:`optical_transfer_function` on :func:`fast_fft_size` of ``H + 2 margin``.
        margin: Half the PSF's support, pixels.

    Returns:
        Shape ``(B, L, H, H)``.
    """
    size, height = transfer.shape[-2], image.shape[-1]
    surplus = size - height - 2 * margin
    padding = (margin, margin + surplus, margin, margin + surplus)
    spectrum = torch.fft.rfft2(functional.pad(image, padding, mode="replicate")).mul_(transfer)
    # irfft2 in two steps: only the rows of the frame are transformed back along x.
    rows = torch.fft.ifft(spectrum, dim=-2)[..., margin : margin + height, :]
    return torch.fft.irfft(rows, n=size, dim=-1)[..., margin : margin + height]


def convolve_circular(image: Tensor, transfer: Tensor) -> Tensor:
    """Circular convolution: light that leaves the frame on one side enters on the other (the ``paper`` preset only)."""
    return torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=image.shape[-2:])
