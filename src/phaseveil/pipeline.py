"""Source → acquisition → heatmap → new face: the networks loaded once, then run on images and batches."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from phaseveil.data.datasets import DOMAINS
from phaseveil.data.image_io import ImageArray, read_image, resize, to_array, to_tensor
from phaseveil.engines.engine import Engine, TorchEngine
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.models.face import FaceNetworks, load_face_networks
from phaseveil.models.heatmap import HeatmapNet, load_heatmap_net
from phaseveil.models.pair import Pair
from phaseveil.models.shape import ShapeEraser, load_shape_eraser
from phaseveil.models.style import unit_rms
from phaseveil.optics.camera import Camera, load_camera
from phaseveil.precision import native_dtype
from phaseveil.seeds import draw_domain, draw_latent

NOISE_STREAM = 0x6E6F6973
MEAN_STREAM, MEAN_LATENTS = 0x6D65616E, 1024
STRENGTH = 1.0  # of latent styles

ImageLike = Image.Image | ImageArray | str | Path


class Generated(NamedTuple):
    """A batch on its way through the pipeline.

    Attributes:
        face: New faces, sRGB, 0 to 1. Shape ``(B, 3, S, S)``, float32.
        acquisition: What the camera recorded, sRGB, 0 to 1. Shape ``(B, 3, S, S)``, float32.
        heatmap: Landmark heatmaps that the face is drawn with, 0 to 1. Shape ``(B, 5, S/2, S/2)``, float32.
        landmarks: 68 points (x, y) that it is drawn with, normalised to [0, 1]. Shape ``(B, 68, 2)``, float32. Both are
            read from the acquisition, and changed where :meth:`PhaseVeil.erasing_shape` was asked to.
    """

    face: Tensor
    acquisition: Tensor
    heatmap: Tensor
    landmarks: Tensor

    def slice(self, start: int, stop: int) -> "Generated":
        """Items ``start`` to ``stop - 1`` of the batch."""
        return Generated(*(tensor[start:stop] for tensor in self))


@dataclass(frozen=True)
class Result:
    """One image's way through the pipeline.

    Attributes:
        face: New face, as large as the given image.
        acquisition: What the camera recorded, at the model's size.
        heatmap: Landmark heatmaps (jaw, brows, nose, eyes, mouth), 0 to 1. Shape ``(5, S/2, S/2)``, float32.
        landmarks: 68 points (x, y) that it is drawn with, pixels of ``face``. Shape ``(68, 2)``, float32.
    """

    face: Image.Image
    acquisition: Image.Image
    heatmap: np.ndarray
    landmarks: np.ndarray


class PhaseVeil:
    """Camera, heatmap network and generator, ready to run.

    >>> pipeline = PhaseVeil.from_pretrained()
    >>> result = pipeline(image, seed=0)
    >>> result.face.save("new-face.png")

    Args:
        camera: Any camera; its transfer function is computed once for the model's size.
        heatmap_net: Reads the geometry from acquisitions.
        networks: Generator, mapping network and style encoder.
        device: Where to run, such as ``cpu`` or ``cuda``.
        dtype: Precision of the networks' arithmetic, ``torch.bfloat16`` or ``torch.float32``; what the processor is
            made for where ``None``. The camera's and the output's is always float32.

    Raises:
        CheckpointError: The networks are made for images of different sizes.
    """

    def __init__(
        self,
        camera: Camera,
        heatmap_net: HeatmapNet,
        networks: FaceNetworks,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.size = networks.config.size
        if heatmap_net.config.size != self.size:
            raise CheckpointError(
                f"the heatmap network works at {heatmap_net.config.size} pixels, the face networks at {self.size}; "
                "use weights that were trained together"
            )
        self.device = torch.device(device)
        self.dtype = dtype or native_dtype(self.device)
        self.camera = camera.frozen(self.size).eval().to(self.device)
        self.heatmap_net = heatmap_net.eval().to(self.device)
        self.networks = networks.eval().to(self.device)
        for module in (self.heatmap_net, self.networks):
            nn.utils.convert_conv2d_weight_memory_format(module, torch.channels_last)
        self.pair = Pair(self.heatmap_net, self.networks.generator)
        self.engine: Engine = TorchEngine(self.pair, self.device, self.dtype)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path | None = None,
        camera: str | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> "PhaseVeil":
        """Load weights.

        Args:
            directory: Folder with ``camera.safetensors``, ``heatmap.safetensors`` and ``face.safetensors``; the bundled
                one where ``None``.
            camera: Name or file of another camera, see :func:`phaseveil.optics.camera.load_camera`.
            device: Where to run.
            dtype: Precision, see :class:`PhaseVeil`.

        Raises:
            CheckpointError: A file is missing, damaged or does not fit.
            ConfigError: No such camera, or no such device on this machine.
        """
        folder = Path(directory) if directory is not None else Path(str(resources.files("phaseveil"))) / "weights"
        return cls(
            load_camera(camera if camera is not None else folder / "camera.safetensors"),
            load_heatmap_net(folder / "heatmap.safetensors"),
            load_face_networks(folder / "face.safetensors"),
            device=usable_device(device),
            dtype=dtype,
        )

    def with_engine(self, engine: Engine) -> "PhaseVeil":
        """The same camera and networks, where another engine than PyTorch runs heatmap network and generator.

        Args:
            engine: Made from these networks, see :func:`phaseveil.apps.export.use_engine`.
        """
        other = copy.copy(self)
        other.engine = engine
        return other

    def erasing_shape(self, directions: int, eraser: ShapeEraser | None = None) -> "PhaseVeil":
        """The same camera and networks, drawing faces whose shape tells less about whose they are.

        New faces keep their source's geometry, by which a recogniser that was trained on them links them. This takes
        the most identifying directions of the 68 landmarks out of heatmap and acquisition before a face is drawn; the
        face then follows its source less closely. ``docs/shape.md`` has figures for both.

        Args:
            directions: How many, 1 to 40; none where 0.
            eraser: Another than the bundled one.

        Raises:
            ConfigError: More directions than the eraser holds, or fewer than none; or another engine than PyTorch runs
                the networks.
            CheckpointError: The eraser's file is missing or damaged.
        """
        if directions == 0:
            return self
        if not isinstance(self.engine, TorchEngine):
            raise ConfigError(
                "the shape is erased by the engine torch alone; leave the other engine or the erasure out"
            )
        chosen = (eraser or load_shape_eraser()).first(directions).to(self.device)
        other = copy.copy(self)
        other.pair = Pair(self.heatmap_net, self.networks.generator, chosen)
        other.engine = TorchEngine(other.pair, self.device, self.dtype)
        return other

    @property
    def erased_directions(self) -> int:
        """Directions of the face's shape that are erased, see :meth:`erasing_shape`."""
        return 0 if self.pair.eraser is None else self.pair.eraser.config.directions

    def with_camera(self, camera: Camera) -> "PhaseVeil":
        """The same networks behind another camera.

        Args:
            camera: Any camera; its transfer function is computed once for the model's size.
        """
        other = copy.copy(self)
        other.camera = camera.frozen(self.size).eval().to(self.device)
        return other

    def __call__(
        self,
        image: ImageLike,
        seed: int = 0,
        reference: ImageLike | None = None,
        domain: str | None = None,
        acquired: bool = False,
    ) -> Result:
        """Give an aligned face a new identity.

        Args:
            image: Aligned square face crop of any size.
            seed: Same seed, same face; also seeds the sensor's noise. PyTorch reads 32 bits of it.
            reference: Aligned square crop of a face whose appearance is taken instead of the seed's.
            domain: ``female`` or ``male``; drawn from the seed where ``None`` (``female`` with a reference).
            acquired: The image comes from the real coded camera: no camera is simulated.

        Raises:
            InputError: An image is unreadable or not square.
            ConfigError: The domain is unknown.
        """
        pixels = square(image)
        frame = to_tensor(resize(pixels, self.size))[None]
        if reference is None:
            style = self.latent_styles([seed], domain)
        else:
            style = self.reference_style(to_tensor(resize(square(reference), self.size)), domain)
        generated = self.redraw(frame, style) if acquired else self.generate(frame, style, [seed])
        side = len(pixels)
        return Result(
            face=Image.fromarray(resize(to_array(generated.face[0]), side)),
            acquisition=Image.fromarray(to_array(generated.acquisition[0])),
            heatmap=generated.heatmap[0].numpy(),
            landmarks=generated.landmarks[0].numpy() * side - 0.5,
        )

    @torch.inference_mode()
    def latent_styles(self, seeds: Sequence[int], domain: str | None = None, strength: float = STRENGTH) -> Tensor:
        r"""Styles of nobody: each drawn from its own seed, whatever else is in the batch.

        The truncation trick (Karras et al. 2019, *A Style-Based Generator Architecture*, arXiv 1812.04948, appendix B)
        on the sphere of unit RMS that all styles lie on: along the great circle from the mean style of each face's
        domain to the seed's own (Shoemake 1985, *Animating Rotation with Quaternion Curves*, SIGGRAPH). The bundled
        networks' lie 53 to 90 degrees from their mean; a straight line, scaled back, would hardly move there.

        Args:
            seeds: One a face; an odd one is the opposite of the even one before it.
            domain: ``female`` or ``male`` for all; drawn from each seed where ``None``.
            strength: 0 gives every seed its domain's mean style, 1 its own; above 1 exaggerates. Less is more alike,
                see ``docs/experiments.md``.

        Returns:
            Style codes. Shape ``(B, style_dim)``, float32, on the pipeline's device.

        Raises:
            ConfigError: The domain is unknown, or the strength negative or not finite.
        """
        require_strength(strength)
        size = self.networks.config.latent_dim
        chosen = torch.tensor(
            [draw_domain(seed, size, len(DOMAINS)) if domain is None else domain_index(domain) for seed in seeds],
            device=self.device,
        )
        latents = torch.stack([draw_latent(seed, size) for seed in seeds])
        styles = self.networks.mapping(latents.to(self.device), chosen)
        if strength == 1:
            return styles
        return unit_rms(_along_the_sphere(self._average_styles[chosen], styles.float(), strength))

    @cached_property
    def _average_styles(self) -> Tensor:
        """The mean styles, scaled back onto the sphere."""
        return unit_rms(self.mean_styles())

    @torch.inference_mode()
    def mean_styles(self) -> Tensor:
        """Mean latent style of each domain, over the same latents always; shorter than unit RMS. ``(2, style_dim)``."""
        generator = torch.Generator().manual_seed(MEAN_STREAM)
        latents = torch.randn(MEAN_LATENTS, self.networks.config.latent_dim, generator=generator).to(self.device)
        domains = torch.arange(len(DOMAINS), device=self.device)
        return torch.stack([self.networks.mapping(latents, one.expand(MEAN_LATENTS)).mean(dim=0) for one in domains])

    @torch.inference_mode()
    def reference_style(self, reference: Tensor, domain: str | None = None) -> Tensor:
        """Style of a real face.

        Args:
            reference: Aligned crop, sRGB, 0 to 1. Shape ``(3, S, S)``.
            domain: ``female`` (also where ``None``) or ``male``.

        Returns:
            Style code. Shape ``(1, style_dim)``, float32, on the pipeline's device.

        Raises:
            ConfigError: The domain is unknown.
        """
        index = torch.tensor([domain_index(domain or DOMAINS[0])], device=self.device)
        return self.networks.style_encoder(reference[None].to(self.device), index).float()

    @torch.inference_mode()
    def acquire(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Photograph scenes with the camera, each with the noise of its own seed.

        Args:
            images: Aligned crops, sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
            seeds: One an image.

        Returns:
            Acquisitions, sRGB, 0 to 1. Shape ``(B, 3, S, S)``, float32.
        """
        scenes = images.to(self.device)
        noise = [noise_generator(seed, self.device) for seed in seeds]
        return torch.cat([self.camera(scene[None], source) for scene, source in zip(scenes, noise, strict=True)])

    def generate(self, images: Tensor, styles: Tensor, seeds: Sequence[int]) -> Generated:
        """Take crops all the way, from the scene to new faces.

        Args:
            images: Aligned crops, sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
            styles: Style codes. Shape ``(B, style_dim)``.
            seeds: Of the sensor's noise, one an image.
        """
        return self.redraw(self.acquire(images, seeds), styles)

    @torch.inference_mode()
    def redraw(self, acquisitions: Tensor, styles: Tensor) -> Generated:
        """Draw new faces for acquisitions, simulated or real.

        Args:
            acquisitions: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
            styles: Style codes. Shape ``(B, style_dim)``.

        Returns:
            All float32 and on the CPU.
        """
        drawn = self.engine.redraw(acquisitions, styles)
        return Generated(
            drawn.face.clamp(0, 1), acquisitions.float().cpu().contiguous(), drawn.heatmap, drawn.landmarks
        )


def noise_generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Source of a sensor's noise, apart from the style that the same seed draws."""
    return torch.Generator(device).manual_seed(seed ^ NOISE_STREAM)


def square(image: ImageLike) -> ImageArray:
    """Pixels of an aligned crop. Shape ``(H, H, 3)``, uint8, RGB.

    Raises:
        InputError: Unreadable, not square, or not of three channels.
    """
    if isinstance(image, str | Path):
        name, pixels = f"{image}: ", read_image(image)
    else:
        name, pixels = "", np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise InputError(f"{name}need an RGB image of shape (H, W, 3), uint8, got {pixels.shape}, {pixels.dtype}")
    height, width = pixels.shape[:2]
    if height != width:
        raise InputError(f"{name}not square ({width}×{height} px); give an aligned crop, or --align with a photograph")
    return pixels


def require_strength(strength: float) -> None:
    """Refuse a style strength that is none.

    Raises:
        ConfigError: It is negative or not finite.
    """
    if not 0 <= strength < math.inf:
        raise ConfigError(f"the style strength must be a number from 0 on, got {strength}")


def domain_index(domain: str) -> int:
    """Number of a domain.

    Raises:
        ConfigError: The domain is unknown.
    """
    if domain not in DOMAINS:
        raise ConfigError(f"unknown domain {domain!r}; use {' or '.join(DOMAINS)}")
    return DOMAINS.index(domain)


def usable_device(name: str) -> torch.device:
    """A device by its name.

    Raises:
        ConfigError: PyTorch knows no such device, or this machine has none.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} is not usable on this machine; use cpu") from error
    return torch.device(name)


def _along_the_sphere(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Codes a share of the angle from ``start`` towards ``end``, both of unit RMS; beyond it above 1. Shapes kept."""
    angle = torch.acos((start * end).mean(dim=-1, keepdim=True).clamp(-0.9999, 0.9999))
    of_start, of_end = (torch.sin(part * angle) / torch.sin(angle) for part in (1 - share, share))
    return of_start * start + of_end * end
