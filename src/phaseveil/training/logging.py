"""Where a training run writes: a line per interval on the console and in ``log.jsonl``, TensorBoard, wandb if asked."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from phaseveil.errors import ConfigError


class RunLog:
    """Averages scalars between intervals and writes them out.

    Args:
        folder: Run folder; created.
        every: Steps per line.
        wandb_project: Weights & Biases project; not used where empty.
        say: Receives each console line.

    Raises:
        ConfigError: wandb is wanted but not installed.
    """

    def __init__(self, folder: Path, every: int, wandb_project: str = "", say: Callable[[str], None] = print) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.every, self.say = every, say
        self._wandb = _wandb(wandb_project, folder) if wandb_project else None
        self._board = _tensorboard(folder)
        self._file = (folder / "log.jsonl").open("a")
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._since, self._start = time.monotonic(), time.monotonic()

    def step(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Add the scalars of one step; write their means when an interval ends."""
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1
        if (step + 1) % self.every == 0:
            self._flush(step + 1)

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars at once (validation)."""
        record = {"step": step, **{name: float(value) for name, value in scalars.items()}}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            if self._board is not None:
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(record, step=step)
        self.say(f"{step:>7}  " + "  ".join(f"{name} {float(value):.4g}" for name, value in scalars.items()))

    def close(self) -> None:
        """End the run's files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _flush(self, step: int) -> None:
        now = time.monotonic()
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        means["seconds_per_step"] = (now - self._since) / self.every
        means["minutes"] = (now - self._start) / 60
        self.scalars(step, means)
        self._since, self._sums, self._counts = now, {}, {}


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer, or ``None`` where the extra ``train`` is not installed; ``log.jsonl`` is always there."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _wandb(project: str, folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "wandb_project is set, but wandb is not installed; pip install wandb, or leave it empty"
        ) from error
    return wandb.init(project=project, dir=str(folder))
