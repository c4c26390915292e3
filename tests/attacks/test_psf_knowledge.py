"""What an attacker knows of a PSF: measured from point sources, or off by a tolerance."""

import pytest
import torch
from torch import Tensor

from phaseveil.attacks.psf_knowledge import average_psf, captured_psf, mistaken_psf
from phaseveil.errors import ConfigError
from phaseveil.optics.camera import Camera, CameraConfig, PhaseMaskCamera, build_camera, load_camera
from phaseveil.optics.dynamic import dynamic_from
from phaseveil.optics.sensor import SensorConfig

SIZE = 64


def gaussian(sigma: float = 2.0, sensor: SensorConfig | None = None) -> Camera:
    """A Gaussian camera; sigma in pixels of a 64-px frame."""
    return build_camera(
        CameraConfig(kind="gaussian", gaussian_sigma=sigma / SIZE, psf_support=0.5, sensor=sensor or SensorConfig())
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def stray_light(measured: Tensor, truth: Tensor) -> float:
    """Share of the light that is in the wrong pixel, 0 to 1."""
    return float((measured - truth).abs().sum(dim=(-2, -1)).mean() / 2)


def widths(psf: Tensor) -> Tensor:
    """RMS width of each channel along x, pixels. Shape ``(3,)``."""
    line = psf.sum(dim=-2)
    place = torch.arange(psf.shape[-1]) - psf.shape[-1] // 2
    return ((line * place.square()).sum(dim=-1) - (line * place).sum(dim=-1).square()).sqrt()


@pytest.mark.parametrize("name", ["portrait", "learned", "gaussian", "defocus"])
def test_a_captured_psf_is_close_to_the_truth(name: str) -> None:
    camera = load_camera(name)
    truth = camera.psf(SIZE).detach()
    measured = captured_psf(camera, SIZE, 16, generator())
    assert measured.shape == truth.shape
    assert not measured.requires_grad
    assert torch.allclose(measured.sum(dim=(-2, -1)), torch.ones(3), atol=1e-5)
    assert measured.min() >= 0
    assert correlation(measured, truth) > 0.99
    assert stray_light(measured, truth) < 0.05


def test_more_captures_measure_better() -> None:
    camera = gaussian(sensor=SensorConfig(full_well=1000, bits=12))
    truth = camera.psf(SIZE)
    error = [stray_light(captured_psf(camera, SIZE, count, generator(1)), truth) for count in (1, 8, 64)]
    assert error[0] > 1.5 * error[1] > 2 * error[2]


def test_the_lamp_does_not_clip() -> None:
    """Without noise and with fine quantisation, only clipping could flatten the peak."""
    camera = gaussian(1.0, SensorConfig(full_well=1e9, read_noise=0, bits=16))
    measured = captured_psf(camera, SIZE, 1, generator())
    assert measured.max() == pytest.approx(float(camera.psf(SIZE).max()), rel=1e-3)


def test_dark_pixels_do_not_add_up() -> None:
    """Read noise over thousands of empty pixels, its negative half cut off, would be a tenth of all light and more."""
    camera = gaussian(1.0, SensorConfig(read_noise=30, bits=12))
    truth = camera.psf(SIZE)
    measured = captured_psf(camera, SIZE, 16, generator())
    assert float(measured[truth < 1e-6].sum()) / 3 < 0.02


def test_captures_follow_the_generator() -> None:
    camera = gaussian()
    first, again, other = (captured_psf(camera, SIZE, 2, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_capture_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 capture"):
        captured_psf(gaussian(), SIZE, 0, generator())


def test_the_average_psf_of_large_photosites_is_centred() -> None:
    """A square photosite and the triangle of bilinear interpolation: variance N²/12 - 1/12 + N²/6 pixels², N the pitch.

    The response to the one point that ``camera.psf`` takes lies (N - 1)/2 pixels beside it.
    """
    camera = build_camera(CameraConfig(kind="low-resolution", low_resolution=8, psf_support=0.9))
    pitch = SIZE / 8
    average = average_psf(camera, SIZE)
    place = torch.arange(average.shape[-1]) - average.shape[-1] // 2

    def centroid(psf: Tensor) -> float:
        return float((psf[0].sum(dim=0) * place).sum())

    assert centroid(camera.psf(SIZE)) == pytest.approx((pitch - 1) / 2, abs=1e-3)
    assert centroid(average) == pytest.approx(0, abs=1e-3)
    assert float(widths(average)[0]) == pytest.approx((pitch**2 / 12 - 1 / 12 + pitch**2 / 6) ** 0.5, rel=0.01)
    captured = captured_psf(camera, SIZE, 64, generator())
    assert centroid(captured) == pytest.approx(0, abs=0.1)
    assert correlation(captured, average) > 0.95


def test_the_average_psf_of_other_cameras_is_their_own() -> None:
    camera = gaussian()
    assert torch.equal(average_psf(camera, SIZE), camera.psf(SIZE))


def test_of_a_family_the_mean_of_its_psfs_is_captured() -> None:
    fixed = PhaseMaskCamera(CameraConfig(aperture_radius=0.1e-3, frame_width=0.03, pupil_samples=48, psf_support=0.5))
    fixed.coefficients.data[0] = 1e-7
    camera = dynamic_from(fixed.eval(), 3, 2e-7, generator(6))
    with torch.no_grad():
        mean = camera.psfs(camera.draw(200, generator(1)), SIZE).mean(dim=0)
    measured = captured_psf(camera, SIZE, 200, generator())
    assert stray_light(measured, mean) < 0.05 < stray_light(camera.psf(SIZE).detach(), mean)


def test_no_mistake_keeps_the_psf() -> None:
    psf = gaussian().psf(SIZE)
    assert torch.allclose(mistaken_psf(psf, 0.0), psf, atol=1e-6)


@pytest.mark.parametrize("tolerance", [-0.1, 0.05, 0.3])
def test_a_mistake_scales_the_width(tolerance: float) -> None:
    psf = gaussian(4.0).psf(SIZE)
    wrong = mistaken_psf(psf, tolerance)
    assert torch.allclose(wrong.sum(dim=(-2, -1)), torch.ones(3), atol=1e-5)
    assert torch.allclose(widths(wrong), widths(psf) * (1 + tolerance), rtol=0.02)


def test_an_impossible_mistake_is_refused() -> None:
    with pytest.raises(ConfigError, match="above -1"):
        mistaken_psf(gaussian().psf(SIZE), -1.0)
