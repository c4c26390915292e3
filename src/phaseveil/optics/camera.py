"""Cameras: scene in, acquisition out. The learned phase mask and the baselines share one interface."""

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseveil import checkpoint
from phaseveil.config import from_mapping, load_config, to_mapping
from phaseveil.errors import ConfigError, InputError, OpticsError
from phaseveil.optics import grid, propagation, psf
from phaseveil.optics.departure import MaskDeparture
from phaseveil.optics.materials import index_contrast
from phaseveil.optics.sensor import SensorConfig, expose, linear_to_srgb, srgb_to_linear
from phaseveil.optics.zernike import FIRST_MODE, join_quarters, zernike_quarter

SHORTEST, LONGEST = 1e-6, 1e6  # metres; beyond, arithmetic breaks down before any lens does
MOST_VALUES = 300_000_000  # of the modes' table, 8 bytes each while it is made; files from strangers choose its size
GAUSSIAN_REACH = 3.0  # standard deviations; a blur cut off nearer has a sharp edge and is another one
FAMILY_FIELDS = ("family_size", "training_draws")


@dataclass
class CameraConfig:
    """One camera. Lengths in metres.

    Attributes:
        kind: ``phase-mask``, ``dynamic-mask``, ``gaussian`` or ``low-resolution``.
        focal_length: Of the lens.
        object_distance: Subject to lens.
        sensor_distance: Lens to sensor; in focus for the subject where ``None``.
        aperture_radius: Of the pupil.
        frame_width: Of the scene at the subject that fills the image's width.
        wavelengths: Vacuum wavelengths of R, G, B.
        material: Of the mask; a key of :data:`phaseveil.optics.materials.SELLMEIER`.
        num_modes: Highest Noll index of the mask.
        pupil_samples: Samples across the pupil.
        psf_support: Width of the PSF's window, share of the frame.
        convolution: ``linear``, or ``circular`` as the paper's code does it.
        gaussian_sigma: Standard deviation of the ``gaussian`` blur, share of the frame.
        low_resolution: Photosites across the frame of the ``low-resolution`` camera.
        family_size: Numbers that select a mask of the ``dynamic-mask`` camera.
        training_draws: Masks that the ``dynamic-mask`` camera draws for a batch in training, at most: each has a PSF
            to be computed.
        sensor: Photosite and converter.
    """

    kind: str = "phase-mask"
    focal_length: float = 8e-3
    object_distance: float = 1.0
    sensor_distance: float | None = None
    aperture_radius: float = 0.5e-3
    frame_width: float = 0.30
    wavelengths: list[float] = field(default_factory=lambda: [640e-9, 550e-9, 440e-9])
    material: str = "fused-silica"
    num_modes: int = 36
    pupil_samples: int = 256
    psf_support: float = 0.32
    convolution: str = "linear"
    gaussian_sigma: float = 12 / 256
    low_resolution: int = 16
    family_size: int = 4
    training_draws: int = 4
    sensor: SensorConfig = field(default_factory=SensorConfig)

    def __post_init__(self) -> None:
        if self.kind not in CAMERAS:
            raise ConfigError(f"camera: kind must be one of {', '.join(CAMERAS)}, got {self.kind!r}")
        if self.convolution not in ("linear", "circular"):
            raise ConfigError(f"camera: convolution must be linear or circular, got {self.convolution!r}")
        if len(self.wavelengths) != 3 or not all(100e-9 < w < 20e-6 for w in self.wavelengths):
            raise ConfigError(
                f"camera: wavelengths must be three values in metres (such as 550e-9), got {self.wavelengths}"
            )
        lengths = (self.focal_length, self.object_distance, self.aperture_radius, self.frame_width)
        if min(lengths) <= 0 or self.image_distance <= 0:
            raise ConfigError("camera: lengths must be above 0 metres, and the subject beyond the focal length")
        if not all(SHORTEST <= length <= LONGEST for length in (*lengths, self.image_distance)):
            raise ConfigError(f"camera: lengths must lie between {SHORTEST:g} and {LONGEST:g} metres")
        if self.f_number < 0.5:  # the marginal ray's sine would exceed 1
            raise ConfigError(
                f"camera: F/{self.f_number:.2g} is impossible; give aperture_radius in metres (such as 0.5e-3)"
            )
        if self.num_modes < FIRST_MODE or self.pupil_samples < 8 or self.low_resolution < 1:
            raise ConfigError("camera: needs num_modes ≥ 4, pupil_samples ≥ 8, low_resolution ≥ 1")
        if max(self.num_modes, self.low_resolution, self.pupil_samples, self.family_size, self.training_draws) > 2048:
            raise ConfigError("camera: numbers of modes, samples, photosites and masks may be at most 2048")
        if self.num_modes * self.pupil_samples**2 > MOST_VALUES:
            raise ConfigError(
                f"camera: {self.num_modes} modes on {self.pupil_samples}² pupil samples need too much memory (over "
                f"{MOST_VALUES:,} values); choose fewer"
            )
        if not 0 < self.psf_support <= 1 or not 0 < self.gaussian_sigma < 0.5:
            raise ConfigError("camera: psf_support must lie in (0, 1], gaussian_sigma in (0, 0.5), shares of the frame")
        reach = 2 * GAUSSIAN_REACH * self.gaussian_sigma
        if self.kind == "gaussian" and self.psf_support < min(reach, 1):
            raise ConfigError(
                f"camera: psf_support {self.psf_support:g} cuts off a blur of gaussian_sigma {self.gaussian_sigma:g}; "
                f"set psf_support to {min(reach, 1):.2g} at least"
            )
        if self.family_size < 1 or self.training_draws < 1:
            raise ConfigError("camera: family_size and training_draws must be at least 1")

    @property
    def image_distance(self) -> float:
        """Lens to sensor, metres; the thin-lens image of the subject where it is not set."""
        if self.sensor_distance is not None:
            return self.sensor_distance
        power = 1 / self.focal_length - 1 / self.object_distance
        return 1 / power if power > 0 else -1.0

    @property
    def focus_error(self) -> float:
        """1/d + 1/z - 1/f, dioptres."""
        return 1 / self.object_distance + 1 / self.image_distance - 1 / self.focal_length

    @property
    def sensor_width(self) -> float:
        """Width of the frame on the sensor, metres."""
        return self.frame_width * self.image_distance / self.object_distance

    @property
    def f_number(self) -> float:
        """Working F-number z/(2a)."""
        return self.image_distance / (2 * self.aperture_radius)

    def pixel_pitch(self, size: int) -> float:
        """Pitch of the photosites of a ``size``-pixel frame, metres."""
        return self.sensor_width / size

    def psf_pixels(self, size: int) -> int:
        """Odd number of pixels of the PSF's window in a ``size``-pixel frame."""
        widest = size - 1 + size % 2  # a circular convolution cannot hold more
        return max(3, min(widest, 2 * int(self.psf_support * size / 2) + 1))


