"""From the pupil to the sensor: phases in the pupil and the Fraunhofer integral on the sensor's own grid."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from phaseveil.errors import OpticsError


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
    inside, values = aperture > 0, phase.detach()
    along_x = (values.diff(dim=-1).abs() * (inside[:, 1:] & inside[:, :-1])).max()
    along_y = (values.diff(dim=-2).abs() * (inside[1:] & inside[:-1])).max()
    return torch.maximum(along_x, along_y).item()


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

    Rows are x, columns y, each ``(L, U, U)``; where the sensor has a point on the axis, all four hold it.

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
    pupil: Tensor, pupil_axis: Tensor, onward: Tensor, wavelengths: Tensor, distance: float
) -> Quadrants:
    r"""Squared modulus of :func:`fraunhofer`, to rounding, in 2/5 of its time, where both axes are symmetric about 0.

    .. math:: \sum_x P(x)\,e^{-i\kappa x} = \sum_{x \ge 0} P_+(x)\cos\kappa x - i\sum_{x > 0} P_-(x)\sin\kappa x,
              \qquad P_\pm(x) = P(x) \pm P(-x)

    Along both axes: four real transforms of a quarter of the pupil each, for real and imaginary part. The quadrants of
    the field are their sums and differences p ∓ i r, and :math:`|p \mp i r|^2` of opposite quadrants differ only in
    the sign of one product. The field itself is never put together.

    Args:
        pupil: Complex field in the pupil. Shape ``(L, N, N)``, rows y, columns x.
        pupil_axis: Positions in the pupil, metres, evenly spaced, rising, symmetric about 0. Shape ``(N,)``.
        onward: Positions on the sensor's axis from 0 outwards, metres. Shape ``(U,)``.
        wavelengths: Metres. Shape ``(L,)``.
        distance: Pupil to sensor, metres.
    """
    spacing = pupil_axis[1] - pupil_axis[0]
    scale = (wavelengths * distance)[:, None, None]
    angle = 2 * math.pi / scale * (pupil_axis[len(pupil_axis) // 2 :, None] * onward[None, :])
    weight = spacing / scale.sqrt()
    kernels = torch.cos(angle) * weight, torch.sin(angle) * weight
    even_x, odd_x = _parity_transforms(torch.view_as_real(pupil).movedim(-1, 1), *kernels)  # (L, 2, y, x)
    even, even_odd = _parity_transforms(even_x.transpose(-1, -2), *kernels)  # (L, 2, x, y): even in x; odd in y second
    odd_even, odd = _parity_transforms(odd_x.transpose(-1, -2), *kernels)
    return Quadrants(*_opposite(even - odd, odd_even + even_odd), *_opposite(even + odd, odd_even - even_odd))


def _parity_transforms(field: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine transform of the last axis' even part, and sine transform of its odd part.

    Args:
        field: Real. Shape ``(L, 2, A, N)``.
        cosine, sine: Of pupil samples from the axis outwards and sensor points likewise. Shape ``(L, M, U)``.

    Returns:
        Each of shape ``(L, 2, A, U)``.
    """
    middle, centred = field.shape[-1] // 2, field.shape[-1] % 2
    ahead, behind = field[..., middle:], field[..., : middle + centred].flip(-1)
    even, odd = ahead + behind, ahead - behind
    if centred:  # the sample on the axis is its own mirror image
        even = torch.cat([ahead[..., :1], even[..., 1:]], dim=-1)
    shape = field.shape[1:3]
    return (even.flatten(1, 2) @ cosine).unflatten(1, shape), (odd.flatten(1, 2) @ sine).unflatten(1, shape)


def _opposite(p: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """|p - i r|² and |p + i r|² of complex numbers whose parts are dimension 1: ``(L, 2, ...)`` → ``(L, ...)`` each."""
    (p_real, p_imag), (r_real, r_imag) = p.unbind(1), r.unbind(1)
    same = p_real.square()
    for part in (p_imag, r_real, r_imag):
        same = torch.addcmul(same, part, part)
    cross = torch.addcmul(p_real * r_imag, p_imag, r_real, value=-1)
    return torch.add(same, cross, alpha=2), torch.sub(same, cross, alpha=2)
