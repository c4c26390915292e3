from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.data.heatmaps import draw_heatmaps
from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.models.shape import (
    ShapeConfig,
    ShapeEraser,
    Warp,
    expression_readings,
    load_shape_eraser,
    save_shape_eraser,
)

PERSONS, DIMENSIONS = 3000, 6


@pytest.fixture(scope="module")
def people() -> tuple[Tensor, Tensor]:
    """Landmarks that an embedding explains in part, by six traits of unlike strength, and that embedding."""
    generator = torch.Generator().manual_seed(0)
    traits = torch.randn(PERSONS, DIMENSIONS, generator=generator)
    shapes = torch.randn(DIMENSIONS, 136, generator=generator) * torch.logspace(-1.7, -2.7, DIMENSIONS)[:, None]
    mean = 0.3 + 0.4 * torch.rand(136, generator=generator)
    points = mean + traits @ shapes + 0.005 * torch.randn(PERSONS, 136, generator=generator)
    return points.unflatten(1, (68, 2)), traits + 0.1 * torch.randn(PERSONS, DIMENSIONS, generator=generator)


@pytest.fixture(scope="module")
def eraser(people: tuple[Tensor, Tensor]) -> ShapeEraser:
    return ShapeEraser.fit(*people, ShapeConfig(DIMENSIONS), ridge=0)


def explained(landmarks: Tensor, embeddings: Tensor) -> float:
    """Largest share of a coordinate of the embedding that a linear reader finds in the points (R²)."""
    points = landmarks.flatten(1).double()
    points, wanted = points - points.mean(dim=0), embeddings.double() - embeddings.double().mean(dim=0)
    left = wanted - points @ torch.linalg.lstsq(points, wanted).solution
    return float((1 - left.square().sum(dim=0) / wanted.square().sum(dim=0)).max())


def test_no_linear_reader_finds_what_was_erased(people: tuple[Tensor, Tensor], eraser: ShapeEraser) -> None:
    landmarks, embeddings = people
    assert explained(landmarks, embeddings) > 0.9
    # A projection that is singular leaves the reader rounding errors to read; noise of 1e-5 of the frame buries them.
    erased = eraser(landmarks) + 1e-5 * torch.randn(landmarks.shape, generator=torch.Generator().manual_seed(1))
    assert explained(erased, embeddings) < 0.06  # 136 points explain 0.045 of noise by chance


def test_fewer_directions_leave_more_and_move_less(people: tuple[Tensor, Tensor], eraser: ShapeEraser) -> None:
    landmarks, embeddings = people
    erased = [eraser.first(count)(landmarks) for count in (1, 3, 6)]
    moved = [(points - landmarks).norm(dim=-1).mean().item() for points in erased]
    noise = 1e-5 * torch.randn(landmarks.shape, generator=torch.Generator().manual_seed(1))
    left = [sum(explained(points + noise, embeddings[:, [k]]) for k in range(DIMENSIONS)) for points in erased]
    assert 0 < moved[0] < moved[1] < moved[2]
    assert left[0] > left[1] > left[2]


def test_what_is_erased_stays_erased(people: tuple[Tensor, Tensor], eraser: ShapeEraser) -> None:
    once = eraser(people[0])
    torch.testing.assert_close(eraser(once), once, rtol=0, atol=1e-6)


def test_no_other_map_that_erases_moves_the_points_less(people: tuple[Tensor, Tensor], eraser: ShapeEraser) -> None:
    """Against the plain orthogonal projection off the same cross-covariance."""
    landmarks, embeddings = people
    points = landmarks.flatten(1).double()
    points, known = points - points.mean(dim=0), embeddings.double() - embeddings.double().mean(dim=0)
    axes = torch.linalg.qr(points.T @ known).Q
    moved = points @ axes @ axes.T
    assert explained((points - moved).unflatten(1, (68, 2)).float(), embeddings) < 0.06
    assert (eraser(landmarks) - landmarks).square().sum() < moved.square().sum()


