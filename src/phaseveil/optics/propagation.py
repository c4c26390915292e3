"""From the pupil to the sensor: phases in the pupil and the Fraunhofer integral on the sensor's own grid."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phaseveil.errors import OpticsError
from phaseveil.precision import wide_avx512


def phase_delay(height_map: Tensor, wavelengths: Tensor, delta_n: Tensor) -> Tensor:
    r"""Phase that a thin refractive surface adds to the wavefront.

    .. math:: \phi_\lambda(x, y) = \frac{2\pi}{\lambda}\,\Delta n(\lambda)\,h(x, y)

    Goodman, *Introduction to Fourier Optics*, thin-element approximation.

    Args:
        height_map: Surface height, metres. Shape ``(N, N)``.
        wavelengths: Vacuum wavelengths, metres. Shape ``(L,)``.
        delta_n: Index contrast of material and air, unitless. Shape ``(L,)``.

    Returns:
        Unwrapped phase, radians. Shape ``(L, N, N)``.
    """
    wavenumber = 2 * math.pi / wavelengths
    return (wavenumber * delta_n)[:, None, None] * height_map


def defocus_phase(radius_squared: Tensor, wavelengths: Tensor, focus_error: float) -> Tensor:
    r"""Phase of a focus error, Goodman eq. (6-34): :math:`\frac{k}{2}\left(\frac1d + \frac1z - \frac1f\right) r^2`.

    Args:
        radius_squared: Squared distance from the axis in the pupil, square metres. Shape ``(N, N)``.
        wavelengths: Vacuum wavelengths, metres. Shape ``(L,)``.
        focus_error: 1/d + 1/z - 1/f, dioptres (1/m); 0 in focus.

    Returns:
        Phase, radians. Shape ``(L, N, N)``.
    """
    return (math.pi / wavelengths * focus_error)[:, None, None] * radius_squared


def steepest_phase_step(phase: Tensor, aperture: Tensor) -> float:
    """Largest change of phase between neighbouring pupil samples inside the aperture, radians.

    Args:
        phase: Unwrapped phase, radians. Shape ``(L, N, N)``.
        aperture: Transmission, 0 outside. Shape ``(N, N)``.
    """
    inside, values = (aperture > 0).to(phase.dtype), phase.detach()
    steps = values.diff(dim=-1).mul_(inside[:, 1:] * inside[:, :-1]), values.diff(dim=-2).mul_(inside[1:] * inside[:-1])
    ends = torch.stack([end for step in steps for end in step.aminmax()])
    return ends.abs().max().item()


def check_phase_sampling(phase: Tensor, aperture: Tensor) -> None:
    """Refuse a phase that turns by more than π between neighbouring pupil samples inside the aperture.

    Beyond that the sampled field is another field (Nyquist), and its PSF is fiction.

    Args:
        phase: Unwrapped phase, radians. Shape ``(L, N, N)``.
        aperture: Transmission, 0 outside. Shape ``(N, N)``.

    Raises:
        OpticsError: Says how many samples across the pupil are needed.
    """
    steepest = steepest_phase_step(phase, aperture)
    if not steepest <= math.pi:
        samples = phase.shape[-1]
        if not math.isfinite(steepest):
            raise OpticsError("the mask's phase is not finite; the height map holds NaN or infinity")
        # A coarse grid misses the rim, where slopes peak: by less than 8/samples of their size for modes up to 36.
        needed = math.ceil((samples + 8) * steepest / math.pi)
        raise OpticsError(
            f"the phase turns by {steepest:.2f} rad between neighbouring pupil samples (at most π can be told apart); "
            f"set pupil_samples to at least {needed} (now {samples})"
        )


def check_window(samples: int, diameter: float, window: float, shortest_wavelength: float, distance: float) -> None:
    """Refuse a sensor window wider than the period λz/dx of a sampled pupil's diffraction pattern.

    Raises:
        OpticsError: Says how many samples across the pupil are needed.
    """
    needed = math.ceil(window * diameter / (shortest_wavelength * distance))
    if samples < needed:
        raise OpticsError(
            f"the PSF window of {window * 1e3:.3g} mm repeats itself with {samples} pupil samples; "
            f"set pupil_samples to at least {needed}, or psf_support smaller"
        )


def fraunhofer(pupil: Tensor, pupil_axis: Tensor, sensor_axis: Tensor, wavelengths: Tensor, distance: float) -> Tensor:
    r"""Field in the image plane by a matrix Fourier transform [Soummer et al. 2007, Opt. Express 15, 15935, eq. 6].

    .. math:: U_\lambda(u, v) = \frac{\Delta x^2}{\lambda z}\sum_{x, y} P_\lambda(x, y)\,e^{-2\pi i (ux + vy)/\lambda z}

    Evaluated on any sensor grid directly: nothing is resampled and nothing wraps around. With this factor the sum of
    ``|U|² Δu²`` over the whole plane equals the sum of ``|P|² Δx²`` (Parseval). A phase ``exp(i k θ x)`` in the pupil
    puts the image at ``u = +θ z``.

    Args:
        pupil: Complex field in the pupil. Shape ``(L, N, N)``, rows y, columns x.
        pupil_axis: Positions in the pupil, metres, evenly spaced. Shape ``(N,)``.
        sensor_axis: Positions on the sensor, metres. Shape ``(U,)``.
        wavelengths: Metres. Shape ``(L,)``.
        distance: Pupil to sensor, metres.

    Returns:
        Complex field. Shape ``(L, U, U)``.
    """
    spacing = pupil_axis[1] - pupil_axis[0]
    scale = wavelengths * distance
    angle = -2 * math.pi / scale[:, None, None] * (sensor_axis[:, None] * pupil_axis[None, :])
    kernel = torch.polar(torch.ones_like(angle), angle)
    return kernel @ pupil @ kernel.transpose(-1, -2) * (spacing**2 / scale)[:, None, None]


class Quadrants(NamedTuple):
    """Intensity on a sensor symmetric about the axis, by quadrants that all count outwards from the axis.

    Rows are y, columns x, each ``(U, U)``; where the sensor has a point on the axis, all four hold it.

    Attributes:
        right_down: x ≥ 0, y ≥ 0.
        left_up: x ≤ 0, y ≤ 0.
        right_up: x ≥ 0, y ≤ 0.
        left_down: x ≤ 0, y ≥ 0.
    """

    right_down: Tensor
    left_up: Tensor
    right_up: Tensor
    left_down: Tensor


def intensity_quadrants(
    pupil: Tensor, pupil_axis: Tensor, onward: Tensor, wavelength: Tensor, distance: float
) -> Quadrants:
    r"""Squared modulus of :func:`fraunhofer`, to rounding, in a fraction of its time, where both axes are symmetric.

    .. math:: \sum_x P(x)\,e^{-i\kappa x} = \sum_{x \ge 0} P_+(x)\cos\kappa x - i\sum_{x > 0} P_-(x)\sin\kappa x,
              \qquad P_\pm(x) = P(x) \pm P(-x)

    Along both axes: four real transforms of a quarter of the pupil each, for real and imaginary part. The quadrants of
    the field are their sums and differences p ∓ i r, and :math:`|p \mp i r|^2` of opposite quadrants differ only in
    the sign of one product. The field itself is never put together.

    Args:
        pupil: Complex field in the pupil. Shape ``(N, N)``, rows y, columns x.
        pupil_axis: Positions in the pupil, metres, evenly spaced, rising, symmetric about 0. Shape ``(N,)``.
        onward: Positions on the sensor's axis from 0 outwards, metres. Shape ``(U,)``.
        wavelength: Metres, scalar.
        distance: Pupil to sensor, metres.
    """
    scale = wavelength * distance
    angle = 2 * math.pi / scale * (onward[:, None] * pupil_axis[None, len(pupil_axis) // 2 :])
    weight = (pupil_axis[1] - pupil_axis[0]) / scale.sqrt()
    cosine, sine = torch.cos(angle) * weight, torch.sin(angle) * weight
    even_x, odd_x = _parities(torch.view_as_real(pupil).movedim(-1, 0).contiguous(), dim=2)
    even, even_odd = _parities(_along_x(even_x, cosine), dim=1)  # even in x; odd in y second
    odd_even, odd = _parities(_along_x(odd_x, sine), dim=1)
    even, odd = _along_y(even, cosine), _along_y(odd, sine)
    even_odd, odd_even = _along_y(even_odd, sine), _along_y(odd_even, cosine)
    return Quadrants(
        *_opposite(even - odd, odd_even + even_odd),
        *_opposite(even + odd, odd_even - even_odd),
    )


def periodic_intensity(amplitude: Tensor, phase: Tensor, size: int) -> Tensor:
    r"""Intensity over one period λz/Δx of the pattern of a sampled pupil, on ``size`` samples an axis.

    .. math:: I_{mn} = \Big|\sum_{x, y} A_{yx}\,e^{i\phi_{yx}}\,e^{-2\pi i (n x + m y) / size}\Big|^2

    Args:
        amplitude: Transmission of the pupil. Shape ``(N, N)``.
        phase: Radians. Shape ``(N, N)``.
        size: At least 2N - 1, so that the samples hold all of the intensity.

    Returns:
        The middle of the image first. Shape ``(size, size)``; differentiable once.
    """
    intensity: Tensor = _PeriodicIntensity.apply(amplitude, phase, size)
    return intensity


class _PeriodicIntensity(torch.autograd.Function):
    """Two transforms forward, two back; cosine and sine are kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, amplitude: Tensor, phase: Tensor, size: int) -> Tensor:
        cosine, sine = torch.cos(phase), torch.sin(phase)
        pupil = torch.complex(amplitude * cosine, amplitude * sine)
        field = torch.fft.fft(torch.fft.fft(pupil, n=size), n=size, dim=-2)
        ctx.save_for_backward(amplitude, cosine, sine, field)
        real, imaginary = torch.view_as_real(field).unbind(-1)
        return (real * real).addcmul_(imaginary, imaginary)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        amplitude, cosine, sine, field = ctx.saved_tensors
        samples = len(amplitude)
        rows = torch.fft.ifft(field * gradient, dim=-2, norm="forward")[:samples]
        real, imaginary = torch.view_as_real(torch.fft.ifft(rows, norm="forward"))[:, :samples].unbind(-1)
        of_phase = (cosine * imaginary).addcmul_(sine, real, value=-1).mul_(amplitude).mul_(2)
        of_amplitude = (cosine * real).addcmul_(sine, imaginary).mul_(2) if ctx.needs_input_grad[0] else None
        return of_amplitude, of_phase, None


