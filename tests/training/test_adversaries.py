"""Stage I's adversaries: they learn, the optics feel the opposite, and a run with them resumes exactly."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phaseveil import checkpoint
from phaseveil.config import from_mapping, to_mapping
from phaseveil.data.datasets import FaceBatch, load_faces
from phaseveil.errors import ConfigError
from phaseveil.training.adversaries import (
    AdversaryConfig,
    IdentityAdversary,
    InversionAdversary,
    adversarial_losses,
    build_adversaries,
)
from phaseveil.training.camera import train_camera
from phaseveil.training.camera_config import CameraTraining

pytest.importorskip("dlib", reason="needs the extra 'eval'")

SMALL = AdversaryConfig(inversion_width=4, faces=3, head_start=1)


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture
def batch(prepared: Path) -> FaceBatch:
    return load_faces(prepared, "train", 32).batch(range(3))


@pytest.mark.parametrize("kind", [InversionAdversary, IdentityAdversary])
def test_it_learns_and_every_parameter_takes_part(
    kind: type[InversionAdversary] | type[IdentityAdversary], batch: FaceBatch
) -> None:
    torch.manual_seed(0)
    adversary = kind(dataclasses.replace(SMALL, inversion_rate=2e-3, identity_rate=2e-5), "cpu")
    seen = 0.5 * functional.interpolate(functional.avg_pool2d(batch.image, 4), scale_factor=4)
    losses = []
    for _ in range(12):
        loss = adversary.loss(seen, batch)
        adversary.optimizer.zero_grad()
        loss.backward()
        adversary.optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adversary.network.parameters())


@pytest.mark.parametrize("name", ["inversion", "identity"])
def test_the_optics_feel_the_opposite_by_their_weight(name: str, batch: FaceBatch) -> None:
    torch.manual_seed(0)
    adversaries = build_adversaries({"inversion": 0, "identity": 0, name: 1}, SMALL, "cpu")
    assert list(adversaries) == [name]
    network = adversaries[name].network.eval()
    if name == "inversion":  # its last layer starts at zero
        torch.nn.init.normal_(network.head[0].weight, std=0.1)  # type: ignore[union-attr, index, arg-type]

    def gradients(weight: float) -> tuple[Tensor, list[Tensor]]:
        acquisition = (batch.image * 0.5).requires_grad_()
        network.zero_grad()
        adversarial_losses(adversaries, acquisition, batch, {name: weight})[name].backward()
        assert acquisition.grad is not None
        return acquisition.grad, [p.grad.clone() for p in network.parameters() if p.grad is not None]

    (none, own), (reversed_once, same), (twice, _) = gradients(0), gradients(1), gradients(2)
    plain = (batch.image * 0.5).requires_grad_()
    adversaries[name].loss(plain, batch).backward()
    assert plain.grad is not None
    assert not none.any()
    torch.testing.assert_close(reversed_once, -plain.grad, rtol=0.05, atol=0.02 * plain.grad.abs().max().item())
    torch.testing.assert_close(twice, 2 * reversed_once, rtol=0.05, atol=0.04 * plain.grad.abs().max().item())
    assert all(torch.equal(a, b) for a, b in zip(own, same, strict=True))


def test_the_mask_waits_for_the_head_start_and_then_feels_more_and_more() -> None:
    config = AdversaryConfig(head_start=100)
    assert [config.share(step) for step in (0, 99, 100, 150, 200, 900)] == [0, 0, 0, 0.5, 1, 1]
    assert AdversaryConfig(head_start=0).share(0) == 1


@pytest.mark.parametrize("values", [{"faces": 1}, {"inversion_width": 0}, {"identity_rate": 0.0}, {"temperature": 0.0}])
def test_impossible_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        from_mapping(AdversaryConfig, values)


def test_a_resumed_run_with_adversaries_equals_an_uninterrupted_one(
    prepared: Path, small_camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_tensorboard: None
) -> None:
    monkeypatch.setattr("phaseveil.training.camera.save_optics_figure", lambda path, camera, size: None)
    values = {
        "data": str(prepared),
        "camera": str(small_camera),
        "network": {"size": 32, "width": 4},
        "steps": 4,
        "mask_share": 0.75,
        "batch_size": 3,
        "mask_start_defocus": 2e-7,
        "save_every": 100,
        "val_faces": 4,
        "weights": {"inversion": 1.0, "identity": 1.0, "smoothness": 1.0},
        "adversary": to_mapping(SMALL),
        "conditions": {"noise": [0.5, 2.0], "bits": [8, 10], "distance": [0.9, 1.1], "focus": 1e-5},
    }
    states = []
    for name, minutes in (("whole", [float("inf")]), ("parts", [0, 0, float("inf")])):
        config = from_mapping(CameraTraining, {**values, "out": str(tmp_path / name)})
        for number, limit in enumerate(minutes):
            train_camera(config, resume=number > 0, max_minutes=limit, say=quiet)
        states.append(checkpoint.load(tmp_path / name / "state.safetensors").tensors)
    assert states[0].keys() == states[1].keys()
    assert any("identity" in key for key in states[0])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
