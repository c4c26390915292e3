"""Two processes take the steps of one, on the processor by gloo, started by Accelerate as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from phaseveil import checkpoint
from phaseveil.errors import ConfigError
from phaseveil.training import parallel
from phaseveil.training.face_batches import FaceStep
from phaseveil.training.parallel import Processes, SharedBatchNorm2d, join, share_batch_statistics

STEPS = 6
STAGES = ("camera", "face")


def test_alone_there_is_nothing_to_do() -> None:
    processes = join("cpu")
    assert (processes.rank, processes.count, processes.is_main, processes.shares(8)) == (0, 1, True, [slice(0, 8)])
    tensor, network = torch.ones(4), nn.Sequential(nn.BatchNorm2d(2))
    assert processes.whole(tensor, 4) is tensor
    assert processes.mean({"a": 0.1}) == {"a": 0.1}
    share_batch_statistics(network, processes)
    assert type(network[0]) is nn.BatchNorm2d


def test_shares_are_all_of_the_batch_once() -> None:
    places = [list(range(24))[share] for rank in range(3) for share in Processes(rank, 3, 2).shares(24)]
    assert [place for part in places for place in part] == list(range(24))
    assert {len(part) for part in places} == {4}
    with pytest.raises(ConfigError, match="8 faces cannot be shared out to 3 processes"):
        Processes(0, 3).shares(8)


def test_a_part_falls_into_quarters_as_the_whole_does() -> None:
    faces, quarter = torch.arange(8)[:, None, None, None].float(), torch.arange(2)
    flat = torch.arange(8)
    batch = FaceStep(faces, faces, faces, flat, faces, faces, flat, flat, flat, flat, quarter, quarter)
    assert batch.part(slice(1, 2)).domain.tolist() == [1, 3, 5, 7]
    assert batch.part(slice(1, 2)).recolouring.tolist() == [1, 3, 5, 7]
    assert batch.part(slice(1, 2)).scatter.tolist() == [1, 3, 5, 7]
    assert batch.part(slice(1, 2)).latent.tolist() == [1]
    assert torch.equal(batch.part(slice(0, 2)).source, faces)


def test_batch_statistics_are_those_of_all_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both shares in one process: sums over processes become sums over shares that are computed in step."""
    torch.manual_seed(0)
    plain, whole = nn.BatchNorm2d(3), torch.randn(8, 3, 5, 5) * 2 + 1
    shared = nn.Sequential(nn.BatchNorm2d(3))
    monkeypatch.setattr(parallel.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(parallel, "sum_over_processes", lambda tensor: tensor)
    share_batch_statistics(shared, Processes(0, 2))
    assert isinstance(shared[0], SharedBatchNorm2d)
    given = [whole.clone().requires_grad_() for _ in range(2)]
    outputs = [plain(given[0]), shared(given[1])]
    for output in outputs:
        output.square().mul(torch.linspace(0, 1, 8)[:, None, None, None]).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(given[1].grad, given[0].grad)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(shared[0].named_buffers())[name], buffer)
    assert shared[0].state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_other_precisions_are_refused(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setenv(parallel.PRECISION, precision)
    with pytest.raises(ConfigError, match=f"--mixed_precision {precision}: use bf16 or no"):
        join("cpu")


def camera_run(prepared: Path, small_camera: Path) -> list[str]:
    values = {"data": prepared, "camera": small_camera, "network.size": 32, "network.width": 4, "batch_size": 8}
    values |= {"mask_start_defocus": 2e-7, "warm_up": 2, "val_faces": 4, "weights.inversion": 0.1}
    return settings("camera", {**values, "adversary.head_start": 1, "adversary.inversion_width": 4})


def face_run(prepared: Path, heatmap_file: Path, perceptual_file: Path) -> list[str]:
    sizes = {"size": 32, "width": 8, "bottleneck": 1, "style_width": 4, "style_dim": 8, "latent_dim": 4}
    values = {"data": prepared, "camera": "gaussian", "heatmap": heatmap_file, "perceptual": perceptual_file}
    values |= {"discriminator_width": 4, "batch_size": 16, "r1_every": 2, "cycle_every": 2, "weights.identity": 0.0}
    return settings("face", values | {f"networks.{name}": value for name, value in sizes.items()})


def settings(stage: str, values: dict[str, Any]) -> list[str]:
    values |= {"steps": STEPS, "log_every": 1, "save_every": 3}
    given = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    return [stage, f"stage{STAGES.index(stage) + 1}/base", *given]


def train(out: Path, arguments: list[str], processes: int) -> None:
    """Train on the processor; ``accelerate launch`` starts its processes by the same program, but several on GPUs only
    (or with mpirun)."""
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    program = [sys.executable, "-m", *(launch if processes > 1 else []), "phaseveil", "train", *arguments]
    environment = {"OMP_NUM_THREADS": "1", parallel.PRECISION: "no", "ACCELERATE_USE_CPU": "true"}
    ran = subprocess.run(
        [*program, "--set", f"out={out}"], env=os.environ | environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("{") == 1, "only the main process speaks"
    assert ("sharing each batch among 2 processes" in ran.stderr) == (processes == 2)


def losses(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in ("seconds_per_step", "minutes")} for line in lines]
    return [line for line in kept if "val_mse" not in line]


def assert_alike(one: Path, other: Path) -> None:
    """The same losses in every step to 1e-3, and networks that went the same way."""
    first, second = losses(one), losses(other)
    assert len(first) == len(second) == STEPS
    for a, b in zip(first, second, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-3)
    numbers = [checkpoint.load(folder / "state.safetensors") for folder in (one, other)]
    assert numbers[0].metadata["step"] == numbers[1].metadata["step"] == STEPS
    assert numbers[0].tensors.keys() == numbers[1].tensors.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"), [*((stage, []) for stage in STAGES), ("face", ["--set", "judged_by=features"])]
)
def test_two_processes_take_the_steps_of_one(
    stage: str, changes: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="needs the extra 'train'")
    names = {"camera": ("prepared", "small_camera"), "face": ("prepared", "heatmap_file", "perceptual_file")}[stage]
    build: Any = {"camera": camera_run, "face": face_run}[stage]
    arguments = build(*map(request.getfixturevalue, names)) + changes
    train(tmp_path / "one", arguments, 1)
    train(tmp_path / "two", arguments, 2)
    assert_alike(tmp_path / "one", tmp_path / "two")
