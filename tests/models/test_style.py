"""Style codes from latents and from faces."""

import pytest
import torch
from torch import Tensor

from phaseveil.models.style import MappingNetwork, StyleEncoder, unit_rms

DOMAIN = torch.tensor([0, 1, 1])


@pytest.fixture(scope="module")
def mapping() -> MappingNetwork:
    torch.manual_seed(0)
    return MappingNetwork(latent_dim=4, style_dim=8, domains=2, width=16)


@pytest.fixture(scope="module")
def encoder() -> StyleEncoder:
    torch.manual_seed(0)
    return StyleEncoder(size=32, width=4, style_dim=8, domains=2)


def latents(seed: int = 0) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))


def faces(seed: int = 0) -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_unit_rms_scales_and_keeps_the_direction() -> None:
    code = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    scaled = unit_rms(code)
    torch.testing.assert_close(scaled.square().mean(dim=1), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled[0], scaled[1], atol=1e-4, rtol=0)
    assert unit_rms(torch.zeros(1, 4)).isfinite().all()
    assert unit_rms(code.bfloat16()).dtype == torch.float32


def test_codes_have_unit_rms_from_either_source(mapping: MappingNetwork, encoder: StyleEncoder) -> None:
    for codes in (mapping(latents(), DOMAIN), encoder(faces(), DOMAIN)):
        assert codes.shape == (3, 8)
        torch.testing.assert_close(codes.square().mean(dim=1), torch.ones(3), atol=2e-3, rtol=0)


def test_latent_and_domain_change_the_code(mapping: MappingNetwork) -> None:
    code = mapping(latents(), DOMAIN)
    assert torch.equal(code, mapping(latents(), DOMAIN))
    assert (code - mapping(latents(1), DOMAIN)).abs().mean() > 0.01
    assert (code - mapping(latents(), 1 - DOMAIN)).abs().mean() > 0.01


def test_a_face_and_its_mirror_image_have_one_code(encoder: StyleEncoder) -> None:
    faces, domain = torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 1])
    torch.testing.assert_close(encoder(faces.flip(-1), domain), encoder(faces, domain), atol=1e-5, rtol=0)
    assert (encoder(faces.flip(-2), domain) - encoder(faces, domain)).abs().max() > 1e-3


def test_face_and_domain_change_the_code(encoder: StyleEncoder) -> None:
    code = encoder(faces(), DOMAIN)
    assert torch.equal(code, encoder(faces(), DOMAIN))
    assert (code - encoder(faces(1), DOMAIN)).abs().mean() > 1e-3
    assert (code - encoder(faces(), 1 - DOMAIN)).abs().mean() > 0.01


@pytest.mark.parametrize("size", [32, 64])
def test_the_encoder_takes_its_own_size(size: int) -> None:
    encoder = StyleEncoder(size=size, width=2, style_dim=8, domains=2)
    assert encoder(torch.rand(1, 3, size, size), torch.tensor([1])).shape == (1, 8)


def test_gradients_reach_every_parameter(mapping: MappingNetwork, encoder: StyleEncoder) -> None:
    weights = torch.arange(8.0)  # a plain sum of squares is fixed by the norm
    (mapping(latents(), DOMAIN) @ weights).sum().backward()
    (encoder(faces(), DOMAIN) @ weights).sum().backward()
    for parameter in [*mapping.parameters(), *encoder.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_a_domain_that_is_not_there_gets_no_gradient(mapping: MappingNetwork) -> None:
    mapping.zero_grad()
    mapping(latents(), torch.zeros(3, dtype=torch.int64)).sum().backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in mapping.heads[1].parameters())
