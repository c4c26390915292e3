"""LPIPS weights as their publishers give them into the one file that the perceptual loss reads."""

import pickle
import struct
import tarfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from phaseveil.checkpoint import replace_atomically
from phaseveil.errors import InputError

_LEVELS = 5
# What PyTorch's unpickler, which knows tensors only, raises for bytes that are no pickle of them.
_DAMAGED = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, OSError, EOFError, LookupError, ValueError),
    *(TypeError, AttributeError, AssertionError, MemoryError),
)


def convert_lpips(trunk: Path, heads: Path, out: Path) -> Path:
    """Join a torchvision AlexNet or VGG16 with LPIPS 0.1 heads.

    Args:
        trunk: torchvision's state dict; its ``features.*`` are kept.
        heads: ``weights/v0.1/*.pth`` of Zhang et al.'s repository.
        out: ``.safetensors`` file, with ``features.N.weight``, ``features.N.bias``, ``linK.weight`` in fp32.

    Raises:
        InputError: A file is damaged or of another network.
        OSError: ``out`` cannot be written.
    """
    tensors = {name: value for name, value in _read(trunk).items() if name.startswith("features.")}
    levels = _read(heads)
    for level in range(_LEVELS):
        tensors[f"lin{level}.weight"] = levels.get(f"lin{level}.model.1.weight", torch.empty(0))
    if len(tensors) == _LEVELS or any(value.numel() == 0 for value in tensors.values()):
        raise InputError(f"{trunk}, {heads}: not a torchvision network and its LPIPS heads; fetch them again")
    with replace_atomically(out) as temporary:
        save_file({name: value.float().contiguous() for name, value in tensors.items()}, temporary)
    return out


def _read(path: Path) -> dict[str, Tensor]:
    """State dict of a ``.pth`` file, without running any code from it."""
    try:
        if tarfile.is_tarfile(path):  # PyTorch's format until 2017, which it unpacks to a temporary folder
            raise ValueError("a tar archive")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how the file was packed concerns nobody
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise InputError(f"{path}: damaged or not a PyTorch file; fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no plain weights; fetch it again")
    return state
