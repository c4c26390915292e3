"""Cameras as wholes: geometry, presets, energy, gradients, files and errors."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phaseveil.config import load_config
from phaseveil.errors import CheckpointError, ConfigError, InputError, OpticsError
from phaseveil.optics import camera as cameras
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, build_camera, load_camera, save_camera
from phaseveil.optics.propagation import steepest_phase_step

PRESETS = ("portrait", "paper", "low-resolution", "gaussian", "defocus", "identity", "dynamic")
SIZE = 32


def preset(name: str) -> CameraConfig:
    return load_config(CameraConfig, f"camera/{name}")


def small_config(**changes: object) -> CameraConfig:
    """A slow, narrow camera that 24 pupil samples describe: quick."""
    values = {"aperture_radius": 0.1e-3, "frame_width": 0.03, "pupil_samples": 24, "num_modes": 8, "psf_support": 0.5}
    return CameraConfig(**(values | changes))  # type: ignore[arg-type]


def masked_camera(scale: float = 2e-7, **changes: object) -> PhaseMaskCamera:
    camera = PhaseMaskCamera(small_config(**changes))
    generator = torch.Generator().manual_seed(5)
    camera.coefficients.data = torch.randn(camera.coefficients.shape, generator=generator) * scale
    return camera


def picture(size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_portrait_geometry_is_consistent() -> None:
    config = preset("portrait")
    assert config.frame_width == pytest.approx(0.30)
    assert config.object_distance == pytest.approx(1.0)
    assert config.f_number == pytest.approx(8.0, rel=0.02)
    assert config.focus_error == pytest.approx(0, abs=1e-9)
    back_projected = config.pixel_pitch(256) * 256 * config.object_distance / config.image_distance
    assert back_projected == pytest.approx(config.frame_width)
    assert config.pixel_pitch(128) == 2 * config.pixel_pitch(256)


def test_paper_preset_has_the_authors_numbers() -> None:
    config = preset("paper")
    assert config.f_number == pytest.approx(13.25, abs=0.01)
    assert config.pixel_pitch(256) == pytest.approx(3.713e-6, abs=1e-9)
    assert config.frame_width < 0.02  # no face fits
    assert config.convolution == "circular"


def test_defocus_preset_is_a_disk_of_the_geometric_radius() -> None:
    config = preset("defocus")
    radius = config.aperture_radius * config.image_distance * abs(config.focus_error)  # metres on the sensor
    psf = load_camera("defocus").psf(256)[1]
    axis = torch.arange(psf.shape[-1]) - psf.shape[-1] // 2
    square = (psf * (axis[:, None] ** 2 + axis[None, :] ** 2)).sum().item()
    assert math.sqrt(2 * square) == pytest.approx(radius / config.pixel_pitch(256), rel=0.05)  # RMS of a disk: R/√2
    assert 20 < radius / config.pixel_pitch(256) < 28


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_captures(name: str) -> None:
    camera, image = load_camera(name), picture()
    with torch.no_grad():
        acquisition = camera(image, torch.Generator().manual_seed(0))
    assert acquisition.shape == image.shape
    assert acquisition.dtype == torch.float32
    assert 0 <= acquisition.min() <= acquisition.max() <= 1
    psf = camera.psf(SIZE).detach()
    assert psf.shape[-1] % 2 == 1
    torch.testing.assert_close(psf.sum(dim=(-2, -1)), torch.ones(3), rtol=0, atol=1e-4)
    assert psf.min() >= 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_uniform_scene_stays_as_bright_as_it_is(name: str) -> None:
    colour = torch.tensor([0.2, 0.5, 0.8])[None, :, None, None].expand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        acquisition = load_camera(name)(colour)
    assert (acquisition - colour).abs().max() < 2.5e-3  # half a level of the 10-bit converter, at 0.2


def test_the_identity_camera_shows_the_scene() -> None:
    """At 0.14 mm on the subject a pixel, the clear F/8 lens blurs by less than a pixel."""
    smooth = torch.nn.functional.interpolate(picture(8), size=SIZE, mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        assert (load_camera("identity")(smooth) - smooth).abs().mean() < 0.01


def test_enclosed_energy_grows_with_the_window_and_stays_below_one() -> None:
    shares = [
        masked_camera(psf_support=support).enclosed_psf(SIZE).detach().sum(dim=(-2, -1)) for support in (0.2, 0.5, 0.95)
    ]
    assert torch.all(shares[0] < shares[1])
    assert torch.all(shares[1] < shares[2])
    assert torch.all(shares[2] <= 1 + 1e-4)
    assert torch.all(shares[2] > 0.95)


def test_a_dispersive_mask_blurs_blue_more_than_red() -> None:
    """At equal height the phase goes as Δn/λ: Strehl falls from red to blue."""
    camera = masked_camera(scale=3e-8)
    rms = [phase[camera.aperture > 0].std() for phase in camera.pupil_phase().detach()]
    contrast, wavelengths = camera.delta_n, camera.wavelengths
    assert rms[2] / rms[0] == pytest.approx(
        (contrast[2] / contrast[0] * wavelengths[0] / wavelengths[2]).item(), rel=1e-4
    )
    assert rms[0] < rms[1] < rms[2]


def test_height_map_is_the_sum_of_unit_rms_modes_about_zero() -> None:
    camera = PhaseMaskCamera(small_config(pupil_samples=64, num_modes=15))
    camera.coefficients.data[3] = 1e-7  # j = 7, coma
    height = camera.height_map().detach()
    inside = height[camera.aperture == 1]
    assert inside.mean().item() == pytest.approx(0, abs=1e-10)
    assert inside.square().mean().sqrt().item() == pytest.approx(1e-7, rel=0.05)
    assert torch.all(height[camera.aperture == 0] == 0)


def test_the_coefficients_are_the_only_parameter() -> None:
    camera = masked_camera()
    assert [name for name, _ in camera.named_parameters()] == ["coefficients"]
    assert list(camera.state_dict()) == ["coefficients"]
    assert len(camera.coefficients) == 8 - 3


def test_gradients_of_the_whole_camera_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mask → PSF → blur → noiseless read-out without quantisation, to first order, in float64."""
    monkeypatch.setattr(Tensor, "round_", lambda levels: levels)
    camera = masked_camera(num_modes=6, psf_support=0.6).double()
    image = 0.2 + 0.6 * picture(8).double()[:1]

    def acquire(micrometres: Tensor, scene: Tensor) -> Tensor:
        return torch.func.functional_call(camera, {"coefficients": micrometres * 1e-6}, (scene,))

    start = camera.coefficients.detach() * 1e6
    assert torch.autograd.gradcheck(
        acquire, (start.requires_grad_(), image.requires_grad_()), atol=1e-6, fast_mode=True
    )
    psf_of = torch.func.functional_call(camera, {"coefficients": start * 1e-6}, (image,))
    (gradient,) = torch.autograd.grad(psf_of.square().sum(), start)
    assert torch.all(gradient != 0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_frozen_camera_equals_the_live_one(name: str) -> None:
    camera, image = load_camera(name), picture()
    frozen = camera.frozen(SIZE)
    with torch.no_grad():
        live = camera(image, torch.Generator().manual_seed(1))
        assert torch.equal(frozen(image, torch.Generator().manual_seed(1)), live)
        assert torch.equal(frozen.psf(SIZE), camera.psf(SIZE))


def test_freezing_leaves_the_live_camera_free_to_learn() -> None:
    camera = masked_camera()
    frozen = camera.frozen(SIZE)
    before = frozen(picture())
    assert camera.coefficients.requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    camera.coefficients.data.zero_()
    assert torch.equal(frozen(picture()), before)


def test_the_seed_makes_the_noise() -> None:
    camera, image = masked_camera(), picture()
    with torch.no_grad():
        first, again, other = (camera(image, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_linear_and_circular_convolution_differ_at_the_border_only() -> None:
    image = torch.zeros(1, 3, SIZE, SIZE)
    image[..., : SIZE // 4, :] = 1  # light at the top
    bottom = []
    for kind in ("linear", "circular"):
        with torch.no_grad():
            bottom.append(masked_camera(convolution=kind)(image)[..., -2:, :].mean().item())
    assert bottom[0] < 0.02 < bottom[1]


def test_a_circular_camera_can_use_its_whole_frame_as_support() -> None:
    camera = masked_camera(convolution="circular", psf_support=1.0, pupil_samples=48)
    assert camera.psf(SIZE).shape[-1] == SIZE - 1
    with torch.no_grad():
        assert (camera(torch.full((1, 3, SIZE, SIZE), 0.5)) - 0.5).abs().max() < 2e-3


def test_low_resolution_keeps_nothing_finer_than_its_photosites() -> None:
    camera = load_camera("low-resolution")
    fine = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)  # stripes of one pixel
    with torch.no_grad():
        flat = camera(fine)
    assert flat.std() < 1e-6
    assert flat.mean().item() == pytest.approx(0.735, abs=0.005)  # half the light, as sRGB


@pytest.mark.parametrize("name", ["gaussian", "low-resolution"])
def test_baselines_have_nothing_to_learn(name: str) -> None:
    assert not list(load_camera(name).parameters())


def test_double_precision_goes_through() -> None:
    image = picture().double()
    assert masked_camera().double()(image).dtype == torch.float64
    assert load_camera("low-resolution")(image).dtype == torch.float64


def test_camera_file_round_trip(tmp_path: Path) -> None:
    camera, image = masked_camera(), picture()
    file = save_camera(tmp_path / "mask.safetensors", camera, {"steps": 7})
    again = load_camera(file)
    assert again.config == camera.config
    assert isinstance(again, PhaseMaskCamera)
    assert torch.equal(again.coefficients, camera.coefficients)
    with torch.no_grad():
        assert torch.equal(again(image), camera(image))


@pytest.mark.parametrize("name", ["gaussian", "low-resolution"])
def test_cameras_without_weights_round_trip(tmp_path: Path, name: str) -> None:
    camera, image = load_camera(name), picture()
    again = load_camera(save_camera(tmp_path / "camera.safetensors", camera))
    assert again.config == camera.config
    assert torch.equal(again(image), camera(image))


def test_a_camera_from_a_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("kind: gaussian\ngaussian_sigma: 0.02\n")
    assert load_camera(file).config.gaussian_sigma == 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wavelengths": [640.0, 550.0, 440.0]}, r"wavelengths must be three values in metres .* got \[640\.0"),
        ({"wavelengths": [550e-9]}, "three values"),
        (
            {"kind": "pinhole"},
            "kind must be one of phase-mask, gaussian, low-resolution, dynamic-mask, height-map, got 'pinhole'",
        ),
        ({"convolution": "same"}, "linear or circular"),
        ({"focal_length": 0.0}, "above 0 metres"),
        ({"focal_length": 8.0}, "beyond the focal length"),
        ({"aperture_radius": 0.5}, r"F/0\.008\d is impossible; give aperture_radius in metres"),
        ({"num_modes": 3}, "num_modes ≥ 4"),
        ({"psf_support": 1.5}, r"psf_support must lie in \(0, 1\]"),
        ({"gaussian_sigma": 12.0}, "gaussian_sigma"),
        (
            {"kind": "gaussian", "gaussian_sigma": 0.1},
            "psf_support 0.32 cuts off a blur of gaussian_sigma 0.1; set psf_support to 0.6 at least",
        ),
        ({"family_size": 0}, "family_size and training_draws must be at least 1"),
        ({"training_draws": 0}, "family_size and training_draws must be at least 1"),
    ],
)
def test_impossible_configurations_are_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        CameraConfig(**changes)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


def test_an_unknown_material_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown material 'glass'"):
        build_camera(small_config(material="glass"))


def test_too_few_pupil_samples_for_the_window_are_refused() -> None:
    with pytest.raises(OpticsError, match="set pupil_samples to at least 219"):
        build_camera(CameraConfig(pupil_samples=128))


def test_too_steep_a_mask_is_scaled_down_to_what_the_grid_holds() -> None:
    camera = PhaseMaskCamera(CameraConfig(aperture_radius=0.1e-3, pupil_samples=64, num_modes=8))
    camera.coefficients.data.fill_(3e-6)
    camera.keep_samplable()
    assert steepest_phase_step(camera.pupil_phase(), camera.aperture) == pytest.approx(0.97 * math.pi, rel=1e-4)
    settled = camera.coefficients.clone()
    camera.keep_samplable()
    torch.testing.assert_close(camera.coefficients, settled)


def test_too_steep_a_mask_is_refused() -> None:
    with pytest.raises(OpticsError, match="set pupil_samples to at least"):
        masked_camera(scale=1e-5).psf(SIZE)


@pytest.mark.parametrize("name", PRESETS)
def test_a_frame_that_is_not_square_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="square frames, got 48×32 pixels"):
        load_camera(name)(torch.zeros(1, 3, 32, 48))


def test_a_frozen_camera_takes_its_own_size_only() -> None:
    with pytest.raises(InputError, match="frozen for 32-pixel frames, got 16"):
        masked_camera().frozen(SIZE)(picture(16))


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"camera/leica: no such config file or preset; presets are .*camera/portrait"
    ):
        load_camera("leica")


def test_a_file_that_is_no_camera_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "camera.safetensors"
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_camera(file)
    file.write_bytes(b"not a camera")
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_camera(file)


def test_a_camera_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    camera = masked_camera()
    camera.config.num_modes = 9  # the file now says one mode more than it holds
    file = save_camera(tmp_path / "camera.safetensors", camera)
    with pytest.raises(CheckpointError, match="weights do not fit PhaseMaskCamera"):
        load_camera(file)


def test_the_list_of_kinds_is_complete() -> None:
    made_of_a_part = {"height-map"}  # has no preset
    assert {preset(name).kind for name in PRESETS} | made_of_a_part == set(cameras.CAMERAS)
