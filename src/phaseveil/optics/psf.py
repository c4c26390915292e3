"""Point spread functions on the sensor's pixels, and their transfer functions."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from phaseveil.optics import grid
from phaseveil.optics.propagation import intensity_quadrants, periodic_intensity, transform_both


def pixel_integrated_psf(
    amplitude: Tensor,
    phase: Tensor,
    pupil_axis: Tensor,
    wavelengths: Tensor,
    distance: float,
    pixels: int,
    pitch: float,
) -> Tensor:
    r"""Share of a point's light that each pixel collects, integrated over the pixel exactly.

    .. math:: H_\lambda = \int_{pixel} |FT\{A e^{i\phi}\}|^2 \Big/ \int |A|^2

    The intensity of N pupil samples is a sum of 2N - 1 harmonics of its period λz/Δx (its transform is the pupil's
    autocorrelation): as many samples hold all of it, and a pixel's integral is a sinc of each harmonic.

    Args:
        amplitude: Transmission of the pupil, 0 to 1. Shape ``(N, N)``.
        phase: Radians, for each colour. Shape ``(L, N, N)``.
        pupil_axis: Positions in the pupil, metres, evenly spaced, symmetric about 0. Shape ``(N,)``.
        wavelengths: Metres. Shape ``(L,)``.
        distance: Pupil to sensor, metres.
        pixels: Pixels of the window and axis.
        pitch: Pixel pitch, metres.

    Returns:
        Shares; each channel sums to the energy that the window holds, at most 1; differentiable once. Shape
        ``(L, pixels, pixels)``.
    """
    samples = phase.shape[-1]
    spacing = (pupil_axis[-1] - pupil_axis[0]).item() / (samples - 1)
    size = fast_fft_size(2 * samples - 1)
    energy = amplitude.square().sum()
    found: list[Tensor] = []
    # Colour by colour: one fits into the cache.
    for delay, wavelength in zip(phase, wavelengths.tolist(), strict=True):
        period = wavelength * distance / spacing
        gather = _pixels_from_period(pixels, pitch / period, samples, size, phase.dtype).to(phase.device)
        shares = transform_both(periodic_intensity(amplitude, delay, size), gather)
        found.append(shares.clamp_min(0) * ((pitch / period) ** 2 / energy))  # rounding may pass below no light
    return torch.stack(found)


@lru_cache(maxsize=12)  # three colours at four sizes
@torch.inference_mode(False)  # what is kept serves training, too
def _pixels_from_period(pixels: int, pitch: float, harmonics: int, size: int, dtype: torch.dtype) -> Tensor:
    """Mean over each pixel, along one axis, of an intensity that is sampled over one period from its middle on.

    Args:
        pixels: Number, symmetric about the middle.
        pitch: Of the pixels, share of the period.
        harmonics: Number of the intensity's harmonics, the constant one included.
        size: Number of samples.
        dtype: Of the result.

    Returns:
        Shape ``(pixels, size)``.
    """
    order = torch.arange(size // 2 + 1, dtype=torch.float64)
    turns = grid.centred_axis(pixels, pitch, torch.float64)[:, None] * order
    angle = (-2 * math.pi * (turns - turns.round())).to(dtype)  # without whole turns, which cost digits
    weight = (torch.sinc(order * pitch) * (order < harmonics)).to(dtype)
    return torch.fft.irfft(torch.complex(weight * torch.cos(angle), weight * torch.sin(angle)), n=size)


def sampled_psf(
    amplitude: Tensor,
    phase: Tensor,
    pupil_axis: Tensor,
    wavelengths: Tensor,
    distance: float,
    points: int,
    pitch: float,
) -> Tensor:
    """Share of a point's light on pixels so small that the intensity in their middle stands for all of each.

    Args:
        amplitude, phase, pupil_axis, wavelengths, distance: As in :func:`pixel_integrated_psf`.
        points: Points of the window and axis.
        pitch: From one to the next, metres; :func:`pixel_integrated_psf` is for those above λz/(4a).

    Returns:
        Intensity times pitch², over the pupil's energy. Shape ``(L, points, points)``.
    """
    spacing = pupil_axis[1] - pupil_axis[0]
    # Not torch.polar: its gradient takes longer than that of cosine and sine.
    pupil = torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
    pupil = pupil * (pitch / (amplitude.norm() * spacing))
    half, shared = points // 2, points % 2
    onward = grid.centred_axis(points, pitch, pupil_axis.dtype).to(pupil_axis.device)[half:]
    found = pupil_axis.new_empty(len(pupil), points, points)
    for number, (field, wavelength) in enumerate(zip(pupil, wavelengths, strict=True)):
        quadrants = intensity_quadrants(field, pupil_axis, onward, wavelength, distance)
        whole = found[number]
        whole[half:, half:] = quadrants.right_down
        whole[half:, :half] = quadrants.left_down[:, shared:].flip(1)
        whole[:half, half:] = quadrants.right_up[shared:].flip(0)
        whole[:half, :half] = quadrants.left_up[shared:, shared:].flip(0, 1)
    return found


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
    lines = torch.fft.rfft(torch.roll(functional.pad(psf, (0, size - support)), -(support // 2), dims=-1))
    return torch.fft.fft(torch.roll(functional.pad(lines, (0, 0, 0, size - support)), -(support // 2), dims=-2), dim=-2)


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
        transfer: From :func:`optical_transfer_function` on :func:`fast_fft_size` of ``H + 2 margin``, for all images or
            for each, ``(B, L, ...)``.
        margin: Half the PSF's support, pixels.

    Returns:
        Shape ``(B, L, H, H)``; differentiable once.
    """
    return _LinearConvolution.apply(image, transfer, margin)


