"""What all tests share: a public-domain face, and tiny networks with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from phaseveil.data.align import align_face
from phaseveil.data.image_io import write_png
from phaseveil.data.landmarks import default_detector
from phaseveil.models.face import FaceConfig, FaceNetworks, save_face_networks
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet, save_heatmap_net
from phaseveil.optics.camera import CameraConfig, build_camera, save_camera


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A photograph with one face (NASA, public domain). Shape ``(512, 512, 3)``, uint8."""
    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="session")
def face_crop(astronaut: np.ndarray) -> np.ndarray:
    """An aligned crop of a face. Shape ``(96, 96, 3)``, uint8."""
    return align_face(astronaut, default_detector().detect(astronaut)[0].points, 96).crop


@pytest.fixture(scope="session")
def face_file(face_crop: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The aligned crop as a file."""
    return write_png(tmp_path_factory.mktemp("face") / "face.png", face_crop)


@pytest.fixture(scope="session")
def tiny_face_config() -> FaceConfig:
    """Sizes of the smallest useful face networks."""
    return FaceConfig(size=32, width=8, bottleneck=1, style_width=4, style_dim=8, latent_dim=4)


@pytest.fixture(scope="session")
def tiny_heatmap_config(tiny_face_config: FaceConfig) -> HeatmapConfig:
    """Sizes of a heatmap network that goes with the face networks."""
    return HeatmapConfig(size=tiny_face_config.size, width=4)


@pytest.fixture(scope="session")
def tiny_weights(
    tiny_face_config: FaceConfig, tiny_heatmap_config: HeatmapConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of weights as ``PhaseVeil.from_pretrained`` reads it: random networks for 32-pixel faces."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_camera(folder / "camera.safetensors", build_camera(CameraConfig(kind="gaussian")))
    save_heatmap_net(folder / "heatmap.safetensors", HeatmapNet(tiny_heatmap_config))
    save_face_networks(folder / "face.safetensors", FaceNetworks(tiny_face_config))
    return folder
