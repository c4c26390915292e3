"""Parts that the networks share."""

import pytest
import torch

from phaseveil.models.blocks import NormalisedBlock, ResidualBlock, by_domain, conv3, double, halve, to_channels_last


@pytest.mark.parametrize("block", [NormalisedBlock, ResidualBlock])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (4, 6)])
def test_blocks_keep_the_frame(block: type[NormalisedBlock | ResidualBlock], inputs: int, outputs: int) -> None:
    assert block(inputs, outputs)(torch.rand(2, inputs, 6, 5)).shape == (2, outputs, 6, 5)


def test_residual_blocks_keep_the_variance_about() -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 32, 16, 16)
    for _ in range(6):
        features = ResidualBlock(32, 32)(features)
    assert 0.2 < features.std() < 5


def test_conv3_keeps_or_halves() -> None:
    image = torch.rand(1, 2, 8, 8)
    assert conv3(2, 3)(image).shape == (1, 3, 8, 8)
    assert conv3(2, 3, stride=2)(image).shape == (1, 3, 4, 4)


def test_halving_undoes_doubling() -> None:
    features = torch.rand(2, 3, 4, 4)
    assert double(features).shape == (2, 3, 8, 8)
    torch.testing.assert_close(halve(double(features)), features)


def test_each_item_gets_its_own_domain() -> None:
    heads = torch.arange(12.0).reshape(2, 3, 2)
    assert by_domain(heads, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]


def test_channels_last_changes_the_layout_only() -> None:
    convolution = conv3(4, 4)
    before = convolution.weight.detach().clone()
    assert to_channels_last(convolution, "cpu").weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(convolution.weight, before)
