"""A tuner that finds what was planted."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from phaseveil.attacks.deconvolution import METHODS, Method
from phaseveil.attacks.tuning import tune
from phaseveil.data.image_io import resize, to_tensor
from phaseveil.errors import ConfigError
from phaseveil.metrics.image import psnr
from phaseveil.optics.camera import CameraConfig, build_camera
from phaseveil.optics.sensor import SensorConfig


def planted(optimum: float, parameter: str = "weight", candidates: tuple[float, ...] = (0.01, 0.1, 1.0)) -> Method:
    """A method that gives grey values, the brightest at ``optimum``."""

    def restore(acquisition: Tensor, psf: Tensor, value: float) -> Tensor:
        return torch.full_like(acquisition, 1 / (1 + abs(math.log10(value / optimum))))

    return Method(restore, parameter, candidates, (1e-5, 500.0))


@pytest.mark.parametrize("optimum", [0.1, 0.3, 30.0, 1e-4])
def test_tuning_finds_a_planted_optimum_and_extends_the_grid(optimum: float) -> None:
    tuned = tune(planted(optimum), torch.zeros(3, 3, 4, 4), torch.ones(3, 1, 1), lambda image: float(image.mean()), 2)
    assert abs(math.log10(tuned.parameter / optimum)) < 0.3
    assert tuned.score == max(tuned.tried.values()) == tuned.tried[tuned.parameter]
    assert list(tuned.tried) == sorted(tuned.tried)
    assert min(tuned.tried) < optimum < max(tuned.tried)


def test_tuning_stops_at_the_limits() -> None:
    tuned = tune(planted(1e9), torch.zeros(1, 3, 4, 4), torch.ones(3, 1, 1), lambda image: float(image.mean()))
    assert tuned.parameter == 500.0


def test_iterations_stay_whole() -> None:
    method = planted(30, "iterations", (5, 20, 80))
    tuned = tune(method, torch.zeros(1, 3, 4, 4), torch.ones(3, 1, 1), lambda image: float(image.mean()))
    assert tuned.parameter in (20, 40)
    assert all(value == round(value) for value in tuned.tried)


def test_tuning_sees_all_images_in_order() -> None:
    seen: list[Tensor] = []
    method = Method(lambda image, psf, value: image, "weight", (0.1, 1.0), (0.1, 1.0))
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def score(restored: Tensor) -> float:
        seen.append(restored)
        return 0.0

    tune(method, images, torch.ones(3, 1, 1), score, batch_size=2)
    assert all(torch.equal(restored, images) for restored in seen)


def test_every_image_keeps_its_own_psf() -> None:
    method = Method(lambda image, psf, value: image * psf, "weight", (0.1, 1.0), (0.1, 1.0))
    seen: list[Tensor] = []
    psfs = torch.arange(5.0).reshape(5, 1, 1, 1)

    def score(restored: Tensor) -> float:
        seen.append(restored)
        return 0.0

    tune(method, torch.ones(5, 3, 4, 4), psfs, score, batch_size=2)
    assert all(torch.equal(restored, psfs.expand(5, 3, 4, 4)) for restored in seen)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="not finite"):
        tune(planted(0.1), torch.zeros(1, 3, 4, 4), torch.ones(3, 1, 1), lambda image: math.nan)


def test_tuning_real_restorations_on_their_error_beats_both_ends(astronaut: np.ndarray) -> None:
    corners = ((0, 150), (200, 100), (60, 0))
    scenes = torch.stack([to_tensor(resize(astronaut[y : y + 192, x : x + 192], 64)) for y, x in corners])
    sensor = SensorConfig(full_well=2000, bits=8)
    camera = build_camera(CameraConfig(kind="gaussian", gaussian_sigma=1.5 / 64, sensor=sensor))
    acquisition, psf = camera(scenes, torch.Generator().manual_seed(0)), camera.psf(64)
    tuned = tune(METHODS["wiener"], acquisition, psf, lambda restored: float(psnr(restored, scenes).mean()))
    values = list(tuned.tried)
    assert values[0] < tuned.parameter < values[-1]
    assert tuned.score > float(psnr(acquisition, scenes).mean()) + 0.5
