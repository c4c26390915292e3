"""Training state on disk: modules, optimisers and counters in one safetensors file, written atomically."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phaseveil import checkpoint
from phaseveil.errors import CheckpointError, ConfigError, TrainingError


def save_state(
    path: str | Path,
    config: Mapping[str, Any],
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    numbers: Mapping[str, Any] | None = None,
) -> None:
    """Write all that a run needs to go on as if it had never stopped.

    Raises:
        CheckpointError: The file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"module.{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{name}.{index}.{slot}": torch.as_tensor(value).clone() for slot, value in slots.items()
            }
    # Shared or channels_last storage would be refused: each tensor goes in as a plain copy.
    tensors = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    checkpoint.save(path, "training", config, tensors, {"step": step, "numbers": dict(numbers or {})})


def load_state(
    path: str | Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> tuple[int, dict[str, Any]]:
    """Restore what :func:`save_state` wrote; returns the step to go on with and the numbers.

    Raises:
        CheckpointError: Missing, damaged, or of other networks.
    """
    stored = checkpoint.load(path, kind="training")
    for name, module in modules.items():
        checkpoint.load_into(module, stored.part(f"module.{name}"), path)
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in stored.part(f"optimizer.{name}").items():
            index, slot = key.split(".", 1)
            state.setdefault(int(index), {})[slot] = tensor
        groups = optimizer.state_dict()["param_groups"]
        if state and max(state) >= sum(len(group["params"]) for group in groups):
            raise CheckpointError(
                f"{path}: optimiser {name!r} has more parameters than the run; use its own configuration"
            )
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(stored.metadata["step"]), stored.metadata["numbers"]


def begun(path: Path, config: Mapping[str, Any], places: Collection[str] = ()) -> bool:
    """Whether a run of this very configuration has left a state, to go on from.

    Args:
        path: Of the state, see :func:`save_state`.
        config: The run's, as plain values.
        places: Keys that name where something lies and may change.

    Raises:
        ConfigError: A run of another configuration has.
        CheckpointError: The state is damaged.
    """
    if not path.is_file():
        return False
    stored = checkpoint.load(path, kind="training").config
    other = sorted(key for key in config if key not in places and stored.get(key) != config[key])
    if other:
        raise ConfigError(f"{path}: begun with another {', '.join(other)}; choose another --out")
    return True


def require_finite(figures: Mapping[str, float], step: int) -> None:
    """Stop a run before its state is overwritten by one that has diverged.

    Raises:
        TrainingError: A loss of this step is NaN or infinite.
    """
    wrong = [name for name, value in figures.items() if not math.isfinite(value)]
    if wrong:
        raise TrainingError(
            f"step {step}: {', '.join(wrong)} not finite; the last saved state is intact, "
            "go on from it with --resume and a lower learning_rate"
        )


def seeded(seed: int, step: int, purpose: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Generator that depends only on seed, step and purpose, so that a resumed run draws what the first would have."""
    generator = torch.Generator(device)
    return generator.manual_seed(((seed * 1_000_003 + step) * 1_009 + purpose) % 2**63)
