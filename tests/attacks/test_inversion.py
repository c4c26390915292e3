"""Attack A3: the inversion network and its training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phaseveil import checkpoint
from phaseveil.attacks.attacker import learning_rate_share
from phaseveil.attacks.inversion import (
    FULL,
    QUICK,
    InversionConfig,
    InversionNet,
    inversion_loss,
    restore,
    train_inversion,
)
from phaseveil.data.image_io import resize
from phaseveil.data.landmarks import DlibDetector, LandmarkPredictor
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.metrics.dlib_resnet import DlibResNet

pytest.importorskip("dlib", reason="needs the extra 'eval'")

SIZE = 64
TINY = InversionConfig(steps=4, batch_size=4, width=4, identity_weight=0.1, identity_faces=2, save_every=2)


class Interrupted(Exception):
    """Stands for a killed run."""


@pytest.fixture(scope="module")
def scenes(astronaut: np.ndarray) -> np.ndarray:
    """Six tints of a face. Shape ``(6, 64, 64, 3)``, uint8."""
    face = resize(np.ascontiguousarray(astronaut[20:220, 124:324]), SIZE)
    tints = np.random.default_rng(0).uniform(0.6, 1.0, (6, 1, 1, 3))
    return (face * tints).astype(np.uint8)


@pytest.fixture(scope="module")
def landmarks(astronaut: np.ndarray) -> Tensor:
    """Normalised to [0, 1]. Shape ``(6, 68, 2)``."""
    points = LandmarkPredictor().predict(astronaut, DlibDetector().detect(astronaut)[0].box)
    return torch.from_numpy((points - [124, 20]) / 200).float().expand(6, -1, -1)


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """A weak camera: an 8-px box blur and noise."""
    light = functional.interpolate(functional.avg_pool2d(images, 8), scale_factor=8, mode="bilinear")
    return (light + 0.01 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def clear(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def quiet(done: int, total: int | None) -> None:
    """Report nothing."""


def interrupt_at(step: int) -> Any:
    def report(done: int, total: int | None) -> None:
        if done == step:
            raise Interrupted

    return report


def to_images(scenes: np.ndarray) -> Tensor:
    return torch.from_numpy(scenes).permute(0, 3, 1, 2).float() / 255


def test_untrained_network_returns_the_acquisition(scenes: np.ndarray) -> None:
    network = InversionNet(width=4).eval()
    assert torch.equal(restore(network, to_images(scenes)), to_images(scenes))


def test_training_restores_what_a_blur_took_away(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    config = replace(TINY, steps=60, width=8, learning_rate=3e-3, identity_weight=0.0, save_every=100)
    network = train_inversion(scenes, landmarks, blurred, config, tmp_path / "state.safetensors", quiet)
    seen = blurred(to_images(scenes), torch.Generator().manual_seed(1))
    before, after = (functional.mse_loss(images, to_images(scenes)) for images in (seen, restore(network, seen)))
    assert after < 0.5 * before


def test_clear_lens_leaves_nothing_to_restore(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    network = train_inversion(scenes, landmarks, clear, TINY, tmp_path / "state.safetensors", quiet)
    assert functional.l1_loss(restore(network, to_images(scenes)), to_images(scenes)) < 0.02


def test_every_pixel_of_the_acquisition_reaches_the_middle() -> None:
    network = InversionNet(width=4).eval()
    torch.nn.init.normal_(network.head[0].weight)
    acquisition = torch.rand(1, 3, 128, 128, requires_grad=True)
    network(acquisition)[..., 64, 64].sum().backward()
    assert acquisition.grad is not None
    assert acquisition.grad.abs().sum(dim=1).gt(0).float().mean() > 0.99


def test_loss_reaches_every_parameter(scenes: np.ndarray, landmarks: Tensor) -> None:
    network, images = InversionNet(width=4).train(), to_images(scenes)
    torch.nn.init.normal_(network.head[0].weight, std=0.1)  # at zero, nothing below it has a gradient yet
    inversion_loss(network, DlibResNet(), images * 0.5, images, landmarks, TINY).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_identity_term_sees_another_face(scenes: np.ndarray, landmarks: Tensor) -> None:
    network, images, alone = InversionNet(width=4).train(), to_images(scenes), DlibResNet()
    config = replace(TINY, gradient_weight=0.0)
    same, flat = (
        inversion_loss(network, alone, seen, images, landmarks, config)
        - inversion_loss(network, None, seen, images, landmarks, config)
        for seen in (images, torch.full_like(images, 0.5))
    )
    assert same < 1e-3
    assert flat > 10 * same
    assert flat > 0.01


def test_identity_term_joins_late_or_never() -> None:
    config = replace(TINY, steps=10, identity_from=0.6)
    assert [config.looks_at_identity(step) for step in (0, 5, 6, 10)] == [False, False, True, True]
    for off in ({"identity_weight": 0.0}, {"identity_faces": 0}):
        assert not replace(config, **off).looks_at_identity(10)


def test_a_resumed_run_equals_an_uninterrupted_one(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    network = train_inversion(scenes, landmarks, blurred, TINY, whole, quiet)
    with pytest.raises(Interrupted):
        train_inversion(scenes, landmarks, blurred, TINY, parts, interrupt_at(3))
    assert checkpoint.load(parts).metadata["step"] == 2
    again = train_inversion(scenes, landmarks, blurred, TINY, parts, quiet)
    first, second = checkpoint.load(whole), checkpoint.load(parts)
    assert first.metadata == second.metadata
    assert [name for name, tensor in first.tensors.items() if not torch.equal(tensor, second.tensors[name])] == []
    assert torch.equal(restore(network, to_images(scenes)), restore(again, to_images(scenes)))


def test_a_finished_run_returns_at_once(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    network = train_inversion(scenes, landmarks, blurred, TINY, state, quiet)

    def refuse(images: Tensor, generator: torch.Generator) -> Tensor:
        raise AssertionError("must not be acquired again")

    again = train_inversion(scenes, landmarks, refuse, replace(TINY, save_every=3), state, quiet)
    assert torch.equal(restore(network, to_images(scenes)), restore(again, to_images(scenes)))


@pytest.mark.parametrize(
    ("change", "said"), [({"camera": "other"}, "trained with camera ''"), ({"steps": 5}, "trained with steps 4")]
)
def test_a_state_of_another_configuration_is_refused(
    change: dict[str, Any], said: str, scenes: np.ndarray, landmarks: Tensor, tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"
    train_inversion(scenes, landmarks, blurred, TINY, state, quiet)
    with pytest.raises(CheckpointError, match=said) as error:
        train_inversion(scenes, landmarks, blurred, replace(TINY, **change), state, quiet)
    assert "\n" not in str(error.value)


def test_a_state_of_other_photographs_is_refused(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train_inversion(scenes, landmarks, blurred, TINY, state, quiet)
    with pytest.raises(CheckpointError, match="trained with photographs"):
        train_inversion(scenes[:5], landmarks[:5], blurred, TINY, state, quiet)


def test_a_failed_write_leaves_the_last_state(
    scenes: np.ndarray, landmarks: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(Interrupted):
        train_inversion(scenes, landmarks, blurred, TINY, state, interrupt_at(2))

    def half(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr("phaseveil.checkpoint.save_file", half)
    with pytest.raises(CheckpointError, match="no space left"):
        train_inversion(scenes, landmarks, blurred, TINY, state, quiet)
    assert checkpoint.load(state).metadata["step"] == 2
    assert list(tmp_path.iterdir()) == [state]


def test_restoring_does_not_depend_on_the_batch(scenes: np.ndarray) -> None:
    torch.manual_seed(0)
    network = InversionNet(width=4)
    torch.nn.init.normal_(network.head[0].weight, std=0.1)
    network.train()(to_images(scenes))  # statistics of its own
    network.eval()
    together, alone = (restore(network, to_images(scenes), batch_size=size) for size in (6, 1))
    assert (together - alone).abs().max() < 1 / 255
    assert restore(network, torch.empty(0, 3, SIZE, SIZE)).shape == (0, 3, SIZE, SIZE)


def test_refuses_photographs_that_it_cannot_train_on(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    for wrong, points, said in (
        (scenes.astype(np.float32), landmarks, "must be uint8"),
        (scenes[:, :48, :48], landmarks, "multiple of 32"),
        (scenes, landmarks[:5], "6 photographs need landmarks"),
        (scenes, landmarks * 64, "normalised"),
    ):
        with pytest.raises(InputError, match=said):
            train_inversion(wrong, points, blurred, TINY, state, quiet)
    assert not state.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 1},
        {"identity_faces": 17},
        {"identity_from": 2.0},
        {"learning_rate": 0.0},
        {"identity_weight": -1},
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="inversion: "):
        replace(QUICK, **change)


def test_full_budget_differs_in_length_alone() -> None:
    assert replace(FULL, steps=QUICK.steps) == QUICK
    assert FULL.steps == 8 * QUICK.steps


def test_learning_rate_warms_up_and_dies_away() -> None:
    shares = [learning_rate_share(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.2)
    assert max(shares) == shares[4] == 1.0
    assert shares[-1] == pytest.approx(0.01, abs=1e-3)
    assert shares[5:] == sorted(shares[5:], reverse=True)
