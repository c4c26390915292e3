"""The kernel reader of ``bench.read_out``: what it must find, and what it must not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.read_out import Faces, Panel, draw, other_photographs, read_out
from numpy.typing import NDArray

from phaseveil.errors import InputError
from phaseveil.optics.camera import CameraConfig, build_camera

SIZE = 128
PERSONS = 40


def portraits(persons: NDArray[np.int64], seed: int) -> Faces:
    """Two eyes and a mouth somewhere on a face of the person's own colour; the embedding tells the colour."""
    draws, colours = np.random.default_rng(seed), np.random.default_rng(0).uniform(0.2, 1, (PERSONS, 3))
    y, x = np.mgrid[:SIZE, :SIZE]
    scenes, landmarks = [], []
    for person in persons:
        points = np.array([[45, 55], [83, 55], [64, 95]]) + draws.uniform(-8, 8, 2)
        marks = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / 50) for u, v in points)
        scenes.append(255 * colours[person] * (1 - 0.9 * np.clip(marks, 0, 1))[..., None])
        sixty_eight = np.repeat(points, [42, 6, 20], axis=0)
        sixty_eight[36:42], sixty_eight[42:48], sixty_eight[:36] = points[0], points[1], points[2]
        landmarks.append((sixty_eight + 0.5) / SIZE)
    embeddings = np.tile(colours[persons], (1, 43))[:, :128].astype(np.float32)
    return Faces(np.array(scenes).astype(np.uint8), torch.tensor(np.array(landmarks)).float(), embeddings)


@pytest.fixture(scope="module")
def panel() -> Panel:
    people = np.repeat(np.arange(PERSONS), 2)
    return Panel(
        portraits(np.tile(np.arange(PERSONS), 8), 1),
        portraits(np.arange(PERSONS), 2),
        portraits(people, 3),
        people,
    )


def camera_of(**changes: object) -> CameraConfig:
    return dataclasses.replace(CameraConfig(kind="gaussian"), **changes)  # type: ignore[arg-type]


def test_a_mild_blur_leaves_geometry_and_identity_to_be_read(panel: Panel) -> None:
    found = read_out(build_camera(camera_of(gaussian_sigma=6 / 256)), panel)
    assert found["landmark_error"] < 0.03
    assert found["auc"]["value"] > 0.9
    assert found["genuine_pairs"] == 2 * PERSONS


def test_a_sensor_that_sees_next_to_nothing_leaves_chance(panel: Panel) -> None:
    config = camera_of()
    blind = dataclasses.replace(config, sensor=dataclasses.replace(config.sensor, exposure=1e-6))
    found = read_out(build_camera(blind), panel)
    spread = (panel.held_out.landmarks - panel.known.landmarks.mean(0)).norm(dim=-1).mean() * SIZE / 38
    assert found["landmark_error"] == pytest.approx(spread.item(), rel=0.1)
    assert found["auc"]["low"] < 0.5 < found["auc"]["high"]


def test_a_photograph_is_not_linked_to_itself() -> None:
    persons = np.array([0, 0, 1])
    pairs = other_photographs(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), persons)
    assert pairs.same.sum() == 2
    assert (~pairs.same).sum() == 4
    assert (pairs.genuine < 0).all()  # 0 would be a photograph with itself


def test_single_photographs_are_refused() -> None:
    rows = np.eye(2, dtype=np.float32)
    with pytest.raises(InputError, match="two photographs"):
        other_photographs(rows, rows, np.array([0, 1]))


def test_the_plot_is_written(tmp_path: Path) -> None:
    found = {name: {"family": "gaussian", "landmark_error": 0.05, "auc": {"value": 0.8}} for name in ("one", "two")}
    draw(found, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 1000
