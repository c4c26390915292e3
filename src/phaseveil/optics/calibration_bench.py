"""The optical bench of a calibration: a point source before the camera, anywhere between the pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phaseveil.errors import ConfigError
from phaseveil.optics import psf
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera
from phaseveil.optics.sensor import SensorConfig, expose

MARGIN = 2  # pixels beyond the window on each side, for points that lie away from its middle


@dataclass(frozen=True)
class Bench:
    """A camera of a certain pixel pitch that looks at a point of a certain distance.

    Attributes:
        config: The camera's, with the point's distance as the subject's and the sensor where it was.
        size: Pixels across the camera's frame; the captures may be larger or smaller.
    """

    config: CameraConfig
    size: int

    @property
    def pixels(self) -> int:
        """Odd number of pixels K across the PSF's window."""
        return self.config.psf_pixels(self.size)

    @property
    def per_pixel(self) -> int:
        """Cells per pixel and axis, none wider than the Nyquist pitch λz/(4a) of any colour's intensity."""
        nyquist = min(self.config.wavelengths) * self.config.f_number / 2
        return math.ceil(self.config.pixel_pitch(self.size) / nyquist)


def bench_of(config: CameraConfig, pitch: float, distance: float | None = None) -> Bench:
    """The bench on which a camera is measured.

    Args:
        config: Of the camera as designed.
        pitch: Of the captures' pixels, metres.
        distance: Point to lens, metres; the subject's distance of the design where ``None``.

    Raises:
        ConfigError: An impossible pitch or distance.
    """
    distance = config.object_distance if distance is None else distance
    size = round(config.sensor_width / pitch) if pitch > 0 else 0
    if size < 16:
        raise ConfigError(
            f"a pixel pitch of {pitch:g} m leaves {size} pixels of the frame's {config.sensor_width:.3g} m on the "
            "sensor; give it in metres (such as 9.4e-6), 16 pixels at least"
        )
    width = size * pitch * distance / config.image_distance
    there = replace(config, sensor_distance=config.image_distance, object_distance=distance, frame_width=width)
    return Bench(there, size)


def cell_shares(camera: PhaseMaskCamera, bench: Bench, coefficients: Tensor, tilt: Tensor | None = None) -> Tensor:
    """Share of a point's light on fine cells, ``bench.per_pixel`` a pixel, of the window and its margins.

    Args:
        camera: Lens, wavelengths, material.
        bench: Where it looks at the point.
        coefficients: Of the mask, metres; differentiable. Shape ``(num_modes - 3,)``.
        tilt: Row and column by which the wavefront's tilt moves the image, pixels; differentiable. Shape ``(2,)``.

    Returns:
        Shape ``(3, F, F)``, F = ``(bench.pixels + 4) * bench.per_pixel``.
    """
    here, per_pixel = camera.under(bench.config), bench.per_pixel
    phase = here.pupil_phase(coefficients)
    if tilt is not None:
        slope = tilt * (bench.config.pixel_pitch(bench.size) / bench.config.image_distance)
        plane = slope[0] * camera.pupil_axis[:, None] + slope[1] * camera.pupil_axis[None, :]
        phase = phase + (2 * math.pi / camera.wavelengths)[:, None, None] * plane
    return psf.pixel_integrated_psf(
        camera.aperture,
        phase,
        camera.pupil_axis,
        camera.wavelengths,
        bench.config.image_distance,
        (bench.pixels + 2 * MARGIN) * per_pixel,
        bench.config.pixel_pitch(bench.size) / per_pixel,
    )


def collect(shares: Tensor, bench: Bench, places: Tensor) -> Tensor:
    """What the pixels of the window collect of points that lie beside the middle of their window.

    Pixels and cells overlap in part, and the light of a cell is spread evenly over it: an exact shift of the PSF would
    interpolate the intensity, which between Nyquist's samples differs little from its neighbours.

    Args:
        shares: From :func:`cell_shares`. Shape ``(3, F, F)``.
        bench: Theirs.
        places: Row and column of each point from the middle of its window, pixels, at most 2; differentiable. Shape
            ``(P, 2)``.

    Returns:
        Shape ``(P, 3, K, K)``.
    """
    rows, columns = (_overlap(bench, places[:, axis]) for axis in (0, 1))
    return torch.einsum("pkf,lfg,pmg->plkm", rows, shares, columns)


def _overlap(bench: Bench, shifts: Tensor) -> Tensor:
    """Share of each cell that lies on each pixel, along one axis. ``(P,)`` → ``(P, K, F)``."""
    cells, pixels = (bench.pixels + 2 * MARGIN) * bench.per_pixel, bench.pixels
    start = (torch.arange(cells, device=shifts.device) - cells / 2)[None, None, :]
    left = (torch.arange(pixels, device=shifts.device) - pixels / 2)[None, :, None] - shifts[:, None, None]
    left = left * bench.per_pixel
    upper, lower = torch.minimum(left + bench.per_pixel, start + 1), torch.maximum(left, start)
    return (upper - lower).clamp_min(0)


@torch.no_grad()
def point_images(camera: PhaseMaskCamera, bench: Bench, places: Sequence[tuple[float, float]], sides: int) -> Tensor:
    """Images of single points as the sensor gets them, without noise.

    Light is followed beyond the PSF's window, as far as the sampled pupil allows: a real sensor does not end there.

    Args:
        camera: Any with a fixed mask.
        bench: Where it looks at the points.
        places: Row and column of each point in the image, pixels; the middle of the first pixel is (0, 0).
        sides: H, pixels.

    Returns:
        Shares of the point's light. Shape ``(P, 3, H, H)``.

    Raises:
        OpticsError: The mask is steeper than the pupil is sampled.
    """
    here, bench = camera.under(bench.config), _widened(bench, camera)
    here.check_sampling(here.pupil_phase())
    shares, half = cell_shares(camera, bench, camera.coefficients), bench.pixels // 2
    padded = shares.new_zeros(len(places), 3, sides + 2 * half, sides + 2 * half)
    for image, (row, column) in zip(padded, places, strict=True):
        top, left = round(row), round(column)
        window = collect(shares, bench, shares.new_tensor([[row - top, column - left]]))[0]
        image[:, top : top + bench.pixels, left : left + bench.pixels] = window
    return padded[..., half : half + sides, half : half + sides]


def _widened(bench: Bench, camera: PhaseMaskCamera) -> Bench:
    """The bench with a window of twice the width, or what the frame and the pupil's sampling hold."""
    config = bench.config
    period = min(config.wavelengths) * config.image_distance / (camera.pupil_axis[1] - camera.pupil_axis[0]).item()
    widest = min(2 * config.psf_support, 1.0, 0.98 * period / config.sensor_width)
    return replace(bench, config=replace(config, psf_support=max(widest, config.psf_support)))


def raw_values(shares: Tensor, sensor: SensorConfig, seconds: float, lamp: float, generator: torch.Generator) -> Tensor:
    """What a linear sensor reads out of point images.

    Args:
        shares: From :func:`point_images`. Any shape.
        sensor: Its noise, full well and converter.
        seconds: Exposure time.
        lamp: Light that all of a point's image holds in a second; 1 fills one pixel to white.
        generator: Source of the noise.

    Returns:
        Linear light, 0 to 1 (white), quantised. Shape kept.
    """
    return expose(shares * (lamp * seconds), sensor, generator)
