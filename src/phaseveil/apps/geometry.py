"""Geometry through a camera: the landmark error of each of a set of faces, always the same ones with the same noise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phaseveil.data.datasets import load_faces
from phaseveil.data.heatmaps import normalised_mean_error
from phaseveil.data.image_io import list_images, read_image, resize, to_tensor
from phaseveil.errors import InputError
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.photographs import oracle_landmarks
from phaseveil.models.heatmap import HeatmapNet
from phaseveil.optics.camera import Camera
from phaseveil.run_state import seeded

BATCH = 32
_NOISE = 31  # purpose of random numbers; training uses small ones, attacks 11 to 14, sweeps 21


@dataclass(frozen=True)
class Faces:
    """Held-out faces on which geometry is measured.

    Attributes:
        images: sRGB, 0 to 1. Shape ``(N, 3, S, S)``.
        landmarks: Of the clear images, normalised to [0, 1]. Shape ``(N, 68, 2)``.
    """

    images: Tensor
    landmarks: Tensor


def load_some_faces(folder: Path, size: int, count: int) -> Faces:
    """Faces of a folder that ``phaseveil prepare`` wrote (its part ``val``), or of a folder of aligned crops.

    Args:
        folder: Of either kind.
        size: Side, pixels.
        count: How many at most, spread over the folder.

    Raises:
        InputError: Neither kind, or a crop is not square.
    """
    if (folder / "index.jsonl").is_file():
        held_out = load_faces(folder, "val", size)
        batch = held_out.batch(_spread(len(held_out), count))
        return Faces(batch.image, batch.landmarks)
    files = list_images([folder])
    images, landmarks = [], []
    for place in _spread(len(files), count).tolist():
        crop = read_image(files[place])
        if crop.shape[0] != crop.shape[1]:
            raise InputError(f"{files[place]}: {crop.shape[1]}×{crop.shape[0]} pixels; needs square aligned crops")
        images.append(to_tensor(resize(crop, size)))
        landmarks.append((oracle_landmarks(resize(crop, FRAME)) + 0.5) / FRAME)
    return Faces(torch.stack(images), torch.from_numpy(np.stack(landmarks)).float())


@torch.inference_mode()
def landmark_errors(camera: Camera, network: HeatmapNet, faces: Faces, seed: int) -> Tensor:
    """Landmark error of each face, in distances of the eye centres; the sensor's noise depends on the seed alone.

    Args:
        camera: Any.
        network: Reads the landmarks.
        faces: In the network's size.
        seed: Of the noise.

    Returns:
        Shape ``(N,)``.
    """
    frozen, errors = camera.frozen(faces.images.shape[-1]), []
    for number, (images, truth) in enumerate(zip(faces.images.split(BATCH), faces.landmarks.split(BATCH), strict=True)):
        acquired = frozen(images, seeded(seed, number, _NOISE)).contiguous(memory_format=torch.channels_last)
        errors.append(normalised_mean_error(network(acquired).landmarks.float(), truth))
    return torch.cat(errors)


def _spread(total: int, count: int) -> Tensor:
    return torch.linspace(0, total - 1, min(count, total)).long()
