"""What a run writes down."""

import builtins
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phaseveil.errors import ConfigError
from phaseveil.training.logging import RunLog


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("no_tensorboard")
def test_means_are_written_at_intervals_over_the_steps_that_had_the_scalar(tmp_path: Path) -> None:
    said: list[str] = []
    log = RunLog(tmp_path / "run", every=4, say=said.append)
    for step in range(8):
        log.step(step, {"loss": step} | ({"rare": 10.0 + step} if step % 4 == 0 else {}))
    log.scalars(8, {"val_error": 0.25})
    log.close()
    first, second, validation = records(tmp_path / "run")
    assert (first["step"], first["loss"], first["rare"]) == (4, 1.5, 10.0)
    assert (second["step"], second["loss"], second["rare"]) == (8, 5.5, 14.0)
    assert first["seconds_per_step"] >= 0
    assert validation == {"step": 8, "val_error": 0.25}
    assert said[-1].split() == ["8", "val_error", "0.25"]


@pytest.mark.usefixtures("no_tensorboard")
def test_a_second_run_in_the_folder_goes_on_writing(tmp_path: Path) -> None:
    for step in (1, 2):
        log = RunLog(tmp_path, every=1, say=lambda line: None)
        log.scalars(step, {"loss": 1.0})
        log.close()
    assert [record["step"] for record in records(tmp_path)] == [1, 2]


def test_tensorboard_gets_the_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []
    board = SimpleNamespace(add_scalar=lambda *scalar: written.append(scalar), close=lambda: None)
    module = SimpleNamespace(SummaryWriter=lambda folder: board)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)  # type: ignore[arg-type]
    log = RunLog(tmp_path, every=1, say=lambda line: None)
    log.scalars(3, {"loss": 0.5})
    log.close()
    assert written == [("loss", 0.5, 3)]


@pytest.mark.parametrize("missing", ["torch.utils.tensorboard", "wandb"])
def test_only_a_wish_for_wandb_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real_import = builtins.__import__

    def failing(name: str, *rest: Any) -> Any:
        if name == missing:
            raise ImportError(missing)
        return real_import(name, *rest)

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # type: ignore[arg-type]
    monkeypatch.setattr(builtins, "__import__", failing)
    RunLog(tmp_path, every=1).close()
    if missing == "wandb":
        with pytest.raises(ConfigError, match="wandb is not installed; pip install wandb, or leave it empty"):
            RunLog(tmp_path, every=1, wandb_project="faces")


@pytest.mark.usefixtures("no_tensorboard")
def test_wandb_gets_the_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[dict[str, float], int]] = []
    run = SimpleNamespace(log=lambda record, step: logged.append((record, step)), finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda project, dir: run))  # type: ignore[arg-type]
    log = RunLog(tmp_path, every=1, wandb_project="faces", say=lambda line: None)
    log.scalars(2, {"loss": 0.5})
    log.close()
    assert logged == [({"step": 2, "loss": 0.5}, 2)]
