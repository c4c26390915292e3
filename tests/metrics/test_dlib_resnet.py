from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.data.image_io import to_tensor
from phaseveil.errors import CheckpointError
from phaseveil.metrics.dlib_resnet import CHIP_PADDING, CHIP_SIZE, DlibResNet, aligned_chips, installed_file

dlib = pytest.importorskip("dlib", reason="needs the extra 'eval'")


@pytest.fixture(scope="module")
def network() -> DlibResNet:
    return DlibResNet()


@pytest.fixture(scope="module")
def chip(astronaut: np.ndarray, astronaut_landmarks: np.ndarray) -> np.ndarray:
    """dlib's own chip. Shape ``(150, 150, 3)``, uint8."""
    points = dlib.points([dlib.point(int(x), int(y)) for x, y in astronaut_landmarks])
    return dlib.get_face_chip(
        astronaut, dlib.full_object_detection(dlib.rectangle(0, 0, 1, 1), points), CHIP_SIZE, CHIP_PADDING
    )


def normalised(landmarks: np.ndarray, size: int) -> Tensor:
    return torch.from_numpy((landmarks + 0.5) / size)[None].float()


def test_embeds_as_dlib_does(network: DlibResNet, chip: np.ndarray) -> None:
    expected = np.array(dlib.face_recognition_model_v1(str(installed_file())).compute_face_descriptor(chip))
    assert network(to_tensor(chip)[None])[0].numpy() == pytest.approx(expected, abs=1e-5)


def test_gradient_reaches_the_photograph(
    network: DlibResNet, astronaut: np.ndarray, astronaut_landmarks: np.ndarray
) -> None:
    image = to_tensor(astronaut)[None].requires_grad_()
    network(aligned_chips(image, normalised(astronaut_landmarks, 512))).square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_cuts_the_chip_that_dlib_cuts(
    network: DlibResNet, chip: np.ndarray, astronaut: np.ndarray, astronaut_landmarks: np.ndarray
) -> None:
    image = to_tensor(astronaut)[None]
    ours, theirs = aligned_chips(image, normalised(astronaut_landmarks, 512)), to_tensor(chip)[None]
    assert (ours - theirs).abs().mean() < 0.01
    assert (network(ours) - network(theirs)).norm() < 0.1


def test_chip_follows_the_face_when_the_photograph_turns(
    astronaut: np.ndarray, astronaut_landmarks: np.ndarray
) -> None:
    image, landmarks = to_tensor(astronaut)[None], normalised(astronaut_landmarks, 512)
    turned = torch.stack([1 - landmarks[..., 1], landmarks[..., 0]], dim=-1)  # a quarter turn
    ours = aligned_chips(torch.rot90(image, -1, (2, 3)), turned)
    assert functional.l1_loss(ours, aligned_chips(image, landmarks)) < 1e-4


def test_says_when_the_file_is_missing_or_another(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.dat"
    foreign.write_bytes(b"\x01\x05con_4\x01\x02")
    with pytest.raises(CheckpointError, match="no such file"):
        DlibResNet(tmp_path / "missing.dat")
    with pytest.raises(CheckpointError, match="not dlib's face recognition network"):
        DlibResNet(foreign)
