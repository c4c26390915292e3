"""Phases and the Fraunhofer integral against closed forms."""

import math
import re

import pytest
import torch
from torch import Tensor

from phaseveil.errors import OpticsError
from phaseveil.optics.grid import centred_axis, circular_aperture
from phaseveil.optics.propagation import (
    check_phase_sampling,
    check_window,
    defocus_phase,
    fraunhofer,
    intensity_quadrants,
    phase_delay,
    steepest_phase_step,
)
from phaseveil.optics.zernike import zernike_basis

WAVELENGTH, RADIUS, DISTANCE, SAMPLES = 550e-9, 0.5e-3, 8e-3, 128
F_NUMBER = DISTANCE / (2 * RADIUS)
SPOT = WAVELENGTH * F_NUMBER  # λF, metres
PUPIL_AXIS = centred_axis(SAMPLES, 2 * RADIUS / SAMPLES, torch.float64)
APERTURE = circular_aperture(SAMPLES).double()


def intensity(phase: Tensor, sensor_axis: Tensor) -> Tensor:
    """|U|² of the clear pupil with a phase ``(N, N)``, on ``sensor_axis`` both ways."""
    pupil = torch.polar(APERTURE, phase)[None]
    wavelengths = torch.tensor([WAVELENGTH], dtype=torch.float64)
    return fraunhofer(pupil, PUPIL_AXIS, sensor_axis, wavelengths, DISTANCE)[0].abs().square()


def test_clear_circular_pupil_has_its_first_zero_at_1_22_lambda_f_number() -> None:
    radius = torch.linspace(0, 1.8, 181, dtype=torch.float64)
    profile = intensity(torch.zeros(SAMPLES, SAMPLES, dtype=torch.float64), radius * SPOT)[0]
    assert radius[profile.argmin()].item() == pytest.approx(1.2197, rel=0.01)
    assert profile.min() < 1e-5 * profile[0]


def test_airy_peak_is_the_area_over_lambda_z_squared() -> None:
    peak = intensity(torch.zeros(SAMPLES, SAMPLES, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)).item()
    assert peak == pytest.approx((math.pi * RADIUS**2 / (WAVELENGTH * DISTANCE)) ** 2, rel=1e-3)


@pytest.mark.parametrize(("x_pixels", "y_pixels"), [(7, 0), (0, 5), (-3, 4)])
def test_a_tilt_of_the_wavefront_moves_the_image_by_theta_z(x_pixels: int, y_pixels: int) -> None:
    pitch = 3e-6
    theta_x, theta_y = x_pixels * pitch / DISTANCE, y_pixels * pitch / DISTANCE
    tilt = 2 * math.pi / WAVELENGTH * (theta_y * PUPIL_AXIS[:, None] + theta_x * PUPIL_AXIS[None, :])
    spot = intensity(tilt, centred_axis(31, pitch, torch.float64))
    row, column = divmod(int(spot.argmax()), 31)
    assert (column - 15, row - 15) == (x_pixels, y_pixels)


def test_a_prism_bends_light_towards_its_thick_side() -> None:
    """A height that rises with x (Noll's second mode) delays the light there: it leaves towards +x, by Δn dh/dx."""
    rms, contrast = 0.5e-6, 0.46
    height = rms * zernike_basis([2], SAMPLES)[0]  # 2 ρ cos θ, so dh/dx = 2 rms / RADIUS
    wavelengths = torch.tensor([WAVELENGTH], dtype=torch.float64)
    phase = phase_delay(height, wavelengths, torch.tensor([contrast], dtype=torch.float64))[0]
    axis = torch.linspace(0, 12e-6, 241, dtype=torch.float64)
    profile = intensity(phase, axis)[0]
    assert axis[profile.argmax()].item() == pytest.approx(contrast * 2 * rms / RADIUS * DISTANCE, abs=0.1e-6)


def test_focus_errors_of_either_sign_give_the_same_spot() -> None:
    square = PUPIL_AXIS[:, None] ** 2 + PUPIL_AXIS[None, :] ** 2
    wavelengths = torch.tensor([WAVELENGTH], dtype=torch.float64)
    axis = centred_axis(41, 3e-6, torch.float64)
    before, behind, focus = (intensity(defocus_phase(square, wavelengths, e)[0], axis) for e in (-20.0, 20.0, 0.0))
    torch.testing.assert_close(before, behind, rtol=1e-9, atol=1e-12 * before.max().item())
    assert before.max() < 0.1 * focus.max()


