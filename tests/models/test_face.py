"""The face networks as one module: files, configuration, errors."""

from pathlib import Path

import pytest
import torch

from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.models.face import FaceConfig, FaceNetworks, load_face_networks, save_face_networks


@pytest.fixture(scope="module")
def networks(tiny_face_config: FaceConfig) -> FaceNetworks:
    torch.manual_seed(0)
    return FaceNetworks(tiny_face_config).eval()


def draw(networks: FaceNetworks, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    config, domain = networks.config, torch.tensor([0, 1])
    style = networks.mapping(torch.randn(2, config.latent_dim, generator=random), domain)
    fixed = torch.Generator().manual_seed(99)
    acquisition = torch.rand(2, 3, config.size, config.size, generator=fixed)
    heatmap = torch.rand(2, 5, config.size // 2, config.size // 2, generator=fixed)
    with torch.no_grad():
        return networks.generator(acquisition, heatmap, style)


def test_the_same_seed_draws_the_same_face_and_another_another(networks: FaceNetworks) -> None:
    assert torch.equal(draw(networks, 1), draw(networks, 1))
    assert (draw(networks, 1) - draw(networks, 2)).abs().mean() > 1e-3


def test_file_round_trip_in_half_precision(networks: FaceNetworks, tmp_path: Path) -> None:
    file = save_face_networks(tmp_path / "face.safetensors", networks, {"steps": 5})
    again = load_face_networks(file)
    assert again.config == networks.config
    assert not again.training
    torch.testing.assert_close(draw(again), draw(networks), atol=5e-3, rtol=0)
    assert file.stat().st_size < 2.5 * sum(parameter.numel() for parameter in networks.parameters()) + 20_000


def test_another_kind_of_file_is_refused(heatmap_weights: Path) -> None:
    with pytest.raises(CheckpointError, match="holds 'heatmap' weights, but 'face' weights are needed here"):
        load_face_networks(heatmap_weights)


@pytest.fixture
def heatmap_weights(tiny_weights: Path) -> Path:
    return tiny_weights / "heatmap.safetensors"


@pytest.mark.parametrize("values", [{"size": 16}, {"size": 96}, {"width": 7}, {"style_dim": 0}, {"bottleneck": 0}])
def test_impossible_sizes_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"^face networks: "):
        FaceConfig(**values)
