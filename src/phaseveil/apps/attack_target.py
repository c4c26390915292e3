"""What is attacked: a camera with its sensor, and the networks behind it where their weights are at hand."""

import copy
import dataclasses
import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phaseveil.apps.attack_data import BATCH, Study
from phaseveil.apps.attack_results import Artefact
from phaseveil.attacks.attacker import Acquire
from phaseveil.data.heatmaps import normalised_mean_error
from phaseveil.errors import ConfigError
from phaseveil.metrics.identity import Integers, Interval
from phaseveil.models.face import load_face_networks
from phaseveil.models.heatmap import HeatmapNet, load_heatmap_net
from phaseveil.optics.camera import (
    Camera,
    GaussianCamera,
    LowResolutionCamera,
    PhaseMaskCamera,
    plain_config,
)
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.optics.sensor import SensorConfig
from phaseveil.pipeline import STRENGTH, PhaseVeil
from phaseveil.precision import mixed_precision
from phaseveil.run_state import seeded
from phaseveil.training.pictures import heatmap_pictures

FRAME_SIZE = 128
"""Side of the frame where no heatmap network says another, pixels."""

LEARNED = "learned"
NEED_HEATMAP = "no heatmap network of this camera; give the folder of its heatmap.safetensors with --weights"
NEED_FACE = "no face networks of this camera; give the folder of its heatmap and face.safetensors with --weights"

_NOISE, _STYLE = 11, 12  # purposes of random numbers; training uses small ones


@dataclass(frozen=True)
class Target:
    """A camera and what stands behind it.

    Attributes:
        name: What reports call the camera.
        camera: As it is built.
        size: Side of the frame, pixels.
        heatmap_net: Reads the geometry; ``None`` where there are no weights.
        pipeline: Draws new faces; ``None`` where there are no weights.
    """

    name: str
    camera: Camera
    size: int = FRAME_SIZE
    heatmap_net: HeatmapNet | None = None
    pipeline: PhaseVeil | None = None

    def digest(self) -> str:
        """Checksum of optics, sensor and networks, and of the styles' strength where faces are drawn."""
        networks: list[nn.Module | None] = [
            self.camera,
            self.heatmap_net,
            self.pipeline.networks if self.pipeline else None,
        ]
        if self.pipeline is not None and self.pipeline.pair.eraser is not None:
            networks.append(self.pipeline.pair.eraser)
        text = f"{type(self.camera).__name__}|{sorted(plain_config(self.camera.config).items())}|{self.size}"
        if self.pipeline is not None:
            text += f"|{STRENGTH}"
        checksum = hashlib.sha256(text.encode())
        for network in networks:
            checksum.update(_digest(network) if network is not None else b"none")
        return checksum.hexdigest()

    def seen_in(self, artefact: Artefact) -> "Target":
        """The same without the networks that such images do not pass through, on which their attacks do not depend."""
        if artefact == "generated":
            return self
        heatmap_net = self.heatmap_net if artefact == "heatmap" else None
        return dataclasses.replace(self, heatmap_net=heatmap_net, pipeline=None)

    def erasing_shape(self, directions: int) -> "Target":
        """The same, its new faces drawn as :meth:`PhaseVeil.erasing_shape` says.

        Raises:
            ConfigError: There are no face networks, or the number is impossible.
            CheckpointError: The eraser's file is missing or damaged.
        """
        if directions and self.pipeline is None:
            raise ConfigError(f"--erase-shape concerns new faces, and there are {NEED_FACE}")
        return dataclasses.replace(self, pipeline=self.pipeline and self.pipeline.erasing_shape(directions))


class Family(NamedTuple):
    """Where a camera stands among the baselines.

    Attributes:
        name: ``low-resolution``, ``gaussian``, ``defocus``, ``clear``, ``mask`` or ``dynamic-mask``.
        strength: Photosites across the frame; standard deviation or radius of the blur, pixels of a 256-px frame;
            ``None`` where one figure does not tell it.
    """

    name: str
    strength: float | None


def load_target(name: str, camera: Camera, weights: Path | None) -> Target:
    """Add the networks in a folder to a camera; the bundled ones to the ``learned`` camera.

    Args:
        name: What reports call the camera.
        camera: The camera.
        weights: Folder with ``heatmap.safetensors`` and perhaps ``face.safetensors``.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit.
    """
    if weights is None and name == LEARNED:
        weights = Path(str(resources.files("phaseveil"))) / "weights"
    if weights is None:
        return Target(name, camera)
    heatmap_net = load_heatmap_net(weights / "heatmap.safetensors")
    face = weights / "face.safetensors"
    pipeline = PhaseVeil(camera, heatmap_net, load_face_networks(face)) if face.is_file() else None
    return Target(name, camera, heatmap_net.config.size, heatmap_net, pipeline)


def family_of(camera: Camera) -> Family:
    """Which baseline a camera is, and how strong."""
    config = camera.config
    if isinstance(camera, GaussianCamera):
        return Family("gaussian", config.gaussian_sigma * 256)
    if isinstance(camera, LowResolutionCamera):
        return Family("low-resolution", float(config.low_resolution))
    if isinstance(camera, DynamicCamera):
        return Family("dynamic-mask", None)
    if not isinstance(camera, PhaseMaskCamera) or camera.coefficients.any():
        return Family("mask", None)
    radius = config.aperture_radius * abs(config.focus_error) * config.image_distance / config.pixel_pitch(256)
    return Family("defocus", radius) if radius > 0.5 else Family("clear", 0.0)


