"""Stage II on a handful of synthetic faces: runs start from what they are given, resume exactly, errors are clear."""

import json
from pathlib import Path

import pytest
import torch
from tests.training.face_cases import TINY, elsewhere
from torch import Tensor

from phaseveil import checkpoint
from phaseveil.config import load_config
from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.models.face import load_face_networks
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet, save_heatmap_net
from phaseveil.training import face as stage
from phaseveil.training import face_run as beginning
from phaseveil.training.face import train_face
from phaseveil.training.face_config import FaceTraining
from phaseveil.training.parallel import Processes

pytestmark = pytest.mark.usefixtures("no_tensorboard")


def quiet(line: str) -> None:
    """Say nothing."""


def state(folder: str | Path) -> dict[str, Tensor]:
    return checkpoint.load(Path(folder) / "state.safetensors").tensors


@pytest.mark.parametrize("judged_by", ["pixels", "features"])
def test_a_resumed_run_equals_an_uninterrupted_one(config: FaceTraining, tmp_path: Path, judged_by: str) -> None:
    config = elsewhere(config, tmp_path / "whole", judged_by=judged_by)
    train_face(config, say=quiet)
    interrupted = elsewhere(config, tmp_path / "interrupted")
    train_face(interrupted, max_minutes=0, say=quiet)
    train_face(interrupted, resume=True, max_minutes=0, say=quiet)
    train_face(interrupted, resume=True, say=quiet)
    whole, parts = state(config.out), state(interrupted.out)
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("judged_by", ["pixels", "features"])
def test_a_run_trains_everything_and_exports_it(config: FaceTraining, judged_by: str) -> None:
    config = elsewhere(config, Path(config.out), judged_by=judged_by)
    out = Path(config.out)
    said: list[str] = []
    figures = train_face(config, max_minutes=0, say=said.append)
    assert all(value == value for value in figures.values())
    assert said[-1] == "stopped after 0 minutes at step 1 of 4; go on with --resume"
    assert load_face_networks(out / "face.safetensors").config == config.networks
    assert (out / "samples.png").stat().st_size > 1000
    record = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    assert {"adversarial", "cycle", "discriminator"} <= record.keys()
    assert ("r1" in record) == (judged_by == "pixels")
    start, after = beginning.start_run(config, Processes()), state(out)
    parts = {"discriminator": start.discriminator}
    parts |= {f"networks.{name}": start.networks.get_submodule(name) for name in ("generator", "style_encoder")}
    for prefix, module in parts.items():
        for name, tensor in module.named_parameters():
            assert not torch.equal(after[f"module.{prefix}.{name}"], tensor), f"{prefix}.{name}"


def test_it_goes_on_from_earlier_weights(config: FaceTraining, tmp_path: Path) -> None:
    train_face(config, max_minutes=0, say=quiet)
    weights = Path(config.out) / "face.safetensors"
    run = beginning.start_run(elsewhere(config, tmp_path / "x", start=str(weights)), Processes())
    stored = load_face_networks(weights)
    assert all(torch.equal(a, b) for a, b in zip(run.networks.parameters(), stored.parameters(), strict=True))
    other = elsewhere(config, tmp_path / "x", start=str(weights), networks={**TINY, "width": 16})
    with pytest.raises(CheckpointError, match="but the configuration says"):
        beginning.start_run(other, Processes())


@pytest.mark.parametrize(("judged_by", "name"), [("pixels", "Discriminator"), ("features", "FeatureDiscriminator")])
def test_it_goes_on_from_an_earlier_discriminator(
    config: FaceTraining, tmp_path: Path, judged_by: str, name: str
) -> None:
    config = elsewhere(config, Path(config.out), judged_by=judged_by)
    train_face(config, max_minutes=0, say=quiet)
    weights = Path(config.out) / "discriminator.safetensors"
    run = beginning.start_run(elsewhere(config, tmp_path / "x", discriminator=str(weights)), Processes())
    trained = state(config.out)
    for key, value in run.discriminator.named_parameters():
        assert torch.equal(value, trained[f"module.discriminator.{key}"].half().float()), key
    other = elsewhere(config, tmp_path / "x", discriminator=str(weights), discriminator_width=8)
    with pytest.raises(CheckpointError, match=f"do not fit {name}"):
        beginning.start_run(other, Processes())


