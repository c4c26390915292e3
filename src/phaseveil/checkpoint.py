"""Weights on disk: safetensors with their configuration in the header, refused when they do not fit."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from phaseveil.errors import CheckpointError

FORMAT = "phaseveil-1"

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        kind: What the weights are for: ``camera``, ``heatmap``, ``face``, ``discriminator`` or ``training``.
        config: Configuration that the networks were built from.
        tensors: Named tensors, on the CPU, in their stored precision.
        metadata: Anything else that the writer recorded (steps, metrics).
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name begins with ``prefix.``, without it."""
        start = prefix + "."
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def save(
    path: str | Path,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint: beside its place first, then renamed, so that a crash never leaves half a file.

    Raises:
        CheckpointError: The file cannot be written (no space, no permission).
    """
    header = {
        "format": FORMAT,
        "kind": kind,
        "config": json.dumps(config, sort_keys=True),
        "metadata": json.dumps(dict(metadata or {}), sort_keys=True),
    }
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replace_atomically(path) as temporary:
            save_file(plain, temporary, metadata=header)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot write the weights ({error}); free some space or choose another place"
        ) from error
    return Path(path)


def load(path: str | Path, kind: str | None = None) -> Checkpoint:
    """Read a checkpoint without running any code from it.

    Args:
        path: A ``.safetensors`` file that :func:`save` wrote.
        kind: Kind that the caller needs; any where ``None``.

    Raises:
        CheckpointError: Missing, damaged, foreign, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: not a PhaseVeil weights file (format {header.get('format')!r}, need {FORMAT!r})"
                )
            config, metadata = _mapping(header["config"]), _mapping(header["metadata"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); fetch it again") from error
    if kind is not None and header.get("kind") != kind:
        raise CheckpointError(f"{path}: holds {header.get('kind')!r} weights, but {kind!r} weights are needed here")
    return Checkpoint(kind=header.get("kind", ""), config=config, tensors=tensors, metadata=metadata)


def load_module(build: Callable[[], Module], tensors: Mapping[str, Tensor], source: str | Path) -> Module:
    """Build a module and fill it. Memory is asked for only once the shapes are known to fit, on PyTorch's meta device.

    Args:
        build: Makes the module that the file's own configuration describes.
        tensors: What the file holds.
        source: The file.

    Raises:
        CheckpointError: The tensors do not fit, or hold NaN or infinity.
    """
    with torch.device("meta"):
        _require_fit(build(), tensors, source)
    module = build()
    load_into(module, tensors, source)
    return module


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy tensors into a module, all of them or none.

    Raises:
        CheckpointError: A name is missing or surplus, a shape or kind of number differs, or a value is not finite.
    """
    _require_fit(module, tensors, source)
    own = module.state_dict()
    converted = {name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}
    for name, tensor in converted.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source}: {name!r} holds NaN or infinity; fetch it again, or train anew")
    module.load_state_dict(converted)


def _require_fit(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare names, shapes and kinds of numbers; the module may be without storage.

    Raises:
        CheckpointError: They differ.
    """
    own = module.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [name for name in own.keys() & tensors.keys() if not _alike(own[name], tensors[name])]
    if wrong:
        raise CheckpointError(
            f"{source}: weights do not fit {type(module).__name__} ({len(wrong)} tensors differ, first {wrong[0]!r}); "
            "use the configuration that they were trained with"
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether a tensor can take another's values: same shape, and both floating or neither."""
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point() and not other.is_complex()


def _mapping(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: Not JSON, or another kind of value.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("its header holds no mapping")
    return values


def half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors in fp16, for weights that travel; integers and optical quantities (float64) stay as they are."""
    return {name: t.to(torch.float16) if t.dtype == torch.float32 else t for name, t in tensors.items()}


@contextmanager
def replace_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
