"""bench.blurred_link: new faces and clear photographs are seen through the same blur, each in its place."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import blurred_link
from torch import Tensor

from phaseveil.apps.attack_data import Study
from phaseveil.metrics.identity import Thresholds
from phaseveil.metrics.photographs import PairSet
from phaseveil.optics.camera import CameraConfig

COUNT = 5


class Means:
    """Embeds an image as its mean colour."""

    name, dimension = "means", 3

    def embed(self, images: Tensor, places: np.ndarray) -> np.ndarray:
        return images.mean(dim=(2, 3)).numpy()


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Places 1 and 3 are attacked, 3 and 4 their gallery; the scene of place n is n everywhere."""
    pairs = np.array([[1, 3], [3, 4], [1, 4]])
    persons, same = np.array([0, 1, 2, 1, 2]), np.array([True, False, False])
    listed = PairSet([Path("x")] * COUNT, np.zeros((COUNT, 2, 3)), np.zeros((COUNT, 68, 2)), persons, pairs, same)
    monkeypatch.setattr(Study, "scenes", lambda _, places: flat(places))
    monkeypatch.setattr(Study, "embed", lambda _, recogniser, images, places: recogniser.embed(images, places))
    return Study(listed, 8, 0, np.array([0]), np.array([1, 3]), np.array([3, 4]), np.eye(COUNT), Thresholds(0, None), 9)


def flat(places: np.ndarray) -> Tensor:
    return torch.from_numpy(places).float()[:, None, None, None].expand(-1, 3, 8, 8)


@pytest.mark.parametrize("sigma", [0, 6])
def test_both_sides_are_seen_through_the_blur(study: Study, sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    blurs = []

    def lens(config: CameraConfig) -> Callable[[Tensor], Tensor]:
        blurs.append((config.kind, config.gaussian_sigma))
        return lambda images: images + 0.5

    monkeypatch.setattr(blurred_link, "build_camera", lens)
    found = blurred_link.through(sigma, study, Means(), 10 * flat(study.probes))
    shift = 0.5 if sigma else 0.0
    assert found.probes[:, 0].tolist() == [10 + shift, 30 + shift]
    assert found.clear[[1, 3, 4], 0].tolist() == [1 + shift, 3 + shift, 4 + shift]
    assert np.isnan(found.clear[[0, 2]]).all()
    assert set(blurs) == ({("gaussian", 6 / 256)} if sigma else set())


def test_a_negative_blur_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["blurred_link", "-1", "--pairs", "pairs.csv", "--out", "out"])
    with pytest.raises(SystemExit) as stopped:
        blurred_link.main()
    assert stopped.value.code == 2
    assert "SIGMA is a standard deviation, 0 or more" in capsys.readouterr().err