def test_the_discriminator_has_a_learning_rate_of_its_own(config: FaceTraining, tmp_path: Path) -> None:
    moved = []
    for rate in (1.0, 3.0):
        run = elsewhere(config, tmp_path / f"{rate}", discriminator_rate=rate)
        before = dict(beginning.start_run(run, Processes()).discriminator.named_parameters())
        train_face(run, max_minutes=0, say=quiet)
        after = state(run.out)
        steps = [(after[f"module.discriminator.{name}"] - value).abs().median() for name, value in before.items()]
        moved.append(torch.stack(steps).tolist())
    assert moved[1] == pytest.approx([3 * step for step in moved[0]], rel=0.02)  # Adam's first step is the rate


def test_a_judge_reads_generated_faces_directly(config: FaceTraining, heatmap_file: Path) -> None:
    run = beginning.start_run(elsewhere(config, Path(config.out), judge=str(heatmap_file)), Processes())
    assert isinstance(run.judge, HeatmapNet)
    assert run.judge is not run.heatmap_net


def test_a_judge_looks_through_the_camera_it_was_trained_behind(config: FaceTraining, heatmap_file: Path) -> None:
    """A faint pattern of single pixels, which it sees without one, hardly reaches it."""
    face = torch.full((1, 3, 32, 32), 0.5)
    weave = face + 0.01 * (-1.0) ** torch.arange(32) * torch.hann_window(32)  # nothing at the border, where it mirrors
    seen = {}
    for camera in ("", "gaussian"):
        judge = beginning.start_run(
            elsewhere(config, Path(config.out), judge=str(heatmap_file), judge_camera=camera), Processes()
        ).judge
        with torch.inference_mode():
            seen[camera] = (judge(weave).logits - judge(face).logits).abs().max()
    assert seen["gaussian"] < 0.05 * seen[""]


def test_a_judges_camera_without_a_judge_is_refused(config: FaceTraining) -> None:
    with pytest.raises(ConfigError, match="set judge=FILE"):
        elsewhere(config, Path(config.out), judge_camera="gaussian")


def test_the_state_of_other_networks_is_refused(config: FaceTraining) -> None:
    train_face(config, max_minutes=0, say=quiet)
    other = elsewhere(config, Path(config.out), networks={**TINY, "width": 16})
    with pytest.raises(CheckpointError, match="weights do not fit FaceNetworks"):
        train_face(other, resume=True, say=quiet)


def test_a_heatmap_network_of_another_size_is_refused(config: FaceTraining, tmp_path: Path) -> None:
    larger = save_heatmap_net(tmp_path / "larger.safetensors", HeatmapNet(HeatmapConfig(size=64, width=4)))
    with pytest.raises(ConfigError, match="heatmap network is for 64-pixel faces, the face networks for 32"):
        beginning.start_run(elsewhere(config, tmp_path, heatmap=str(larger)), Processes())


def test_perceptual_weights_are_asked_for(config: FaceTraining, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set perceptual=FILE to LPIPS weights; 'phaseveil download perceptual'"):
        beginning.start_run(elsewhere(config, tmp_path, perceptual=""), Processes())


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 6},
        {"batch_size": 2},
        {"r1_every": 0},
        {"hold": 1.0},
        {"steps": 0},
        {"judged_by": "taste"},
        {"recoloured": 1.5},
        {"identity_margin": 0.0},
    ],
)
def test_impossible_configurations_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"^stage II: "):
        FaceTraining(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("preset", "size"), [("base", 128), ("release", 128), ("paper", 256)])
def test_the_presets_are_valid(preset: str, size: int) -> None:
    assert load_config(FaceTraining, f"stage2/{preset}").networks.size == size


def test_reconstruction_falls_to_its_floor(config: FaceTraining) -> None:
    config = elsewhere(config, Path(config.out), steps=100, hold=0.4, reconstruction_floor=0.25)
    start, held, end = (stage._weights_at(step, config) for step in (0, 40, 100))
    assert start == held == vars(config.weights)
    falling = {"reconstruction", "perceptual"}
    for name, weight in start.items():
        assert end[name] == pytest.approx(weight * (0.25 if name in falling else 1)), name


def test_the_learning_rate_warms_up_and_falls_at_the_end(config: FaceTraining) -> None:
    config = elsewhere(config, Path(config.out), steps=1000, warm_up=10)
    rates = [stage._rate(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[9:800]) == {1.0}
    assert rates[900] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.1)
