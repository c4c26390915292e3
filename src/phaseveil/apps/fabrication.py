"""`phaseveil export mask`: a mask as a file for whoever builds it, read back from that file and scored again.

What is scored is the file alone: it becomes a height map, the height map a camera, and the camera is compared with the
design. That camera is written beside the file, for every command that takes one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from phaseveil import __version__
from phaseveil.apps import fabrication_files as files
from phaseveil.apps import fabrication_score as scores
from phaseveil.apps import fabrication_solids as solids
from phaseveil.apps import geometry
from phaseveil.apps.attack_bench import Stage
from phaseveil.apps.attack_results import interval, plain, write_json
from phaseveil.apps.attack_target import NEED_HEATMAP, Target
from phaseveil.errors import ConfigError
from phaseveil.metrics.identity import Pairs, thresholds_on, verify
from phaseveil.optics import fabrication
from phaseveil.optics.camera import Camera, PhaseMaskCamera, save_camera
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.optics.fabrication import Relief
from phaseveil.optics.grid import circular_aperture
from phaseveil.optics.height_map import MOST_SAMPLES, HeightMapCamera, fit_modes
from phaseveil.optics.propagation import phase_delay
from phaseveil.optics.psf import psf_correlation
from phaseveil.optics.zernike import FIRST_MODE
from phaseveil.progress import progress

FORMATS = ("zernike", "heightmap", "stl", "gdsii", "slm", "dm")
SUFFIXES = {"zernike": ".csv", "heightmap": ".npz", "stl": ".stl", "gdsii": ".gds", "slm": ".png", "dm": ".npz"}

Ordering = Literal["noll", "ansi", "fringe"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a mask is written; each format takes what concerns it.

    Attributes:
        ordering: Of Zernike modes.
        samples: Cells across the pupil of height maps, or across the plate of STL; the camera's where ``None``.
        thickness: Of the plate under the relief, metres.
        rim: Of the plate around the pupil, share of its radius.
        levels: Of a stepped relief, a power of 2 up to 256.
        feature: Side of a stepped relief's cells, metres.
        waves: Depth of a stepped relief in waves of ``wavelength``; ``None`` for the whole relief, not wrapped.
        wavelength: Of stepped relief, SLM and mirror, metres; the camera's middle one where ``None``.
        pixels: Of the SLM across the pupil.
        pitch: Of the SLM's pixels, metres.
        bits: Of the SLM.
        influence: Influence functions of the mirror; modes where ``None``.
        modes: Highest Noll index of the mirror.
        stroke: Of each actuator, metres (of its command), limits the commands; no limit where ``None``.
    """

    ordering: Ordering = "noll"
    samples: int | None = None
    thickness: float = 1e-3
    rim: float = 0.1
    levels: int = 16
    feature: float = 2e-6
    waves: float | None = 1.0
    wavelength: float | None = None
    pixels: int = 1024
    pitch: float = 8e-6
    bits: int = 8
    influence: Path | None = None
    modes: int = 21
    stroke: float | None = None

    def __post_init__(self) -> None:
        if self.samples is not None and not 8 <= self.samples < MOST_SAMPLES:
            raise ConfigError(f"--samples must lie between 8 and {MOST_SAMPLES - 1}, got {self.samples}")
        if self.levels not in (2**k for k in range(1, 9)):
            raise ConfigError(f"--levels must be a power of 2 from 2 to 256, got {self.levels}")
        if min(self.thickness, self.feature, self.pitch) <= 0 or self.rim < 0 or (self.waves or 1) <= 0:
            raise ConfigError("--thickness, --feature, --pitch and --waves must be above 0, --rim at least 0")
        if not 8 <= self.pixels <= MOST_SAMPLES or not 1 <= self.bits <= 16:
            raise ConfigError(f"--pixels must lie between 8 and {MOST_SAMPLES}, --bits between 1 and 16")
        if self.modes < FIRST_MODE or (self.stroke is not None and self.stroke <= 0):
            raise ConfigError("--modes must be at least 4, --stroke above 0 metres")


@dataclass(frozen=True)
class Checks:
    """What built cameras are scored by, beyond their PSF.

    Attributes:
        faces: For the landmark error; not measured where ``None``.
        linker: For the quick attack; not done where ``None``.
        size: Side of the frame that the PSF is sampled for, pixels.
        seed: Of the noise.
    """

    faces: geometry.Faces | None = None
    linker: scores.Linker | None = None
    size: int = 256
    seed: int = 0