def test_an_expression_stays_and_the_rest_goes(people: tuple[Tensor, Tensor]) -> None:
    landmarks, embeddings = people
    readings = expression_readings()
    keeping = ShapeEraser.fit(landmarks, embeddings, ShapeConfig(DIMENSIONS), ridge=0, kept=readings)
    erased = keeping(landmarks).flatten(1)
    torch.testing.assert_close(erased @ readings.T, landmarks.flatten(1) @ readings.T, rtol=0, atol=1e-6)
    noise = 1e-5 * torch.randn(erased.shape, generator=torch.Generator().manual_seed(1))
    assert explained(erased + noise, embeddings) < explained(landmarks, embeddings) - 0.2


def test_expression_is_read_where_it_shows() -> None:
    face = load_shape_eraser().mean.unflatten(0, (68, 2)).clone()
    neutral = expression_readings() @ face.flatten()
    face[[48, 54], 1] -= 0.02  # the corners of the mouth go up
    face[[41, 40, 46, 47], 1] += 0.01  # the lower lids go down
    change = expression_readings() @ face.flatten() - neutral
    torch.testing.assert_close(change, torch.tensor([0.0, -0.02, 0.0, 0.01]), rtol=0, atol=1e-6)


def test_impossible_numbers_of_directions_are_refused(eraser: ShapeEraser) -> None:
    for count in (0, DIMENSIONS + 1):
        with pytest.raises(ConfigError, match="1 to 6 directions"):
            eraser.first(count)
    with pytest.raises(ConfigError, match="between 1 and 135"):
        ShapeConfig(136)


def test_an_eraser_survives_its_file(people: tuple[Tensor, Tensor], eraser: ShapeEraser, tmp_path: Path) -> None:
    path = save_shape_eraser(tmp_path / "shape.safetensors", eraser)
    assert torch.equal(load_shape_eraser(path)(people[0]), eraser(people[0]))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_shape_eraser(path)


def places(size: int) -> Tensor:
    """A picture whose two channels hold each pixel's own place."""
    axis = (torch.arange(size) + 0.5) / size
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None]


def test_points_and_what_is_around_them_move() -> None:
    points = torch.tensor([[[0.3, 0.4], [0.6, 0.5], [0.5, 0.7], [0.7, 0.7]]])
    moved = points + torch.tensor([[[0.03, 0.01], [0.02, -0.02], [-0.02, 0.03], [0.0, 0.0]]])
    warped = Warp(points, moved)(places(128))
    found = functional.grid_sample(warped, 2 * moved[:, None] - 1, align_corners=False)[:, :, 0].mT
    torch.testing.assert_close(found, points, rtol=0, atol=2e-3)
    edge = torch.ones(128, 128, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    assert (warped - places(128))[0][:, edge].abs().max() < 0.006  # a pixel is 0.008


def test_the_same_warp_serves_any_size() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 0.2 + 0.6 * torch.rand(2, 68, 2, generator=generator)
    moved = points + 0.01 * torch.randn(2, 68, 2, generator=generator)
    points[:, 60:64] = points[:, 64:68]  # lips that are closed
    moved[:, 60:64] = moved[:, 64:68]
    warp = Warp(points, moved)
    small, large = (warp(places(size).expand(2, -1, -1, -1)) for size in (64, 128))
    assert large.isfinite().all()
    torch.testing.assert_close(functional.avg_pool2d(large, 2), small, rtol=0, atol=4e-3)


def test_nothing_moves_where_no_point_does() -> None:
    points = 0.2 + 0.6 * torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(Warp(points, points)(picture), picture, rtol=0, atol=1e-4)


def test_bundled_eraser_keeps_faces_faces() -> None:
    """It moves the mean face nowhere, and another's points by a few hundredths of the distance of the eyes."""
    eraser = load_shape_eraser()
    mean = eraser.mean.unflatten(0, (68, 2))[None]
    torch.testing.assert_close(eraser(mean), mean)
    wide = (mean - 0.5) * torch.tensor([1.08, 1.0]) + 0.5
    narrower = eraser.first(20)(wide)
    assert (narrower - mean).norm() < 0.8 * (wide - mean).norm()  # the width of a face tells whose it is
    assert draw_heatmaps(narrower, 64).amax(dim=(-2, -1)).min() > 0.5  # all groups still inside the frame
