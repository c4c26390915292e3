"""Folded networks draw what the learned ones draw."""

import copy

import pytest
import torch
from torch import nn

from phaseveil.models.folding import folded
from phaseveil.models.generator import Generator
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet
from phaseveil.models.pair import Pair, Redrawn


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Small networks whose batch normalisations and biases do something."""
    torch.manual_seed(0)
    networks = Pair(HeatmapNet(HeatmapConfig(size=32, width=4)), Generator(8, 8, 5, bottleneck=1)).eval()
    for name, tensor in networks.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith(("running_mean", "bias")) and "affine" not in name:
            tensor.normal_(std=0.2)
    return networks


def draw(pair: Pair, dtype: torch.dtype) -> Redrawn:
    random = torch.Generator().manual_seed(1)
    acquisition, style = torch.rand(3, 3, 32, 32, generator=random), torch.randn(3, 8, generator=random)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        return pair(acquisition.to(memory_format=torch.channels_last), style)


def test_in_float32_folded_networks_draw_the_same(pair: Pair) -> None:
    for found, expected in zip(
        draw(folded(pair, torch.float32), torch.float32), draw(pair, torch.float32), strict=True
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_in_bfloat16_folding_costs_less_than_bfloat16_does(pair: Pair) -> None:
    exact = draw(pair, torch.float32).face
    plain = (draw(pair, torch.bfloat16).face - exact).abs().mean()
    quick = (draw(folded(pair, torch.bfloat16), torch.bfloat16).face - exact).abs().mean()
    assert 0 < quick < 1.25 * plain


def test_nothing_is_left_to_be_folded(pair: Pair) -> None:
    ready = folded(pair, torch.bfloat16)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    assert all(weight.dtype == torch.bfloat16 for name, weight in ready.named_parameters() if weight.ndim == 4)
    assert not any(weight.requires_grad for weight in ready.parameters())


def test_the_given_networks_stay_as_they_are_and_lead_their_own_life(pair: Pair) -> None:
    before = copy.deepcopy(pair.state_dict())
    ready = folded(pair, torch.float32)
    for name, tensor in pair.state_dict().items():
        assert torch.equal(tensor, before[name])
    drawn = draw(ready, torch.float32).face
    with torch.no_grad():
        pair.generator.to_rgb.bias.add_(1.0)
    assert torch.equal(draw(ready, torch.float32).face, drawn)
    with torch.no_grad():
        pair.generator.to_rgb.bias.sub_(1.0)
