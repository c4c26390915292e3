"""bench.blurred_link: new faces and clear photographs are seen through the same blur, each in its place."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bench import blurred_link
from torch import Tensor

from phaseveil.apps.attack_data import Study
from phaseveil.metrics.identity import Thresholds
from phaseveil.metrics.photographs import PairSet

COUNT = 5


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Places 3 and 1 are attacked, 3 and 4 their gallery; scene and new face of place n are n and 10 n everywhere."""
    pairs = np.array([[1, 3], [3, 4], [1, 4]])
    persons, same = np.array([0, 1, 2, 1, 2]), np.array([True, False, False])
    listed = PairSet([Path("x")] * COUNT, np.zeros((COUNT, 2, 3)), np.zeros((COUNT, 68, 2)), persons, pairs, same)
    monkeypatch.setattr(Study, "scenes", lambda _, places: flat(places))
    monkeypatch.setattr(Study, "embed", lambda _, recogniser, images, places: recogniser(images))
    monkeypatch.setattr(blurred_link, "acquire", lambda optics, study, places: flat(places))
    monkeypatch.setattr(blurred_link, "draw_faces", lambda pipeline, acquisitions, study, places: 10 * acquisitions)
    return Study(listed, 8, 0, np.array([0]), np.array([1, 3]), np.array([3, 4]), np.eye(COUNT), Thresholds(0, None), 9)


def flat(places: np.ndarray) -> Tensor:
    return torch.from_numpy(places).float()[:, None, None, None].expand(-1, 3, 8, 8)


@pytest.mark.parametrize("lens", [None, lambda images: images + 0.5])
def test_both_sides_are_seen_through_the_lens(study: Study, lens: object) -> None:
    pipeline = SimpleNamespace(camera=SimpleNamespace(optics=None))
    found = blurred_link.through(lens, study, lambda images: images.mean(dim=(2, 3)).numpy(), pipeline, sigma=6)  # type: ignore[arg-type]
    shift = 0.5 if lens else 0.0
    assert found.probes[:, 0].tolist() == [10 + shift, 30 + shift]
    assert found.clear[[1, 3, 4], 0].tolist() == [1 + shift, 3 + shift, 4 + shift]
    assert np.isnan(found.clear[[0, 2]]).all()
    assert found.key == "blur-6"
    assert found.refitted


def test_a_negative_blur_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["blurred_link", "-1", "--pairs", "pairs.csv", "--out", "out"])
    with pytest.raises(SystemExit) as stopped:
        blurred_link.main()
    assert stopped.value.code == 2
    assert "SIGMA is a standard deviation, 0 or more" in capsys.readouterr().err