class Camera(nn.Module, ABC):
    """Scene → acquisition: sRGB to linear light, blur, sensor, and back to sRGB."""

    def __init__(self, config: CameraConfig) -> None:
        super().__init__()
        self.config = config
        self.departure: MaskDeparture | None = None

    @abstractmethod
    def blur(self, light: Tensor) -> Tensor:
        """What the optics do to linear light. Shape ``(B, 3, H, H)``, kept."""

    @abstractmethod
    def psf(self, size: int) -> Tensor:
        """Point spread function in a ``size``-pixel frame, unit sum per channel. Shape ``(3, K, K)``, K odd."""

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Acquire a scene.

        Args:
            image: sRGB, 0 to 1. Shape ``(B, 3, H, H)``.
            generator: Source of the sensor's noise; noiseless where ``None``.

        Returns:
            Acquisition, sRGB, 0 to 1. Shape ``(B, 3, H, H)``.

        Raises:
            InputError: The image is not square.
        """
        with torch.autocast(image.device.type, enabled=False):
            light = self.blur(scene_light(image))
            return linear_to_srgb(expose(light, self.config.sensor, generator))

    def under(self, config: CameraConfig, departure: MaskDeparture | None = None) -> Self:
        """The same optics, parameters shared, in other circumstances: another sensor, subject or sensor distance.

        Args:
            config: This camera's, but for ``sensor``, ``object_distance`` and ``sensor_distance``.
            departure: Of the mask as built from its design; a camera without a mask ignores it.
        """
        other = copy.copy(self)
        other.config, other.departure = config, departure
        return other

    def frozen(self, size: int) -> "FrozenCamera":
        """The same camera for one frame size with its transfer function computed once, for inference."""
        return FrozenCamera(self, size)


def scene_light(image: Tensor) -> Tensor:
    """Linear light of an sRGB scene ``(B, 3, H, H)``, in float32, or float64 where the image is; shape kept.

    Raises:
        InputError: The image is not square.
    """
    height, width = image.shape[-2:]
    if width != height:
        raise InputError(f"a camera takes square frames, got {width}×{height} pixels; crop it first")
    return srgb_to_linear(image if image.dtype == torch.float64 else image.float())


class ConvolutionCamera(Camera):
    """A camera whose optics are one point spread function over the whole frame."""

    def blur(self, light: Tensor) -> Tensor:
        transfer = self.transfer_function(light.shape[-1])
        return apply_transfer(light, transfer, self.config)

    def transfer_function(self, size: int) -> Tensor:
        """Transfer function on the grid that the convolution needs for ``size``-pixel frames, complex."""
        return psf.optical_transfer_function(self.psf(size), transfer_grid(self.config, size))


def transfer_grid(config: CameraConfig, size: int) -> int:
    """Side of the grid that the convolution of ``size``-pixel frames needs, pixels."""
    return size if config.convolution == "circular" else psf.fast_fft_size(size + config.psf_pixels(size) - 1)


def apply_transfer(light: Tensor, transfer: Tensor, config: CameraConfig) -> Tensor:
    """Convolve linear light with a transfer function, by the configured kind of convolution. Shape kept."""
    if config.convolution == "circular":
        return psf.convolve_circular(light, transfer)
    return psf.convolve_linear(light, transfer, config.psf_pixels(light.shape[-1]) // 2)


class PhaseMaskCamera(ConvolutionCamera):
    """A lens behind a refractive phase mask, a sum of Zernike modes (Noll, j ≥ 4).

    Attributes:
        coefficients: RMS height of each mode, metres. Shape ``(num_modes - 3,)``; the only parameter.
    """

    def __init__(self, config: CameraConfig) -> None:
        super().__init__(config)
        samples, modes = config.pupil_samples, range(FIRST_MODE, config.num_modes + 1)
        pitch = 2 * config.aperture_radius / samples
        axis = grid.centred_axis(samples, pitch, torch.float64)
        self.coefficients = nn.Parameter(torch.zeros(len(modes)))
        self.modes: Tensor
        self.mirror: Tensor
        self.aperture: Tensor
        self.pupil_axis: Tensor
        self.wavelengths: Tensor
        self.delta_n: Tensor
        self.focus_phase_per_dioptre: Tensor
        aperture, (quarter, mirror) = grid.circular_aperture(samples), zernike_quarter(modes, samples)
        constants = {
            "modes": (quarter * (aperture[samples // 2 :, samples // 2 :] > 0)).flatten(1),
            "mirror": mirror,
            "aperture": aperture,
            "pupil_axis": axis,
            "wavelengths": torch.tensor(config.wavelengths, dtype=torch.float64),
            "delta_n": torch.tensor(index_contrast(config.material, config.wavelengths)),
        }
        radius_squared = axis[:, None] ** 2 + axis[None, :] ** 2
        constants["focus_phase_per_dioptre"] = propagation.defocus_phase(radius_squared, constants["wavelengths"], 1.0)
        for name, value in constants.items():
            self.register_buffer(name, value.to(torch.float32), persistent=False)
        window = config.psf_support * config.sensor_width
        propagation.check_window(
            samples, 2 * config.aperture_radius, window, min(config.wavelengths), config.image_distance
        )

    def height_map(self, coefficients: Tensor | None = None) -> Tensor:
        """Surface height, metres, about its mean. Shape ``(pupil_samples, pupil_samples)``, zero outside the pupil.

        Args:
            coefficients: Of another mask in the same place, metres; this camera's own where ``None``.
        """
        coefficients = self.coefficients if coefficients is None else coefficients
        if self.departure is not None:
            coefficients = self.departure.of(coefficients)
        # A quarter of each mode holds all of it, and a quarter of the memory is read.
        side = (self.config.pupil_samples + 1) // 2
        quarters = (self.mirror * coefficients) @ self.modes
        return join_quarters(quarters.unflatten(1, (side, side)), self.config.pupil_samples)

    def pupil_phase(self, coefficients: Tensor | None = None) -> Tensor:
        """Phase of mask (see :meth:`height_map`) and focus error, radians, unwrapped. Shape ``(3, N, N)``."""
        mask = propagation.phase_delay(self.height_map(coefficients), self.wavelengths, self.delta_n)
        return mask + self.config.focus_error * self.focus_phase_per_dioptre

    def check_sampling(self, phase: Tensor) -> None:
        """Refuse a phase ``(3, N, N)`` that is too steep for the pupil's samples (OpticsError)."""
        propagation.check_phase_sampling(phase, self.aperture)

    def enclosed_psf(self, size: int, coefficients: Tensor | None = None) -> Tensor:
        """PSF before normalisation: each channel sums to the share of the energy inside the window."""
        phase = self.pupil_phase(coefficients)
        self.check_sampling(phase)
        config, pitch = self.config, self.config.pixel_pitch(size)
        period = min(config.wavelengths) * config.image_distance * config.pupil_samples / (2 * config.aperture_radius)
        if pitch > period:
            raise OpticsError(
                f"a pixel of {pitch * 1e6:.3g} µm is wider than the {period * 1e6:.3g} µm after which the pattern of "
                f"{config.pupil_samples} pupil samples repeats; choose a narrower frame or more pupil_samples"
            )
        return psf.pixel_integrated_psf(
            self.aperture,
            phase,
            self.pupil_axis,
            self.wavelengths,
            config.image_distance,
            config.psf_pixels(size),
            pitch,
        )

    def psf(self, size: int) -> Tensor:
        return psf.normalise_energy(self.enclosed_psf(size))

    @torch.no_grad()
    def keep_samplable(self, limit: float = 0.97 * math.pi) -> None:
        """Scale the mask down where an optimiser step made it steeper than the pupil grid can hold (π a sample).

        Args:
            limit: Steepest phase between neighbouring pupil samples, radians.
        """
        steepest = propagation.steepest_phase_step(self.pupil_phase(), self.aperture)
        if steepest > limit:
            self.coefficients.mul_(limit / steepest)


