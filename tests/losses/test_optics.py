"""Stage-I terms on the optics: values, gradients to the mask, and the constraint's multiplier."""

import math

import pytest
import torch
from torch import Tensor

from phaseveil.losses.optics import (
    MID_GREY,
    SCENE_VARIANCE,
    ConstraintMultiplier,
    airy_distance,
    detail_loss,
    information_loss,
    privacy_loss,
    range_loss,
    sameness_loss,
    scale_gradient,
    slope_loss,
    smoothness_loss,
)
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, build_camera, load_camera
from phaseveil.optics.sensor import SensorConfig, noise_variance

SIZE = 32


def masked_camera() -> PhaseMaskCamera:
    camera = PhaseMaskCamera(CameraConfig(aperture_radius=0.1e-3, frame_width=0.03, pupil_samples=48, psf_support=0.5))
    camera.coefficients.data = torch.randn(33, generator=torch.Generator().manual_seed(2)) * 2e-8
    return camera


def privacy(camera: PhaseMaskCamera) -> Tensor:
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return privacy_loss(camera(image), image)


def airy(camera: PhaseMaskCamera) -> Tensor:
    return airy_distance(camera.psf(SIZE), build_camera(camera.config).psf(SIZE).detach())


LOSSES = {
    "privacy": privacy,
    "detail": lambda camera: detail_loss(camera.psf(SIZE), size=SIZE),
    "information": lambda camera: information_loss(camera.psf(SIZE), camera.config.sensor, size=SIZE),
    "airy": airy,
    "sameness": lambda camera: sameness_loss(camera.psf(SIZE), build_camera(camera.config).psf(SIZE)),
    "slope": lambda camera: slope_loss(camera.pupil_phase(), camera.aperture, limit=0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_moves_every_coefficient_of_the_mask(name: str) -> None:
    camera = masked_camera()
    LOSSES[name](camera).backward()
    gradient = camera.coefficients.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert torch.all(gradient != 0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    camera = masked_camera()
    before = LOSSES[name](camera)
    before.backward()
    gradient = camera.coefficients.grad
    assert gradient is not None
    camera.coefficients.data -= 2e-9 * gradient / gradient.norm()
    assert LOSSES[name](camera) < before


def test_privacy_is_one_for_a_perfect_picture() -> None:
    image = torch.rand(2, 3, 8, 8)
    assert privacy_loss(image, image).item() == 1
    assert privacy_loss(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)).item() == 0


def test_detail_is_zero_for_a_point_and_falls_with_blur() -> None:
    point = torch.zeros(3, 15, 15)
    point[:, 7, 7] = 1
    assert detail_loss(point, size=64).item() == pytest.approx(0, abs=1e-6)
    widths = [detail_loss(load_camera("gaussian").psf(size), size=size).item() for size in (32, 64)]
    assert all(value < -1 for value in widths)


def test_detail_of_a_gaussian_is_the_sum_that_it_says() -> None:
    size, sigma = 64, 2.0
    axis = torch.arange(25, dtype=torch.float64) - 12
    line = torch.exp(-0.5 * (axis / sigma) ** 2)
    psf = (line[:, None] * line).expand(3, -1, -1) / line.sum() ** 2
    expected = weight = 0.0
    for v in range(-size // 2, size // 2):
        for u in range(size // 2 + 1):  # the half plane that a real transform has
            square = u * u + v * v
            if square > 16:
                expected += math.exp(-4 * math.pi**2 * sigma**2 * square / size**2) / square
                weight += 1 / square
    assert detail_loss(psf, size=size).item() == pytest.approx(math.log(expected / weight), rel=1e-3)


def test_information_of_a_point_is_the_mean_capacity_of_its_channels() -> None:
    point, sensor = torch.zeros(3, 5, 5), SensorConfig()
    point[:, 2, 2] = 1
    axis = torch.fft.fftfreq(SIZE, dtype=torch.float64) * SIZE
    square = axis[:, None] ** 2 + axis[None, :] ** 2
    natural = torch.where(square > 0, 1 / square.clamp_min(1), 0)
    ratio = SCENE_VARIANCE * natural / natural.sum() * SIZE**2 / noise_variance(sensor, MID_GREY)
    weight = natural * (square > 16)
    expected = ((1 + ratio).log2() * weight).sum() / weight.sum()
    assert information_loss(point, sensor, size=SIZE).item() == pytest.approx(expected.item(), rel=0.02)


def test_information_falls_with_blur_and_with_noise_but_not_with_a_shift() -> None:
    quiet, loud = SensorConfig(), SensorConfig(full_well=10_000 / 16, read_noise=3 / 4, bits=16)
    blurs = [CameraConfig(kind="gaussian", gaussian_sigma=sigma, psf_support=0.5) for sigma in (0.02, 0.04, 0.08)]
    losses = [information_loss(build_camera(blur).psf(SIZE), quiet, size=SIZE) for blur in blurs]
    assert losses[0] > losses[1] > losses[2] >= 0
    point = torch.zeros(3, 5, 5)
    point[:, 2, 2] = 1
    clear = information_loss(point, quiet, size=SIZE)
    assert information_loss(point.roll(1, dims=-1), quiet, size=SIZE) == pytest.approx(clear.item(), rel=1e-5)
    lost = math.log2(noise_variance(loud, MID_GREY) / noise_variance(quiet, MID_GREY))
    assert (clear - information_loss(point, loud, size=SIZE)).item() == pytest.approx(lost, rel=0.02)


def test_airy_distance_is_nothing_for_the_clear_lens_and_has_a_finite_gradient_there() -> None:
    camera = build_camera(masked_camera().config)
    distance = airy(camera)  # type: ignore[arg-type]
    assert distance.item() == 0
    distance.backward()
    assert all(parameter.grad.isfinite().all() for parameter in camera.parameters())  # type: ignore[union-attr]


def test_sameness_is_one_for_one_mask_and_falls_as_another_departs_from_it() -> None:
    psfs = []
    for share in (1.0, 0.9, 0.5):
        camera = masked_camera()
        camera.coefficients.data *= share
        psfs.append(camera.psf(SIZE))
    same, near, far = (sameness_loss(psfs[0], psf).item() for psf in psfs)
    assert same == pytest.approx(1, abs=1e-6)
    assert far < near < same


def test_slope_counts_only_what_exceeds_the_limit_inside_the_aperture() -> None:
    aperture = torch.ones(4, 4)
    ramp = torch.arange(4.0).expand(1, 4, 4)
    assert slope_loss(2.0 * ramp, aperture, limit=2.5).item() == 0
    assert slope_loss(3.0 * ramp, aperture, limit=2.5).item() == pytest.approx(12 * 0.25 / 16)
    assert slope_loss(3.0 * ramp, torch.zeros(4, 4).index_fill(0, torch.tensor([0]), 1), limit=2.5).item() == (
        pytest.approx(3 * 0.25 / 4)
    )


def test_range_counts_what_exceeds_the_limit_in_square_micrometres() -> None:
    height = torch.tensor([[0.0, 3e-6], [-2e-6, 1e-6]], requires_grad=True)
    assert range_loss(height, 6e-6) == 0
    loss = range_loss(height, 3e-6)
    assert loss.item() == pytest.approx(4.0, rel=1e-5)
    loss.backward()
    assert height.grad is not None
    assert height.grad[0, 1] > 0 > height.grad[1, 0]


def test_smoothness_is_the_laplacian_of_a_bowl_and_nothing_for_a_saddle() -> None:
    axis = torch.linspace(-1, 1, 101)[:, None]
    aperture = (axis**2 + axis.T**2 <= 1).float()
    bowl, saddle = 1e-6 * (axis**2 + axis.T**2), 1e-6 * (axis**2 - axis.T**2)
    step = 2 / 100
    expected = (4 * step**2 * (101 / 100) ** 2) ** 2  # Laplacian 4 in radii, micrometres
    assert smoothness_loss(bowl, aperture).item() == pytest.approx(expected, rel=0.02)
    assert smoothness_loss(saddle, aperture).item() < 1e-3 * expected


def test_the_multiplier_rises_while_the_constraint_is_broken_and_falls_while_it_holds() -> None:
    multiplier = ConstraintMultiplier(ceiling=0.06, rate=0.1, momentum=0.5)
    for _ in range(20):
        multiplier.update(0.09)
    high = multiplier.value
    assert high > 1.5
    for _ in range(60):
        multiplier.update(0.03)
    assert 0 < multiplier.value < high / 2


def test_the_multiplier_settles_where_the_error_meets_the_ceiling() -> None:
    """A stand-in for training: the more the error weighs, the smaller it gets."""
    multiplier = ConstraintMultiplier(ceiling=0.05, rate=0.1, momentum=0.9)
    for _ in range(600):
        multiplier.update(0.1 / multiplier.value)
    assert multiplier.value == pytest.approx(2.0, rel=0.02)
    assert multiplier.mean_error == pytest.approx(0.05, rel=0.02)


def test_the_multiplier_is_bounded_and_resumes() -> None:
    multiplier = ConstraintMultiplier(ceiling=0.05, rate=5.0, momentum=0.0)
    for _ in range(10):
        multiplier.update(100.0)
    assert multiplier.value == 1e4
    again = ConstraintMultiplier(ceiling=0.05, rate=5.0, momentum=0.0)
    again.restore(multiplier.state())
    assert again.state() == multiplier.state()
    for _ in range(10):
        again.update(0.0)
    assert again.value == 1e-3


def test_scale_gradient_changes_the_gradient_only() -> None:
    tensor = torch.rand(5, requires_grad=True)
    scaled = scale_gradient(tensor, 7.0)
    torch.testing.assert_close(scaled, tensor)
    (gradient,) = torch.autograd.grad(scaled.sum(), tensor)
    torch.testing.assert_close(gradient, torch.full((5,), 7.0))