def with_sensor(camera: Camera, sensor: SensorConfig) -> Camera:
    """The same optics before another sensor."""
    copied = copy.deepcopy(camera)
    copied.config = dataclasses.replace(camera.config, sensor=sensor)
    return copied


@torch.inference_mode()
def acquire(
    camera: Camera, study: Study, places: Integers, noiseless: bool = False, psfs: Tensor | None = None
) -> Tensor:
    """Acquisitions of photographs, each with noise (and a mask, of a dynamic camera) that seed and place alone decide.

    Args:
        camera: Any.
        study: Has the photographs.
        places: Of the photographs. Shape ``(B,)``.
        noiseless: Whether the sensor's noise is left out.
        psfs: What :func:`member_psfs` gives for a dynamic camera, where it is at hand; no other camera needs it.

    Returns:
        sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
    """
    if isinstance(camera, DynamicCamera):
        return _acquire_members(
            camera, study, places, noiseless, member_psfs(camera, study, places) if psfs is None else psfs
        )
    frozen = camera.frozen(study.size)
    images = []
    for place in places:
        noise = None if noiseless else seeded(study.seed, int(place), _NOISE)
        images.append(frozen(study.scenes(place[None]), noise))
    return torch.cat(images)


@torch.inference_mode()
def member_psfs(camera: DynamicCamera, study: Study, places: Integers) -> Tensor:
    """PSF that each photograph was acquired with: the draws of :func:`acquire`, which have leaked. ``(B, 3, K, K)``."""
    draws = [camera.draw(1, seeded(study.seed, int(place), _NOISE)) for place in places]
    return camera.psfs(torch.cat(draws), study.size)


def _acquire_members(camera: DynamicCamera, study: Study, places: Integers, noiseless: bool, psfs: Tensor) -> Tensor:
    images = []
    for place, psf in zip(places, psfs, strict=True):
        noise = seeded(study.seed, int(place), _NOISE)
        camera.draw(1, noise)  # the noise comes after it
        images.append(camera.through(study.scenes(place[None]), psf[None], None if noiseless else noise))
    return torch.cat(images)


def view_of_acquisitions(camera: Camera, size: int) -> Acquire:
    """Scenes → acquisitions, for training.

    A dynamic camera draws few members a batch, so that a step takes no minute; which scenes share one is random, for
    the photographs of a person are neighbours.
    """
    frozen = camera.frozen(size).train()
    if not isinstance(camera, DynamicCamera):
        return lambda scenes, generator: frozen(scenes, generator)

    def view(scenes: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.randperm(len(scenes), generator=generator, device=generator.device)
        acquired: Tensor = frozen(scenes[order], generator)
        return acquired[order.argsort()]

    return view


def view_of_heatmaps(camera: Camera, network: HeatmapNet) -> Acquire:
    """Scenes → coloured heatmaps ``(B, 3, S/2, S/2)`` that the network reads from their acquisitions, for training."""
    view = view_of_acquisitions(camera, network.config.size)
    return lambda scenes, generator: draw_heatmaps(network, view(scenes, generator))


def view_of_faces(pipeline: PhaseVeil) -> Acquire:
    """Scenes → new faces, each of a style of its own, for training."""

    def view(scenes: Tensor, generator: torch.Generator) -> Tensor:
        seeds = torch.randint(2**31, (len(scenes),), generator=generator).tolist()
        return pipeline.redraw(pipeline.camera(scenes, generator), pipeline.latent_styles(seeds)).face

    return view


@torch.inference_mode()
def draw_heatmaps(network: HeatmapNet, acquisitions: Tensor) -> Tensor:
    """Heatmaps in colour, as the card shows them. ``(B, 3, S, S)`` → ``(B, 3, S/2, S/2)``, 0 to 1."""
    drawn = []
    for part in acquisitions.split(BATCH):
        with mixed_precision(part.device):
            output = network(part.contiguous(memory_format=torch.channels_last))
        drawn.append(heatmap_pictures(output.heatmap, part.shape[-1] // 2))
    return torch.cat(drawn)


@torch.inference_mode()
def draw_faces(pipeline: PhaseVeil, acquisitions: Tensor, study: Study, places: Integers) -> Tensor:
    """New faces of acquisitions ``(B, 3, S, S)``, the style of each drawn from seed and place. Same shape."""
    seeds = [int(torch.randint(2**31, (), generator=seeded(study.seed, int(place), _STYLE))) for place in places]
    parts = zip(acquisitions.split(BATCH), pipeline.latent_styles(seeds).split(BATCH), strict=True)
    return torch.cat([pipeline.redraw(part, styles).face for part, styles in parts])


@torch.inference_mode()
def landmark_error(network: HeatmapNet, acquisitions: Tensor, study: Study, places: Integers) -> Interval:
    """Mean landmark error on acquisitions, in distances of the eye centres, with a 95 % interval over persons.

    Args:
        network: Reads the landmarks.
        acquisitions: Shape ``(B, 3, S, S)``.
        study: Has the landmarks of the clear photographs.
        places: Of the photographs. Shape ``(B,)``.
    """
    found = torch.cat([network(part).landmarks for part in acquisitions.split(BATCH)])
    errors = normalised_mean_error(found.float(), study.landmarks(places)).double().numpy()
    persons, index = np.unique(study.photographs.persons[places], return_inverse=True)
    totals, counts = np.bincount(index, errors), np.bincount(index)
    drawn = np.random.default_rng(study.seed).integers(len(persons), size=(200, len(persons)))
    low, high = np.percentile(totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return Interval(float(errors.mean()), float(low), float(high))


def _digest(network: nn.Module) -> bytes:
    """Checksum of a module's tensors."""
    checksum = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        checksum.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        checksum.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return checksum.digest()
