"""Figures of merit of a camera's optics: what ``phaseveil camera info`` prints."""

from dataclasses import dataclass

import torch
from torch import Tensor

from phaseveil.optics import grid
from phaseveil.optics.camera import Camera, FrozenCamera, PhaseMaskCamera
from phaseveil.optics.propagation import steepest_phase_step
from phaseveil.optics.psf import normalise_energy

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class MaskReport:
    """What only a camera with a pupil and a phase mask has. Three values stand for R, G, B.

    Attributes:
        height_range: Highest minus lowest point of the mask, metres.
        largest_slope: Steepest rise of the mask's surface, metres per metre.
        largest_phase_step: Phase between neighbouring pupil samples, radians; π is the sampling limit.
        strehl: Strehl ratio, 0 to 1.
        enclosed_energy: Share of a point's light that lands inside the PSF's window.
    """

    height_range: float
    largest_slope: float
    largest_phase_step: float
    strehl: Rgb
    enclosed_energy: Rgb


@dataclass(frozen=True)
class CameraReport:
    """A camera in figures, for one frame size. Three values stand for R, G, B.

    Attributes:
        kind: Kind of camera, as in its configuration.
        size: Pixels across the frame.
        frame_width: Width of the scene that fills the frame, metres.
        object_distance: Subject to lens, metres.
        f_number: Working F-number.
        focus_error: 1/d + 1/z - 1/f, dioptres.
        pixel_pitch: On the sensor, metres.
        psf_pixels: Pixels across the PSF's window.
        psf_rms: RMS diameter of the PSF, pixels.
        psf_half: Diameter of the circle that holds 50 % of the PSF, pixels.
        psf_most: Diameter of the circle that holds 80 % of the PSF, pixels.
        mtf50: Frequency at which the contrast first falls to one half, cycles per frame; size/2 where it never does.
        mask: The figures of the phase mask; ``None`` for cameras without one.
    """

    kind: str
    size: int
    frame_width: float
    object_distance: float
    f_number: float
    focus_error: float
    pixel_pitch: float
    psf_pixels: int
    psf_rms: Rgb
    psf_half: Rgb
    psf_most: Rgb
    mtf50: Rgb
    mask: MaskReport | None

    def table(self) -> list[tuple[str, str]]:
        """Name and value with its unit, a pair a line, as people read them."""
        rows = [
            ("camera", f"{self.kind}, {self.size} × {self.size} pixels"),
            ("frame width", f"{self.frame_width:.4g} m at {self.object_distance:.4g} m"),
            ("F-number", f"{self.f_number:.4g}"),
            ("focus error", f"{self.focus_error:+.3g} dioptres"),
            ("pixel pitch", f"{self.pixel_pitch * 1e6:.4g} µm"),
            ("PSF window", f"{self.psf_pixels} pixels"),
            ("PSF width, RMS", f"{_rgb(self.psf_rms)} pixels (R, G, B)"),
            ("PSF width, 50 % of the light", f"{_rgb(self.psf_half)} pixels"),
            ("PSF width, 80 % of the light", f"{_rgb(self.psf_most)} pixels"),
            ("MTF50", f"{_rgb(self.mtf50)} cycles per frame"),
        ]
        if self.mask is not None:
            rows += [
                ("mask height range", f"{self.mask.height_range * 1e6:.4g} µm"),
                ("mask's largest slope", f"{self.mask.largest_slope * 1e3:.4g} mrad"),
                ("largest phase step", f"{self.mask.largest_phase_step:.3g} rad of π"),
                ("Strehl ratio", _rgb(self.mask.strehl)),
                ("energy in the window", _rgb(tuple(100 * share for share in self.mask.enclosed_energy)) + " %"),
            ]
        return rows


@torch.no_grad()
def describe_camera(camera: Camera, size: int) -> CameraReport:
    """Measure a camera for ``size``-pixel frames.

    Raises:
        OpticsError: The optics cannot be simulated as they are sampled.
    """
    if isinstance(camera, FrozenCamera):
        camera = camera.optics
    config = camera.config
    mask = enclosed = None
    if isinstance(camera, PhaseMaskCamera):
        enclosed = camera.enclosed_psf(size)
        mask = _describe_mask(camera, enclosed)
    psf = normalise_energy(camera.psf(size) if enclosed is None else enclosed).double().cpu()
    return CameraReport(
        kind=config.kind,
        size=size,
        frame_width=config.frame_width,
        object_distance=config.object_distance,
        f_number=config.f_number,
        focus_error=config.focus_error,
        pixel_pitch=config.pixel_pitch(size),
        psf_pixels=psf.shape[-1],
        psf_rms=_per_colour(rms_diameter(psf)),
        psf_half=_per_colour(encircled_diameter(psf, 0.5)),
        psf_most=_per_colour(encircled_diameter(psf, 0.8)),
        mtf50=_per_colour(mtf50(psf, size)),
        mask=mask,
    )


def _describe_mask(camera: PhaseMaskCamera, enclosed: Tensor) -> MaskReport:
    height, phase = camera.height_map(), camera.pupil_phase()
    return MaskReport(
        height_range=height_range(height, camera.aperture),
        largest_slope=largest_slope(height, camera.aperture, (camera.pupil_axis[1] - camera.pupil_axis[0]).item()),
        largest_phase_step=steepest_phase_step(phase, camera.aperture),
        strehl=_per_colour(strehl_ratio(phase, camera.aperture)),
        enclosed_energy=_per_colour(enclosed.double().sum(dim=(-2, -1))),
    )