def test_defocus_moves_the_rim_by_half_the_focus_error_times_the_radius_squared() -> None:
    phase = defocus_phase(torch.tensor([[RADIUS**2]]), torch.tensor([WAVELENGTH]), focus_error=8.0)
    assert phase.item() == pytest.approx(2 * math.pi / WAVELENGTH * 0.5 * 8.0 * RADIUS**2, rel=1e-5)


def test_phase_delay_is_one_turn_per_wavelength_of_optical_path() -> None:
    wavelengths, contrast = torch.tensor([640e-9, 440e-9]), torch.tensor([0.45, 0.47])
    phase = phase_delay(torch.full((2, 2), 1e-6), wavelengths, contrast)
    torch.testing.assert_close(phase[:, 0, 0] / (2 * math.pi), contrast * 1e-6 / wavelengths)


@pytest.mark.parametrize("samples", [12, 13])
@pytest.mark.parametrize("points", [8, 9])
def test_quadrants_hold_the_intensity_of_the_field_outwards_from_the_axis(samples: int, points: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pupil = torch.randn(3, samples, samples, generator=generator, dtype=torch.complex128)
    axes = centred_axis(samples, 1e-4, torch.float64), centred_axis(points, 1e-6, torch.float64)
    wavelengths = torch.tensor([640e-9, 550e-9, 440e-9], dtype=torch.float64)
    whole = fraunhofer(pupil, *axes, wavelengths, DISTANCE).abs().square()
    onward = (points + 1) // 2
    for field, wavelength, there in zip(pupil, wavelengths, whole, strict=True):
        found = intensity_quadrants(field, axes[0], axes[1][points // 2 :], wavelength, DISTANCE)
        torch.testing.assert_close(found.right_down, there[-onward:, -onward:])
        torch.testing.assert_close(found.left_up, there[:onward, :onward].flip(0, 1))
        torch.testing.assert_close(found.right_up, there[:onward, -onward:].flip(0))
        torch.testing.assert_close(found.left_down, there[-onward:, :onward].flip(1))


def test_steepest_step_looks_inside_the_aperture_only() -> None:
    phase, aperture = torch.zeros(1, 6, 6), torch.zeros(6, 6)
    aperture[1:5, 1:5] = 1
    phase[0, 0, 0], phase[0, 2, 2] = 100.0, 0.5
    assert steepest_phase_step(phase, aperture) == 0.5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("samples", [32, 64, 100])
def test_the_number_of_samples_that_the_guard_asks_for_is_enough(samples: int, seed: int) -> None:
    coefficients = 0.7 * torch.randn(33, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    phase, aperture = phase_of(coefficients, samples), circular_aperture(samples)
    with pytest.raises(OpticsError, match=r"at most π can be told apart\); set pupil_samples to at least") as refusal:
        check_phase_sampling(phase, aperture)
    asked = re.search(r"at least (\d+) \(now", str(refusal.value))
    assert asked is not None
    enough = int(asked[1])
    check_phase_sampling(phase_of(coefficients, enough), circular_aperture(enough))
    assert enough < 1.3 * samples * steepest_phase_step(phase, aperture) / math.pi  # and not wastefully many


def phase_of(coefficients: Tensor, samples: int) -> Tensor:
    """Phase, radians, of modes 4 … 36. Shape ``(1, samples, samples)``."""
    return torch.einsum("m,mhw->hw", coefficients, zernike_basis(range(4, 37), samples))[None]


def test_a_phase_within_the_limit_passes() -> None:
    check_phase_sampling(3.1 * torch.arange(8.0).expand(1, 8, 8), torch.ones(8, 8))


def test_a_phase_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(OpticsError, match="not finite"):
        check_phase_sampling(torch.full((1, 4, 4), math.nan), torch.ones(4, 4))


def test_a_window_wider_than_the_period_is_refused_with_the_samples_it_needs() -> None:
    arguments = {"diameter": 1e-3, "window": 0.8e-3, "shortest_wavelength": 440e-9, "distance": 8e-3}
    with pytest.raises(OpticsError, match="set pupil_samples to at least 228"):
        check_window(samples=200, **arguments)
    check_window(samples=228, **arguments)
