"""Identity repulsion."""

import pytest
import torch
from torch.nn import functional

from phaseveil.losses.identity import repulsion_loss


def test_the_same_face_pays_the_margin_and_a_stranger_nothing() -> None:
    source = functional.normalize(torch.randn(4, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    assert repulsion_loss(source, source).item() == pytest.approx(0.8, abs=1e-3)
    assert repulsion_loss(source, -source).item() == 0
    nearby = source + 0.3 / 128**0.5  # 0.3 away
    assert repulsion_loss(nearby, source).item() == pytest.approx(0.5, abs=1e-3)


def test_it_pushes_the_generated_face_away_from_the_source_and_trains_nothing_else() -> None:
    source = torch.zeros(2, 8, requires_grad=True)
    generated = torch.full((2, 8), 0.1, requires_grad=True)
    repulsion_loss(generated, source).backward()
    assert generated.grad is not None
    assert torch.all(generated.grad < 0)  # a step against the gradient leads further away
    assert source.grad is None


def test_the_gradient_is_finite_where_the_faces_are_the_same() -> None:
    generated = torch.zeros(1, 8, requires_grad=True)
    repulsion_loss(generated, torch.zeros(1, 8)).backward()
    assert generated.grad is not None
    assert generated.grad.isfinite().all()
