import json
from pathlib import Path

import numpy as np
import pytest

from phaseveil.apps.capture import capture
from phaseveil.data.image_io import read_image, write_png
from phaseveil.optics.camera import load_camera


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[:, 24:] = 200
    write_png(tmp_path / "in" / "edge.png", picture)
    write_png(tmp_path / "in" / "wide.png", picture[:24])
    write_png(tmp_path / "in" / "zoom.png", np.kron(picture, np.ones((2, 2, 1), np.uint8)))
    return tmp_path / "in"


def test_captures_are_blurred_and_repeatable(sources: Path, tmp_path: Path) -> None:
    camera = load_camera("gaussian")
    warnings: list[str] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        summary = capture([sources], tmp_path / name, camera, lambda done, total: None, warnings.append, seed)
        assert (summary.done, summary.skipped) == (2, 1)
    first, again, other = (read_image(tmp_path / name / "edge.png") for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 20 < first[24, 23].mean() < 180
    assert read_image(tmp_path / "a/zoom.png").shape == (96, 96, 3)
    assert warnings[0] == f"skipped {sources / 'wide.png'}: {json.loads(lines(tmp_path / 'a')[1])['reason']}"
    assert "not square (48×24 px)" in warnings[0]


def test_a_size_can_be_asked_for(sources: Path, tmp_path: Path) -> None:
    capture([sources / "zoom.png"], tmp_path / "out", load_camera("low-resolution"), lambda *_: None, print, size=32)
    assert read_image(tmp_path / "out/zoom.png").shape == (32, 32, 3)


def lines(out: Path) -> list[str]:
    return (out / "manifest.jsonl").read_text("utf-8").splitlines()