class GaussianCamera(ConvolutionCamera):
    """Baseline: an ideal Gaussian blur, the same for all colours."""

    def psf(self, size: int) -> Tensor:
        sigma = self.config.gaussian_sigma * size
        axis = grid.centred_axis(self.config.psf_pixels(size), 1.0)
        line = torch.exp(-0.5 * (axis / sigma) ** 2)
        return psf.normalise_energy((line[:, None] * line[None, :]).expand(3, -1, -1))


class LowResolutionCamera(Camera):
    """Baseline of the paper: few large photosites, shown at full size by bilinear interpolation."""

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Acquire a scene on ``low_resolution`` photosites, noise per photosite; see :meth:`Camera.forward`."""
        with torch.autocast(image.device.type, enabled=False):
            sites = functional.adaptive_avg_pool2d(scene_light(image), self.config.low_resolution)
            coarse = linear_to_srgb(expose(sites, self.config.sensor, generator))
            return functional.interpolate(coarse, size=image.shape[-2:], mode="bilinear", align_corners=False)

    def blur(self, light: Tensor) -> Tensor:
        sites = functional.adaptive_avg_pool2d(light, self.config.low_resolution)
        return functional.interpolate(sites, size=light.shape[-2:], mode="bilinear", align_corners=False)

    def psf(self, size: int) -> Tensor:
        """Response to a point at the frame's centre; the sampling makes it differ elsewhere."""
        pixels = self.config.psf_pixels(size)
        point = torch.zeros(1, 3, size, size)
        point[..., size // 2, size // 2] = 1
        response = functional.pad(self.blur(point)[0], (pixels // 2, pixels // 2, pixels // 2, pixels // 2))
        return psf.normalise_energy(response[:, size // 2 : size // 2 + pixels, size // 2 : size // 2 + pixels])


CAMERAS: dict[str, type[Camera]] = {
    "phase-mask": PhaseMaskCamera,
    "gaussian": GaussianCamera,
    "low-resolution": LowResolutionCamera,
}
"""Cameras by kind; the package's ``__init__`` adds those that have a module of their own."""


class FrozenCamera(Camera):
    """A copy of another camera with fixed optics for one frame size; the transfer function is computed once."""

    def __init__(self, camera: Camera, size: int) -> None:
        super().__init__(camera.config)
        self.size = size
        self.optics = copy.deepcopy(camera).requires_grad_(False)
        self.transfer: Tensor | None
        fixed = self.optics.transfer_function(size) if isinstance(self.optics, ConvolutionCamera) else None
        self.register_buffer("transfer", fixed, persistent=False)

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if image.shape[-1] != self.size:
            raise InputError(f"this camera is frozen for {self.size}-pixel frames, got {image.shape[-1]}; resize first")
        return super().forward(image, generator) if self.transfer is not None else self.optics(image, generator)

    def blur(self, light: Tensor) -> Tensor:
        return (
            apply_transfer(light, self.transfer, self.config) if self.transfer is not None else self.optics.blur(light)
        )

    def psf(self, size: int) -> Tensor:
        return self.optics.psf(size)


def build_camera(config: CameraConfig) -> Camera:
    """The camera that a configuration describes, its mask flat."""
    return CAMERAS[config.kind](config)


def plain_config(config: CameraConfig) -> dict[str, Any]:
    """A configuration as plain values, for files and digests; what only a family of masks has is left out elsewhere."""
    dynamic = config.kind == "dynamic-mask"
    return {name: value for name, value in to_mapping(config).items() if dynamic or name not in FAMILY_FIELDS}


def save_camera(path: str | Path, camera: Camera, metadata: dict[str, Any] | None = None) -> Path:
    """Write a camera file in full precision: heights of 1e-7 m do not survive fp16.

    Raises:
        CheckpointError: The file cannot be written.
    """
    tensors = {f"camera.{name}": tensor for name, tensor in camera.state_dict().items()}
    tensors = tensors or {"camera.empty": torch.zeros(1)}
    return checkpoint.save(path, "camera", plain_config(camera.config), tensors, metadata)


def load_camera(source: str | Path) -> Camera:
    """A camera by name or from a file.

    Args:
        source: ``learned`` (the bundled mask), a preset (``portrait``, ``paper``, ``low-resolution``, ``gaussian``,
            ``defocus``, ``identity``, ``dynamic``), a ``.yaml`` camera configuration, or a ``.safetensors`` camera
            file.

    Raises:
        ConfigError: No such preset, or an impossible configuration.
        CheckpointError: The file is missing, damaged or not a camera.
    """
    if str(source) == "learned":
        source = Path(str(resources.files("phaseveil"))) / "weights" / "camera.safetensors"
    if Path(source).suffix != ".safetensors":
        name = source if Path(source).suffix in (".yaml", ".yml") else f"camera/{source}"
        return build_camera(load_config(CameraConfig, name)).eval()
    stored = checkpoint.load(source, kind="camera")
    config = from_mapping(CameraConfig, stored.config)
    tensors = {name: tensor for name, tensor in stored.part("camera").items() if name != "empty"}
    return checkpoint.load_module(lambda: build_camera(config), tensors, source).eval()
