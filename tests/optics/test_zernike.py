"""Zernike polynomials against Noll's tables and their orthonormality."""

import math

import pytest
import torch

from phaseveil.optics.grid import circular_aperture
from phaseveil.optics.zernike import (
    join_quarters,
    noll_to_radial_azimuthal,
    radial_polynomial,
    zernike,
    zernike_basis,
    zernike_quarter,
)

# Noll 1976, table I: (n, m) of j = 1 … 22; even j cosine (m > 0), odd j sine (m < 0).
NOLL = [
    *[(0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (3, -1), (3, 1), (3, -3), (3, 3), (4, 0)],
    *[(4, 2), (4, -2), (4, 4), (4, -4), (5, 1), (5, -1), (5, 3), (5, -3), (5, 5), (5, -5), (6, 0)],
]


def test_indices_follow_nolls_table() -> None:
    assert [noll_to_radial_azimuthal(j) for j in range(1, len(NOLL) + 1)] == NOLL


def test_each_radial_degree_holds_its_azimuthal_degrees_once() -> None:
    pairs = [noll_to_radial_azimuthal(j) for j in range(1, 67)]
    assert sorted(pairs) == sorted((n, m) for n in range(11) for m in range(-n, n + 1, 2))


def test_an_index_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="start at 1, got 0"):
        noll_to_radial_azimuthal(0)


@pytest.mark.parametrize(
    ("j", "formula"),
    [
        (1, lambda x, y: torch.ones_like(x)),
        (2, lambda x, y: 2 * x),
        (3, lambda x, y: 2 * y),
        (4, lambda x, y: math.sqrt(3) * (2 * (x**2 + y**2) - 1)),
        (5, lambda x, y: math.sqrt(6) * 2 * x * y),
        (6, lambda x, y: math.sqrt(6) * (x**2 - y**2)),
        (8, lambda x, y: math.sqrt(8) * (3 * (x**2 + y**2) - 2) * x),
        (11, lambda x, y: math.sqrt(5) * (6 * (x**2 + y**2) ** 2 - 6 * (x**2 + y**2) + 1)),
    ],
)
def test_low_modes_equal_their_cartesian_form(j: int, formula) -> None:  # type: ignore[no-untyped-def]
    x, y = torch.tensor([0.3, -0.7, 0.0], dtype=torch.float64), torch.tensor([0.5, 0.2, -0.9], dtype=torch.float64)
    torch.testing.assert_close(zernike(j, x, y), formula(x, y))


def test_radial_polynomials_are_one_on_the_rim() -> None:
    rim = torch.ones(1, dtype=torch.float64)
    for n, m in {(n, abs(m)) for n, m in map(noll_to_radial_azimuthal, range(1, 67))}:
        assert radial_polynomial(n, m, rim).item() == pytest.approx(1, abs=1e-9)


def test_the_first_66_modes_are_orthonormal_on_the_pupil_grid() -> None:
    basis, aperture = zernike_basis(range(1, 67), 256).flatten(1), circular_aperture(256).double().flatten()
    gram = (basis * aperture) @ basis.T / aperture.sum()
    assert (gram - torch.eye(66, dtype=torch.float64)).abs().max() < 1e-2


def test_rows_are_y_and_columns_x() -> None:
    tilt_x, tilt_y = zernike_basis([2, 3], 8)
    assert torch.all(tilt_x.diff(dim=1) > 0)
    assert torch.all(tilt_y.diff(dim=0) > 0)
    torch.testing.assert_close(tilt_x, tilt_y.T)


@pytest.mark.parametrize("samples", [16, 17])
def test_quarters_mirrored_and_joined_are_the_modes(samples: int) -> None:
    indices = range(1, 67)
    quarter, signs = zernike_quarter(indices, samples)
    assert quarter.shape == (66, (samples + 1) // 2, (samples + 1) // 2)
    for number, mode in enumerate(zernike_basis(indices, samples)):
        joined = join_quarters(signs[:, number, None, None] * quarter[number], samples)
        torch.testing.assert_close(joined, mode, rtol=0, atol=1e-11)