class _LinearConvolution(torch.autograd.Function):
    """:func:`convolve_linear` and its adjoint, image by image on a CPU: what one needs stays in the cache.

    Only the rows of the frame are transformed along x: those beyond its border repeat the border's.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, transfer: Tensor, margin: int) -> Tensor:
        ctx.save_for_backward(image, transfer)
        ctx.margin = margin
        size, frame = transfer.shape[-2], slice(margin, margin + image.shape[-1])
        blurred = torch.empty_like(image)
        for part in _parts(image):
            spectrum = _continued_spectrum(image[part], size, margin).mul_(_of(transfer, part))
            # irfft2 in two steps: only the rows of the frame are transformed back along x.
            rows = torch.fft.ifft(spectrum, dim=-2)[..., frame, :]
            blurred[part] = torch.fft.irfft(rows, n=size, dim=-1)[..., frame]
        return blurred

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (image, transfer), margin = ctx.saved_tensors, ctx.margin
        size, height = transfer.shape[-2], image.shape[-1]
        beyond = size - height - margin
        of_image = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        of_transfer = torch.zeros_like(transfer) if ctx.needs_input_grad[1] else None
        for part in _parts(image):
            lines = torch.fft.rfft(functional.pad(gradient[part], (margin, beyond)))
            spectrum = torch.fft.fft(functional.pad(lines, (0, 0, margin, beyond)), dim=-2)
            if of_transfer is not None:
                product = spectrum * _continued_spectrum(image[part], size, margin).conj()
                if of_transfer.ndim == image.ndim:
                    of_transfer[part] = product
                else:
                    of_transfer += product[0] if len(product) == 1 else product.sum(dim=0)
            if of_image is not None:
                rows = torch.fft.ifft(spectrum.mul_(_of(transfer, part).conj()), dim=-2)
                wide = torch.fft.irfft(_gathered(rows, margin, height, dim=-2), n=size, dim=-1)
                of_image[part] = _gathered(wide, margin, height, dim=-1)
        if of_transfer is not None:
            of_transfer *= 1 / size**2  # a product: complex numbers are divided ten times as slowly
            of_transfer[..., 1 : (size + 1) // 2] *= 2  # a half-plane stands for both halves
        return of_image, of_transfer, None


def _parts(image: Tensor) -> list[slice]:
    """Images that are worked off together: one on a CPU, all elsewhere."""
    return [slice(i, i + 1) for i in range(len(image))] if image.device.type == "cpu" else [slice(None)]


def _of(transfer: Tensor, part: slice) -> Tensor:
    """Transfer functions of some images; one is for all where there is no batch of them."""
    return transfer[part] if transfer.ndim == 4 else transfer


def _continued_spectrum(image: Tensor, size: int, margin: int) -> Tensor:
    """``rfft2`` of images continued by their border pixels to ``size``, ``margin`` of it ahead."""
    beyond = size - image.shape[-1] - margin
    lines = torch.fft.rfft(functional.pad(image, (margin, beyond, 0, 0), mode="replicate"))
    above, below = lines[..., :1, :], lines[..., -1:, :]
    everywhere = [above.expand(-1, -1, margin, -1), lines, below.expand(-1, -1, beyond, -1)]
    return torch.fft.fft(torch.cat(everywhere, dim=-2), dim=-2)


def _gathered(wide: Tensor, margin: int, height: int, dim: int) -> Tensor:
    """Adjoint of the continuation by border pixels along a dimension: what lies beyond is added to the border."""
    frame = wide.narrow(dim, margin, height).clone()
    frame.select(dim, 0).add_(wide.narrow(dim, 0, margin).sum(dim))
    frame.select(dim, -1).add_(wide.narrow(dim, margin + height, wide.shape[dim] - margin - height).sum(dim))
    return frame


def convolve_circular(image: Tensor, transfer: Tensor) -> Tensor:
    """Circular convolution: light that leaves the frame on one side enters on the other (the ``paper`` preset only)."""
    return torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=image.shape[-2:])


def psf_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of two PSFs ``(3, K, K)`` over the window, for each colour; ``(3,)``, float64, -1 to 1."""
    one, other = (psf.double().flatten(1) for psf in (first, second))
    one, other = one - one.mean(dim=1, keepdim=True), other - other.mean(dim=1, keepdim=True)
    return (one * other).sum(dim=1) / (one.norm(dim=1) * other.norm(dim=1)).clamp_min(1e-30)
