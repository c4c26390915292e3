"""Calibrate a built camera: from captures of point sources to a camera file, and how far it is from the design."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phaseveil.errors import ConfigError, InputError
from phaseveil.optics.calibration import Windows, correlations, locate
from phaseveil.optics.calibration_bench import bench_of
from phaseveil.optics.calibration_captures import Capture, darkness_of, measured_psf, one_size, point_windows
from phaseveil.optics.calibration_search import GOOD, Departure, Retrieval, departure, retrieve, with_mask
from phaseveil.optics.camera import Camera, PhaseMaskCamera, load_camera, save_camera
from phaseveil.optics.psf import psf_correlation

ENOUGH = 3  # positions at one distance from which on the last one is kept to check the result with

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Settings of a calibration.

    Attributes:
        pitch: Of the captures' pixels, metres; as if the captures showed the whole frame where ``None``.
        distance: Point to lens, metres, where the table has none; the design's subject where ``None``.
        modes: Highest Noll index that is fitted, at least the design's; the design's where ``None``.
        starts: Starts of the search, at most.
        seed: Of random starts.
    """

    pitch: float | None = None
    distance: float | None = None
    modes: int | None = None
    starts: int = 6
    seed: int = 0


@dataclass(frozen=True)
class Calibration:
    """A camera as it was measured.

    Attributes:
        camera: An ordinary phase-mask camera, at the design's subject distance.
        psf: As captured at the first distance, without the model. Shape ``(3, K, K)``.
        report: Residuals and departure from the design, plain values; lengths in metres.
    """

    camera: PhaseMaskCamera
    psf: Tensor
    report: dict[str, Any]


def calibrate(
    design: str, captures: Sequence[Capture], darks: Sequence[Capture], options: Options, say: Say
) -> Calibration:
    """Measure PSFs and retrieve the mask.

    Args:
        design: Name or file of the camera as designed.
        captures: Of point sources.
        darks: With the lens covered.
        options: Settings.
        say: Takes messages.

    Raises:
        ConfigError: The design has no fixed phase mask, or an option is impossible.
        InputError: The captures cannot be used.
        OpticsError: No mask explains them.
    """
    if options.starts < 1:
        raise ConfigError(f"calibration: needs at least 1 start, got {options.starts}")
    designed = _designed(load_camera(design), design, options.modes)
    windows = _windows(designed, captures, darks, options)
    kept, checks = zip(*(_held_out(group) for group in windows), strict=True)
    found = retrieve(designed, kept, options.starts, options.seed, say)
    camera, first = with_mask(designed, found.fit.coefficients), found.fit.windows[0]
    size = first.bench.size
    far = departure(designed, camera, size)
    psf = measured_psf(replace(first, places=first.places + found.fit.tilt))
    here = camera.under(first.bench.config).psf(size)
    report = _report(found, far, [group for group in checks if group is not None], camera)
    likeness = psf_correlation(psf, here).mean().item()
    report |= {"design": design, "captures": len(captures), "psf_correlation_measured": likeness}
    for warning in _warnings(found):
        say(warning)
    return Calibration(camera, psf, report)


def write(calibration: Calibration, out: Path) -> Path:
    """Write the camera file, its report among the metadata.

    Raises:
        InputError: Another suffix than ``.safetensors``.
        CheckpointError: The file cannot be written.
    """
    check_name(out)
    return save_camera(out, calibration.camera, {"calibration": calibration.report})


def check_name(out: Path) -> None:
    """Refuse a camera file of another suffix than ``.safetensors``, InputError."""
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: a camera file ends in .safetensors")


def lines(report: dict[str, Any]) -> list[str]:
    """The report as people read it."""
    far = report["departure"]
    held_out = report["correlation_held_out"]
    checked = "none: fewer than 3 at each distance" if held_out is None else f"correlation {held_out:.4f}"
    rows = [
        ("captures, positions", f"{report['captures']}, {report['positions']}"),
        ("start of the search", report["start"]),
        ("sign of even modes from", report["sign"]),
        ("residual", f"{report['misfit']:.3g} times the noise's variance"),
        ("images and model", f"correlation {report['correlation']:.4f}"),
        ("positions not used", checked),
        ("height difference, RMS", f"{far['rms'] * 1e9:.1f} nm from the design"),
        ("of it defocus", f"{far['defocus'] * 1e9:+.1f} nm"),
        ("decentre that fits best", "x {:+.1f}, y {:+.1f} µm".format(*(shift * 1e6 for shift in far["decentre"]))),
        ("what these leave", f"{far['rest'] * 1e9:.1f} nm"),
        ("PSF, design and built", f"correlation {far['psf_correlation']:.4f}"),
    ]
    table = [f"{name:<26}{value}" for name, value in rows]
    table.append(f"{'mode (Noll)':<14}{'design, nm':>12}{'built, nm':>12}{'difference':>12}")
    for mode, design, built in far["modes"]:
        table.append(f"{mode:<14}{design * 1e9:>12.1f}{built * 1e9:>12.1f}{(built - design) * 1e9:>+12.1f}")
    return table


