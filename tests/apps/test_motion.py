"""Flow carries a face's points along, and says so when it cannot."""

import numpy as np
import pytest
from clips import scene

from phaseveil.apps.motion import correlation, follow, grey, is_cut
from phaseveil.data.align import invert, template_points, transform


def points_of(x: float, y: float, side: float) -> np.ndarray:
    """Five points of a face whose crop of ``side`` pixels has its middle at (x, y)."""
    to_crop = np.array([[256 / side, 0, 127.5 - x * 256 / side], [0, 256 / side, 127.5 - y * 256 / side]])
    return transform(template_points(256), invert(to_crop))


@pytest.mark.parametrize("shift", [(0.5, 0.0), (3.0, -2.0), (-12.0, 4.0)])
def test_points_move_with_the_face(shift: tuple[float, float]) -> None:
    before, after = (grey(scene({1: (100 + dx, 80 + dy, 90)})) for dx, dy in ((0.0, 0.0), shift))
    moved = follow(before, after, points_of(100, 80, 90))
    assert moved is not None
    assert np.abs(moved - points_of(100 + shift[0], 80 + shift[1], 90)).max() < 0.35


def test_a_large_face_is_followed_to_a_fraction_of_its_reduced_pixels() -> None:
    before, after = (grey(scene({2: (300 + dx, 240, 380)}, height=480, width=640)) for dx in (0, 6))
    moved = follow(before, after, points_of(300, 240, 380))
    assert moved is not None
    assert np.abs(moved - points_of(306, 240, 380)).max() < 0.6


@pytest.mark.parametrize("after", [scene({}), scene({3: (100, 80, 90)}, seed=4), np.full((160, 240, 3), 90, np.uint8)])
def test_a_face_that_is_gone_is_lost(after: np.ndarray) -> None:
    assert follow(grey(scene({1: (100, 80, 90)})), grey(after), points_of(100, 80, 90)) is None


def test_a_face_outside_the_frame_is_lost() -> None:
    frame = grey(scene({}))
    assert follow(frame, frame, points_of(400, 80, 60)) is None


def test_another_scene_is_a_cut_and_a_flash_is_none() -> None:
    frame = scene({1: (100, 80, 90)})
    assert is_cut(grey(frame), grey(scene({3: (160, 80, 90)}, seed=7)))
    assert not is_cut(grey(frame), grey(scene({1: (104, 80, 90)})))
    flash = (frame * 0.4 + 150).clip(0, 255).astype(np.uint8)
    assert not is_cut(grey(frame), grey(flash))


def test_flat_pictures_resemble_each_other_only() -> None:
    flat, other = np.full((8, 8), 20, np.uint8), np.full((8, 8), 200, np.uint8)
    rich = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert correlation(flat, other) == 1.0
    assert correlation(flat, rich) == 0.0
    assert correlation(rich, rich) == pytest.approx(1.0)
