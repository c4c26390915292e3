"""Zernike polynomials in Noll's order and normalisation [Noll 1976, J. Opt. Soc. Am. 66, 207]."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

FIRST_MODE = 4  # of a mask: piston and the two tilts carry no information


@lru_cache
def noll_to_radial_azimuthal(j: int) -> tuple[int, int]:
    """Radial degree ``n`` and signed azimuthal degree ``m`` of Noll index ``j`` (cosine for m ≥ 0, sine for m < 0).

    Raises:
        ValueError: ``j`` is below 1.
    """
    if j < 1:
        raise ValueError(f"Noll indices start at 1, got {j}")
    n = math.isqrt(8 * j - 7) // 2
    n -= n * (n + 1) // 2 >= j
    first = n * (n + 1) // 2 + 1
    degree = 2 * ((j - first + (n + 1) % 2) // 2) + n % 2
    return n, degree if j % 2 == 0 else -degree


def radial_polynomial(n: int, m: int, rho: Tensor) -> Tensor:
    r"""Radial part, Noll eq. (2).

    .. math:: R_n^m(\rho) = \sum_s \frac{(-1)^s (n-s)!}{s!\,(\frac{n+m}2-s)!\,(\frac{n-m}2-s)!}\rho^{n-2s}

    Args:
        n: Radial degree.
        m: Azimuthal degree, 0 ≤ m ≤ n, of the parity of n.
        rho: Radius over the pupil radius, unitless. Any shape.
    """
    total = torch.zeros_like(rho)
    for s in range((n - m) // 2 + 1):
        divisor = math.factorial(s) * math.factorial((n + m) // 2 - s) * math.factorial((n - m) // 2 - s)
        total = total + (-1) ** s * math.factorial(n - s) / divisor * rho ** (n - 2 * s)
    return total


def zernike(j: int, x: Tensor, y: Tensor) -> Tensor:
    """Noll's ``Z_j``, unit RMS over the unit disk (Noll eq. 1).

    Args:
        j: Noll index, from 1.
        x, y: Position over the pupil radius, unitless, of one shape. Values beyond the unit circle extrapolate.

    Returns:
        Unitless values, of the same shape.
    """
    n, m = noll_to_radial_azimuthal(j)
    rho, theta = torch.hypot(x, y), torch.atan2(y, x)
    radial = radial_polynomial(n, abs(m), rho)
    if m == 0:
        return math.sqrt(n + 1) * radial
    wave = torch.cos(m * theta) if m > 0 else torch.sin(-m * theta)
    return math.sqrt(2 * (n + 1)) * radial * wave


def zernike_basis(indices: Sequence[int], samples: int) -> Tensor:
    """Modes on a square pupil grid (rows are y, columns x), computed in float64.

    Args:
        indices: Noll indices.
        samples: Cells across the pupil's diameter.

    Returns:
        Unitless. Shape ``(len(indices), samples, samples)``, float64.
    """
    x, y = _cells(samples)
    return torch.stack([zernike(j, x, y) for j in indices])


def zernike_quarter(indices: Sequence[int], samples: int) -> tuple[Tensor, Tensor]:
    """Modes on a quarter of the grid of :func:`zernike_basis`; each is even or odd in x, and even or odd in y.

    Args:
        indices: Noll indices.
        samples: Cells across the pupil's diameter, N.

    Returns:
        Modes where x ≥ 0 and y ≥ 0, unitless, shape ``(len(indices), Q, Q)`` with Q = (N + 1) // 2; and their signs in
        the four quarters, in the order of :func:`join_quarters`, shape ``(4, len(indices))``. Both float64.
    """
    x, y = (cells[samples // 2 :, samples // 2 :] for cells in _cells(samples))
    waves = [noll_to_radial_azimuthal(j)[1] for j in indices]
    in_y = torch.tensor([1.0 if m >= 0 else -1.0 for m in waves], dtype=torch.float64)
    in_x = in_y * torch.tensor([(-1.0) ** m for m in waves], dtype=torch.float64)
    signs = torch.stack([in_x * in_y, in_y, in_x, torch.ones_like(in_x)])
    return torch.stack([zernike(j, x, y) for j in indices]), signs


def join_quarters(quarters: Tensor, samples: int) -> Tensor:
    """A grid from its quarters, all counted outwards from the middle, whose cells they share where ``samples`` is odd.

    Args:
        quarters: Those of negative y and negative x; negative y; negative x; neither. Shape ``(4, Q, Q)``.
        samples: Side of the grid, N; Q = (N + 1) // 2.

    Returns:
        Shape ``(N, N)``, rows are y.
    """
    left_up, right_up, left_down, right_down = quarters
    shared = samples % 2
    above = torch.cat([left_up.flip(1), right_up[:, shared:]], dim=1)
    below = torch.cat([left_down.flip(1), right_down[:, shared:]], dim=1)
    return torch.cat([above.flip(0), below[shared:]])


def shift_matrix(num_modes: int, x: float, y: float) -> Tensor:
    """What becomes of modes that are moved beside the pupil, in the same modes.

    A moved polynomial is one of the same degree: with complete orders nothing is lost but piston and tilts, which blur
    nothing. Modes extrapolate beyond the rim.

    Args:
        num_modes: Highest Noll index.
        x, y: Shift of the modes, pupil radii.

    Returns:
        Takes coefficients from :data:`FIRST_MODE` on to coefficients from there on. Shape ``(M, M)``, float64, with M
        ``num_modes - 3``.
    """
    across, along, to_modes = _inside(num_modes)
    moved = torch.stack([zernike(j, across - x, along - y) for j in range(FIRST_MODE, num_modes + 1)], dim=1)
    return to_modes @ moved


@lru_cache
def _inside(num_modes: int, samples: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the unit disk, x and y ``(P,)``, and the matrix that fits modes from :data:`FIRST_MODE` on to values
    there, ``(M, P)``."""
    x, y = _cells(samples)
    inside = x.square() + y.square() <= 1
    basis = zernike_basis(range(1, num_modes + 1), samples)[:, inside]
    return x[inside], y[inside], torch.linalg.pinv(basis.mT)[FIRST_MODE - 1 :]


def _cells(samples: int) -> tuple[Tensor, Tensor]:
    """Centres of a pupil grid's cells, x and y, pupil radii: each ``(samples, samples)``, rows are y, float64."""
    axis = (torch.arange(samples, dtype=torch.float64) - (samples - 1) / 2) * (2 / samples)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y
