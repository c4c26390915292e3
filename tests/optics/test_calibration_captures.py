"""From raw captures to windows: dark level, saturation, brackets, places; and captures that cannot be used."""

from dataclasses import replace

import pytest
import torch
from tests.optics.calibration_cases import CONFIG, SIZE, bench, camera_with, random_mask

from phaseveil.errors import InputError
from phaseveil.optics.calibration import _offset, locate
from phaseveil.optics.calibration_bench import point_images
from phaseveil.optics.calibration_captures import (
    Capture,
    Darkness,
    above_floor,
    darkness_of,
    measured_psf,
    one_size,
    point_windows,
)
from phaseveil.optics.sensor import expose

PEDESTAL = 0.05
CAMERA = camera_with(random_mask(0, 2.5e-7))
PLACE = (46.3, 49.8)


def capture(seconds: float, place: tuple[float, float] = PLACE, seed: int = 0, peak: float = 0.8) -> Capture:
    """A point whose brightest pixel is ``peak`` of white in a second, over a black level."""
    shares = point_images(CAMERA, bench(), [place], SIZE)[0]
    light = shares * (peak * seconds / shares.amax()) + PEDESTAL
    values = expose(light, CONFIG.sensor, torch.Generator().manual_seed(seed))
    return Capture(f"point-{seconds:g}-{seed}.png", values, seconds)


def darkness(*times: float) -> Darkness:
    generator = torch.Generator().manual_seed(9)
    level = torch.full((3, SIZE, SIZE), PEDESTAL)
    return darkness_of(
        [Capture("dark.png", expose(level, CONFIG.sensor, generator), time) for time in times for _ in range(8)],
        CONFIG.sensor,
    )


def test_the_dark_level_goes_and_the_place_is_found() -> None:
    windows = point_windows([capture(1.0)], darkness(1.0), bench())
    empty = windows.signal[0, :, 0, 0]
    assert float(empty.abs().max()) < 0.02
    assert windows.signal.shape == (1, 3, bench().pixels, bench().pixels)
    assert float(windows.places.abs().max()) <= 0.5


def test_a_bracket_sees_what_one_exposure_cannot() -> None:
    """The short one sees the saturated core, the long one the faint halo."""
    dark = darkness(0.05, 1.0, 20.0)
    bracket = [capture(0.05), capture(1.0, seed=1), capture(20.0, seed=2)]
    all_of_it, short = point_windows(bracket, dark, bench()), point_windows(bracket[:1], dark, bench())
    assert len(all_of_it.places) == 1
    assert all_of_it.variance.isfinite().all()
    assert float(all_of_it.variance.mean()) < 0.1 * float(short.variance.mean())
    truth = CAMERA.enclosed_psf(SIZE)
    halo = truth[0] < 0.02 * truth[0].max()
    faint = [windows.signal[0, 0] for windows in (all_of_it, short)]
    assert float(faint[0][halo].std()) < 0.5 * float(faint[1][halo].std())


def test_saturated_pixels_are_unknown() -> None:
    windows = point_windows([capture(3.0)], darkness(3.0), bench())
    unknown = windows.variance.isinf()
    assert 0 < float(unknown.float().mean()) < 0.5
    assert unknown.flatten()[windows.signal.flatten().argmax()] or float(windows.signal.max() * 3) < 0.95


def test_pixels_outside_the_frame_are_unknown() -> None:
    windows = point_windows([capture(1.0, (12.0, 48.0))], darkness(1.0), bench())
    assert windows.variance[:, :, 0].isinf().all()
    assert windows.variance[:, :, -1].isfinite().all()


def test_the_measured_psf_is_the_cameras_own() -> None:
    """Positions come from the search; here the model's own places do."""
    places = torch.tensor([(46.3, 49.8), (48.1, 45.5), (50.6, 48.9), (44.0, 44.4)])
    shots = [
        replace(capture(1.0, tuple(place), seed), position=str(seed)) for seed, place in enumerate(places.tolist())
    ]
    windows = point_windows(shots, darkness(1.0), bench())
    found = locate(CAMERA, windows, (CAMERA.coefficients, _offset(CAMERA, [windows], CAMERA.coefficients)))
    assert torch.allclose(found.places.diff(dim=0) % 1, places.diff(dim=0) % 1, atol=0.05)
    psf = measured_psf(found)
    assert torch.allclose(psf.sum(dim=(-2, -1)), torch.ones(3), atol=1e-4)
    assert widths(psf)[0] == pytest.approx(widths(CAMERA.psf(SIZE))[0], rel=0.2)


def widths(psf: torch.Tensor) -> list[float]:
    """RMS width of each channel along x, pixels."""
    line, place = psf.sum(dim=-2), torch.arange(psf.shape[-1])
    mean = (line * place).sum(dim=-1)
    return ((line * place.square()).sum(dim=-1) - mean.square()).sqrt().tolist()


def test_empty_pixels_hold_nothing() -> None:
    noise = 0.01 * torch.randn(3, 25, 25, generator=torch.Generator().manual_seed(0))
    noise[:, 12, 12] = 1
    clean = above_floor(noise, torch.tensor(0.01))
    assert float(clean[:, 12, 12].min()) > 0.95


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda shot: replace(shot, values=torch.full_like(shot.values, PEDESTAL)), "no point found"),
        (lambda shot: replace(shot, values=torch.ones_like(shot.values)), "saturated almost everywhere"),
        (
            lambda shot: replace(shot, values=torch.maximum(shot.values, shot.values.roll((48, 48), (1, 2)))),
            "several points",
        ),
        (lambda shot: replace(shot, seconds=0.5), "no dark frame of 0.5 s"),
        (lambda shot: replace(shot, seconds=None), "exposure time is missing"),
    ],
)
def test_captures_that_cannot_be_used(change, part: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=part) as caught:
        point_windows([change(capture(1.0, (24.0, 24.0)))], darkness(1.0), bench())
    assert "point-1-0.png" in str(caught.value)


def test_exposure_times_that_are_missing_are_noticed() -> None:
    """Two brightnesses of one place, said to be of one exposure time."""
    bracket = [capture(0.3), replace(capture(1.0, seed=1), seconds=0.3)]
    with pytest.raises(InputError, match="give the times by --exposures"):
        point_windows(bracket, darkness(0.3), bench())


def test_named_positions_stay_apart() -> None:
    shots = [replace(capture(1.0, seed=seed), position=name) for seed, name in enumerate("ab")]
    assert len(point_windows(shots, darkness(1.0), bench()).places) == 2
    assert len(point_windows([replace(shot, position="") for shot in shots], darkness(1.0), bench()).places) == 1


def test_dark_frames_are_needed_and_of_one_size() -> None:
    with pytest.raises(InputError, match="no dark frame"):
        darkness_of([], CONFIG.sensor)
    shots = [capture(1.0), replace(capture(1.0), name="small.png", values=torch.zeros(3, 20, 20))]
    with pytest.raises(InputError, match=r"small.png: 20×20 pixels, but point-1-0.png has 96×96"):
        one_size(shots)
