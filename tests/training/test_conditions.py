"""Circumstances drawn for a batch."""

import math
from typing import Any

import pytest
import torch

from phaseveil.config import from_mapping
from phaseveil.errors import ConfigError
from phaseveil.optics.camera import CameraConfig, build_camera
from phaseveil.training.conditions import ConditionsConfig, draw_conditions, draw_departure


def test_by_default_the_camera_stays_as_it_is_designed() -> None:
    camera = CameraConfig()
    drawn = draw_conditions(camera, ConditionsConfig(), torch.Generator().manual_seed(0))
    assert drawn.sensor == camera.sensor
    assert drawn.object_distance == camera.object_distance
    assert drawn.focus_error == pytest.approx(0, abs=1e-9)


def test_draws_stay_in_their_ranges_and_reach_their_ends() -> None:
    camera = CameraConfig()
    ranges = ConditionsConfig(noise=[0.5, 2.0], bits=[8, 12], distance=[0.8, 1.25], focus=1e-5)
    draws = [draw_conditions(camera, ranges, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert {drawn.sensor.bits for drawn in draws} == {8, 12}
    for values, low, high in (
        ([(camera.sensor.full_well / d.sensor.full_well) ** 0.5 for d in draws], 0.5, 2.0),
        ([camera.sensor.read_noise / d.sensor.read_noise for d in draws], 0.5, 2.0),
        ([d.object_distance / camera.object_distance for d in draws], 0.8, 1.25),
        ([d.image_distance - camera.image_distance for d in draws], -1e-5, 1e-5),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high


def test_a_nearer_face_is_out_of_focus_and_larger_on_the_sensor() -> None:
    camera = CameraConfig(aperture_radius=2e-3, pupil_samples=384, psf_support=0.1)
    near = draw_conditions(camera, ConditionsConfig(distance=[0.5, 0.5]), torch.Generator())
    assert near.focus_error == pytest.approx(1.0, rel=1e-6)  # dioptres: 1/0.5 - 1/1
    assert near.sensor_width == pytest.approx(2 * camera.sensor_width)
    lens = build_camera(camera)
    assert lens.under(near).psf(512).max() < 0.5 * lens.psf(512).max()
    assert lens.config is camera
    assert lens.under(near).coefficients is lens.coefficients


@pytest.mark.parametrize(
    ("ranges", "moved"),
    [
        ({}, False),
        ({"noise": [0.5, 2.0], "bits": [8, 12]}, False),
        ({"distance": [0.9, 1.0]}, True),
        ({"focus": 1e-5}, True),
        ({"scale": 0.01}, True),
        ({"figure": 3e-8}, True),
        ({"decentre": 1e-5}, True),
    ],
)
def test_it_is_known_what_moves_the_optics(ranges: dict[str, Any], moved: bool) -> None:
    """And it is true: PSFs of two draws differ, or are the same to the last bit."""
    camera = CameraConfig(aperture_radius=0.1e-3, pupil_samples=64, num_modes=15)
    conditions, lens = from_mapping(ConditionsConfig, ranges), build_camera(camera)
    lens.coefficients.data.fill_(1e-7)
    psfs = []
    for seed in (0, 1):
        luck = torch.Generator().manual_seed(seed)
        drawn = draw_conditions(camera, conditions, luck)
        psfs.append(lens.under(drawn, draw_departure(camera, conditions, luck)).psf(32))
    assert conditions.move_optics is moved
    assert torch.equal(*psfs) is not moved


def test_no_mask_lies_farther_off_than_a_workshop_lets_pass() -> None:
    camera, ranges = CameraConfig(aperture_radius=0.5e-3), ConditionsConfig(decentre=1e-5)
    luck = torch.Generator().manual_seed(0)
    shifts = torch.tensor([draw_departure(camera, ranges, luck).shift for _ in range(2000)])  # type: ignore[union-attr]
    away = 0.5e-3 * shifts.norm(dim=1)
    assert away.max().item() == pytest.approx(3e-5)
    assert 0.5e-3 * shifts.std(dim=0).numpy() == pytest.approx([1e-5, 1e-5], rel=0.05)
    assert (away > 2.9999e-5).double().mean().item() == pytest.approx(math.exp(-4.5), abs=0.006)


@pytest.mark.parametrize("values", [{"noise": [2.0, 1.0]}, {"distance": [0.0, 1.0]}, {"bits": [0]}, {"focus": -1.0}])
def test_impossible_ranges_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        from_mapping(ConditionsConfig, values)
