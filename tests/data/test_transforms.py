"""Augmentations move images and landmarks together, and depend only on the generator."""

import pytest
import torch
from torch import Tensor

from phaseveil.data.transforms import JitterConfig, random_colour, random_mirror, random_similarity

SIZE = 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dotted(points: Tensor, size: int = SIZE) -> Tensor:
    """A black image per face with a soft bright dot at its first landmark. Shape ``(B, 3, size, size)``."""
    axis = (torch.arange(size) + 0.5) / size
    x, y = points[:, 0, 0], points[:, 0, 1]
    square = (axis[None, None, :] - x[:, None, None]) ** 2 + (axis[None, :, None] - y[:, None, None]) ** 2
    return torch.exp(-square / (2 * 0.03**2))[:, None].expand(-1, 3, -1, -1)


def dot_position(image: Tensor) -> Tensor:
    """Centre of the light, normalised. Shape ``(B, 2)``."""
    light = image[:, 0]
    axis = (torch.arange(light.shape[-1]) + 0.5) / light.shape[-1]
    total = light.sum(dim=(1, 2))
    return torch.stack(
        [(light.sum(dim=1) * axis).sum(dim=1) / total, (light.sum(dim=2) * axis).sum(dim=1) / total], dim=1
    )


def faces(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    points = 0.3 + 0.4 * torch.rand(batch, 68, 2, generator=seeded(seed))
    return dotted(points), points


def test_similarity_moves_image_and_landmarks_together() -> None:
    image, points = faces(16)
    config = JitterConfig(degrees=25.0, scale=0.15, shift=0.1)
    moved, moved_points = random_similarity(image, points, config, seeded(1))
    assert (dot_position(moved) - moved_points[:, 0]).abs().max() < 0.4 / SIZE
    assert (moved_points - points).abs().amax(dim=(1, 2)).min() > 1 / SIZE  # it really moves


def test_similarity_keeps_shapes_similar() -> None:
    image, points = faces(8)
    config = JitterConfig(degrees=30.0, scale=0.1, shift=0.1)
    _, moved = random_similarity(image, points, config, seeded(2))
    before, after = (torch.cdist(p, p) for p in (points, moved))
    ratio = after.sum(dim=(1, 2)) / before.sum(dim=(1, 2))
    torch.testing.assert_close(after, before * ratio[:, None, None], atol=1e-3, rtol=1e-3)
    assert (ratio - 1).abs().max() <= 0.1 + 1e-4


def test_no_range_changes_nothing() -> None:
    image, points = faces(4)
    still = JitterConfig(degrees=0, scale=0, shift=0, brightness=0, contrast=0)
    moved, moved_points = random_similarity(image, points, still, seeded(3))
    torch.testing.assert_close(moved, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved_points, points)
    torch.testing.assert_close(random_colour(image, still, seeded(3)), image, atol=1e-6, rtol=0)


def test_mirror_moves_image_and_landmarks_together() -> None:
    image, points = faces(32)
    mirrored, mirrored_points = random_mirror(image, points, seeded(4))
    turned = torch.tensor([not torch.equal(a, b) for a, b in zip(image, mirrored, strict=True)])
    assert 6 < turned.sum() < 26
    torch.testing.assert_close(mirrored_points[~turned], points[~turned])
    # Point 0 of the jaw is point 16 of the mirrored one.
    assert (dot_position(mirrored[turned]) - mirrored_points[turned, 16]).abs().max() < 0.2 / SIZE


def test_mirroring_the_same_faces_twice_is_nothing() -> None:
    image, points = faces(16)
    twice = random_mirror(*random_mirror(image, points, seeded(5)), seeded(5))
    assert torch.equal(twice[0], image)
    torch.testing.assert_close(twice[1], points)


def test_colours_stay_in_range_and_change_by_no_more_than_asked() -> None:
    image = torch.rand(8, 3, 8, 8, generator=seeded(6))
    config = JitterConfig(brightness=0.3, contrast=0.0)
    changed = random_colour(image, config, seeded(7))
    assert 0 <= changed.min() <= changed.max() <= 1
    inside = (changed < 1) & (image > 0.05)
    ratio = (changed / image)[inside]
    assert 0.7 - 1e-4 <= ratio.min() < ratio.max() <= 1.3 + 1e-4


def test_contrast_turns_about_the_mean() -> None:
    image = 0.4 + 0.2 * torch.rand(4, 3, 16, 16, generator=seeded(8))
    changed = random_colour(image, JitterConfig(brightness=0.0, contrast=0.5), seeded(9))
    torch.testing.assert_close(changed.mean(dim=(1, 2, 3)), image.mean(dim=(1, 2, 3)), atol=1e-5, rtol=0)
    assert (changed.std(dim=(1, 2, 3)) / image.std(dim=(1, 2, 3)) - 1).abs().max() > 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_the_generator_alone_decides(seed: int) -> None:
    image, points = faces(4)
    config = JitterConfig()
    for change in (random_mirror, lambda i, p, g: random_similarity(i, p, config, g)):
        first, again = change(image, points, seeded(seed)), change(image, points, seeded(seed))
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
