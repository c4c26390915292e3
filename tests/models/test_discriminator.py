"""The discriminator: shapes, and what its verdict depends on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from phaseveil.losses.adversarial import r1_penalty
from phaseveil.models.blocks import to_channels_last
from phaseveil.models.discriminator import (
    Discriminator,
    FeatureDiscriminator,
    load_discriminator,
    save_discriminator,
)

DOMAIN = torch.tensor([0, 1, 1, 0])


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(size=32, width=4, heatmaps=5, domains=2)


def inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(4, 3, 32, 32, generator=random), torch.rand(4, 5, 16, 16, generator=random)


@pytest.mark.parametrize("size", [32, 64])
def test_one_logit_per_face(size: int) -> None:
    network = Discriminator(size, width=2, heatmaps=5, domains=2)
    logits = network(torch.rand(4, 3, size, size), torch.rand(4, 5, size // 2, size // 2), DOMAIN)
    assert logits.shape == (4,)
    assert logits.dtype == torch.float32


def test_face_heatmap_and_domain_all_count(discriminator: Discriminator) -> None:
    (face, heatmap), (other_face, other_heatmap) = inputs(), inputs(1)
    with torch.no_grad():
        verdict = discriminator(face, heatmap, DOMAIN)
        for changed in (
            discriminator(other_face, heatmap, DOMAIN),
            discriminator(face, other_heatmap, DOMAIN),
            discriminator(face, heatmap, 1 - DOMAIN),
        ):
            assert (verdict - changed).abs().min() > 1e-6


def test_it_sees_how_much_a_batch_varies(discriminator: Discriminator) -> None:
    """Karras et al. 2018, §3: the same face among copies of itself is judged differently."""
    face, heatmap = inputs()
    with torch.no_grad():
        among_others = discriminator(face, heatmap, DOMAIN)[0]
        among_copies = discriminator(face[:1].expand(4, -1, -1, -1), heatmap[:1].expand(4, -1, -1, -1), DOMAIN)[0]
    assert (among_others - among_copies).abs() > 1e-5


def test_gradients_reach_every_parameter_and_the_face(discriminator: Discriminator) -> None:
    face, heatmap = inputs()
    discriminator(face.requires_grad_(), heatmap, DOMAIN).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())
    assert face.grad is not None
    assert face.grad.abs().sum() > 0


def test_r1_stays_finite_on_equal_faces() -> None:
    """The spread over the batch is 0 there, where a square root has no slope."""
    network = Discriminator(size=32, width=4, heatmaps=5, domains=2)
    face = torch.rand(1, 3, 32, 32).repeat(2, 1, 1, 1).requires_grad_(True)
    domain = torch.zeros(2, dtype=torch.int64)
    r1_penalty(network(face, torch.rand(1, 5, 16, 16).repeat(2, 1, 1, 1), domain), face).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


CHANNELS = (6, 8)


def of_features() -> FeatureDiscriminator:
    torch.manual_seed(0)
    return FeatureDiscriminator(CHANNELS, width=4, heatmaps=5, domains=2)


def seen(seed: int = 0) -> list[Tensor]:
    """Activations of two stages, the second on a grid that eight logits do not divide."""
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(4, 6, 32, 32, generator=random), torch.rand(4, 8, 7, 7, generator=random)]


def test_features_heatmap_and_domain_all_count_in_every_head() -> None:
    network, (_, heatmap), (_, other_heatmap) = of_features(), inputs(), inputs(1)
    with torch.no_grad():
        verdict = network(seen(), heatmap, DOMAIN)
        assert verdict.shape == (4, 2 * network.side**2)
        for changed in (
            network(seen(1), heatmap, DOMAIN),
            network(seen(), other_heatmap, DOMAIN),
            network(seen(), heatmap, 1 - DOMAIN),
        ):
            for one, other in zip(verdict.chunk(2, dim=1), changed.chunk(2, dim=1), strict=True):
                assert (one - other).abs().amax(dim=1).min() > 1e-6


def test_gradients_reach_every_head_and_the_features_but_no_mixture() -> None:
    network, activations = of_features(), [a.requires_grad_() for a in seen()]
    network(activations, inputs()[1], DOMAIN).square().sum().backward()
    learned = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name for name, _ in network.named_parameters()} == learned
    assert len(learned) == 2 * 6
    assert {name for name, _ in network.named_buffers()} >= {"mixture0", "mixture1"}
    assert all(a.grad is not None and a.grad.abs().sum() > 0 for a in activations)


def test_heads_change_no_faster_than_their_spectral_norm_allows() -> None:
    """Miyato et al. 2018: each convolution's matrix has a largest singular value of 1, however large its weights."""
    network = of_features()
    with torch.no_grad():
        for convolution in network.heads[0]:
            if isinstance(convolution, torch.nn.Conv2d):
                convolution.parametrizations.weight.original.mul_(100)  # type: ignore[union-attr]
        for _ in range(100):
            network(seen(), inputs()[1], DOMAIN)
        norms = [
            torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            for layer in network.heads[0]
            if isinstance(layer, torch.nn.Conv2d)
        ]
    assert torch.stack(norms).tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-3)


def test_a_discriminator_of_features_is_kept_with_its_mixtures(tmp_path: Path) -> None:
    network = of_features().eval()
    file = save_discriminator(tmp_path / "discriminator.safetensors", network)
    torch.manual_seed(9)
    other = FeatureDiscriminator(CHANNELS, width=4, heatmaps=5, domains=2).eval()
    heatmap = inputs()[1]
    kept, before = network(seen(), heatmap, DOMAIN), other(seen(), heatmap, DOMAIN)
    load_discriminator(file, other)
    after = other(seen(), heatmap, DOMAIN)
    assert (after - kept).abs().mean() < 0.01 * (before - kept).abs().mean()


def test_features_of_one_pixel_are_judged_as_they_are() -> None:
    network, (_, heatmap), activations = of_features().eval(), inputs(), [seen()[0], seen()[1][:, :, :1, :1]]
    with torch.no_grad():
        logits = network(activations, heatmap, DOMAIN).chunk(2, dim=1)[1]
        mixed = torch.nn.functional.conv2d(activations[1], network.get_buffer("mixture1"))
        plain = network.heads[1](torch.cat([mixed, heatmap.mean((2, 3), keepdim=True)], dim=1))
    wanted = plain.flatten(1)[torch.arange(4), DOMAIN]
    torch.testing.assert_close(logits, wanted[:, None].expand(-1, network.side**2))


def test_features_of_one_pixel_teach_the_same_in_either_precision() -> None:
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        network, activations = of_features(), [seen()[0], seen()[1][:, :, :1, :1].contiguous()]
        to_channels_last(network, "cpu")
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = network(activations, inputs()[1], DOMAIN)
        used = [torch.full((size,), 1e9) for size in 2 ** torch.arange(1, 14) for _ in range(20)]
        del used  # memory that a gradient may find
        logits.square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for exact, rounded in zip(*gradients, strict=True):
        assert exact is not None
        torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05 * float(exact.abs().max()))
