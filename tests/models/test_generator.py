"""The generator: shapes, ranges, and what its output depends on."""

import pytest
import torch
from torch import Tensor, nn

from phaseveil.models.generator import Generator, ModulatedConv, StyledBlock
from phaseveil.models.style import unit_rms


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(width=8, style_dim=8, heatmaps=5, bottleneck=1)


def inputs(size: int = 32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return (
        torch.rand(2, 3, size, size, generator=random),
        torch.rand(2, 5, size // 2, size // 2, generator=random),
        unit_rms(torch.randn(2, 8, generator=random)),
    )


@pytest.mark.parametrize("size", [32, 40])
def test_faces_have_the_size_of_the_acquisition_and_lie_in_range(generator: Generator, size: int) -> None:
    with torch.no_grad():
        face = generator(*inputs(size))
    assert face.shape == (2, 3, size, size)
    assert face.dtype == torch.float32
    assert 0 <= face.min() < face.max() <= 1


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_acquisition_heatmap_and_style_all_change_the_face(generator: Generator, argument: int) -> None:
    first, other = list(inputs()), inputs(seed=1)
    with torch.no_grad():
        face = generator(*first)
        first[argument] = other[argument]
        changed = generator(*first)
    assert (face - changed).abs().mean() > 1e-3


def test_the_same_inputs_give_the_same_face(generator: Generator) -> None:
    with torch.no_grad():
        assert torch.equal(generator(*inputs()), generator(*inputs()))


def test_faces_of_a_batch_do_not_see_each_other(generator: Generator) -> None:
    acquisition, heatmap, style = inputs()
    with torch.no_grad():
        together = generator(acquisition, heatmap, style)
        alone = generator(acquisition[:1], heatmap[:1], style[:1])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter_and_every_input(generator: Generator) -> None:
    arguments = [tensor.requires_grad_() for tensor in inputs()]
    generator.zero_grad()
    generator(*arguments).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in arguments)


def test_modulating_features_equals_modulating_weights() -> None:
    """Karras et al. 2020, eqs. 1-3, written out for one image at a time."""
    torch.manual_seed(0)
    layer = ModulatedConv(4, 6, style_dim=8)
    nn.init.normal_(layer.bias)
    features, style = torch.randn(2, 4, 5, 5), torch.randn(2, 8)
    ours = layer(features, style)
    for item in range(2):
        scale = layer.affine(style[item])
        weight = layer.weight * scale[None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-6).sqrt()
        expected = nn.functional.conv2d(features[item : item + 1], weight, layer.bias, padding=1)
        torch.testing.assert_close(ours[item : item + 1], expected, atol=1e-5, rtol=1e-4)


def test_modulated_convolutions_keep_unit_variance() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(32, 32, style_dim=8)
    output = layer(torch.randn(4, 32, 16, 16), 3 * torch.randn(4, 8))
    assert output[..., 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.1)


def test_a_styled_block_joins_the_heatmap_where_there_is_one() -> None:
    style = torch.randn(2, 8)
    assert StyledBlock(4, 6, 8)(torch.rand(2, 4, 8, 8), style).shape == (2, 6, 8, 8)
    assert StyledBlock(4, 6, 8, extra=5)(torch.rand(2, 4, 8, 8), style, torch.rand(2, 5, 8, 8)).shape == (2, 6, 8, 8)
