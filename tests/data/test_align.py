"""Alignment is geometry: closed forms, no aliasing, and a way back that leaves no seam."""

import math

import numpy as np
import pytest

from phaseveil.data.align import (
    align_face,
    edge_distance,
    invert,
    paste_back,
    rescale,
    similarity,
    template_points,
    transform,
    warp,
)
from phaseveil.data.image_io import resize
from phaseveil.errors import InputError

EYES_AND_MOUTH = np.array([(202.8, 103.2), (245.5, 103.2), (222.5, 125.4), (204.0, 143.5), (241.4, 143.5)])


def rotation(degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def smooth_image(height: int = 300, width: int = 320) -> np.ndarray:
    """Waves of 30 pixels and more, the same anywhere in the plane."""
    y, x = np.mgrid[:height, :width]
    return wave(x, y)


def wave(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    waves = [np.sin(x / 9 + 1) + np.cos(y / 11), np.sin((x + y) / 13), np.cos((x - 2 * y) / 17)]
    return np.rint(127.5 + 60 * np.stack(waves, axis=-1)).clip(0, 255).astype(np.uint8)


def test_template_puts_the_eyes_where_celeba_has_them() -> None:
    left, right, nose, *mouth = template_points(256)
    assert left.tolist() == [86, 85]
    assert right.tolist() == [168, 85]
    assert nose[0] == 127 == np.mean(mouth, axis=0)[0]
    assert np.allclose((template_points(128) + 0.5) * 2, template_points(256) + 0.5)


@pytest.mark.parametrize("degrees", [-170.0, -30.0, 0.0, 12.0, 90.0])
def test_similarity_recovers_the_transform(degrees: float) -> None:
    truth = rotation(degrees, 1.7, (5, -8))
    points = template_points(256)
    assert np.allclose(similarity(points, transform(points, truth)), truth)
    assert np.allclose(similarity(points[:2], transform(points[:2], truth)), truth)


def test_similarity_never_mirrors() -> None:
    points = template_points(256)
    mirrored = points * (-1, 1)
    assert np.linalg.det(similarity(points, mirrored)[:, :2]) > 0


def test_similarity_is_the_least_squares_one() -> None:
    generator = np.random.default_rng(0)
    points = template_points(256)
    target = transform(points, rotation(20, 0.6, (3, 4))) + generator.normal(0, 3, points.shape)
    best = similarity(points, target)

    def error(matrix: np.ndarray) -> float:
        return float(((transform(points, matrix) - target) ** 2).sum())

    assert all(error(rescaled) > error(best) for rescaled in (best * 1.01, best * 0.99))
    assert all(error(best + shift) > error(best) for shift in (rotation(0, 0, (0.1, 0)), rotation(0, 0, (0, 0.1))))


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_degenerate_points_are_refused(points: np.ndarray) -> None:
    with pytest.raises(InputError, match="no alignment is possible"):
        similarity(points, template_points(64))


def test_invert_and_rescale_are_consistent() -> None:
    matrix = rotation(33, 0.4, (10, 20))
    points = template_points(256)
    assert np.allclose(transform(transform(points, matrix), invert(matrix)), points)
    assert np.allclose(
        transform(transform(points, matrix), rescale(np.eye(2, 3), 0.5)), transform(points, rescale(matrix, 0.5))
    )


@pytest.mark.parametrize("scale", [0.15, 0.3, 0.5, 0.77, 1.0, 1.6])
def test_warp_puts_every_pixel_at_its_place(scale: float) -> None:
    matrix = rotation(25, scale, (60 * scale, 6))
    size = max(16, int(150 * scale))
    result = warp(smooth_image(), matrix, size)
    y, x = np.mgrid[:size, :size]
    source = transform(np.stack([x, y], axis=-1).reshape(-1, 2), invert(matrix)).reshape(size, size, 2)
    inside = ((source > 8) & (source < (311, 291))).all(axis=-1)
    assert inside.mean() > 0.3
    # A shrunk wave loses contrast over the pixel's footprint; its place must not change.
    difference = result.astype(float) - wave(source[..., 0], source[..., 1])
    assert np.abs(difference[inside]).mean() < (2 if scale > 0.4 else 12)
    assert np.abs(difference[inside].mean()) < 1


@pytest.mark.parametrize("shrink", [2, 3.3, 8, 20])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_a_shrunk_checkerboard_is_grey(shrink: float, degrees: float) -> None:
    board = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    matrix = rotation(degrees, 1 / shrink, (15, 0))
    size = int(500 / shrink)
    small = warp(np.repeat(board[:, :, None], 3, axis=2), matrix, size).astype(int)
    inner = small[size // 4 : -size // 4, size // 4 : -size // 4]
    assert np.abs(inner - 127.5).max() < 12


def test_warp_costs_what_the_output_needs_and_repeats_the_edge() -> None:
    flat = np.full((40, 40, 3), 90, dtype=np.uint8)
    assert (warp(flat, rotation(0, 1, (-500, 300)), (20, 30)) == 90).all()
    assert warp(flat, rotation(0, 1, (0, 0)), (20, 30)).shape == (20, 30, 3)
    assert np.array_equal(warp(smooth_image(), np.eye(2, 3), (300, 320)), smooth_image())


def test_an_aligned_face_has_its_points_on_the_template(astronaut: np.ndarray) -> None:
    turned = rotation(30, 0.8, (150, -40))
    photograph = warp(astronaut, turned, 512)
    upright = align_face(astronaut, EYES_AND_MOUTH, 96)
    aligned = align_face(photograph, transform(EYES_AND_MOUTH, turned), 96)
    assert aligned.crop.shape == (96, 96, 3)
    fit = transform(transform(EYES_AND_MOUTH, turned), aligned.matrix)
    assert np.linalg.norm(fit - template_points(96), axis=1).max() < 5
    assert np.abs(aligned.crop.astype(int) - upright.crop).mean() < 4


@pytest.mark.parametrize("degrees", [0.0, -20.0])
def test_an_unchanged_crop_goes_back_unnoticed(astronaut: np.ndarray, degrees: float) -> None:
    turn = rotation(degrees, 1.2, (0, 60))
    photograph = warp(astronaut, turn, 512)
    face = align_face(photograph, transform(EYES_AND_MOUTH, turn), 256)
    result = paste_back(photograph, face.crop, face.matrix)
    difference = np.abs(result.astype(int) - photograph)
    assert difference.mean(where=difference > 0) < 4
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99.9) < 16


def pasted_on_flat_grey(degrees: float = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photograph, result, and the position in the crop of every pixel, for a red crop on textured grey."""
    generator = np.random.default_rng(1)
    photograph = generator.integers(90, 110, (200, 220, 3)).astype(np.uint8)
    matrix = invert(rotation(degrees, 1.5, (70, 30)))
    red = np.zeros((64, 64, 3), dtype=np.uint8) + np.array([220, 30, 30], dtype=np.uint8)
    y, x = np.mgrid[:200, :220]
    inside = transform(np.stack([x, y], axis=-1).reshape(-1, 2), matrix).reshape(200, 220, 2)
    return photograph, paste_back(photograph, red, matrix), (inside + 0.5) / 64


def test_outside_the_crop_nothing_changes() -> None:
    photograph, result, position = pasted_on_flat_grey()
    outside = ((position < 0) | (position > 1)).any(axis=-1)
    assert outside.any()
    assert np.array_equal(result[outside], photograph[outside])


def test_the_outermost_ring_is_the_photographs() -> None:
    photograph, result, position = pasted_on_flat_grey()
    depth = edge_distance(position)
    ring = (depth > 0) & (depth < 0.006)
    assert ring.sum() > 50
    assert np.abs(result[ring].astype(int) - photograph[ring]).max() <= 3


def test_the_face_itself_is_replaced_fully() -> None:
    _, result, position = pasted_on_flat_grey()
    inner = (edge_distance(position) > 0.27) & ((position > 0.27) & (position < 0.73)).all(axis=-1)
    assert np.array_equal(result[inner], np.broadcast_to(np.array([220, 30, 30], dtype=np.uint8), result[inner].shape))


def test_no_source_texture_shows_inside_the_rim() -> None:
    photograph, result, position = pasted_on_flat_grey(degrees=0)
    replaced = edge_distance(position) > 0.065
    detail = result.astype(float) - photograph
    correlation = np.corrcoef(
        photograph[replaced].astype(float).ravel(), detail[replaced].ravel() + photograph[replaced].ravel()
    )
    assert abs(correlation[0, 1]) < 0.2


def test_the_rim_has_no_step() -> None:
    """From the photograph's grey to the crop's red, no two neighbouring pixels differ by more than a texture would."""
    grey = np.full((200, 200, 3), 100, dtype=np.uint8)
    red = np.zeros((64, 64, 3), dtype=np.uint8) + np.array([220, 30, 30], dtype=np.uint8)
    result = paste_back(grey, red, invert(rotation(0, 2, (36, 36)))).astype(int)
    assert result[100, 100].tolist() == [220, 30, 30]
    assert np.abs(np.diff(result, axis=0)).max() <= 12
    assert np.abs(np.diff(result, axis=1)).max() <= 12


@pytest.mark.parametrize("shift", [(-40.0, -30.0), (150.0, 170.0), (-500.0, 0.0)])
def test_faces_at_and_beyond_the_border_are_pasted_where_they_show(shift: tuple[float, float]) -> None:
    grey = np.full((200, 200, 3), 100, dtype=np.uint8)
    white = np.full((64, 64, 3), 255, dtype=np.uint8)
    result = paste_back(grey, white, invert(rotation(10, 1.4, shift)))
    assert result.shape == grey.shape
    assert np.array_equal(result, grey) == (shift[0] == -500)


def test_a_large_face_shrinks_into_a_small_place_without_aliasing() -> None:
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    face = np.repeat(board[:, :, None], 3, axis=2)
    result = paste_back(np.full((80, 80, 3), 128, dtype=np.uint8), face, invert(rotation(5, 0.2, (15, 12))))
    assert np.abs(result.astype(int) - 128).max() < 12


def test_pasting_at_another_size_needs_the_rescaled_matrix(astronaut: np.ndarray) -> None:
    face = align_face(astronaut, EYES_AND_MOUTH, 128)
    double = resize(face.crop, 256)
    result = paste_back(astronaut, double, rescale(face.matrix, 2))
    assert np.abs(result.astype(int) - astronaut).mean() < 0.5


def test_the_pasted_region_holds_the_whole_face() -> None:
    size = 256
    chin, forehead, ears = (127, 240), (127, 16), [(17, 110), (238, 110)]
    positions = (np.array([chin, forehead, *ears]) + 0.5) / size
    assert (edge_distance(positions) >= 0.06).all()
    assert edge_distance(np.array([[0.0, 0.5], [0.5, 0.0], [1.0, 0.5]])) == pytest.approx(0)
    assert edge_distance(np.array([[0.0, 0.0], [1.0, 1.0]])).max() < 0
