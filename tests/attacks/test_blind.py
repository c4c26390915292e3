"""Evidence for a PSF from a blurred picture alone: scenes of the very model, and real pictures."""

import numpy as np
import pytest
import torch
from torch import Tensor

from phaseveil.attacks.blind import likeliest, log_evidence
from phaseveil.data.image_io import resize, to_tensor
from phaseveil.errors import ConfigError, InputError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, build_camera
from phaseveil.optics.dynamic import DynamicCamera, dynamic_from
from phaseveil.optics.sensor import SensorConfig, linear_to_srgb

SIZE = 64
MEMBERS = 16


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ignore(done: int, total: int | None) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def family() -> DynamicCamera:
    """A family of clearly different blurs about a defocus."""
    fixed = PhaseMaskCamera(CameraConfig(pupil_samples=320)).eval()
    fixed.coefficients.data[0] = 2e-6
    return dynamic_from(fixed, 4, 6e-7, seeded(0))


@pytest.fixture(scope="module")
def psfs(family: DynamicCamera) -> Tensor:
    with torch.no_grad():
        return family.psfs(family.draw(MEMBERS, seeded(1)), SIZE)


def crops(astronaut: np.ndarray) -> Tensor:
    """Face, suit, flag and all of them. Shape ``(4, 3, 64, 64)``."""
    places = ((0, 120, 256), (200, 100, 300), (60, 0, 256), (0, 0, 512))
    return torch.stack([to_tensor(resize(astronaut[y : y + s, x : x + s], SIZE)) for y, x, s in places])


def test_the_right_member_is_found_on_a_real_picture(
    astronaut: np.ndarray, family: DynamicCamera, psfs: Tensor
) -> None:
    scenes = crops(astronaut)
    true = torch.arange(20) % MEMBERS
    shots = [family.through(scenes[[i % 4]], psfs[[n]], seeded(100 + i)) for i, n in enumerate(true.tolist())]
    done: list[tuple[int, int | None]] = []
    chosen = likeliest(
        torch.cat(shots), psfs, family.config.sensor, lambda count, total: done.append((count, total)), 8
    )
    assert (chosen == true).sum() >= 15  # chance finds one or two
    assert done == [(8, 20), (16, 20), (20, 20)]


def gaussians(*sigmas: float) -> Tensor:
    """PSFs of these widths, pixels."""
    cameras = [build_camera(CameraConfig(kind="gaussian", gaussian_sigma=s / SIZE, psf_support=0.75)) for s in sigmas]
    return torch.stack([camera.psf(SIZE) for camera in cameras])


def random_scene(sigma: float, sensor: SensorConfig, seed: int) -> Tensor:
    """Acquisition of a scene of power 1/f² that goes on beyond the frame, blurred by a Gaussian. ``(1, 3, 64, 64)``."""
    grid = 4 * SIZE
    squared = torch.fft.fftfreq(grid)[:, None].square() + torch.fft.rfftfreq(grid)[None, :].square()
    blur = torch.exp(-2 * (torch.pi * sigma) ** 2 * squared)
    drawn = torch.fft.rfft2(torch.randn(1, 3, grid, grid, generator=seeded(seed)))
    scene = torch.fft.irfft2(drawn * blur * squared.clamp_min(1e-9).rsqrt() * (squared > 0))[..., :SIZE, :SIZE]
    light = 0.5 + 0.1 * scene / scene.std()
    electrons = light * sensor.exposure * sensor.full_well
    noise = torch.randn(light.shape, generator=seeded(seed + 1)) * (electrons + sensor.read_noise**2).sqrt()
    return linear_to_srgb(((electrons + noise) / (sensor.exposure * sensor.full_well)).clamp(0, 1))


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_where_the_model_holds_the_evidence_peaks_at_the_true_width(sigma: float) -> None:
    sensor, widths = SensorConfig(bits=16), [sigma * factor for factor in (0.5, 0.7, 0.85, 1.0, 1.15, 1.4, 2.0)]
    shots = torch.cat([random_scene(sigma, sensor, seed) for seed in range(0, 12, 2)])
    evidence = log_evidence(shots, gaussians(*widths), sensor)
    assert evidence.shape == (6, 7)
    assert evidence.dtype == torch.float64
    assert evidence.sum(dim=0).argmax() == 3
    assert (evidence.argmax(dim=1) - 3).abs().max() <= 1
    assert (evidence[:, 3] > evidence[:, 0]).all()


def test_more_noise_than_the_sensor_has_makes_the_picture_unlikely_to_be_sharp() -> None:
    """Rising noise hides the difference: the evidence tells less apart, and never more."""
    gaps = []
    for full_well in (1e5, 1e3, 1e1):
        sensor = SensorConfig(full_well=full_well, bits=16)
        evidence = log_evidence(random_scene(2.0, sensor, 0), gaussians(2.0, 3.0), sensor)[0]
        gaps.append(float(evidence[0] - evidence[1]))
    assert gaps[0] > gaps[1] > abs(gaps[2])


def test_a_psf_and_the_same_turned_by_half_a_turn_are_equally_likely(
    astronaut: np.ndarray, family: DynamicCamera, psfs: Tensor
) -> None:
    shot = family.through(crops(astronaut)[:1], psfs[:1], seeded(0))
    evidence = log_evidence(shot, torch.stack([psfs[0], psfs[0].flip(-1, -2), psfs[1]]), family.config.sensor)[0]
    assert evidence[0] == pytest.approx(float(evidence[1]), abs=0.1)
    assert evidence[0] > evidence[2] + 5


def test_an_image_is_judged_by_itself_and_a_flat_one_is_no_error(psfs: Tensor) -> None:
    images = torch.rand(3, 3, SIZE, SIZE, generator=seeded(0))
    images[2] = 0.5
    together = log_evidence(images, psfs[:2], SensorConfig())
    assert torch.isfinite(together).all()
    assert torch.allclose(together[1:2], log_evidence(images[1:2], psfs[:2], SensorConfig()), rtol=1e-6)


def test_impossible_inputs_are_refused(psfs: Tensor) -> None:
    images, sensor = torch.rand(1, 3, SIZE, SIZE), SensorConfig()
    with pytest.raises(InputError, match="square frames"):
        log_evidence(images[..., :50], psfs, sensor)
    with pytest.raises(ConfigError, match=r"shape \(J, 3, K, K\), K odd"):
        log_evidence(images, psfs[0], sensor)
    with pytest.raises(ConfigError, match="K odd and at most 2 S"):
        log_evidence(images, psfs[..., 1:, 1:], sensor)
    assert likeliest(images, psfs[:1], sensor, ignore).tolist() == [0]