def height_range(height: Tensor, aperture: Tensor) -> float:
    """Highest minus lowest point inside the aperture, in the height's unit. Both ``(N, N)``."""
    inside = height[aperture > 0]
    return (inside.max() - inside.min()).item()


def largest_slope(height: Tensor, aperture: Tensor, pitch: float) -> float:
    """Steepest rise of a surface inside the aperture, from forward differences, unitless (metres per metre).

    Args:
        height: Metres. Shape ``(N, N)``.
        aperture: Transmission, 0 outside. Shape ``(N, N)``.
        pitch: Distance of neighbouring samples, metres.
    """
    inside = aperture > 0
    held = inside[:-1, :-1] & inside[:-1, 1:] & inside[1:, :-1]
    rise = torch.hypot(height.diff(dim=-1)[:-1], height.diff(dim=-2)[:, :-1])
    return (rise * held).max().item() / pitch


def strehl_ratio(phase: Tensor, aperture: Tensor) -> Tensor:
    r"""Intensity on the axis over that of the same pupil without aberration: :math:`|\sum A e^{i\phi}|^2 / (\sum A)^2`.

    Born & Wolf, *Principles of Optics*, §9.1.3; near 1 it follows Maréchal, exp(-var φ).

    Args:
        phase: Radians. Shape ``(L, N, N)``.
        aperture: Transmission. Shape ``(N, N)``.

    Returns:
        0 to 1. Shape ``(L,)``.
    """
    amplitude = aperture.double()
    field = torch.polar(amplitude.expand_as(phase), phase.double())
    return field.sum(dim=(-2, -1)).abs().square() / amplitude.sum() ** 2


def rms_diameter(psf: Tensor) -> Tensor:
    """Twice the RMS distance of the light from its own centroid, pixels. ``(L, K, K)``, unit sums → ``(L,)``."""
    return 2 * (psf * _distance_from_centroid(psf).square()).sum(dim=(-2, -1)).sqrt()


def encircled_diameter(psf: Tensor, share: float, subsamples: int = 4) -> Tensor:
    """Diameter of the circle about the PSF's centroid that holds a share of its light, pixels.

    Each pixel's light lies evenly on it: a PSF of one pixel has the diameter of the circle of that share's area.

    Args:
        psf: Unit sum per channel. Shape ``(L, K, K)``.
        share: Between 0 and 1.
        subsamples: Points per pixel and axis that stand for its area.

    Returns:
        Shape ``(L,)``.
    """
    fine = psf.repeat_interleave(subsamples, dim=-1).repeat_interleave(subsamples, dim=-2) / subsamples**2
    radii, order = _distance_from_centroid(fine).flatten(1).sort(dim=1)
    light = fine.flatten(1).gather(1, order).cumsum(dim=1)
    place = torch.searchsorted(light, light.new_full((len(light), 1), share)).clamp_max(light.shape[1] - 1)
    return 2 / subsamples * radii.gather(1, place)[:, 0]


def _distance_from_centroid(psf: Tensor) -> Tensor:
    """Distance of each pixel's centre from its own channel's centroid, pixels. Shape kept."""
    axis = grid.centred_axis(psf.shape[-1], 1.0, psf.dtype).to(psf.device)
    x = axis - (psf.sum(dim=-2) * axis).sum(dim=-1, keepdim=True)
    y = axis - (psf.sum(dim=-1) * axis).sum(dim=-1, keepdim=True)
    return torch.hypot(x[:, None, :], y[:, :, None])


def radial_mtf(psf: Tensor, size: int, per_cycle: int = 4) -> tuple[Tensor, Tensor]:
    """Modulation transfer function, averaged over angles.

    Args:
        psf: Unit sum per channel. Shape ``(L, K, K)``.
        size: Pixels of the frame that the PSF was sampled for.
        per_cycle: Frequencies per cycle per frame; above 1 the PSF is padded with darkness.

    Returns:
        Frequencies from 0 to size/2, cycles per frame, shape ``(F,)``, and the modulation, 0 to 1, shape ``(L, F)``.
    """
    padded = size * per_cycle
    modulation = torch.fft.fft2(psf, s=(padded, padded)).abs()
    frequency = torch.fft.fftfreq(padded, dtype=torch.float64, device=psf.device) * padded
    ring = torch.hypot(frequency[:, None], frequency[None, :]).round().long().flatten()
    count = torch.bincount(ring)
    total = torch.stack([torch.bincount(ring, channel.flatten().to(torch.float64)) for channel in modulation])
    kept = padded // 2 + 1
    return torch.arange(kept, device=psf.device) / per_cycle, (total / count)[:, :kept]


def mtf50(psf: Tensor, size: int) -> Tensor:
    """Frequency at which the angle-averaged MTF first falls to one half, cycles per frame; size/2 where it never does.

    Args:
        psf: Unit sum per channel. Shape ``(L, K, K)``.
        size: Pixels of the frame that the PSF was sampled for.

    Returns:
        Shape ``(L,)``.
    """
    frequency, modulation = radial_mtf(psf, size)
    found = []
    for channel in modulation:
        below = torch.nonzero(channel <= 0.5)[:, 0]
        if not len(below):
            found.append(frequency[-1])
            continue
        place = max(1, int(below[0]))
        high, low = channel[place - 1], channel[place]
        part = ((high - 0.5) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        found.append(frequency[place - 1] + part * (frequency[place] - frequency[place - 1]))
    return torch.stack(found)


def _per_colour(values: Tensor) -> Rgb:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _rgb(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:.3g}" for value in values)
