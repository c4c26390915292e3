"""The discriminator: shapes, and what its verdict depends on."""

import pytest
import torch
from torch import Tensor

from phaseveil.losses.adversarial import r1_penalty
from phaseveil.models.discriminator import Discriminator

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
