"""A camera that draws its mask: what is drawn, what learns, what can be simulated, and what survives a file."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phaseveil.errors import ConfigError, InputError, OpticsError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, build_camera, load_camera, save_camera
from phaseveil.optics.dynamic import DynamicCamera, dynamic_from
from phaseveil.optics.propagation import steepest_phase_step
from phaseveil.optics.sensor import SensorConfig
from phaseveil.optics.zernike import noll_to_radial_azimuthal

SIZE = 32


def family(spread: float = 2e-7, mean: float = 2e-7, **changes: object) -> DynamicCamera:
    """A slow, narrow camera that few pupil samples describe, with a family of three numbers: quick."""
    values: dict[str, object] = {
        "aperture_radius": 0.1e-3,
        "frame_width": 0.03,
        "pupil_samples": 48,
        "num_modes": 10,
        "psf_support": 0.5,
    }
    values["sensor"] = SensorConfig(full_well=1e7, read_noise=0, bits=16)
    fixed = PhaseMaskCamera(CameraConfig(**(values | changes))).eval()  # type: ignore[arg-type]
    fixed.coefficients.data = mean * torch.randn(fixed.coefficients.shape, generator=seeded(5))
    return dynamic_from(fixed, 3, spread, seeded(6))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(count: int = 1, seed: int = 0) -> Tensor:
    """The same noise picture ``count`` times. Shape ``(count, 3, 32, 32)``."""
    return torch.rand(1, 3, SIZE, SIZE, generator=seeded(seed)).expand(count, -1, -1, -1)


def members_of(acquisitions: Tensor) -> list[int]:
    """Numbers acquisitions of one scene by the mask that they were taken through, noise apart."""
    seen: list[Tensor] = []
    numbers = []
    for image in acquisitions:
        near = [number for number, other in enumerate(seen) if (image - other).abs().mean() < 1e-3]
        numbers.append(near[0] if near else len(seen))
        if not near:
            seen.append(image)
    return numbers


@torch.no_grad()
def test_a_seed_selects_mask_and_noise_and_the_mask_can_be_drawn_again() -> None:
    camera, image = family(), picture()
    first, again, other = (camera(image, seeded(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 5e-3
    generator = seeded(4)
    latent = camera.draw(1, generator)
    assert torch.equal(camera.through(image, camera.psfs(latent, SIZE), generator), first)
    through = camera.through(image, camera.psfs(latent, SIZE))
    assert torch.allclose(camera.member(latent[0])(image), through, atol=1e-3)


def test_latents_fill_the_cube() -> None:
    latents = family().draw(4000, seeded(0))
    assert latents.shape == (4000, 3)
    assert latents.abs().max() <= 1
    assert torch.allclose(latents.var(dim=0), torch.full((3,), 1 / 3), atol=0.02)
    assert latents.mean(dim=0).abs().max() < 0.03


@torch.no_grad()
def test_without_a_generator_it_is_the_mean_mask() -> None:
    camera, image = family(), picture()
    mean = camera.member(torch.zeros(3))
    assert type(mean) is PhaseMaskCamera
    assert mean.config == replace(camera.config, kind="phase-mask")
    assert torch.allclose(camera(image), mean(image), atol=1e-3)
    assert torch.allclose(camera.psf(SIZE), mean.psf(SIZE), atol=1e-7)


@torch.no_grad()
def test_every_image_has_its_own_mask_and_in_training_neighbours_share_few() -> None:
    camera, images = family(), picture(6)
    assert members_of(camera(images, seeded(1))) == [0, 1, 2, 3, 4, 5]
    camera.train()
    assert members_of(camera(images, seeded(1))) == [0, 0, 1, 2, 2, 3]  # four by default
    assert members_of(camera(images[:2], seeded(1))) == [0, 1]
    camera.config.training_draws = 2
    assert members_of(camera(images, seeded(1))) == [0, 0, 0, 1, 1, 1]


def test_both_mean_and_directions_learn() -> None:
    camera = family().train()
    camera(picture(2), seeded(0)).square().mean().backward()
    for name, parameter in camera.named_parameters():
        assert torch.all(parameter.grad != 0), name
    assert [name for name, _ in camera.named_parameters()] == ["coefficients", "directions"]


def test_the_gradient_of_a_member_reaches_each_direction_by_its_number() -> None:
    camera = family()
    camera.psfs(torch.tensor([[0.5, 0.0, -1.0]]), SIZE)[0].square().sum().backward()
    mean, directions = camera.coefficients.grad, camera.directions.grad
    assert torch.allclose(directions, torch.outer(torch.tensor([0.5, 0.0, -1.0]), mean))


@torch.no_grad()
def test_psfs_of_members_are_those_of_their_fixed_cameras() -> None:
    camera = family()
    latents = camera.draw(2, seeded(3))
    for psf, latent in zip(camera.psfs(latents, SIZE), latents, strict=True):
        assert torch.allclose(psf, camera.member(latent).psf(SIZE), atol=1e-7)


@torch.no_grad()
def test_the_steepest_member_is_a_corner_of_the_cube() -> None:
    camera = family(spread=2.5e-7)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    steepest = [steepest_phase_step(camera.pupil_phase(mask), camera.aperture) for mask in camera.masks(corners)]
    assert camera.steepest_member_step() == pytest.approx(max(steepest), rel=1e-5)


@torch.no_grad()
def test_a_family_that_became_too_steep_is_made_samplable() -> None:
    camera = family()
    before = camera.directions.clone()
    camera.keep_samplable()
    assert torch.equal(camera.directions, before)
    camera.directions.mul_(30)
    with pytest.raises(OpticsError, match="set pupil_samples to at least"):
        camera.psfs(camera.draw(20, seeded(0)), SIZE)
    camera.keep_samplable()
    assert camera.steepest_member_step() == pytest.approx(0.97 * math.pi, rel=1e-4)
    camera.psfs(torch.ones(1, 3), SIZE)
    assert torch.allclose(camera.directions / camera.directions.norm(), before / before.norm())


@torch.no_grad()
def test_frozen_it_goes_on_drawing() -> None:
    camera, image = family(), picture(2)
    frozen = camera.frozen(SIZE)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert torch.equal(frozen(image, seeded(2)), camera(image, seeded(2)))
    assert torch.equal(frozen(image), camera(image))
    assert torch.equal(frozen.psf(SIZE), camera.psf(SIZE))
    assert members_of(frozen(image, seeded(2))) == [0, 1]
    assert members_of(frozen.train()(picture(8), seeded(2))) == [0, 0, 1, 1, 2, 2, 3, 3]
    for noise in (None, seeded(0)):
        with pytest.raises(InputError, match="frozen for 32-pixel frames, got 16"):
            frozen(image[..., :16, :16], noise)


@torch.no_grad()
def test_mixed_precision_stays_outside_the_optics() -> None:
    camera, image = family(), picture()
    plain = camera(image, seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(camera(image, seeded(1)), plain)


def test_a_circular_camera_draws_as_well() -> None:
    camera = family(convolution="circular", psf_support=1.0)
    with torch.no_grad():
        flat = camera(torch.full((2, 3, SIZE, SIZE), 0.5), seeded(0))
    assert (flat.mean(dim=(-2, -1)) - 0.5).abs().max() < 5e-3


@torch.no_grad()
def test_camera_file_round_trip(tmp_path: Path) -> None:
    camera, image = family(family_size=7), picture()
    again = load_camera(save_camera(tmp_path / "family.safetensors", camera))
    assert isinstance(again, DynamicCamera)
    assert again.config == camera.config
    assert again.config.family_size == 3
    assert torch.equal(again.directions, camera.directions)
    assert torch.equal(again(image, seeded(0)), camera(image, seeded(0)))


def test_a_fresh_family_is_flat() -> None:
    camera = load_camera("dynamic")
    assert isinstance(camera, DynamicCamera)
    assert camera.directions.shape == (4, 33)
    assert not camera.directions.any()
    assert camera.config == replace(load_camera("portrait").config, kind="dynamic-mask")
    assert isinstance(build_camera(camera.config), DynamicCamera)


def test_a_family_starts_from_a_fixed_mask_with_a_stated_spread() -> None:
    start = PhaseMaskCamera(CameraConfig(pupil_samples=384)).eval()
    start.coefficients.data[0] = 1e-6
    camera = dynamic_from(start, 40, 1e-8, seeded(0))
    assert not camera.training
    assert torch.equal(camera.coefficients, start.coefficients)
    assert torch.allclose(camera.directions.norm(dim=1), torch.full((40,), 1e-8))
    orders = torch.tensor([noll_to_radial_azimuthal(4 + place)[0] for place in range(33)])
    size = torch.stack([camera.directions[:, orders == order].square().mean().sqrt() for order in range(2, 8)])
    assert torch.allclose(size / size[0], (torch.arange(2, 8) / 2) ** (-11 / 6), rtol=0.35)
    assert torch.equal(dynamic_from(start, 40, 1e-8, seeded(0)).directions, camera.directions)


def test_impossible_families_are_refused_in_one_line() -> None:
    camera = family()
    for spread in (0.0, -1e-7, math.inf, math.nan):
        with pytest.raises(ConfigError, match="spread must be above 0 metres"):
            dynamic_from(camera, 2, spread, seeded(0))
    with pytest.raises(ConfigError, match="family_size and training_draws must be at least 1"):
        dynamic_from(camera, 0, 1e-7, seeded(0))
    with pytest.raises(OpticsError, match="choose a smaller spread, or set pupil_samples to at least") as refusal:
        dynamic_from(camera, 2, 1e-5, seeded(0))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("latents", [torch.zeros(3), torch.zeros(1, 4), torch.tensor([[0.0, 1.1, 0.0]])])
def test_impossible_latents_are_refused(latents: Tensor) -> None:
    with pytest.raises(InputError, match=r"shape \(G, 3\) and lie in \[-1, 1\]"):
        family().psfs(latents, SIZE)


def test_a_frame_that_is_not_square_is_refused() -> None:
    with pytest.raises(InputError, match="square frames, got 48×32 pixels"):
        family()(torch.zeros(1, 3, 32, 48), seeded(0))
