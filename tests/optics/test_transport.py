"""Masks by optimal transport: equal shares of light, and wave-optical PSFs of the wanted width, lean and side."""

import builtins
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from phaseveil.errors import ConfigError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera
from phaseveil.optics.transport import disk_points, equal_shares, mode_gradients, transport_coefficients

SIZE = 64
PIXELS = 47


@pytest.fixture(scope="module")
def optics() -> PhaseMaskCamera:
    return PhaseMaskCamera(CameraConfig(num_modes=66, pupil_samples=512, psf_support=0.72))


def blob(x: float, y: float, width: float, height: float, lean: float = 0.0) -> Tensor:
    """Gaussian of a centre, two standard deviations and a correlation, pixels."""
    axis = torch.arange(PIXELS) - PIXELS // 2
    along, across = (axis[:, None] - y) / height, (axis[None, :] - x) / width
    return torch.exp(-0.5 * (along**2 + across**2 - 2 * lean * along * across) / (1 - lean**2))


def moments(light: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (x, y) and covariance of light, pixels."""
    axis = torch.arange(PIXELS, dtype=torch.float64) - PIXELS // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    weights, places = (light / light.sum()).double(), torch.stack([x, y])
    centre = (weights * places).sum(dim=(1, 2))
    away = places - centre[:, None, None]
    return centre, torch.einsum("ihw,jhw,hw->ij", away, away, weights)


def test_points_of_the_pupil_share_it_evenly() -> None:
    points = disk_points(2000)
    radius = np.hypot(*points.T)
    assert radius.max() < 1
    assert np.mean(radius < 0.5) == pytest.approx(0.25, abs=0.002)  # a quarter of the area
    assert np.abs(points.mean(axis=0)).max() < 0.01


def test_shares_of_light_follow_the_light() -> None:
    light = np.array([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    places = equal_shares(light, 4000)
    inside = np.floor(places + 1.5).astype(int)
    counts = np.zeros((3, 3))
    np.add.at(counts, (inside[:, 1], inside[:, 0]), 1 / 4000)
    assert counts == pytest.approx(light / 8, abs=0.003)
    middle = places[(inside[:, 1] == 1)]
    assert middle.mean(axis=0) == pytest.approx([0, 0], abs=0.02)  # evenly within its pixel


@pytest.mark.parametrize(
    "wanted",
    [
        {"x": 0.0, "y": 0.0, "width": 4.0, "height": 4.0},
        {"x": 0.0, "y": 0.0, "width": 3.0, "height": 5.5},
        {"x": 0.0, "y": 0.0, "width": 4.0, "height": 4.0, "lean": 0.6},
    ],
    ids=["round", "upright", "leaning"],
)
def test_the_waves_of_a_transported_mask_go_where_they_are_wanted(
    optics: PhaseMaskCamera, wanted: Mapping[str, float]
) -> None:
    target = blob(**wanted)
    optics.coefficients.data = transport_coefficients(optics, target, SIZE, points=1000)
    with torch.no_grad():
        psf = optics.psf(SIZE)
    _, aim = moments(target)
    for colour in psf:
        _, spread = moments(colour)
        assert spread == pytest.approx(aim, abs=0.12 * aim.diagonal().max().item())


def test_light_to_one_side_lands_on_that_side(optics: PhaseMaskCamera) -> None:
    target = blob(-2.0, 0.0, 2.5, 2.5) + 0.6 * blob(3.0, -2.0, 4.0, 4.0)
    optics.coefficients.data = transport_coefficients(optics, target, SIZE, points=1000)
    with torch.no_grad():
        found = optics.psf(SIZE)[1]
    # The mask has no tilt, so the light's middle is on the axis; what tells the sides apart is the third moment.
    assert torch.sign(skew(found)).equal(torch.sign(skew(target)))
    shifts = tuple(-round(place) for place in moments(target)[0].flip(0).tolist())
    pair = torch.stack([found.flatten(), torch.roll(target, shifts, (0, 1)).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.95  # turned by 180° it is 0.82


def test_with_a_margin_the_slopes_run_away_less_beyond_the_rim() -> None:
    """A mask beside its place shows the pupil what lies beyond; polynomials of high degree run away there."""
    optics = PhaseMaskCamera(CameraConfig(num_modes=136, pupil_samples=256, psf_support=0.3))
    rim, beyond = (torch.from_numpy(points) for points in (disk_points(3000)[-600:], disk_points(3000, 0.06)[3000:]))
    assert beyond.norm(dim=1).max() == pytest.approx(1.06, abs=1e-3)
    steepest = []
    for margin in (0.0, 0.06):
        mask = transport_coefficients(optics, blob(0, 0, 5, 4), SIZE, points=200, margin=margin).double()
        at_rim, past = ((mode_gradients(136, points) @ mask).abs().max().item() for points in (rim, beyond))
        steepest.append(past / at_rim)
    assert steepest[1] < 0.7 * steepest[0]


def skew(light: Tensor) -> Tensor:
    """Third moments of light about its middle along x and along y, pixels cubed."""
    centre, _ = moments(light)
    axis = torch.arange(PIXELS, dtype=torch.float64) - PIXELS // 2
    weights = (light / light.sum()).double()
    return torch.stack(
        [
            (weights.sum(dim=0) * (axis - centre[0]) ** 3).sum(),
            (weights.sum(dim=1) * (axis - centre[1]) ** 3).sum(),
        ]
    )


def test_what_cannot_be_transported_is_said(optics: PhaseMaskCamera) -> None:
    with pytest.raises(ConfigError, match="needs light"):
        transport_coefficients(optics, torch.zeros(PIXELS, PIXELS), SIZE)
    with pytest.raises(ConfigError, match="needs light"):
        transport_coefficients(optics, -blob(0, 0, 3, 3), SIZE)
    with pytest.raises(ConfigError, match="give more points"):
        transport_coefficients(optics, blob(0, 0, 3, 3), SIZE, points=50)


def test_without_scipy_it_is_said_what_to_install(optics: PhaseMaskCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, scope: Mapping[str, object] | None = None, *rest: object) -> object:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, scope, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"phaseveil\[train\]"):
        transport_coefficients(optics, blob(0, 0, 3, 3), SIZE)
