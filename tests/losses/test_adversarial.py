"""Stage II's losses: values at known points, and which side each one trains."""

import math

import pytest
import torch
from torch import nn

from phaseveil.losses import adversarial


def test_an_undecided_discriminator_pays_two_log_two() -> None:
    zeros = torch.zeros(4)
    assert adversarial.discriminator_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    assert adversarial.generator_loss(zeros).item() == pytest.approx(math.log(2))


def test_the_discriminator_wants_real_high_and_fake_low_and_the_generator_fake_high() -> None:
    real, fake = (torch.zeros(3, requires_grad=True) for _ in range(2))
    adversarial.discriminator_loss(real, fake).backward()
    assert torch.all(real.grad < 0)  # type: ignore[operator]
    assert torch.all(fake.grad > 0)  # type: ignore[operator]
    (wish,) = torch.autograd.grad(adversarial.generator_loss(fake), fake)
    assert torch.all(wish < 0)
    assert torch.all(torch.autograd.grad(adversarial.generator_loss(fake - 50), fake)[0] < -0.3)  # it does not saturate


def test_r1_of_a_linear_discriminator_is_its_squared_weights_over_eight() -> None:
    """Half the squared gradient over pixels from -1 to 1 (Mescheder et al., eq. 9); ours are half as long."""
    weight = torch.randn(3 * 4 * 4, requires_grad=True)
    image = torch.rand(5, 3, 4, 4, requires_grad=True)
    penalty = adversarial.r1_penalty(image.flatten(1) @ weight, image)
    assert penalty.item() == pytest.approx(weight.square().sum().item() / 8, rel=1e-5)
    (gradient,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(gradient, weight.detach() / 4)


def test_r1_counts_pixels_as_the_published_weights_do() -> None:
    """The same discriminator on pixels from -1 to 1, penalised as published: half the squared gradient."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1))
    image = torch.rand(2, 3, 6, 6)
    ours = image.clone().requires_grad_()
    penalty = adversarial.r1_penalty(network(ours * 2 - 1)[:, 0], ours)
    published = (image * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(network(published).sum(), published)
    assert penalty.item() == pytest.approx(gradient.square().flatten(1).sum(dim=1).mean().item() / 2, rel=1e-4)


def test_style_reconstruction_trains_what_is_read_back_and_not_what_was_wanted() -> None:
    recovered, style = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    loss = adversarial.style_reconstruction_loss(recovered, style)
    assert loss.item() == pytest.approx((recovered - style).abs().mean().item())
    loss.backward()
    assert recovered.grad is not None
    assert recovered.grad.abs().min() > 0
    assert style.grad is None


def test_uniformity_is_nothing_for_one_code_and_minus_two_for_orthogonal_ones() -> None:
    collapsed = torch.ones(4, 8)
    assert adversarial.style_uniformity_loss(collapsed).item() == pytest.approx(0)
    orthogonal = torch.eye(8)[:4] * 8**0.5  # unit RMS
    assert adversarial.style_uniformity_loss(orthogonal).item() == pytest.approx(-2, abs=1e-5)


def test_uniformity_drives_codes_apart() -> None:
    codes = (torch.ones(4, 8) + 0.1 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    (gradient,) = torch.autograd.grad(adversarial.style_uniformity_loss(codes), codes)
    spread = [torch.pdist(points).sum() for points in (codes, codes - 0.1 * gradient)]
    assert spread[1] > spread[0]
    assert (gradient != 0).any(dim=1).all()


def test_diversity_rewards_difference_and_trains_the_first_face_only() -> None:
    first, second = (torch.rand(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    loss = adversarial.diversity_loss(first, second)
    assert loss.item() == pytest.approx(-2 * (first - second).abs().mean().item())
    loss.backward()
    assert first.grad is not None
    assert second.grad is None


def test_reconstruction_counts_pixels_from_minus_one_to_one() -> None:
    assert adversarial.reconstruction_loss(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)).item() == 2


def test_style_prior_compares_distributions_and_not_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(64, 6, generator=generator)
    directions = nn.functional.normalize(torch.randn(6, 16, generator=generator), dim=0)
    shuffled = codes[torch.randperm(64, generator=generator)]
    assert adversarial.style_prior_loss(codes, shuffled, directions).item() == pytest.approx(0, abs=1e-6)
    away = codes + torch.tensor([3.0, 0, 0, 0, 0, 0])
    expected = 3 * directions[0].abs().mean()  # a shift moves each projection by its share
    assert adversarial.style_prior_loss(away, codes, directions).item() == pytest.approx(expected.item(), rel=1e-4)


def test_style_prior_trains_the_latent_codes_only() -> None:
    codes, wanted = torch.randn(16, 4, requires_grad=True), torch.randn(16, 4, requires_grad=True)
    directions = nn.functional.normalize(torch.randn(4, 8), dim=0)
    adversarial.style_prior_loss(codes, wanted, directions).backward()
    assert codes.grad is not None
    assert (codes.grad != 0).any(dim=1).all()
    assert wanted.grad is None
