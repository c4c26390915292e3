"""From the pupil to the sensor: phases in the pupil and the Fraunhofer integral on the sensor's own grid."""

import math

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


def fraunhofer_symmetric(
    pupil: Tensor, pupil_axis: Tensor, sensor_axis: Tensor, wavelengths: Tensor, distance: float
) -> Tensor:
    r"""What :func:`fraunhofer` gives, to rounding, in a third of the time, where both axes are symmetric about 0.

    .. math:: \sum_x P(x)\,e^{-i\kappa x} = \sum_{x \ge 0} P_+(x)\cos\kappa x - i\sum_{x > 0} P_-(x)\sin\kappa x,
              \qquad P_\pm(x) = P(x) \pm P(-x)

    The matrices are real and a quarter as large; the other half of the sensor is the difference instead of the sum.
    Arguments and result as there, both axes in rising order.
    """
    spacing = pupil_axis[1] - pupil_axis[0]
    scale = wavelengths * distance
    beyond, onward = pupil_axis[len(pupil_axis) // 2 :], sensor_axis[len(sensor_axis) // 2 :]
    angle = 2 * math.pi / scale[:, None, None] * (onward[:, None] * beyond[None, :])
    kernels = torch.cos(angle), torch.sin(angle)
    along_x = _half_transform(pupil, *kernels, len(sensor_axis))
    return _half_transform(along_x, *kernels, len(sensor_axis)) * (spacing**2 / scale)[:, None, None]


def _half_transform(field: Tensor, cosine: Tensor, sine: Tensor, points: int) -> Tensor:
    """Transform the last axis by its even and odd part, and swap the axes. ``(L, A, N)`` → ``(L, points, A)``.

    Args:
        field: Complex. Shape ``(L, A, N)``.
        cosine, sine: Of sensor points from the axis outwards and pupil samples likewise. Shape ``(L, U, M)``.
        points: Of the whole sensor axis, 2 U or 2 U - 1.
    """
    centred = field.shape[-1] % 2
    ahead = field[..., field.shape[-1] // 2 :]
    behind = field[..., : field.shape[-1] // 2 + centred].flip(-1)
    if centred:  # the sample on the axis is its own mirror image
        behind = torch.cat([torch.zeros_like(behind[..., :1]), behind[..., 1:]], dim=-1)
    even, odd = _times(cosine, ahead + behind), _times(sine, ahead - behind)
    turned = torch.complex(odd.imag, -odd.real)
    return torch.cat([(even - turned)[:, points % 2 :].flip(1), even + turned], dim=1)


def _times(real: Tensor, field: Tensor) -> Tensor:
    """Real matrices ``(L, U, M)`` times the transpose of complex ones ``(L, A, M)``: ``(L, U, A)``, complex."""
    columns = torch.view_as_real(field).transpose(1, 2).flatten(2)  # (L, M, 2 A)
    return torch.view_as_complex((real @ columns).unflatten(-1, (-1, 2)))
