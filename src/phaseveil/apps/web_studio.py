"""What the web page does, without the page: take a photograph, draw new faces, attack the acquisition."""

import copy
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from phaseveil.apps.batch import Job
from phaseveil.apps.sources import Photographs, Task
from phaseveil.attacks.deconvolution import METHODS
from phaseveil.attacks.tuning import tune
from phaseveil.data.image_io import ImageArray, read_image, to_array
from phaseveil.data.landmarks import Detector, default_detector
from phaseveil.errors import ConfigError, InputError
from phaseveil.figures import colour_heatmap
from phaseveil.metrics.image import psnr, ssim
from phaseveil.optics.camera import Camera, PhaseMaskCamera, load_camera
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.pipeline import STRENGTH, PhaseVeil, noise_generator
from phaseveil.seeds import face_seed, require_seed

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 24_000_000
OWN = "own"  # the camera that belongs to the weights
BASELINES = ("low-resolution", "gaussian", "defocus", "identity")
VISITS = 8  # photographs held at a time, one an open page
CAMERAS_KEPT = 8

_MASKS = (PhaseMaskCamera, DynamicCamera)  # their parameters are heights, and all of them


@dataclass(frozen=True)
class Controls:
    """What the page's controls are set to.

    Attributes:
        seed: Of the largest face; the others have its :func:`~phaseveil.seeds.face_seed` 1, 2 …
        strength: Of the style, see :meth:`phaseveil.pipeline.PhaseVeil.latent_styles`.
        domain: ``female`` or ``male``; drawn from the seed where ``None``.
        camera: :data:`OWN`, or any camera's name or file.
        mask_height: Factor of the phase mask's height, 0 to 1; 0 leaves a flat plate.
        erase_shape: Directions of the shape to erase, see :meth:`phaseveil.pipeline.PhaseVeil.erasing_shape`.
    """

    seed: int = 0
    strength: float = STRENGTH
    domain: str | None = None
    camera: str = OWN
    mask_height: float = 1.0
    erase_shape: int = 0

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if not 0 <= self.mask_height <= 1:
            raise ConfigError(f"the mask's height must lie between 0 and 1 of its own, got {self.mask_height:g}")


class Visit(NamedTuple):
    """A photograph that somebody is looking at.

    Attributes:
        photograph: Upright, RGB, uint8. Shape ``(H, W, 3)``.
        task: Its aligned faces, the largest first, and how new ones are put in their places.
    """

    photograph: ImageArray
    task: Task


class Drawing(NamedTuple):
    """One photograph's way through the pipeline, RGB, uint8; all but the photograph show the largest face.

    Attributes:
        source: Aligned face. Shape ``(S, S, 3)``.
        acquisition: What the camera recorded of it. Shape ``(S, S, 3)``.
        heatmap: Landmark heatmaps in colour. Shape ``(S/2, S/2, 3)``.
        face: New face. Shape ``(S, S, 3)``.
        photograph: With every face replaced. Shape ``(H, W, 3)``.
        faces: How many were replaced.
    """

    source: ImageArray
    acquisition: ImageArray
    heatmap: ImageArray
    face: ImageArray
    photograph: ImageArray
    faces: int


class Attacked(NamedTuple):
    """What an attacker with the exact PSF makes of an acquisition, RGB, uint8, shape ``(S, S, 3)``.

    Attributes:
        source: The face.
        acquisition: What the attacker has.
        recovered: What Wiener's estimate makes of it.
        parameter: Noise-to-signal ratio that came closest to the source.
        gain: PSNR of acquisition and recovered picture against the source, decibels.
        likeness: SSIM of both.
    """

    source: ImageArray
    acquisition: ImageArray
    recovered: ImageArray
    parameter: float
    gain: tuple[float, float]
    likeness: tuple[float, float]