def load_checks(
    target: Target, data: Path | None, pairs: Path | None, cache: Path, seed: int, faces: int, probes: int,
    stage: Stage = progress,
) -> Checks:  # fmt: skip
    """Prepare what the user gave photographs for.

    Args:
        target: The design and its networks.
        data: Prepared folder or folder of aligned crops.
        pairs: CSV of pairs.
        cache: Folder of landmarks and embeddings.
        seed: Of noise, split and draws.
        faces: Faces measured, at most.
        probes: Genuine pairs scored.
        stage: Shows progress.

    Raises:
        InputError: Photographs cannot be used.
        ConfigError: The heatmap network or a package is missing.
    """
    if data is not None and target.heatmap_net is None:
        raise ConfigError(f"--data: {NEED_HEATMAP}")
    measured = geometry.load_some_faces(data, target.size, faces) if data is not None else None
    linker = None
    if pairs is not None:
        linker = scores.load_linker(pairs, probes, cache, target.camera, target.size, seed, stage)
    return Checks(measured, linker, seed=seed)


def export_mask(target: Target, kind: str, out: Path, options: Options, checks: Checks) -> Record:
    """Write a mask, read it back, score it; write ``<stem>.camera.safetensors`` and ``<stem>.report.json`` beside it.

    Args:
        target: The design and its networks.
        kind: One of :data:`FORMATS`.
        out: File, with the format's suffix (see :data:`SUFFIXES`).
        options: How it is written.
        checks: How it is scored.

    Returns:
        The report as plain values.

    Raises:
        ConfigError: The camera has no fixed mask, another suffix, or a package is missing.
        OpticsError: What was read back cannot be simulated.
        InputError: A file cannot be written or read.
    """
    design = mask_of(target)
    if out.suffix.lower() != SUFFIXES[kind]:
        raise ConfigError(f"{out}: --format {kind} is written as {SUFFIXES[kind]}")
    parts = _WRITERS[kind](design, out, options)
    nominal = _score(design, target, checks)
    built = []
    for path, relief, facts in parts:
        camera = relief.camera(design.config)
        stem = path.with_suffix("") if path.suffix == out.suffix else path.with_suffix(path.suffix)
        saved = save_camera(Path(f"{stem}.camera.safetensors"), camera, {"part": path.name, "design": target.name})
        compared = _compare(design, camera, relief, checks.size)
        built.append({"file": path.name, "camera": saved.name, **facts, **compared, **_score(camera, target, checks)})
    report: Record = plain(
        {
            "phaseveil": __version__,
            "design": {"camera": target.name, "height_range_m": _height_range(design), **nominal},
            "format": kind,
            "psf_frame": checks.size,
            "built": built,
        }
    )
    write_json(out.with_suffix(".report.json"), report)
    return report


def mask_of(target: Target) -> PhaseMaskCamera:
    """The camera of a target, which must have one fixed mask.

    Raises:
        ConfigError: It has none.
    """
    camera = target.camera
    if not isinstance(camera, PhaseMaskCamera) or isinstance(camera, DynamicCamera):
        raise ConfigError(f"camera {target.name!r} has no fixed mask; give learned, portrait or the file of one")
    return camera


def describe(report: Record) -> list[str]:
    """The report as lines for people."""
    design, lines = report["design"], []
    for part in report["built"]:
        red, green, blue = part["psf_correlation"]
        lines.append(f"{part['file']}: PSF correlation {red:.4f} / {green:.4f} / {blue:.4f} (R, G, B)")
        if part["wavefront_error_nm"] is not None:
            lines.append(f"  wavefront error {part['wavefront_error_nm']:.3g} nm RMS")
        lines.append(f"  information let through {design['information']:.3f} → {part['information']:.3f} bits a mode")
        if "landmark_error" in part:
            lines.append(f"  landmark error {_percent(design, 'landmark_error')} → {_percent(part, 'landmark_error')}")
        for name, title in (("off_the_shelf", "recogniser off the shelf"), ("deconvolved", "exact PSF, Wiener")):
            if name in part:
                before, after = design[name], part[name]
                lines.append(
                    f"  {title}: AUC {before['value']:.3f} → {after['value']:.3f} "
                    f"[{after['low']:.3f}, {after['high']:.3f}]"
                )
        shown = ("cells", "polygons", "levels", "triangles", "watertight", "stroke_m", "actuators")
        lines.append("  " + ", ".join(f"{name} {part[name]}" for name in shown if name in part))
        lines.append(f"  camera: {part['camera']}")
    return [line for line in lines if line.strip()]


