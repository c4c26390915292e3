"""Which directions of a face's shape tell persons apart: fits `shape.safetensors`, which `--erase-shape` uses.

    python -m bench.fit_shape --data data/prepared --out runs/shape.safetensors [--faces 9000]

Landmarks of faces of the training split against dlib's embedding of the same photographs; no labels of persons are
needed. What tells an expression is kept. The landmarks are those of `phaseveil prepare`, in the frame of its aligned
crops.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from bench.read_out import Faces

from phaseveil.apps.attack_target import FRAME_SIZE
from phaseveil.data.datasets import load_faces
from phaseveil.errors import InputError, PhaseVeilError
from phaseveil.metrics.dlib_resnet import DlibResNet
from phaseveil.models.blocks import to_channels_last
from phaseveil.models.shape import COORDINATES, ShapeConfig, ShapeEraser, expression_readings, save_shape_eraser

FEWEST_FACES = 10 * COORDINATES  # for a covariance of the points


def fit(data: Path, faces: int, directions: int) -> ShapeEraser:
    """Fit an eraser on random faces of a prepared folder's training split.

    Raises:
        InputError: Too few faces; see also :func:`load_faces`.
    """
    train = load_faces(data, "train", FRAME_SIZE)
    if min(faces, len(train)) < FEWEST_FACES:
        raise InputError(
            f"{data}: {min(faces, len(train))} faces to fit on, needs {FEWEST_FACES}; prepare more or raise --faces"
        )
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:faces])
    known = Faces.of(np.asarray(train.images[chosen]), train.landmarks[chosen], to_channels_last(DlibResNet(), "cpu"))
    embeddings = torch.from_numpy(known.embeddings)
    return ShapeEraser.fit(known.landmarks, embeddings, ShapeConfig(directions), kept=expression_readings())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=9000)
    parser.add_argument("--directions", type=int, default=ShapeConfig.directions)
    arguments = parser.parse_args()
    try:
        print(save_shape_eraser(arguments.out, fit(arguments.data, arguments.faces, arguments.directions)))
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