def transform_both(values: Tensor, kernel: Tensor) -> Tensor:
    """Transform both axes of ``(M, M)`` by a real ``(U, M)``: ``(U, U)``. Quickest where columns lie together."""
    return _along_y(_along_x(values.mT[None], kernel), kernel)[0].mT


def _parities(field: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Even and odd part along a dimension of N samples, from the axis outwards: (N + 1) // 2 of each."""
    middle, centred = field.shape[dim] // 2, field.shape[dim] % 2
    ahead = field.narrow(dim, middle, middle + centred)
    behind = field.narrow(dim, 0, middle + centred).flip(dim)
    even, odd = ahead + behind, ahead - behind
    if centred:  # the sample on the axis is its own mirror image
        even = torch.cat([ahead.narrow(dim, 0, 1), even.narrow(dim, 1, middle)], dim)
    return even, odd


def _along_x(field: Tensor, kernel: Tensor) -> Tensor:
    """Transform rows: ``(2, A, M)`` by ``(U, M)`` → ``(2, A, U)``."""
    if not _convolves(field, kernel):
        return field @ kernel.mT
    found: Tensor = _Pointwise.apply(field[None].permute(0, 3, 1, 2), kernel)
    return found.permute(0, 2, 3, 1)[0]


def _along_y(field: Tensor, kernel: Tensor) -> Tensor:
    """Transform columns: ``(2, M, A)`` by ``(U, M)`` → ``(2, U, A)``."""
    if not _convolves(field, kernel):
        return kernel @ field
    found: Tensor = _Pointwise.apply(field[:, :, None], kernel)
    return found[:, :, 0]


def _convolves(field: Tensor, kernel: Tensor) -> bool:
    """Whether :class:`_Pointwise` can do a product."""
    on_cpu = field.device.type == "cpu" and field.dtype == torch.float32
    return on_cpu and wide_avx512() and torch.backends.mkldnn.is_available() and not kernel.requires_grad


class _Pointwise(torch.autograd.Function):
    """1 × 1 convolution by oneDNN, ``(B, M, H, W)`` by ``(U, M)`` → ``(B, U, H, W)``, both ways.

    On AMD's Zen 5 in half of the time of the product, which MKL computes without AVX-512 there; slower than that on
    processors that do AVX-512 in halves, or not at all. ``conv2d`` would leave small arrays, and its gradients, to the
    product.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(kernel)
        return _pointwise(image, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kernel,) = ctx.saved_tensors
        return _pointwise(gradient, kernel.t().contiguous()), None


def _pointwise(image: Tensor, kernel: Tensor) -> Tensor:
    return torch.mkldnn_convolution(image, kernel[:, :, None, None], None, (0, 0), (1, 1), (1, 1), 1)


def _opposite(p: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """|p - i r|² and |p + i r|² of complex numbers, real part first: ``(2, ...)`` twice → ``(...)`` twice."""
    same = (p[0] * p[0]).addcmul_(p[1], p[1]).addcmul_(r[0], r[0]).addcmul_(r[1], r[1])
    cross = (p[0] * r[1]).addcmul_(p[1], r[0], value=-1)
    return torch.add(same, cross, alpha=2), same.sub_(cross, alpha=2)
