"""Point spread functions on the sensor's pixels, and their transfer functions."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from phaseveil.optics import grid
from phaseveil.optics.propagation import Quadrants, intensity_quadrants


def samples_per_pixel(pitch: float, wavelengths: Sequence[float], distance: float, radius: float) -> list[int]:
    """Points per pixel and axis that sample each colour's intensity at least at its Nyquist pitch λz/(4a).

    Where one colour needs several, all get two at least: the pixel is integrated over for all or for none.
    """
    counts = [max(1, math.ceil(pitch * 4 * radius / (wavelength * distance))) for wavelength in wavelengths]
    return [max(count, min(2, max(counts))) for count in counts]


def pixel_integrated_psf(
    pupil: Tensor,
    pupil_axis: Tensor,
    wavelengths: Tensor,
    distance: float,
    pixels: int,
    pitch: float,
    per_pixel: int | Sequence[int],
) -> Tensor:
    r"""Share of a point's light that each pixel collects.

    .. math:: H_\lambda = \int_{pixel} |FT\{A e^{i\phi}\}|^2 \Big/ \int |A|^2

    Args:
        pupil: Complex field in the pupil. Shape ``(L, N, N)``.
        pupil_axis: Positions in the pupil, metres, symmetric about 0. Shape ``(N,)``.
        wavelengths: Metres. Shape ``(L,)``.
        distance: Pupil to sensor, metres.
        pixels: Pixels of the window and axis.
        pitch: Pixel pitch, metres.
        per_pixel: Points per pixel and axis of the midpoint rule, for each colour or for all.

    Returns:
        Shares; each channel sums to the energy that the window holds, at most 1. Shape ``(L, pixels, pixels)``.
    """
    counts = [per_pixel] * len(pupil) if isinstance(per_pixel, int) else per_pixel
    spacing = pupil_axis[1] - pupil_axis[0]
    amplitude = pitch / (torch.linalg.vector_norm(torch.view_as_real(pupil), dim=(-3, -2, -1)) * spacing)
    found: list[Tensor] = []
    # Colour by colour: one fits into the cache.
    for field, wavelength, scale, count in zip(pupil, wavelengths, amplitude, counts, strict=True):
        sensor_axis = grid.pixel_axis(pixels, pitch, count, pupil_axis.dtype).to(pupil_axis.device)
        onward = sensor_axis[len(sensor_axis) // 2 :]
        points = intensity_quadrants(field * scale, pupil_axis, onward, wavelength, distance)
        found += _pixels_of(points, pixels, count)
    joined: Tensor = _Joined.apply(pixels, *found)
    return joined


def _pixels_of(points: Quadrants, pixels: int, per_pixel: int) -> Quadrants:
    """Mean of the points of each pixel; the middle line of an odd number of pixels is shared among the quadrants."""
    found = points.right_down.shape[-1]
    missing = (pixels + 1) // 2 * per_pixel - found  # of the middle pixel, which belongs to all quadrants in part
    if pixels * per_pixel % 2:  # a point on the axis belongs to two quadrants: half of it to each
        half = torch.ones(found, dtype=points.right_down.dtype, device=points.right_down.device)
        half[0] = 0.5
        points = Quadrants(*(quadrant * half * half[:, None] for quadrant in points))
    if per_pixel > 1:
        padding = (missing, 0, missing, 0)
        points = Quadrants(
            *(functional.avg_pool2d(functional.pad(part, padding)[None], per_pixel)[0] for part in points)
        )
    return points


class _Joined(torch.autograd.Function):
    """Quadrants of each colour in turn, put together in rising order; what they share on the axes adds up.

    ``(pixels + 1) // 2`` square each → ``(L, pixels, pixels)``.
    """

    @staticmethod
    def forward(ctx: Any, pixels: int, *quadrants: Tensor) -> Tensor:
        half, shared = pixels // 2, pixels % 2
        joined = quadrants[0].new_empty(len(quadrants) // 4, pixels, pixels)
        ctx.ahead, ctx.behind = slice(half, None), slice(0, half + shared)
        for number, whole in enumerate(joined):
            right_down, left_up, right_up, left_down = quadrants[4 * number : 4 * number + 4]
            whole[half:, half:] = right_down
            whole[half:, :half] = left_down[:, shared:].flip(1)
            whole[:half, half:] = right_up[shared:].flip(0)
            whole[:half, :half] = left_up[shared:, shared:].flip(0, 1)
            if shared:
                whole[half:, half] += left_down[:, 0]
                whole[half, half:] += right_up[0]
                whole[half, :half] += left_up[0, 1:].flip(0)
                whole[: half + 1, half] += left_up[:, 0].flip(0)
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ahead, behind = ctx.ahead, ctx.behind
        of_quadrants: list[Tensor] = []
        for whole in gradient:
            of_quadrants += whole[ahead, ahead], whole[behind, behind].flip(0, 1)
            of_quadrants += whole[behind, ahead].flip(0), whole[ahead, behind].flip(1)
        return None, *of_quadrants


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
                    of_transfer += product.sum(dim=0)
            if of_image is not None:
                rows = torch.fft.ifft(spectrum.mul_(_of(transfer, part).conj()), dim=-2)
                wide = torch.fft.irfft(_gathered(rows, margin, height, dim=-2), n=size, dim=-1)
                of_image[part] = _gathered(wide, margin, height, dim=-1)
        if of_transfer is not None:
            of_transfer /= size**2
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
