"""What a camera that was built, or drawn within tolerances, is worth beside its design: PSF, geometry, leakage."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phaseveil.apps import attack
from phaseveil.apps.attack_bench import Stage
from phaseveil.apps.attack_data import BATCH, Budget, Study
from phaseveil.apps.attack_psf import separation
from phaseveil.apps.attack_target import acquire
from phaseveil.attacks.deconvolution import METHODS
from phaseveil.attacks.tuning import tune
from phaseveil.data.datasets import load_faces
from phaseveil.data.heatmaps import normalised_mean_error
from phaseveil.data.image_io import list_images, read_image, resize, to_tensor
from phaseveil.errors import ConfigError, InputError
from phaseveil.losses.optics import information_loss
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import Floats, Integers, Pairs, Recogniser
from phaseveil.metrics.photographs import oracle_landmarks
from phaseveil.models.heatmap import HeatmapNet
from phaseveil.optics.camera import Camera
from phaseveil.run_state import seeded

METHOD = "wiener"
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


@torch.no_grad()
def information(camera: Camera, size: int) -> float:
    """What a camera lets through beyond four cycles a frame, bits a mode; see
    :func:`phaseveil.losses.optics.information_loss`."""
    return information_loss(camera.psf(size), camera.config.sensor, size=size).item()


def psf_correlation(first: Tensor, second: Tensor) -> list[float]:
    """Pearson's correlation of two PSFs ``(3, K, K)`` over the window, for each colour."""
    one, other = (
        psf.double().flatten(1) - psf.double().flatten(1).mean(dim=1, keepdim=True) for psf in (first, second)
    )
    product = (one * other).sum(dim=1) / (one.norm(dim=1) * other.norm(dim=1)).clamp_min(1e-30)
    return [float(value) for value in product]


class Linker:
    """Links photographs by what a camera lets out: off the shelf, and deconvolved with the camera's exact PSF.

    Args:
        study: Who is shown to whom.
        recogniser: Off the shelf.
        design: Camera on whose acquisitions of its own photographs the attacker tunes the deconvolution.
    """

    def __init__(self, study: Study, recogniser: Recogniser, design: Camera) -> None:
        self.study, self._recogniser = study, recogniser
        own = _one_each(study)
        clear = study.embed_clear(recogniser, own)
        psf = design.psf(study.size).detach()

        def score(restored: Tensor) -> float:
            return separation(study.embed(recogniser, restored, own), clear)

        self.parameter = tune(METHODS[METHOD], acquire(design, study, own), psf, score).parameter

    @torch.inference_mode()
    def off_the_shelf(self, camera: Camera) -> Pairs:
        """Scores of the acquisitions themselves against clear photographs (A0)."""
        return self._scores(acquire(camera, self.study, self.study.probes))

    @torch.inference_mode()
    def deconvolved(self, camera: Camera) -> Pairs:
        """Scores of the acquisitions, undone by Wiener with this camera's own PSF, against clear photographs (A1)."""
        psf, seen = camera.psf(self.study.size), acquire(camera, self.study, self.study.probes)
        restored = [METHODS[METHOD].restore(part, psf, self.parameter) for part in seen.split(BATCH)]
        return self._scores(torch.cat(restored))

    def _scores(self, images: Tensor) -> Pairs:
        study = self.study
        found: Floats = study.by_place(study.probes, study.embed(self._recogniser, images, study.probes))
        return study.photographs.score(found, study.clear, study.all_pairs)


def load_linker(pairs: Path, probes: int, cache: Path, design: Camera, size: int, seed: int, stage: Stage) -> Linker:
    """A linker on a list of pairs.

    Args:
        pairs: CSV of photographs, see :func:`phaseveil.metrics.photographs.load_pairs`.
        probes: Genuine pairs that are scored; at least 33, so that there are 1,000 impostor pairs.
        cache: Folder of landmarks and clear embeddings, which runs may share.
        design: Camera that the attacker knows.
        size: Side of its frame, pixels.
        seed: Of split, draws and noise.
        stage: Shows progress.

    Raises:
        InputError: The list or a photograph cannot be used.
        ConfigError: Too few probes, or a package is missing.
    """
    if probes < 33:
        raise ConfigError(f"{probes} probes give fewer than 1,000 impostor pairs; take at least 33")
    budget = Budget("linker", probes=probes, impostors=20_000, tuning=12, captures=1, sweep=(), trained_on=())
    options = attack.Options(pairs=pairs, out=cache, budget=budget, seed=seed, cache=cache)
    _, recogniser, study = attack.gather(options, size, stage)
    return Linker(study, recogniser, design)


def _one_each(study: Study, count: int = 12) -> Integers:
    """Places of the attacker's own photographs, one a person, of ``count`` persons at random."""
    shuffled = np.random.default_rng([study.seed, 3]).permutation(study.attacker)
    _, first = np.unique(study.photographs.persons[shuffled], return_index=True)
    return np.sort(shuffled[np.sort(first)][:count])


def _spread(total: int, count: int) -> Tensor:
    return torch.linspace(0, total - 1, min(count, total)).long()
