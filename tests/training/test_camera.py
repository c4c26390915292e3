"""Stage I on a handful of synthetic faces: it learns, resumes exactly, stops in time and exports."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phaseveil import checkpoint
from phaseveil.config import from_mapping, load_config, to_mapping
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.models.heatmap import load_heatmap_net
from phaseveil.optics.camera import PhaseMaskCamera, load_camera
from phaseveil.optics.dynamic import DynamicCamera, dynamic_from
from phaseveil.run_state import seeded
from phaseveil.training.camera import cosine_schedule, train_camera
from phaseveil.training.camera_config import CameraTraining
from phaseveil.training.conditions import ConditionsConfig

pytestmark = pytest.mark.usefixtures("no_tensorboard")


@pytest.fixture
def pictures() -> None:
    """Asks for the pictures of a run."""


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without the optics figure, which takes longer than the run, where a test does not ask for it."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("phaseveil.training.camera.save_optics_figure", lambda path, camera, size: None)


@pytest.fixture
def config(prepared: Path, small_camera: Path, tmp_path: Path) -> CameraTraining:
    values = {
        "data": str(prepared),
        "out": str(tmp_path / "run"),
        "camera": str(small_camera),
        "network": {"size": 32, "width": 4},
        "steps": 4,
        "batch_size": 4,
        "mask_start_defocus": 2e-7,
        "warm_up": 2,
        "log_every": 1,
        "save_every": 100,
        "val_faces": 4,
    }
    return from_mapping(CameraTraining, values)


def elsewhere(config: CameraTraining, out: Path, **changes: object) -> CameraTraining:
    return from_mapping(CameraTraining, {**to_mapping(config), "out": str(out), **changes})


def quiet(line: str) -> None:
    """Say nothing."""


def state(folder: str | Path) -> dict[str, Tensor]:
    return checkpoint.load(Path(folder) / "state.safetensors").tensors


def test_a_resumed_run_equals_an_uninterrupted_one(config: CameraTraining, tmp_path: Path) -> None:
    train_camera(config, say=quiet)
    interrupted = elsewhere(config, tmp_path / "interrupted")
    train_camera(interrupted, max_minutes=0, say=quiet)
    train_camera(interrupted, resume=True, max_minutes=0, say=quiet)
    train_camera(interrupted, resume=True, say=quiet)
    whole, parts = state(config.out), state(interrupted.out)
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    numbers = [checkpoint.load(Path(c.out) / "state.safetensors").metadata for c in (config, interrupted)]
    assert numbers[0] == numbers[1]
    assert numbers[0]["step"] == 4


def test_interrupted_while_it_writes_its_weights_it_writes_them_when_resumed(
    config: CameraTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_camera(config, max_minutes=0, say=quiet)
    with monkeypatch.context() as patch:
        patch.setattr("phaseveil.training.camera.save_heatmap_net", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_camera(config, resume=True, say=quiet)
    train_camera(config, resume=True, say=quiet)
    assert checkpoint.load(Path(config.out) / "heatmap.safetensors", kind="heatmap").metadata["steps"] == config.steps


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("pictures", "native")
def test_a_run_changes_mask_and_network_and_exports_them(config: CameraTraining) -> None:
    out = Path(config.out)
    figures = train_camera(config, say=quiet)
    assert 0 < figures["val_landmark_error"] < 2
    assert figures["val_faces"] == 4
    camera, network = load_camera(out / "camera.safetensors"), load_heatmap_net(out / "heatmap.safetensors")
    assert isinstance(camera, PhaseMaskCamera)
    assert camera.coefficients.abs().min() > 0
    assert network.config == config.network
    assert checkpoint.load(out / "camera.safetensors").metadata["steps"] == 4
    for picture in ("optics.png", "samples.png"):
        assert (out / picture).stat().st_size > 1000
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4]


def test_the_mask_rests_after_its_share_of_the_steps(config: CameraTraining) -> None:
    run = elsewhere(config, Path(config.out), steps=2, mask_share=0.5)
    masks, heads = [], []
    for resume in (False, True):
        train_camera(run, resume=resume, max_minutes=0, say=quiet)
        masks.append(state(run.out)["module.camera.coefficients"])
        heads.append(state(run.out)["module.network.landmark_head.weight"])
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(heads[0], heads[1])


@pytest.mark.parametrize("noise", [[1.0, 1.0], [0.5, 2.0]], ids=["as designed", "of another sensor"])
def test_a_mask_at_rest_is_simulated_once_and_learned_from_alike(
    config: CameraTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: list[float]
) -> None:
    """The network's weights are those that a PSF computed for every batch gives."""
    computed = []
    psf = PhaseMaskCamera.psf
    monkeypatch.setattr(PhaseMaskCamera, "psf", lambda camera, size: computed.append(size) or psf(camera, size))
    counts, weights = [], []
    for name, moves in (("once", False), ("each", True)):
        run = elsewhere(config, tmp_path / name, mask_share=0.0, conditions={"noise": noise})
        monkeypatch.setattr(ConditionsConfig, "move_optics", moves)
        computed.clear()
        train_camera(run, say=quiet)
        counts.append(len(computed))
        weights.append(state(run.out))
    assert counts[1] - counts[0] == config.steps - 1
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []


def test_time_runs_out_after_a_whole_step(config: CameraTraining) -> None:
    said: list[str] = []
    train_camera(config, max_minutes=0, say=said.append)
    assert said[-1] == "stopped after 0 minutes at step 1 of 4; go on with --resume"
    for file in ("state.safetensors", "camera.safetensors", "heatmap.safetensors"):
        assert (Path(config.out) / file).is_file()


