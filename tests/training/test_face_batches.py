"""What a step of stage II sees."""

from pathlib import Path

import pytest
import torch

from phaseveil.data.datasets import FaceDataset, load_faces
from phaseveil.models.face import FaceConfig, FaceNetworks
from phaseveil.models.heatmap import HeatmapNet, load_heatmap_net
from phaseveil.optics.camera import Camera, load_camera
from phaseveil.training.face_batches import FaceStep, draw_step
from phaseveil.training.face_config import FaceTraining


@pytest.fixture(scope="module")
def parts(prepared: Path, heatmap_file: Path) -> tuple[FaceDataset, Camera, HeatmapNet]:
    network = load_heatmap_net(heatmap_file).requires_grad_(False)
    return load_faces(prepared, "train", 32), load_camera("gaussian").frozen(32), network


@pytest.fixture(scope="module")
def config(tiny_face_config: FaceConfig) -> FaceTraining:
    return FaceTraining(networks=tiny_face_config, batch_size=8)


def step(parts: tuple[FaceDataset, Camera, HeatmapNet], config: FaceTraining, number: int) -> FaceStep:
    return draw_step(*parts, config, number, "cpu")


def test_a_step_is_a_function_of_seed_and_number(
    parts: tuple[FaceDataset, Camera, HeatmapNet], config: FaceTraining
) -> None:
    first, again, other = (step(parts, config, number) for number in (3, 3, 4))
    for name, tensor in vars(first).items():
        assert torch.equal(tensor, vars(again)[name]), name
    assert not torch.equal(first.acquisition, other.acquisition)


def test_shapes_and_halves(parts: tuple[FaceDataset, Camera, HeatmapNet], config: FaceTraining) -> None:
    batch = step(parts, config, 0)
    assert batch.source.shape == batch.reference.shape == batch.acquisition.shape == (8, 3, 32, 32)
    assert batch.heatmap.shape == batch.reference_heatmap.shape == batch.target_heatmap.shape == (8, 5, 16, 16)
    assert batch.landmarks.shape == (8, 68, 2)
    assert batch.latent.shape == batch.other_latent.shape == (2, config.networks.latent_dim)
    rebuild, translate = batch.halves
    assert torch.equal(batch.reference[rebuild], batch.source[rebuild])
    assert torch.equal(batch.domain[rebuild], batch.source_domain[rebuild])
    assert torch.equal(batch.reference_heatmap[rebuild], batch.heatmap[rebuild])
    assert not torch.equal(batch.reference[translate], batch.source[translate])
    assert batch.is_latent.tolist() == [False] * 6 + [True] * 2
    assert torch.equal(batch.domain[4:6], batch.domain[6:8])  # so that each quarter can lend the other a style


def test_only_losses_see_the_clear_source(parts: tuple[FaceDataset, Camera, HeatmapNet], config: FaceTraining) -> None:
    batch = step(parts, config, 0)
    assert (batch.acquisition - batch.source).abs().mean() > 0.02
    network = parts[2]
    with torch.no_grad():
        landmarks = network(batch.acquisition).landmarks
    torch.testing.assert_close(batch.landmarks, landmarks, atol=0.02, rtol=0)  # read from the acquisition, in bf16


def test_styles_come_from_faces_and_latents(
    parts: tuple[FaceDataset, Camera, HeatmapNet], config: FaceTraining
) -> None:
    torch.manual_seed(0)
    networks, batch = FaceNetworks(config.networks), step(parts, config, 0)
    styles, others = batch.styles(networks), batch.other_styles(networks)
    assert styles.shape == (8, config.networks.style_dim)
    assert others.shape == (4, config.networks.style_dim)
    torch.testing.assert_close(styles[:6], networks.style_encoder(batch.reference[:6], batch.domain[:6]))
    torch.testing.assert_close(styles[6:], networks.mapping(batch.latent, batch.domain[6:]))
    assert (styles[4:] - others).abs().mean(dim=1).min() > 1e-4


def test_losses_on_faces_do_not_reach_the_mapping_network(
    parts: tuple[FaceDataset, Camera, HeatmapNet], config: FaceTraining
) -> None:
    networks = FaceNetworks(config.networks)
    (step(parts, config, 0).styles(networks) @ torch.arange(8.0)).sum().backward()
    assert all(parameter.grad is None for parameter in networks.mapping.parameters())
    assert all(parameter.grad is not None for parameter in networks.style_encoder.parameters())