def read_part(path: Path, design: PhaseMaskCamera) -> Relief:
    """A surface that somebody else wrote or measured: ``.csv`` of modes, ``.npz`` or ``.png`` of heights, ``.stl``,
    ``.gds``.

    Raises:
        InputError: Not such a file, or of another pupil.
        ConfigError: Another suffix, or a package is missing.
    """
    radius, samples = design.config.aperture_radius, design.config.pupil_samples
    suffix = path.suffix.lower()
    if suffix == ".stl":
        return solids.read_stl(path, radius, samples)[0]
    if suffix == ".gds":
        return solids.read_gdsii(path)[0]
    if suffix not in (".csv", ".npz", ".png"):
        raise ConfigError(f"{path}: a part is read from .csv, .npz, .png, .stl or .gds")
    relief, own = files.read_zernike(path, samples) if suffix == ".csv" else files.read_height_map(path)
    if own is not None and abs(own / radius - 1) > 1e-3:
        raise ConfigError(
            f"{path}: made for a pupil of {own * 1e3:g} mm radius, but the camera's has {radius * 1e3:g} mm; "
            "give the camera that it belongs to"
        )
    return relief


Part = tuple[Path, Relief, Record]


def _write_zernike(camera: PhaseMaskCamera, out: Path, options: Options) -> list[Part]:
    config = camera.config
    modes = camera.coefficients.detach()
    if isinstance(camera, HeightMapCamera):
        modes = fit_modes(fabrication.surface(camera, config.pupil_samples), config.num_modes)[1][FIRST_MODE - 1 :]
    facts = {"material": config.material, "wavelengths_m": ", ".join(map(repr, config.wavelengths))}
    files.write_zernike(out, modes, FIRST_MODE, config.aperture_radius, options.ordering, facts)
    relief, _ = files.read_zernike(out, config.pupil_samples)
    return [(out, relief, {"ordering": options.ordering})]


def _write_height_map(camera: PhaseMaskCamera, out: Path, options: Options) -> list[Part]:
    height = fabrication.surface(camera, options.samples or camera.config.pupil_samples)
    radius, facts = camera.config.aperture_radius, {"material": camera.config.material}
    picture = out.with_suffix(".png")
    files.write_height_map(out, height, radius, facts)
    files.write_height_png(picture, height, radius, facts)
    return [(path, files.read_height_map(path)[0], {"cells": len(height)}) for path in (out, picture)]


def _write_stl(camera: PhaseMaskCamera, out: Path, options: Options) -> list[Part]:
    radius, side = camera.config.aperture_radius, 1 + options.rim
    vertices = (options.samples or round(side * camera.config.pupil_samples)) + 1
    height = _plate_height(camera, vertices, side)
    facts = solids.write_stl(out, height, side * radius, options.thickness)
    relief, closed = solids.read_stl(out, radius, camera.config.pupil_samples)
    return [(out, relief, facts | {"watertight": closed})]


def _write_gdsii(camera: PhaseMaskCamera, out: Path, options: Options) -> list[Part]:
    cells = round(2 * camera.config.aperture_radius / options.feature)
    if not 8 <= cells <= MOST_SAMPLES:
        smallest = 2 * camera.config.aperture_radius / MOST_SAMPLES
        raise ConfigError(
            f"--feature {options.feature:g}: gives {cells} cells across the pupil; choose {smallest:.2g} m or more"
        )
    wavelength = _wavelength(camera, options)
    depth = options.waves * fabrication.wave_height(camera, wavelength) if options.waves is not None else None
    height = fabrication.surface(camera, cells)
    level, step = fabrication.quantise_relief(height, options.levels, depth)
    facts = {"levels": options.levels, "wavelength_m": wavelength, "material": camera.config.material}
    written = solids.write_gdsii(out, level, 2 * camera.config.aperture_radius / cells, step, facts)
    relief, figures = solids.read_gdsii(out)
    return [(out, relief, {**written, **figures, "step_m": step, "wavelength_m": wavelength})]


def _write_slm(camera: PhaseMaskCamera, out: Path, options: Options) -> list[Part]:
    wavelength = _wavelength(camera, options)
    height = fabrication.surface(camera, options.pixels)
    phase = 2 * torch.pi * (height - height.min()) / fabrication.wave_height(camera, wavelength)
    radius = camera.config.aperture_radius
    relay = options.pixels * options.pitch / (2 * radius)
    facts = {"pixel_pitch_m": options.pitch, "relay_magnification": relay}
    files.write_slm(out, phase, wavelength, options.bits, radius, facts)
    return [(out, files.read_slm(out), {**facts, "wavelength_m": wavelength, "bits": options.bits})]