def test_a_baseline_camera_trains_the_network_alone(config: CameraTraining, tmp_path: Path) -> None:
    run = elsewhere(config, tmp_path / "baseline", camera="gaussian", mask_share=0.0, steps=1)
    train_camera(run, say=quiet)
    assert load_camera(tmp_path / "baseline" / "camera.safetensors").config.kind == "gaussian"
    with pytest.raises(ConfigError, match="has no mask to learn; set mask_share=0"):
        train_camera(elsewhere(run, tmp_path / "x", mask_share=0.5), say=quiet)


def test_it_goes_on_from_earlier_weights(config: CameraTraining, tmp_path: Path) -> None:
    train_camera(config, max_minutes=0, say=quiet)
    out = Path(config.out)
    again = elsewhere(
        config,
        tmp_path / "again",
        camera=str(out / "camera.safetensors"),
        heatmap=str(out / "heatmap.safetensors"),
        mask_share=0.0,
        learning_rate=1e-12,
        steps=1,
    )
    train_camera(again, say=quiet)
    before, after = state(out), state(again.out)
    assert torch.equal(after["module.camera.coefficients"], before["module.camera.coefficients"])
    name = "module.network.landmark_head.weight"
    torch.testing.assert_close(after[name], before[name.replace("network.", "ema.", 1)], atol=1e-3, rtol=1e-2)
    with pytest.raises(ConfigError, match="but the configuration says"):
        train_camera(elsewhere(again, tmp_path / "x", network={"size": 32, "width": 8}), say=quiet)
    larger = elsewhere(again, tmp_path / "larger", network={"size": 48, "width": 4})
    train_camera(larger, say=quiet)
    after = state(larger.out)
    torch.testing.assert_close(after[name], before[name.replace("network.", "ema.", 1)], atol=1e-3, rtol=1e-2)
    assert load_heatmap_net(tmp_path / "larger" / "heatmap.safetensors").config.size == 48


def test_the_state_of_another_network_is_refused(config: CameraTraining) -> None:
    train_camera(config, max_minutes=0, say=quiet)
    wider = elsewhere(config, Path(config.out), network={"size": 32, "width": 8})
    with pytest.raises(CheckpointError, match="weights do not fit HeatmapNet"):
        train_camera(wider, resume=True, say=quiet)


def test_resuming_nothing_is_refused(config: CameraTraining) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        train_camera(config, resume=True, say=quiet)


def test_faces_with_doubtful_landmarks_can_be_left_out(config: CameraTraining, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set eyes_within=0"):
        train_camera(elsewhere(config, tmp_path / "none", eyes_within=1e-4), say=quiet)


def test_a_folder_that_is_not_prepared_is_refused(config: CameraTraining, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'phaseveil prepare"):
        train_camera(elsewhere(config, tmp_path / "x", data=str(tmp_path)), say=quiet)


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"mask_share": 1.5}, {"ceiling": 0.0}, {"save_every": 0}, {"eyes_within": -0.1}]
)
def test_impossible_configurations_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"^stage I: "):
        CameraTraining(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("preset", "size"), [("adversarial", 128), ("base", 128), ("clear", 128), ("paper", 256), ("tolerant", 128)]
)
def test_the_presets_are_valid(preset: str, size: int) -> None:
    assert load_config(CameraTraining, f"stage1/{preset}").network.size == size


def test_a_family_of_masks_learns_its_mean_and_its_directions(config: CameraTraining, tmp_path: Path) -> None:
    train_camera(elsewhere(config, tmp_path / "family", family_size=2, family_spread=2e-8), say=quiet)
    camera = load_camera(tmp_path / "family" / "camera.safetensors")
    assert isinstance(camera, DynamicCamera)
    flat = load_camera(config.camera)
    assert isinstance(flat, PhaseMaskCamera)
    start = dynamic_from(flat, 2, 2e-8, seeded(config.seed, 0, 10))
    assert (camera.directions != start.directions).all()
    on = elsewhere(config, tmp_path / "on", camera=str(tmp_path / "family" / "camera.safetensors"))
    train_camera(on, max_minutes=0, say=quiet)
    assert isinstance(load_camera(tmp_path / "on" / "camera.safetensors"), DynamicCamera)


@pytest.mark.parametrize("loss", ["detail", "sameness"])
def test_the_losses_of_the_optics_reach_every_direction_of_a_family(
    config: CameraTraining, tmp_path: Path, loss: str
) -> None:
    alone = dict.fromkeys(to_mapping(config)["weights"], 0.0) | {loss: 1.0}
    family = elsewhere(config, tmp_path / "family", family_size=2, family_spread=2e-8, weights=alone)
    train_camera(family, say=quiet)
    camera, flat = load_camera(tmp_path / "family" / "camera.safetensors"), load_camera(config.camera)
    assert isinstance(camera, DynamicCamera)
    assert isinstance(flat, PhaseMaskCamera)
    assert (camera.directions != dynamic_from(flat, 2, 2e-8, seeded(config.seed, 0, 10)).directions).all()


def test_one_mask_cannot_differ_from_itself(config: CameraTraining, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this camera has one; set family_size"):
        train_camera(elsewhere(config, tmp_path / "x", weights={"sameness": 1.0}), say=quiet)


def test_the_learning_rate_warms_up_and_falls_to_a_fiftieth() -> None:
    rates = [cosine_schedule(step, 10, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[60] == pytest.approx(0.51, abs=0.01)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)
