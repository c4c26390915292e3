"""Attack A4: the fine-tuned recogniser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from phaseveil import checkpoint
from phaseveil.attacks.attacker import embed
from phaseveil.attacks.recognition import (
    FULL,
    QUICK,
    RecogniserConfig,
    draw_places,
    means_by,
    others_loss,
    recognition_loss,
    squared_distances,
    train_recogniser,
)
from phaseveil.data.image_io import resize
from phaseveil.data.landmarks import DlibDetector, LandmarkPredictor
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.metrics.dlib_resnet import DlibResNet
from phaseveil.run_state import seeded

pytest.importorskip("dlib", reason="needs the extra 'eval'")

TINY = RecogniserConfig(steps=3, persons=2, photographs=2, save_every=2)
PERSONS = np.array([7, 7, 30])


class Interrupted(Exception):
    """Stands for a killed run."""


@pytest.fixture(scope="module")
def scenes(astronaut: np.ndarray) -> np.ndarray:
    """A face, the same darker, and a squeezed one for another person. Shape ``(3, 96, 96, 3)``, uint8."""
    face = resize(np.ascontiguousarray(astronaut[20:220, 124:324]), 96)
    other = resize(face, (96, 60))
    return np.stack([face, (face * 0.7).astype(np.uint8), np.pad(other, ((0, 0), (18, 18), (0, 0)))])


@pytest.fixture(scope="module")
def landmarks(astronaut: np.ndarray) -> Tensor:
    """Normalised to [0, 1]. Shape ``(3, 68, 2)``."""
    points = LandmarkPredictor().predict(astronaut, DlibDetector().detect(astronaut)[0].box)
    return torch.from_numpy((points - [124, 20]) / 200).float().expand(3, -1, -1)


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """A camera of 16 × 16 pixels with noise."""
    coarse = functional.avg_pool2d(images, 6)
    return coarse + 0.01 * torch.randn(coarse.shape, generator=generator)


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


@torch.no_grad()
def distance_to_clear(network: DlibResNet, seen: Tensor, scenes: np.ndarray, landmarks: Tensor) -> float:
    target = embed(DlibResNet(), to_images(scenes), landmarks)
    return (embed(network, seen, landmarks) - target).norm(dim=1).mean().item()


def test_training_brings_blurred_faces_to_their_clear_embeddings(
    scenes: np.ndarray, landmarks: Tensor, tmp_path: Path
) -> None:
    config = replace(TINY, steps=8, centre_share=0.0, save_every=100)
    network = train_recogniser(scenes, landmarks, PERSONS, blurred, config, tmp_path / "state.safetensors", quiet)
    seen = blurred(to_images(scenes), torch.Generator().manual_seed(1))
    before, after = (distance_to_clear(net, seen, scenes, landmarks) for net in (DlibResNet(), network))
    assert after < 0.7 * before
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_clear_lens_does_not_spoil_recognition(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    config = replace(TINY, steps=10, centre_share=0.0, save_every=100)
    network = train_recogniser(scenes, landmarks, PERSONS, clear, config, tmp_path / "state.safetensors", quiet)
    assert distance_to_clear(network, to_images(scenes), scenes, landmarks) < 0.3  # strangers: 0.8


def test_nothing_is_learned_from_uniform_grey(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    def grey(images: Tensor, generator: torch.Generator) -> Tensor:
        return 0.5 + 0.01 * torch.randn(images.shape, generator=generator)

    config = replace(TINY, steps=8, save_every=100)
    network = train_recogniser(scenes, landmarks, PERSONS, grey, config, tmp_path / "state.safetensors", quiet)
    seen = grey(torch.zeros(1000, 3, 48, 48), torch.Generator().manual_seed(1))
    points = landmarks[:1].expand(50, -1, -1)
    codes = torch.cat([embed(network, images, points) for images in seen.split(50)])
    similarity = -squared_distances(codes[:500], codes[500:])  # 500 people who are photographed twice
    same = torch.eye(500, dtype=torch.bool)
    auc = roc_auc_score(same.flatten(), similarity.flatten())
    assert abs(auc - 0.5) < 0.05, auc


def test_loss_reaches_every_parameter(scenes: np.ndarray, landmarks: Tensor) -> None:
    network = DlibResNet().requires_grad_()
    target = torch.zeros(3, 128)
    embedding = embed(network, to_images(scenes), landmarks)
    recognition_loss(embedding, target, target[:2], torch.tensor([0, 0, 1]), TINY).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_resumed_run_equals_an_uninterrupted_one(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    train_recogniser(scenes, landmarks, PERSONS, blurred, TINY, whole, quiet)
    with pytest.raises(Interrupted):
        train_recogniser(scenes, landmarks, PERSONS, blurred, TINY, parts, interrupt_at(2))
    assert checkpoint.load(parts).metadata["step"] == 2
    network = train_recogniser(scenes, landmarks, PERSONS, blurred, TINY, parts, quiet)
    first, second = checkpoint.load(whole), checkpoint.load(parts)
    assert first.metadata == second.metadata
    assert [name for name, tensor in first.tensors.items() if not torch.equal(tensor, second.tensors[name])] == []

    def refuse(images: Tensor, generator: torch.Generator) -> Tensor:
        raise AssertionError("a finished run must return at once")

    again = train_recogniser(scenes, landmarks, PERSONS, refuse, TINY, parts, quiet)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_a_state_of_another_run_is_refused(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train_recogniser(scenes, landmarks, PERSONS, blurred, replace(TINY, steps=1), state, quiet)
    for persons, config, said in (
        (PERSONS, replace(TINY, steps=1, view="other"), "trained with view ''"),
        (PERSONS, replace(TINY, steps=1, persons=3), "trained with persons 2"),
        (np.array([1, 2, 2]), replace(TINY, steps=1), "trained with photographs"),
    ):
        with pytest.raises(CheckpointError, match=said) as error:
            train_recogniser(scenes, landmarks, persons, blurred, config, state, quiet)
        assert "\n" not in str(error.value)


def test_a_failed_write_leaves_the_last_state(
    scenes: np.ndarray, landmarks: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(Interrupted):
        train_recogniser(scenes, landmarks, PERSONS, blurred, TINY, state, interrupt_at(2))

    def half(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr("phaseveil.checkpoint.save_file", half)
    with pytest.raises(CheckpointError, match="no space left"):
        train_recogniser(scenes, landmarks, PERSONS, blurred, TINY, state, quiet)
    assert checkpoint.load(state).metadata["step"] == 2
    assert list(tmp_path.iterdir()) == [state]


@pytest.mark.usefixtures("native")
def test_mixed_precision_and_the_batch_hardly_move_an_embedding(scenes: np.ndarray, landmarks: Tensor) -> None:
    network, images = DlibResNet(), to_images(scenes)
    together = embed(network, images, landmarks)
    alone = torch.cat([embed(network, images[i, None], landmarks[i, None]) for i in range(3)])
    assert (together - alone).norm(dim=1).max() < 0.02
    assert together.dtype == torch.float32


def test_naming_prefers_the_right_person() -> None:
    centres = torch.eye(3)
    right, wrong = (
        recognition_loss(centres, centres, centres, torch.tensor(who), QUICK) for who in ([0, 1, 2], [1, 2, 0])
    )
    assert right < 1e-3
    assert wrong > 1


def test_others_loss_draws_the_views_of_a_person_together() -> None:
    persons = torch.tensor([0, 0, 1, 1])
    together, apart = torch.eye(4)[[0, 0, 1, 1]], torch.eye(4)[[0, 1, 0, 1]]
    assert others_loss(together, persons, 0.05) < 1e-3 < 1 < others_loss(apart, persons, 0.05)
    assert others_loss(torch.eye(3), torch.arange(3), 0.05) == 0


def test_squared_distances_and_means_are_what_they_say() -> None:
    first, second = torch.rand(4, 8), torch.rand(5, 8)
    assert torch.allclose(squared_distances(first, second), torch.cdist(first, second).square(), atol=1e-5)
    means = means_by(first, torch.tensor([1, 0, 1, 1]))
    assert torch.allclose(means, torch.stack([first[1], first[[0, 2, 3]].mean(dim=0)]))


def test_batches_hold_different_people_and_photographs() -> None:
    persons = torch.tensor([0, 0, 0, 1, 1, 2])
    places = draw_places(persons, RecogniserConfig(persons=3, photographs=2), seeded(0, 0, 0)).reshape(3, 2)
    assert sorted(persons[places[:, 0]].tolist()) == [0, 1, 2]
    assert torch.equal(persons[places[:, 0]], persons[places[:, 1]])
    assert all(a != b for a, b in places.tolist() if persons[a] < 2)
    assert len(draw_places(persons, RecogniserConfig(persons=5, photographs=3), seeded(0, 0, 0))) == 15


def test_refuses_photographs_that_it_cannot_train_on(scenes: np.ndarray, landmarks: Tensor, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    for wrong, persons, said in (
        (scenes[:, :50], PERSONS, "must be uint8"),
        (scenes[:0], PERSONS, "must be uint8"),
        (scenes, PERSONS[:2], "3 photographs need as many persons"),
    ):
        with pytest.raises(InputError, match=said):
            train_recogniser(wrong, landmarks, persons, blurred, TINY, state, quiet)
    assert not state.exists()


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"temperature": 0.0}, {"centre_share": 1.5}, {"learning_rate": 1.0}, {"naming_weight": -1}]
)
def test_impossible_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="recogniser: "):
        replace(QUICK, **change)


def test_full_budget_differs_in_length_alone() -> None:
    assert replace(FULL, steps=QUICK.steps) == QUICK
    assert FULL.steps == 2 * QUICK.steps  # eight times as long was the weaker attacker