class Studio:
    """The networks, loaded once, behind whichever camera is chosen.

    Args:
        pipeline: Networks with the camera that belongs to them.
        make_detector: Makes a detector; called once in each thread.

    Attributes:
        size: Side of the model's images, pixels.
    """

    def __init__(self, pipeline: PhaseVeil, make_detector: Callable[[], Detector] = default_detector) -> None:
        self._pipeline = pipeline
        self._photographs = Photographs(make_detector, pipeline.size)
        self._behind = lru_cache(CAMERAS_KEPT)(self._place)
        self.size = pipeline.size

    def take(self, path: Path) -> Visit:
        """Read a photograph and find its faces, as ``phaseveil anonymize --align`` does.

        Raises:
            InputError: Too large, unreadable, or no face found; the message does not name the file.
        """
        try:
            check_limits(path)
            return Visit(read_image(path), self._photographs.load(Job(path, "photograph")))
        except InputError as error:
            raise InputError(str(error).removeprefix(f"{path}: ")) from error

    def draw(self, visit: Visit, controls: Controls) -> Drawing:
        """New faces for all faces of a photograph.

        Raises:
            ConfigError: A control is set to something impossible.
        """
        pipeline, faces = self._behind(controls.camera, controls.mask_height, controls.erase_shape), visit.task.faces
        seeds = [face_seed(controls.seed, index) for index in range(len(faces))]
        styles = pipeline.latent_styles(seeds, controls.domain, controls.strength)
        generated = pipeline.generate(faces, styles, seeds)
        drawn = [to_array(face) for face in generated.face]
        return Drawing(
            source=to_array(faces[0]),
            acquisition=to_array(generated.acquisition[0]),
            heatmap=colour_heatmap(np.asarray(generated.heatmap[0])),
            face=drawn[0],
            photograph=visit.task.compose(drawn),
            faces=len(faces),
        )

    @torch.inference_mode()
    def attack(self, visit: Visit, controls: Controls) -> Attacked:
        """Wiener's estimate with the exact PSF, its parameter chosen with this very source at hand: its upper bound.

        Of a dynamic camera, the exposure's draw has leaked.

        Raises:
            ConfigError: A control is set to something impossible.
        """
        pipeline, source = self._behind(controls.camera, controls.mask_height, 0), visit.task.faces[:1]
        acquisition = pipeline.acquire(source, [controls.seed]).cpu()
        psf = exact_psf(self.camera(controls), self.size, controls.seed)
        tuned = tune(METHODS["wiener"], acquisition, psf, lambda images: psnr(images, source).item())
        recovered = METHODS["wiener"].restore(acquisition, psf, tuned.parameter)
        pair = (acquisition, recovered)
        return Attacked(
            source=to_array(source[0]),
            acquisition=to_array(acquisition[0]),
            recovered=to_array(recovered[0]),
            parameter=tuned.parameter,
            gain=(psnr(pair[0], source).item(), psnr(pair[1], source).item()),
            likeness=(ssim(pair[0], source).item(), ssim(pair[1], source).item()),
        )

    def camera(self, controls: Controls) -> Camera:
        """The chosen camera, not frozen for a size, its mask as high as chosen."""
        return self._behind(controls.camera, controls.mask_height, 0).camera.optics

    def has_mask(self, name: str) -> bool:
        """Whether a camera has a phase mask that is not flat."""
        return has_mask(self._behind(name, 1.0, 0).camera.optics)

    def _place(self, name: str, mask_height: float, erase_shape: int) -> PhaseVeil:
        """The networks behind a camera."""
        if erase_shape:
            return self._behind(name, mask_height, 0).erasing_shape(erase_shape)
        camera = self._pipeline.camera.optics if name == OWN else load_camera(name)
        return self._pipeline.with_camera(scaled_mask(camera, mask_height))


@dataclass
class Visits:
    """Photographs in memory, one an open page; the one that was looked at least lately makes way for a new one."""

    _held: OrderedDict[str, Visit] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self._held)

    def put(self, page: str, visit: Visit) -> None:
        """Hold a page's photograph in place of its last one."""
        with self._lock:
            self._held[page] = visit
            self._held.move_to_end(page)
            while len(self._held) > VISITS:
                self._held.popitem(last=False)

    def get(self, page: str) -> Visit | None:
        """A page's photograph, ``None`` where it has none."""
        with self._lock:
            if page in self._held:
                self._held.move_to_end(page)
            return self._held.get(page)

    def drop(self, page: str) -> None:
        """Forget a page's photograph, if it has one."""
        with self._lock:
            self._held.pop(page, None)


def check_limits(path: Path) -> None:
    """Refuse a photograph that is too large, before it is decoded.

    Raises:
        InputError: Over :data:`MAX_BYTES` or :data:`MAX_PIXELS`. What is no image is left to who decodes it.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise InputError(f"the file is too large (at most {MAX_BYTES // 2**20} MiB); reduce it first")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            with Image.open(path) as image:
                width, height = image.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{width}×{height} px is too large (at most {MAX_PIXELS // 10**6} million pixels); reduce it first"
        )


def has_mask(camera: Camera) -> bool:
    """Whether a camera has a phase mask that is not flat; a part that was built cannot be cut otherwise."""
    return type(camera) in _MASKS and any(bool(heights.any()) for heights in camera.parameters())


def scaled_mask(camera: Camera, share: float) -> Camera:
    """A copy of a camera with its phase mask cut to a share of its height everywhere; others have none and stay.

    The phase is proportional to the height: so is the aberration, while the PSF runs from the lens's own, at 0, to the
    mask's.
    """
    other = copy.deepcopy(camera)
    if type(other) in _MASKS:
        with torch.no_grad():
            for heights in other.parameters():
                heights.mul_(share)
    return other


@torch.no_grad()
def exact_psf(camera: Camera, size: int, seed: int) -> torch.Tensor:
    """PSF of the exposure that :meth:`phaseveil.pipeline.PhaseVeil.acquire` takes with a seed, on the CPU."""
    if isinstance(camera, DynamicCamera):
        device = camera.coefficients.device
        return camera.psfs(camera.draw(1, noise_generator(seed, device)), size)[0].cpu()
    return camera.psf(size).cpu()
