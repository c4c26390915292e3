"""Augmentations move images and landmarks together, and depend only on the generator."""

import pytest
import torch
from torch import Tensor

from phaseveil.data.transforms import (
    JitterConfig,
    draw_recolouring,
    random_colour,
    random_mirror,
    random_similarity,
    recolour,
)

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


def test_recolouring_leaves_grey_grey_and_draws_all_hues() -> None:
    changes = draw_recolouring(400, 1.0, seeded(10))
    grey = recolour(torch.rand(400, 1, 4, 4, generator=seeded(11)).expand(-1, 3, -1, -1), changes)
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey), atol=1e-5, rtol=0)
    red = torch.zeros(400, 3, 1, 1)
    red[:, 0] = 1
    strongest = recolour(red, changes).flatten(1).argmax(dim=1)
    assert all(0.2 < (strongest == channel).float().mean() < 0.47 for channel in range(3))


def test_recolouring_stays_within_its_ranges() -> None:
    image, changes = torch.rand(400, 3, 4, 4, generator=seeded(12)), draw_recolouring(400, 1.0, seeded(13))
    changed = recolour(image, changes)
    chroma = [(colours - colours.mean(dim=1, keepdim=True)).norm(dim=1) for colours in (changed, image)]
    ratio = (chroma[0] / chroma[1]).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), atol=1e-3, rtol=1e-3)  # one saturation an image
    assert 0 <= ratio.min() < 0.1
    assert 2 < ratio.max() <= 2 * 1.4 + 1e-3
    middle = recolour(torch.full((400, 3, 1, 1), 0.5), changes)[:, 0, 0, 0]
    assert 0.3 - 1e-4 <= middle.min() < 0.32
    assert 0.68 < middle.max() <= 0.7 + 1e-4
    slope = (
        recolour(torch.ones(400, 3, 1, 1), changes)[:, 0, 0, 0]
        - recolour(torch.zeros(400, 3, 1, 1), changes)[:, 0, 0, 0]
    )
    assert 0.6 - 1e-4 <= slope.min() < 0.65
    assert 1.35 < slope.max() <= 1.4 + 1e-4


def test_only_the_share_is_recoloured() -> None:
    image = torch.rand(400, 3, 4, 4, generator=seeded(14))
    for share, least, most in ((0.0, 400, 400), (0.5, 160, 240), (1.0, 0, 0)):
        changed = recolour(image, draw_recolouring(400, share, seeded(15)))
        assert changed.is_contiguous(memory_format=torch.channels_last)
        assert least <= sum(torch.equal(*pair) for pair in zip(changed, image, strict=True)) <= most


@pytest.mark.parametrize("seed", [0, 1])
def test_the_generator_alone_decides(seed: int) -> None:
    image, points = faces(4)
    config = JitterConfig()
    for change in (random_mirror, lambda i, p, g: random_similarity(i, p, config, g)):
        first, again = change(image, points, seeded(seed)), change(image, points, seeded(seed))
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
    assert torch.equal(draw_recolouring(4, 0.5, seeded(seed)), draw_recolouring(4, 0.5, seeded(seed)))
