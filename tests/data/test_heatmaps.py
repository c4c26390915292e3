"""Heatmaps drawn from landmarks, and the numbers of the 68 points."""

import pytest
import torch

from phaseveil.data.heatmaps import (
    GROUPS,
    MIRROR,
    draw_heatmaps,
    interocular_distance,
    misplaced_eyes,
    normalised_mean_error,
)


def test_the_groups_share_out_all_68_points() -> None:
    assert sorted(point for group in GROUPS.values() for point in group) == list(range(68))
    assert list(GROUPS) == ["jaw", "brows", "nose", "eyes", "mouth"]


@pytest.mark.parametrize("size", [16, 33, 64])
def test_each_channel_peaks_where_its_points_are(size: int) -> None:
    points = torch.rand(3, 68, 2, generator=torch.Generator().manual_seed(0))
    pixels = (points * size).long().clamp(0, size - 1)  # a point u lies in pixel floor(u W)
    exact = (pixels + 0.5) / size
    maps = draw_heatmaps(exact, size)
    assert maps.shape == (3, 5, size, size)
    for channel, group in enumerate(GROUPS.values()):
        for face in range(3):
            columns, rows = pixels[face, list(group)].T
            torch.testing.assert_close(maps[face, channel, rows, columns], torch.ones(len(group)))


def test_height_falls_as_a_gaussian_of_the_given_width() -> None:
    points = torch.full((1, 68, 2), 0.5)
    maps = draw_heatmaps(points, 101, sigma=0.05)[0, 0]
    assert maps[50, 50].item() == pytest.approx(1, abs=1e-6)
    assert maps[50, 50 + 5].item() == pytest.approx(
        torch.exp(torch.tensor(-0.5 * (5 / 101 / 0.05) ** 2)).item(), rel=1e-4
    )
    torch.testing.assert_close(maps, maps.T)


def test_x_runs_along_columns() -> None:
    points = torch.full((1, 68, 2), 0.5)
    points[:, :17] = torch.tensor([0.9, 0.1])  # the jaw at the top right
    row, column = divmod(int(draw_heatmaps(points, 20)[0, 0].argmax()), 20)
    assert row < 3
    assert column > 16


def test_heatmaps_have_gradients_to_the_landmarks() -> None:
    points = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    points.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: draw_heatmaps(p, 12, sigma=0.1), points, fast_mode=True)


def test_mirroring_twice_is_nothing_and_keeps_the_groups() -> None:
    assert [MIRROR[MIRROR[point]] for point in range(68)] == list(range(68))
    for group in GROUPS.values():
        assert sorted(MIRROR[point] for point in group) == list(group)


def test_the_middle_line_stays_and_the_sides_change() -> None:
    assert [point for point in range(68) if MIRROR[point] == point] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert (MIRROR[36], MIRROR[39], MIRROR[48], MIRROR[17], MIRROR[31], MIRROR[60]) == (45, 42, 54, 26, 35, 64)


def test_error_counts_eye_distances() -> None:
    points = torch.rand(4, 68, 2, generator=torch.Generator().manual_seed(1))
    points[:, 36:42], points[:, 42:48] = torch.tensor([0.3, 0.4]), torch.tensor([0.7, 0.4])
    torch.testing.assert_close(interocular_distance(points), torch.full((4,), 0.4))
    torch.testing.assert_close(normalised_mean_error(points + torch.tensor([0.0, 0.1]), points), torch.full((4,), 0.25))


def test_an_eye_elsewhere_than_most_is_told() -> None:
    points = torch.rand(68, 2, generator=torch.Generator().manual_seed(1)).repeat(5, 1, 1)
    points[:, 36:42], points[:, 42:48] = torch.tensor([0.3, 0.4]), torch.tensor([0.7, 0.4])
    points[2, 42:48] += torch.tensor([0.0, 0.1])
    wanted = torch.zeros(5, 2)
    wanted[2, 1] = 0.25
    torch.testing.assert_close(misplaced_eyes(points), wanted)
