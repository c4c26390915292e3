"""Figures of merit against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from phaseveil.metrics.optics import (
    describe_camera,
    encircled_diameter,
    height_range,
    largest_slope,
    mtf50,
    radial_mtf,
    rms_diameter,
    strehl_ratio,
)
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, load_camera
from phaseveil.optics.grid import centred_axis, circular_aperture
from phaseveil.optics.zernike import zernike_basis

SIZE = 128


def gaussian(sigma: float, pixels: int = 61, centre: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """One channel of unit sum. Shape ``(1, pixels, pixels)``, float64."""
    axis = centred_axis(pixels, 1.0, torch.float64)
    x, y = (torch.exp(-0.5 * ((axis - shift) / sigma) ** 2) for shift in centre)
    return (y[:, None] * x[None, :] / (x.sum() * y.sum()))[None]


def disk(radius: float, pixels: int = 81) -> Tensor:
    axis = centred_axis(pixels, 1.0, torch.float64)
    inside = (torch.hypot(axis[:, None], axis[None, :]) <= radius).double()
    return (inside / inside.sum())[None]


@pytest.mark.parametrize("centre", [(0.0, 0.0), (5.0, -3.0)])
def test_widths_of_a_gaussian_wherever_it_lies(centre: tuple[float, float]) -> None:
    psf = gaussian(4.0, centre=centre)
    assert rms_diameter(psf).item() == pytest.approx(2 * 4 * math.sqrt(2), rel=1e-3)
    for share in (0.5, 0.8):
        diameter = 2 * 4 * math.sqrt(-2 * math.log(1 - share))  # Rayleigh's distribution
        assert encircled_diameter(psf, share).item() == pytest.approx(diameter, rel=0.02)


def test_widths_of_a_disk() -> None:
    psf = disk(30.0)
    assert rms_diameter(psf).item() == pytest.approx(2 * 30 / math.sqrt(2), rel=0.01)
    assert encircled_diameter(psf, 0.5).item() == pytest.approx(2 * 30 * math.sqrt(0.5), rel=0.01)


def test_a_single_pixel_is_as_wide_as_its_area() -> None:
    point = torch.zeros(1, 5, 5, dtype=torch.float64)
    point[0, 2, 2] = 1
    assert encircled_diameter(point, 0.5, subsamples=20).item() == pytest.approx(math.sqrt(4 * 0.5 / math.pi), rel=0.05)


def test_mtf_of_a_gaussian() -> None:
    sigma = 3.0
    frequency, modulation = radial_mtf(gaussian(sigma), SIZE)
    expected = torch.exp(-2 * (math.pi * sigma * frequency.double() / SIZE) ** 2)
    assert frequency[-1] == SIZE / 2
    torch.testing.assert_close(modulation[0], expected, atol=0.01, rtol=0)
    half = SIZE * math.sqrt(math.log(2) / 2) / (math.pi * sigma)
    assert mtf50(gaussian(sigma), SIZE).item() == pytest.approx(half, rel=0.02)


def test_mtf50_of_a_point_is_the_highest_frequency_of_the_frame() -> None:
    point = torch.zeros(2, 5, 5)
    point[:, 2, 2] = 1
    assert mtf50(point, SIZE).tolist() == [SIZE / 2, SIZE / 2]


def test_each_channel_is_measured_by_itself() -> None:
    pair = torch.cat([gaussian(2.0), gaussian(5.0)])
    assert rms_diameter(pair)[1] / rms_diameter(pair)[0] == pytest.approx(2.5, rel=0.01)
    assert mtf50(pair, SIZE)[0] / mtf50(pair, SIZE)[1] == pytest.approx(2.5, rel=0.05)


def test_strehl_ratio_follows_marechal_for_small_errors_and_is_one_without() -> None:
    aperture = circular_aperture(64)
    phase = torch.stack([s * zernike_basis([7], 64)[0] for s in (0.0, 0.1, 0.3)])
    ratio = strehl_ratio(phase, aperture)
    assert ratio[0].item() == pytest.approx(1)
    assert ratio[1].item() == pytest.approx(math.exp(-(0.1**2)), abs=1e-3)
    assert ratio[2].item() == pytest.approx(math.exp(-(0.3**2)), abs=5e-3)


def test_slope_and_range_of_a_plane_inside_the_aperture() -> None:
    aperture = circular_aperture(32)
    x, y = torch.arange(32.0)[None, :] * 1e-5, torch.arange(32.0)[:, None] * 1e-5
    height = (3e-3 * x + 4e-3 * y) * (aperture > 0)  # falls off a cliff at the rim, which does not count
    assert largest_slope(height, aperture, 1e-5) == pytest.approx(5e-3, rel=1e-3)
    assert height_range(height, aperture) == pytest.approx(5e-3 * 32e-5, rel=0.05)


@pytest.fixture(scope="module")
def camera() -> PhaseMaskCamera:
    camera = PhaseMaskCamera(CameraConfig(aperture_radius=0.1e-3, frame_width=0.03, pupil_samples=48, psf_support=0.5))
    camera.coefficients.data[0] = 3e-7  # defocus, 3e-7 m RMS
    return camera


def test_a_phase_mask_camera_is_described_in_full(camera: PhaseMaskCamera) -> None:
    report = describe_camera(camera, 32)
    config = camera.config
    assert (report.kind, report.size, report.frame_width) == ("phase-mask", 32, 0.03)
    assert report.f_number == config.f_number
    assert report.pixel_pitch == config.pixel_pitch(32)
    assert report.psf_pixels == config.psf_pixels(32)
    assert report.mask is not None
    # √3 (2ρ² - 1): from -√3 to √3 times the RMS height (the rim's cells reach a little beyond), steepest at the rim.
    assert report.mask.height_range == pytest.approx(2 * math.sqrt(3) * 3e-7, rel=0.1)
    assert report.mask.largest_slope == pytest.approx(4 * math.sqrt(3) * 3e-7 / 0.1e-3, rel=0.1)
    assert 0 < report.mask.largest_phase_step < math.pi
    assert report.mask.strehl[2] < report.mask.strehl[0] < 1
    assert all(0.7 < share <= 1 for share in report.mask.enclosed_energy)
    assert all(half < most for half, most in zip(report.psf_half, report.psf_most, strict=True))


def test_a_frozen_camera_is_described_as_the_live_one(camera: PhaseMaskCamera) -> None:
    assert describe_camera(camera.frozen(32), 32) == describe_camera(camera, 32)


def test_a_baseline_has_no_mask_to_describe() -> None:
    report = describe_camera(load_camera("gaussian"), 256)
    assert report.mask is None
    assert report.psf_rms[0] == pytest.approx(2 * 12 * math.sqrt(2), rel=0.02)  # σ = 12 pixels of 256
    assert report.mtf50[0] == pytest.approx(256 * math.sqrt(math.log(2) / 2) / (math.pi * 12), rel=0.03)


def test_the_table_has_every_figure_with_its_unit(camera: PhaseMaskCamera) -> None:
    rows = dict(describe_camera(camera, 32).table())
    assert rows["frame width"] == "0.03 m at 1 m"
    assert rows["mask height range"].endswith(" µm")
    assert rows["mask's largest slope"].endswith(" mrad")
    assert rows["MTF50"].count("/") == 2
    assert len(dict(describe_camera(load_camera("low-resolution"), 32).table())) == len(rows) - 5
