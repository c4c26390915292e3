"""Cameras drawn within tolerances: each deviation does what its physics says."""

import dataclasses
import math

import pytest
import torch

from phaseveil.errors import ConfigError, OpticsError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera
from phaseveil.optics.fabrication import surface
from phaseveil.optics.height_map import built_camera
from phaseveil.optics.tolerance import Tolerances, built_within, draw_deviation, rough_surface
from phaseveil.run_state import seeded

EVERYTHING = Tolerances(
    scale=0.01, figure=2e-8, roughness=5e-9, correlation_length=15e-6, quantisation=1e-8, decentre=2e-6, tilt=0.01,
    focus=1e-5, distance=[0.9, 1.1], wavelength=2e-9, noise=[0.5, 2.0], temperature=[-20.0, 40.0],
)  # fmt: skip


def design(**changes: object) -> PhaseMaskCamera:
    values = {"aperture_radius": 0.1e-3, "frame_width": 0.03, "pupil_samples": 48, "num_modes": 8, "psf_support": 0.5}
    camera = PhaseMaskCamera(CameraConfig(**(values | changes)))  # type: ignore[arg-type]
    camera.coefficients.data = 2e-7 * torch.randn(5, generator=torch.Generator().manual_seed(5))
    return camera


def drawn(tolerances: Tolerances, number: int = 0):  # type: ignore[no-untyped-def]
    return draw_deviation(tolerances, seeded(0, number, 1))


@torch.no_grad()
def test_no_deviation_is_the_design() -> None:
    camera = design()
    torch.testing.assert_close(built_within(camera, drawn(Tolerances())).psf(32), camera.psf(32), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in EVERYTHING.active() if n != "noise"])
@torch.no_grad()
def test_each_tolerance_alone_changes_the_psf(name: str) -> None:
    camera = design()
    built = built_within(camera, drawn(EVERYTHING.only(name)))
    change = (built.psf(32) - camera.psf(32)).abs().max().item()
    assert change > 1e-9
    assert change < 0.1


def test_noise_changes_the_sensor_alone() -> None:
    built = built_within(design(), drawn(EVERYTHING.only("noise")))
    factor = drawn(EVERYTHING.only("noise")).noise
    assert built.config.sensor.read_noise == pytest.approx(3.0 / factor)
    assert factor != 1


def test_one_tolerance_alone_draws_what_it_draws_among_all() -> None:
    together, alone = drawn(EVERYTHING, 7), drawn(EVERYTHING.only("decentre"), 7)
    assert alone.decentre == together.decentre
    assert alone.scale == 1
    assert dataclasses.astuple(drawn(EVERYTHING, 8)) != dataclasses.astuple(together)


@torch.no_grad()
def test_height_scales_and_figure_has_its_rms() -> None:
    camera = design()
    deviation = dataclasses.replace(drawn(Tolerances()), scale=1.02)
    inside = camera.aperture == 1
    ratio = built_within(camera, deviation).height_map()[inside].std() / camera.height_map()[inside].std()
    assert ratio.item() == pytest.approx(1.02, rel=1e-4)
    draws = [drawn(Tolerances(figure=5e-8), number).figure for number in range(400)]
    assert torch.tensor(draws).square().sum(dim=1).mean().sqrt().item() == pytest.approx(5e-8, rel=0.05)


@torch.no_grad()
def test_temperature_of_fused_silica_is_its_coefficients() -> None:
    camera = design()
    warm = built_within(camera, dataclasses.replace(drawn(Tolerances()), temperature=100.0))
    torch.testing.assert_close(warm.delta_n - camera.delta_n, torch.full((3,), 1e-3), rtol=1e-3, atol=0)
    with pytest.raises(ConfigError, match="temperature"):
        built_within(design(material="pmma"), dataclasses.replace(drawn(Tolerances()), temperature=1.0))


def test_a_rough_surface_has_unit_rms_and_its_correlation() -> None:
    length, total = 6.0, []
    for seed in range(6):
        rough = rough_surface(128, length, torch.Generator().manual_seed(seed))
        total.append([(rough[:, lag:] * rough[:, : 128 - lag]).mean() for lag in (0, 6, 12)])
    zero, one, two = torch.tensor(total).mean(dim=0).tolist()
    assert zero == pytest.approx(1, abs=0.15)
    assert one / zero == pytest.approx(math.exp(-1), abs=0.08)
    assert two / zero == pytest.approx(math.exp(-4), abs=0.1)
    with pytest.raises(OpticsError, match="correlation"):
        rough_surface(32, 1.0, torch.Generator())


def test_mirrors_and_steps_are_refused() -> None:
    camera = design()
    mirror = built_camera(camera.config, surface(camera, 48), contrast=torch.full((3,), -2.0))
    with pytest.raises(ConfigError, match="mirrors"):
        built_within(mirror, drawn(Tolerances()))
    smooth = built_camera(camera.config, surface(camera, 48))
    assert built_within(smooth, drawn(EVERYTHING)).psf(32).isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [{"scale": -0.1}, {"figure": 50.0}, {"distance": [1.1, 0.9]}, {"noise": [0.0, 1.0]}, {"tilt": float("nan")}],
)
def test_impossible_tolerances_are_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="tolerances"):
        Tolerances(**wrong)  # type: ignore[arg-type]
