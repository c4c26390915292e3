"""From captures of point sources to images of points: dark level, saturation, exposure brackets, places.

Values are linear light, 0 to 1 (white: where the sensor saturates).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.errors import InputError
from phaseveil.optics.calibration import Windows
from phaseveil.optics.calibration_bench import Bench
from phaseveil.optics.psf import normalise_energy
from phaseveil.optics.sensor import SensorConfig, noise_variance

SATURATED = 0.95  # of white; beyond, noise is cut off on one side
FLOOR = 4.0  # standard errors of a dark pixel; less is no light: noise of thousands of empty pixels would add up
VISIBLE = 6.0  # standard deviations of the mean over a patch
PATCH = 5  # pixels
OUTSIDE = 0.1  # of the light; more of it outside the PSF's window is another point
SAME_PLACE = 1.0  # pixels between captures of one place and one exposure time, at most
BRACKET_DRIFT = 0.15  # of the PSF's window: other exposure times show other parts of it, and so another middle
SAME_LIGHT = 1.2  # factor between captures of one exposure time, at most


@dataclass(frozen=True)
class Capture:
    """One photograph of a point source, or of darkness.

    Attributes:
        name: What error messages call it.
        values: Linear, 0 to 1. Shape ``(3, H, W)``.
        seconds: Exposure time; ``None`` where it is not known, the same for all such captures.
        distance: Point to lens, metres; the design's where ``None``.
        position: Captures of one position form a bracket; by where the point is seen where empty.
    """

    name: str
    values: Tensor
    seconds: float | None = None
    distance: float | None = None
    position: str = ""


@dataclass(frozen=True)
class Darkness:
    """What the sensor reads without light.

    Attributes:
        levels: Mean dark frame of each exposure time. Shape ``(3, H, W)`` each.
        variance: Of read-out and dark frame together, in a pixel.
    """

    levels: dict[float | None, Tensor]
    variance: float


@dataclass(frozen=True)
class _Seen:
    """A capture without its dark level, and the middle of its point, row and column."""

    capture: Capture
    signal: Tensor
    place: Tensor


def darkness_of(darks: Sequence[Capture], sensor: SensorConfig) -> Darkness:
    """Mean dark frames, and the noise that a frame has about them.

    Where frames repeat, the noise is that of their differences; a single frame's is its variance over the pixels. It is
    never less than what the sensor's description says: a converter that clips at black shows none.

    Args:
        darks: Captures with the lens covered, of one size.
        sensor: As designed.

    Raises:
        InputError: No dark frame, or of different sizes.
    """
    if not darks:
        raise InputError("calibration: no dark frame; cover the lens, capture as before, and give it by --dark")
    one_size(darks)
    levels, variances = {}, []
    for seconds in dict.fromkeys(dark.seconds for dark in darks):
        frames = torch.stack([dark.values for dark in darks if dark.seconds == seconds])
        levels[seconds] = frames.mean(dim=0)
        spread = frames.var(dim=0).mean() if len(frames) > 1 else frames[0].var(dim=(-2, -1)).mean()
        variances.append(spread.item() * (1 + 1 / len(frames)))
    return Darkness(levels, max(*variances, noise_variance(sensor, 0.0)))


def one_size(captures: Sequence[Capture]) -> tuple[int, int]:
    """Height and width that all captures share, pixels.

    Raises:
        InputError: They do not.
    """
    first = captures[0].values.shape
    for capture in captures:
        if capture.values.shape != first:
            raise InputError(
                f"{capture.name}: {capture.values.shape[-1]}×{capture.values.shape[-2]} pixels, but {captures[0].name} "
                f"has {first[-1]}×{first[-2]}; captures and dark frames must be of one size"
            )
    return int(first[-2]), int(first[-1])


def point_windows(captures: Sequence[Capture], darkness: Darkness, bench: Bench) -> Windows:
    """Images of points at one distance, each from its bracket of exposures.

    Args:
        captures: Of that distance, one point in each.
        darkness: Of the same sensor.
        bench: Of that distance.

    Raises:
        InputError: No point, several points, saturated everywhere, exposure times or dark frames missing.
    """
    seen = [_find(capture, darkness, bench.pixels) for capture in captures]
    merged = [_merge(bracket, darkness, bench) for bracket in _brackets(seen, bench.pixels)]
    signal, variance, places = (torch.stack(parts) for parts in zip(*merged, strict=True))
    return Windows(bench, signal, variance, places)


def above_floor(measured: Tensor, noise: Tensor) -> Tensor:
    """A measured PSF without the noise of its empty pixels: what does not rise above it is cut off.

    Args:
        measured: Any unit. Shape ``(3, K, K)``.
        noise: Standard deviation of an empty pixel; of a shape that fits.

    Returns:
        Unit sum per channel. Shape ``(3, K, K)``.
    """
    return normalise_energy(measured * (measured > FLOOR * noise))


def measured_psf(windows: Windows) -> Tensor:
    """Mean of the images of points, each moved to the middle of its window by bicubic interpolation.

    Args:
        windows: With their places found.

    Returns:
        Unit sum per channel, without noise in empty pixels. Shape ``(3, K, K)``.

    Raises:
        InputError: Some pixel was measured in no image.
    """
    known = windows.variance.isfinite()
    signal = torch.where(known, windows.signal, 0.0)
    brightness = signal.sum(dim=(1, 2, 3), keepdim=True)
    images = _centred(signal / brightness, windows.places, "bicubic")
    whole = _centred(known.to(signal), windows.places, "bilinear") > 0.999
    count = whole.sum(dim=0)
    if (count == 0).any():
        raise InputError("calibration: a part of the PSF is saturated or outside the frame in every capture")
    noise = torch.where(known, windows.variance, 0.0).sqrt() / brightness
    spread = (noise.square() * whole).sum(dim=0).sqrt() / count
    return above_floor((images * whole).sum(dim=0) / count, spread)


def _centred(images: Tensor, places: Tensor, mode: str) -> Tensor:
    """Images ``(P, 3, K, K)`` moved so that their points ``(P, 2)`` lie in the middle; shape kept."""
    matrix = torch.eye(2, 3).repeat(len(images), 1, 1)
    matrix[:, :, 2] = places.flip(1) * 2 / images.shape[-1]
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def _find(capture: Capture, darkness: Darkness, pixels: int) -> _Seen:
    """Take the dark level off and find the one point."""
    if capture.seconds not in darkness.levels:
        raise InputError(
            f"{capture.name}: no dark frame of {capture.seconds:g} s; capture one of each exposure time"
            if capture.seconds is not None
            else f"{capture.name}: its exposure time is missing; list it in the file of --exposures"
        )
    signal = capture.values - darkness.levels[capture.seconds]
    smooth = functional.avg_pool2d(signal[None], PATCH, 1, PATCH // 2, count_include_pad=False)[0]
    noise = math.sqrt(darkness.variance) / PATCH
    light = torch.where(smooth > VISIBLE * noise, smooth, 0.0).sum(dim=0)
    if not light.any():
        raise InputError(f"{capture.name}: no point found; expose longer, or give it as a dark frame by --dark")
    if (capture.values >= SATURATED).float().mean() > 0.5:
        raise InputError(f"{capture.name}: saturated almost everywhere; expose shorter")
    place, inside = _middle(light, pixels)
    clipped = bool(capture.values.max() >= SATURATED)  # then faint light counts for more than it is
    if not clipped and 1 - inside / light.sum() > OUTSIDE:
        raise InputError(
            f"{capture.name}: several points, or one wider than the PSF's window of {pixels} pixels; "
            "show a single point on black, and check --pixel-pitch"
        )
    return _Seen(capture, signal, place)


def _middle(light: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Centroid of the light in the window that holds the most of it, and that window's light."""
    rows, columns = torch.arange(light.shape[0]), torch.arange(light.shape[1])
    sums = functional.avg_pool2d(light[None, None], pixels, 1, pixels // 2)[0, 0]
    fullest = sums >= 0.999 * sums.max()
    place = torch.stack([axis.float().mean() for axis in fullest.nonzero(as_tuple=True)])
    for _ in range(5):
        near_row, near_column = (rows - place[0]).abs() <= pixels / 2, (columns - place[1]).abs() <= pixels / 2
        near = light * (near_row[:, None] & near_column[None, :])
        place = torch.stack([(near.sum(dim=1) * rows).sum(), (near.sum(dim=0) * columns).sum()]) / near.sum()
    return place, near.sum()


def _brackets(seen: Sequence[_Seen], pixels: int) -> list[list[_Seen]]:
    """Captures that show the point in one place, the shortest exposure first."""
    brackets: list[list[_Seen]] = []
    for each in sorted(seen, key=lambda one: one.capture.seconds or 0.0):
        fitting = [bracket for bracket in brackets if _same_place(each, bracket, pixels)]
        if fitting:
            min(fitting, key=lambda bracket: (each.place - bracket[0].place).norm().item()).append(each)
        else:
            brackets.append([each])
    return brackets


def _same_place(each: _Seen, bracket: Sequence[_Seen], pixels: int) -> bool:
    """Whether a capture belongs to a bracket: by the position's name, or by where the point is seen."""
    if each.capture.position or bracket[0].capture.position:
        return each.capture.position == bracket[0].capture.position
    repeated = any(each.capture.seconds == one.capture.seconds for one in bracket)
    allowed = SAME_PLACE if repeated else BRACKET_DRIFT * pixels
    return bool((each.place - bracket[0].place).norm() < allowed)


def _merge(bracket: Sequence[_Seen], darkness: Darkness, bench: Bench) -> tuple[Tensor, Tensor, Tensor]:
    """Window of a bracket: light a second, its variance, and the point's place beside the window's middle.

    Weights are the reciprocals of the noise's variance [Hasinoff et al. 2010, CVPR, Noise-optimal capture, eq. 6], the
    shot noise taken from a first estimate smoothed over 3×3 pixels: a pixel's own noise must not choose its weight.
    """
    sensor = bench.config.sensor
    electrons = sensor.exposure * sensor.full_well
    whole = [one for one in bracket if one.capture.values.max() < SATURATED]
    place = (whole[-1] if whole else bracket[0]).place
    middle = place.round()
    top, left = (middle.long() - bench.pixels // 2).tolist()
    cut = [_cut(one, top, left, bench.pixels) for one in bracket]
    times = [one.capture.seconds or 1.0 for one in bracket]
    _same_light(bracket, cut)
    light = torch.stack([signal * usable for signal, usable in cut]).sum(dim=0)
    span = torch.stack([usable * seconds for (_, usable), seconds in zip(cut, times, strict=True)]).sum(dim=0)
    first = _smoothed(light, span).clamp_min(0)
    weights = [
        usable * seconds**2 / (first * seconds / electrons + darkness.variance)
        for (_, usable), seconds in zip(cut, times, strict=True)
    ]
    total = torch.stack(weights).sum(dim=0)
    rates = [weight * signal / seconds for weight, (signal, _), seconds in zip(weights, cut, times, strict=True)]
    if not bool((total > 0).flatten(1).any(dim=1).all()):
        raise InputError(f"{bracket[0].capture.name}: the point is saturated everywhere; expose shorter")
    return torch.stack(rates).sum(dim=0) / total.clamp_min(1e-30), 1 / total, place - middle


def _smoothed(light: Tensor, span: Tensor) -> Tensor:
    """Light a second from sums of light and of exposure times, over 3×3 pixels. Shapes ``(3, K, K)``."""
    sums = [functional.avg_pool2d(part[None], 3, 1, 1)[0] for part in (light, span)]
    return sums[0] / sums[1].clamp_min(1e-30)


def _same_light(bracket: Sequence[_Seen], cut: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Refuse captures of one exposure time (or of unknown ones) that differ in brightness."""
    for one, (signal, usable) in zip(bracket[1:], cut[1:], strict=True):
        if one.capture.seconds != bracket[0].capture.seconds:
            continue
        both = usable * cut[0][1]
        ratio = ((signal * both).sum() / (cut[0][0] * both).sum().clamp_min(1e-12)).item()
        if not 1 / SAME_LIGHT < ratio < SAME_LIGHT:
            raise InputError(
                f"{one.capture.name}: {ratio:.3g} times as bright as {bracket[0].capture.name}, but of no other "
                "exposure time; give the times by --exposures"
            )


def _cut(one: _Seen, top: int, left: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Window of a capture, and 1 where its pixels lie in the frame and neither they nor neighbours are saturated."""
    full = functional.max_pool2d((one.capture.values >= SATURATED).float()[None], 3, 1, 1)[0]
    return _window(one.signal, top, left, pixels), _window(1 - full, top, left, pixels)


def _window(image: Tensor, top: int, left: int, pixels: int) -> Tensor:
    """A square of an image ``(3, H, W)``, zero where it lies outside. Shape ``(3, pixels, pixels)``."""
    height, width = image.shape[-2:]
    padding = (max(0, -left), max(0, left + pixels - width), max(0, -top), max(0, top + pixels - height))
    padded = functional.pad(image, padding)
    row, column = max(0, top), max(0, left)
    return padded[:, row : row + pixels, column : column + pixels]