def _write_mirror(camera: PhaseMaskCamera, out: Path, options: Options) -> list[Part]:
    wavelength, samples = _wavelength(camera, options), camera.config.pupil_samples
    contrast = wavelength / fabrication.wave_height(camera, wavelength)
    facts = {
        "wavelength_m": wavelength,
        "radius_m": camera.config.aperture_radius,
        "sign": "positive displacement is towards the light; it shortens the path by twice as much",
        "axes": files.AXES,
    }
    influence = files.read_influence(options.influence) if options.influence is not None else None
    shape = len(influence[0]) if influence is not None else samples
    wanted = -contrast / 2 * fabrication.surface(camera, shape)
    if influence is None:
        modes = torch.arange(FIRST_MODE, options.modes + 1)
        amounts = fit_modes(wanted, options.modes)[1][FIRST_MODE - 1 :]
        files.write_npz(out, {"modes": modes.numpy(), "coefficients": amounts.numpy()}, facts)
    else:
        commands = fabrication.project_on_influence(wanted, influence)
        limit = options.stroke / 2 if options.stroke is not None else float("inf")
        middle = (commands.max() + commands.min()) / 2
        clipped = (commands - middle).clamp(-limit, limit) + middle
        files.write_npz(out, {"commands": clipped.numpy()}, facts)
    relief = files.read_mirror(out, influence, samples)
    found = {"actuators": len(influence)} if influence is not None else {"modes": options.modes}
    inside = relief.height[circular_aperture(len(relief.height)) > 0]
    return [(out, relief, {**found, "stroke_m": (inside.max() - inside.min()).item()})]


_WRITERS: dict[str, Callable[[PhaseMaskCamera, Path, Options], list[Part]]] = {
    "zernike": _write_zernike,
    "heightmap": _write_height_map,
    "stl": _write_stl,
    "gdsii": _write_gdsii,
    "slm": _write_slm,
    "dm": _write_mirror,
}


def _plate_height(camera: PhaseMaskCamera, vertices: int, side: float) -> Tensor:
    """Relief at the vertices of a plate of ``side`` pupil radii; beyond the rim it goes on as high as there."""
    fine = fabrication.surface(camera, camera.config.pupil_samples)
    axis = torch.linspace(-side, side, vertices, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    shrink = 1 / torch.hypot(x, y).clamp_min(1)
    if isinstance(camera, HeightMapCamera):
        places = torch.stack([x * shrink, y * shrink], dim=-1)[None]
        return torch.nn.functional.grid_sample(
            fine[None, None], places, mode="bicubic", padding_mode="border", align_corners=False
        )[0, 0]
    return fabrication.modes_at(camera, x * shrink, y * shrink)


def _wavelength(camera: PhaseMaskCamera, options: Options) -> float:
    low, middle, high = sorted(camera.config.wavelengths)
    wavelength = options.wavelength if options.wavelength is not None else middle
    if not low <= wavelength <= high:
        raise ConfigError(f"--wavelength must lie between the camera's {low:g} and {high:g} m, got {wavelength:g}")
    return wavelength


@torch.no_grad()
def _compare(design: PhaseMaskCamera, camera: HeightMapCamera, relief: Relief, size: int) -> Record:
    """How far the PSF, and the wavefront of a smooth part, are from the design's."""
    built, wanted = camera.enclosed_psf(size), design.enclosed_psf(size)
    error = None
    if relief.smooth and camera.config.pupil_samples == design.config.pupil_samples:
        middle = sorted(range(3), key=lambda colour: design.config.wavelengths[colour])[1]
        phases = [phase_delay(one.height_map(), one.wavelengths, one.delta_n)[middle] for one in (camera, design)]
        path = (phases[0] - phases[1]).double() * design.config.wavelengths[middle] / (2 * torch.pi)
        error = fit_modes(path, 3)[0][design.aperture == 1].square().mean().sqrt().item() * 1e9
    return {
        "psf_correlation": psf_correlation(built, wanted).tolist(),
        "enclosed_energy": built.sum(dim=(-2, -1)).tolist(),
        "wavefront_error_nm": error,
        "height_range_m": _height_range(camera),
    }


def _score(camera: Camera, target: Target, checks: Checks) -> Record:
    """Information, and landmark error and quick attack where they are asked for."""
    figures: Record = {"information": scores.information(camera, target.size)}
    if checks.faces is not None and target.heatmap_net is not None:
        errors = geometry.landmark_errors(camera, target.heatmap_net, checks.faces, checks.seed)
        figures["landmark_error"] = {"value": errors.mean().item(), "faces": len(errors)}
    if checks.linker is not None:
        figures["off_the_shelf"] = _auc(checks.linker.off_the_shelf(camera))
        figures["deconvolved"] = _auc(checks.linker.deconvolved(camera))
    return figures


def _auc(pairs: Pairs) -> dict[str, float] | None:
    return interval(verify(pairs, thresholds_on(pairs.impostor)).auc)


def _height_range(camera: PhaseMaskCamera) -> float:
    inside = camera.height_map().detach()[camera.aperture > 0]
    return (inside.max() - inside.min()).item()


def _percent(figures: Record, name: str) -> str:
    return f"{100 * figures[name]['value']:.2f} %"
