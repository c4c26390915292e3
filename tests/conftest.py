"""What all tests share: a public-domain face, tiny networks with random weights, a prepared folder of drawn faces."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import nn

from phaseveil.data.align import align_face
from phaseveil.data.image_io import write_png
from phaseveil.data.landmarks import default_detector
from phaseveil.models.face import FaceConfig, FaceNetworks, save_face_networks
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet, save_heatmap_net
from phaseveil.optics.camera import CameraConfig, build_camera, save_camera

SIZE = 32  # side of the drawn faces, pixels

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests look for onnxruntime by importing it


@pytest.fixture(params=["float32", "bfloat16"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor without bfloat16 and one with it in turn, whatever this one has; convolutions must make use of it."""
    able = request.param == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    computed: set[torch.dtype] = set()

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(module, nn.Conv2d) and isinstance(output, torch.Tensor):
            computed.add(output.dtype)

    hook = nn.modules.module.register_module_forward_hook(note)
    yield
    hook.remove()
    assert (torch.bfloat16 in computed) == able
    assert computed


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


@pytest.fixture(scope="session")
def exported(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``phaseveil export onnx`` wrote for the tiny networks."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'onnx'")
    from phaseveil import PhaseVeil
    from phaseveil.apps.export import export_onnx
    from phaseveil.engines.export import Settings

    folder = tmp_path_factory.mktemp("exported")
    export_onnx(PhaseVeil.from_pretrained(tiny_weights), folder, Settings(), lambda done, total: None)
    return folder


def synthetic_face(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An oval with eyes and a mouth ``(32, 32, 3)`` and 68 points on it, pixels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    image = np.full((SIZE, SIZE, 3), random.integers(20, 90, 3), np.uint8)
    image[((x - 16) / 11) ** 2 + ((y - 16) / 14) ** 2 < 1] = random.integers(140, 230, 3)
    centres = {17: (11, 9), 22: (21, 9), 27: (16, 16), 36: (11, 12), 42: (21, 12), 48: (16, 22)}
    for first in (36, 42, 48):
        column, row = centres[first]
        image[row - 1 : row + 2, column - 2 : column + 3] = random.integers(0, 60, 3)
    angle = np.linspace(0.1, np.pi - 0.1, 17)
    points = np.stack([16 + 11 * np.cos(angle), 16 + 14 * np.sin(angle)], axis=1)[::-1]
    for first, count in ((17, 5), (22, 5), (27, 9), (36, 6), (42, 6), (48, 20)):
        points = np.concatenate([points, centres[first] + random.normal(0, 1, (count, 2))])
    return image, points


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder: six faces to train on, four held out, both domains in each."""
    root = tmp_path_factory.mktemp("prepared")
    lines = []
    for number in range(10):
        split, domain = ("train" if number < 6 else "val"), ("female", "male")[number % 2]
        image, points = synthetic_face(number)
        file = root / "images" / split / domain / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
        record = {"file": str(file.relative_to(root)), "split": split, "domain": domain}
        lines.append(json.dumps({**record, "landmarks": points.tolist(), "size": SIZE}))
    (root / "index.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def small_camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phase-mask camera that 64 pupil samples describe."""
    file = tmp_path_factory.mktemp("camera") / "small.yaml"
    file.write_text("aperture_radius: 0.1e-3\npupil_samples: 64\nnum_modes: 8\n")
    return file


@pytest.fixture(scope="session")
def heatmap_file(tiny_heatmap_config: HeatmapConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A heatmap network with random weights for 32-pixel faces."""
    torch.manual_seed(1)
    return save_heatmap_net(tmp_path_factory.mktemp("heatmap") / "heatmap.safetensors", HeatmapNet(tiny_heatmap_config))


@pytest.fixture(scope="session")
def perceptual_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS weights of AlexNet's shape, random."""
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    generator, state = torch.Generator().manual_seed(2), {}
    for level, (index, (outputs, inputs, kernel)) in enumerate(shapes.items()):
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        state[f"features.{index}.weight"] = weight * (2 / (inputs * kernel**2)) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(outputs)
        state[f"lin{level}.weight"] = torch.rand(1, outputs, 1, 1, generator=generator)
    file = tmp_path_factory.mktemp("perceptual") / "lpips.safetensors"
    save_file(state, file)
    return file


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without TensorBoard, whose import takes longer than the run."""
    monkeypatch.setattr("phaseveil.training.logging._tensorboard", lambda folder: None)
