"""The mean of several runs' weights, where one was fine-tuned from the other: often better than either.

    python -m bench.average_weights face-v0.safetensors runs/face/face.safetensors --out face.safetensors

Weights far from each other have no useful mean; measure the result (`phaseveil evaluate`) before using it. See Wortsman
et al., *Model soups*, ICML 2022.
"""

import argparse
import sys
from pathlib import Path

import torch

from phaseveil import checkpoint
from phaseveil.errors import CheckpointError, PhaseVeilError


def average(paths: list[Path], out: Path) -> None:
    """Write the mean of checkpoints of one kind and configuration, in the first one's precision.

    Raises:
        CheckpointError: They do not fit together, or one cannot be read or the mean not written.
    """
    first, *others = stored = [checkpoint.load(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        alike = (other.kind, other.config) == (
            first.kind,
            first.config,
        ) and other.tensors.keys() == first.tensors.keys()
        if not alike or any(other.tensors[name].shape != first.tensors[name].shape for name in first.tensors):
            raise CheckpointError(f"{path}: other networks than those of {paths[0]}; average runs of one configuration")
    mean = {
        name: torch.stack([one.tensors[name].double() for one in stored]).mean(0).to(tensor.dtype)
        for name, tensor in first.tensors.items()
    }
    history = {"averaged": [{"file": path.name, **one.metadata} for path, one in zip(paths, stored, strict=True)]}
    checkpoint.save(out, first.kind, first.config, mean, history)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        average(arguments.files, arguments.out)
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
