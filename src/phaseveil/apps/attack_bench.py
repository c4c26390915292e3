"""The workbench of the attacks: what they share, computed once, and how a recovered image becomes a finding."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from phaseveil.apps.attack_data import Budget, Study
from phaseveil.apps.attack_results import Artefact, Finding, Work, image_quality
from phaseveil.apps.attack_target import Target, acquire, member_psfs
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.identity import DlibRecogniser, Floats, Integers, Recogniser
from phaseveil.optics.camera import Camera
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.progress import Report

Stage = Callable[[str], AbstractContextManager[Report]]
"""Shows the progress of a named piece of work, such as :func:`phaseveil.progress.progress`."""


class Psfs(NamedTuple):
    """Point spread functions, each one for all photographs ``(3, K, K)`` or one a photograph ``(N, 3, K, K)``.

    Attributes:
        own: Of the attacker's own photographs on which deconvolution is tuned.
        probes: Of the probes.
    """

    own: Tensor
    probes: Tensor


@dataclass(frozen=True)
class Bench:
    """What the attacks work with.

    Attributes:
        study: Photographs and pairs.
        target: Camera and networks.
        budget: How much work.
        recogniser: Off the shelf.
        perceptual: LPIPS, where its weights are at hand.
        work: Keeps what is finished, see :meth:`kept`.
    """

    study: Study
    target: Target
    budget: Budget
    recogniser: Recogniser
    perceptual: LPIPS | None
    work: Work

    def kept(self, artefact: Artefact) -> Work:
        """Keeps what attacks on such images have found; as long as camera and networks that these come from stay."""
        return self.work.of(self.origin(artefact))

    def origin(self, artefact: Artefact) -> str:
        """Checksum of the camera and the networks that such images come from."""
        return self.target.seen_in(artefact).digest()

    @cached_property
    def scenes(self) -> Tensor:
        """Clear probes. Shape ``(P, 3, S, S)``."""
        return self.study.scenes(self.study.probes)

    @cached_property
    def acquisitions(self) -> Tensor:
        """Acquired probes. Shape ``(P, 3, S, S)``."""
        return acquire(self.target.camera, self.study, self.study.probes, psfs=self.leaked and self.leaked.probes)

    @cached_property
    def acquired_gallery(self) -> Tensor:
        """Acquired gallery. Shape ``(G, 3, S, S)``."""
        return acquire(self.target.camera, self.study, self.study.gallery)

    @cached_property
    def leaked(self) -> Psfs | None:
        """PSF of each exposure of a dynamic camera; ``None`` of others, which have one for all."""
        camera, study = self.target.camera, self.study
        if not isinstance(camera, DynamicCamera):
            return None
        return Psfs(*(member_psfs(camera, study, places) for places in (self.tuning_places(), study.probes)))

    @cached_property
    def dlib_clear(self) -> Floats:
        """Clear embeddings of probes and gallery by dlib, to which the attacker's own recognisers are trained."""
        if isinstance(self.recogniser, DlibRecogniser):
            return self.study.clear
        places = np.union1d(self.study.probes, self.study.gallery)
        return self.study.by_place(places, self.study.embed_clear(DlibRecogniser(), places))

    @cached_property
    def shown(self) -> Integers:
        """Rows of the probes that the card shows: one a person, spread over the test."""
        _, rows = np.unique(self.study.photographs.persons[self.study.probes], return_index=True)
        count = min(self.budget.pictures, len(rows))
        return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]

    def exposures(self, camera: Camera, noiseless: bool = False) -> tuple[Tensor, Tensor]:
        """The attacker's own photographs and the probes, acquired by this camera, perhaps with another sensor."""
        known = self.leaked
        own = acquire(camera, self.study, self.tuning_places(), noiseless, known and known.own)
        return own, acquire(camera, self.study, self.study.probes, noiseless, known and known.probes)

    def tuning_places(self) -> Integers:
        """Places of the attacker's own photographs on which deconvolution is tuned, one a person."""
        random = np.random.default_rng([self.study.seed, 3])
        shuffled = random.permutation(self.study.attacker)
        _, first = np.unique(self.study.photographs.persons[shuffled], return_index=True)
        return np.sort(shuffled[np.sort(first)][: self.budget.tuning])

    def seen(self, images: Tensor, **described: Any) -> Finding:
        """A finding of the off-the-shelf recogniser on images of the probes, shape ``(P, 3, H, W)``."""
        probes = self.study.embed(self.recogniser, images, self.study.probes)
        return Finding(probes=probes, clear=self.study.clear, pictures=images[self.shown], **described)

    def recovered(self, images: Tensor, **described: Any) -> Finding:
        """A finding on images that were recovered from the acquisitions, with their quality."""
        quality = image_quality(images, self.scenes, self.perceptual)
        return self.seen(images, artefact="recovered", quality=quality, **described)