def _designed(camera: Camera, name: str, modes: int | None) -> PhaseMaskCamera:
    """The design with as many modes as are fitted."""
    if not isinstance(camera, PhaseMaskCamera) or camera.config.kind != "phase-mask":
        raise ConfigError(f"camera {name!r}: only a phase-mask camera can be calibrated, not {camera.config.kind}")
    if modes is not None and modes < camera.config.num_modes:
        raise ConfigError(f"--modes {modes}: the design has {camera.config.num_modes}; give as many or more")
    design = camera.coefficients.detach()
    padded = design.new_zeros((modes or camera.config.num_modes) - camera.config.num_modes)
    return with_mask(camera, torch.cat([design, padded]))


def _windows(
    design: PhaseMaskCamera, captures: Sequence[Capture], darks: Sequence[Capture], options: Options
) -> list[Windows]:
    """Images of points, distance by distance."""
    darkness = darkness_of(darks, design.config.sensor)
    height, width = one_size([*darks, *captures])
    if options.pitch is None and height != width:
        raise InputError(
            f"{captures[0].name}: {width}×{height} pixels, but the frame is square; crop it, or give --pixel-pitch"
        )
    pitch = design.config.pixel_pitch(height) if options.pitch is None else options.pitch
    groups: dict[float, list[Capture]] = {}
    for capture in captures:
        groups.setdefault(capture.distance or options.distance or design.config.object_distance, []).append(capture)
    windows = []
    for distance, group in groups.items():
        bench = bench_of(design.config, pitch, distance)
        if min(height, width) < bench.pixels // 2:
            raise InputError(
                f"{group[0].name}: {width}×{height} pixels are too few for a PSF's window of {bench.pixels}; capture a "
                "larger part of the frame, or check --pixel-pitch"
            )
        windows.append(point_windows(group, darkness, bench))
    return windows


def _held_out(windows: Windows) -> tuple[Windows, Windows | None]:
    """What is fitted, and the last position to check it with, where there are enough."""
    count = len(windows.places)
    return (windows, None) if count < ENOUGH else (windows.part(range(count - 1)), windows.part([count - 1]))


def _report(found: Retrieval, far: Departure, checks: Sequence[Windows], camera: PhaseMaskCamera) -> dict[str, Any]:
    fit, wavefront = found.fit, (found.fit.coefficients, found.fit.tilt)
    held_out = [correlations(camera, locate(camera, group, wavefront), wavefront) for group in checks]
    return {
        "calibrated": True,
        "start": found.start,
        "sign": found.sign,
        "positions": sum(len(group.places) for group in (*fit.windows, *checks)),
        "distances": [group.bench.config.object_distance for group in fit.windows],
        "pixel_pitch": fit.windows[0].bench.config.pixel_pitch(fit.windows[0].bench.size),
        "misfit": fit.misfit,
        "correlation": fit.correlation,
        "correlation_held_out": torch.cat(held_out).mean().item() if held_out else None,
        "departure": asdict(far),
    }


def _warnings(found: Retrieval) -> list[str]:
    """What a user should know before trusting the result."""
    warnings = []
    if found.fit.correlation < GOOD:
        warnings.append(
            f"the model explains the captures with a correlation of {found.fit.correlation:.3f} only (good: {GOOD}): "
            "more --starts, more --modes or a second distance may help"
        )
    if found.sign == "unknown":
        warnings.append(
            "the start is unknown (the design is flat) and there is one distance: the mask and its twin, turned by "
            "half a turn with even modes reversed, have this PSF; captures from a second distance tell them apart"
        )
    elif found.start != "design":
        warnings.append(
            "the design does not explain the captures: the mask was found from another start and may be another "
            "one with the same PSF; captures from a second distance narrow it down"
        )
    return warnings
