"""The heatmap network: shapes, ranges, soft-argmax, gradients, files and errors."""

from pathlib import Path

import pytest
import torch

from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet, load_heatmap_net, save_heatmap_net, soft_argmax


@pytest.fixture(scope="module")
def network() -> HeatmapNet:
    torch.manual_seed(0)
    return HeatmapNet(HeatmapConfig(size=32, width=4)).eval()


@pytest.mark.parametrize("size", [32, 48])
def test_shapes_and_ranges(network: HeatmapNet, size: int) -> None:
    with torch.no_grad():
        output = network(torch.rand(2, 3, size, size))
    assert output.logits.shape == (2, 5, size // 2, size // 2)
    assert output.landmarks.shape == (2, 68, 2)
    assert output.landmarks.dtype == output.heatmap.dtype == torch.float32
    assert 0 < output.landmarks.min() < output.landmarks.max() < 1
    assert 0 < output.heatmap.min() < output.heatmap.max() < 1
    assert output.heatmap.mean() < 0.2  # begins nearly empty


@pytest.mark.parametrize("point", [(0, 0), (3, 9), (11, 7)])
def test_soft_argmax_of_a_peak_is_its_pixel_centre(point: tuple[int, int]) -> None:
    column, row = point
    logits = torch.full((1, 1, 10, 12), -30.0)
    logits[0, 0, row, column] = 30.0
    expected = torch.tensor([(column + 0.5) / 12, (row + 0.5) / 10])
    torch.testing.assert_close(soft_argmax(logits)[0, 0], expected)


def test_soft_argmax_of_two_equal_peaks_lies_between() -> None:
    logits = torch.full((1, 1, 8, 8), -30.0)
    logits[0, 0, 2, 1] = logits[0, 0, 2, 5] = 30.0
    torch.testing.assert_close(soft_argmax(logits)[0, 0], torch.tensor([3.5 / 8, 2.5 / 8]))


def test_soft_argmax_gradient() -> None:
    logits = torch.randn(1, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = soft_argmax(logits.requires_grad_())
    assert points.dtype == torch.float32  # also under autocast, where bf16 cannot tell pixels apart
    (gradient,) = torch.autograd.grad(points.sum(), logits)
    assert torch.all(gradient[:, :, 0, 0] < 0)  # more weight at the top left moves the point there


def test_gradients_reach_every_parameter_and_the_acquisition() -> None:
    torch.manual_seed(0)
    network = HeatmapNet(HeatmapConfig(size=32, width=4))
    acquisition = torch.rand(2, 3, 32, 32, requires_grad=True)
    output = network(acquisition)
    (output.heatmap.square().sum() + output.landmarks.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert acquisition.grad is not None
    assert (acquisition.grad.abs().amax(dim=1) > 0).all()


def test_file_round_trip_in_half_precision(network: HeatmapNet, tmp_path: Path) -> None:
    file = save_heatmap_net(tmp_path / "heatmap.safetensors", network, {"steps": 3})
    again = load_heatmap_net(file)
    assert again.config == network.config
    assert not again.training
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(image).landmarks, network(image).landmarks, atol=1e-3, rtol=0)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_heatmap_net(tmp_path / "none.safetensors")


@pytest.mark.parametrize("values", [{"size": 40}, {"size": 16}, {"width": 0}])
def test_impossible_sizes_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="size must be a multiple of 16"):
        HeatmapConfig(**values)
