"""A mask's departure in its modes against the whole surface that a workshop makes."""

import pytest
import torch

from phaseveil.optics.camera import PhaseMaskCamera, build_camera, load_camera
from phaseveil.optics.departure import MaskDeparture
from phaseveil.optics.tolerance import FIGURE_MODES, Tolerances, built_within, draw_deviation
from phaseveil.training.conditions import ConditionsConfig, draw_departure


@pytest.fixture(scope="module")
def learned() -> PhaseMaskCamera:
    camera = load_camera("learned")
    assert isinstance(camera, PhaseMaskCamera)
    return camera.requires_grad_(False)


@pytest.mark.parametrize("tolerances", [{"scale": 0.03}, {"figure": 150e-9}, {"decentre": 25e-6}])
def test_it_is_the_camera_that_the_whole_surface_gives(learned: PhaseMaskCamera, tolerances: dict[str, float]) -> None:
    deviation = draw_deviation(Tolerances(**tolerances), torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    across, along = deviation.decentre
    radius = learned.config.aperture_radius
    departure = MaskDeparture(deviation.scale, deviation.figure, (across / radius, along / radius))
    whole = built_within(learned, deviation).psf(128)
    modal = learned.under(learned.config, departure).psf(128)
    nominal = learned.psf(128)
    assert (modal - whole).abs().sum() < 0.05 * (nominal - whole).abs().sum()


def test_a_shift_moves_a_bowl_and_leaves_its_curvature() -> None:
    bowl = build_camera(load_camera("portrait").config)
    assert isinstance(bowl, PhaseMaskCamera)
    coefficients = torch.zeros_like(bowl.coefficients)
    coefficients[0] = 1e-6
    moved = MaskDeparture(shift=(0.02, -0.01)).of(coefficients)
    torch.testing.assert_close(moved, coefficients, rtol=1e-5, atol=1e-12)  # the rest is tilt


def test_the_design_learns_through_it() -> None:
    coefficients = torch.randn(33, dtype=torch.float64, requires_grad=True)
    departure = MaskDeparture(1.01, (0.1,) * len(FIGURE_MODES), (0.02, 0.03))
    assert torch.autograd.gradcheck(departure.of, (coefficients,))


def test_fewer_modes_than_a_figure_error_has_are_fine() -> None:
    assert MaskDeparture(figure=(1.0,) * len(FIGURE_MODES)).of(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_nothing_is_drawn_where_no_tolerance_is_set(learned: PhaseMaskCamera) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_departure(learned.config, ConditionsConfig(focus=1e-5), generator) is None
    assert torch.equal(generator.get_state(), before)


def test_draws_have_their_spread(learned: PhaseMaskCamera) -> None:
    ranges = ConditionsConfig(scale=0.02, figure=50e-9, decentre=10e-6)
    draws = [draw_departure(learned.config, ranges, torch.Generator().manual_seed(seed)) for seed in range(400)]
    scale = torch.tensor([one.scale - 1 for one in draws if one])
    figure = torch.tensor([one.figure for one in draws if one])
    shift = torch.tensor([one.shift for one in draws if one]) * learned.config.aperture_radius
    assert scale.std() == pytest.approx(0.02, rel=0.15)
    assert figure.square().sum(-1).mean().sqrt() == pytest.approx(50e-9, rel=0.1)
    assert shift.std() == pytest.approx(10e-6, rel=0.15)
