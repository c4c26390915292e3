"""What a camera that was built, or drawn within tolerances, is worth beside its design: PSF, geometry, leakage."""

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
from phaseveil.errors import ConfigError
from phaseveil.losses.optics import information_loss
from phaseveil.metrics.identity import Floats, Integers, Pairs, Recogniser
from phaseveil.optics.camera import Camera

METHOD = "wiener"
_NOISE = 31  # purpose of random numbers; training uses small ones, attacks 11 to 14, sweeps 21


@torch.no_grad()
def information(camera: Camera, size: int) -> float:
    """What a camera lets through beyond four cycles a frame, bits a mode; see
    :func:`phaseveil.losses.optics.information_loss`."""
    return information_loss(camera.psf(size), camera.config.sensor, size=size).item()


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
