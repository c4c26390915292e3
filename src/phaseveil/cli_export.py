"""The commands ``phaseveil export …``; part of the command line, see :mod:`phaseveil.cli`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phaseveil.cli_options import CAMERA_HELP
from phaseveil.errors import ConfigError
from phaseveil.progress import progress

if TYPE_CHECKING:
    from phaseveil.engines.export import Exported

export_app = typer.Typer(help="Write networks for other programs, and masks for workshops.")


@export_app.command("onnx")
def export_onnx(
    out: Annotated[Path, typer.Option(help="Folder for heatmap.onnx, generator.onnx, pair.onnx.", show_default=False)],
    weights: Annotated[Path | None, typer.Option(help="Folder with other weights than the bundled ones.")] = None,
    camera: Annotated[
        str | None, typer.Option(help="Camera of the acquisitions that the files are checked with; the weights' own.")
    ] = None,
    opset: Annotated[int, typer.Option(min=18, max=23, help="Version of ONNX's operators.")] = 18,
    precision: Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="Of weights and arithmetic.")] = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the files and their deviations as JSON.")] = False,
) -> None:
    """Write heatmap network, generator, and both as one; each file is checked against PyTorch."""
    from phaseveil.apps import export as job
    from phaseveil.engines.export import Settings
    from phaseveil.pipeline import PhaseVeil

    settings = Settings(opset, precision)
    pipeline = PhaseVeil.from_pretrained(weights, camera)
    with progress("export") as report:
        exported = job.export_onnx(pipeline, out, settings, report)
    if as_json:
        print(json.dumps([vars(file) | {"path": str(file.path)} for file in exported]))
    else:
        _show(exported)


@export_app.command("mask")
def export_mask(
    kind: Annotated[
        Literal["zernike", "heightmap", "stl", "gdsii", "slm", "dm"],
        typer.Option("--format", help="What is written.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .csv, .npz, .stl, .gds, .png, .npz.", show_default=False)],
    camera: Annotated[str, typer.Option(help=f"Camera with a fixed mask: {CAMERA_HELP}")] = "learned",
    weights: Annotated[Path | None, typer.Option(help="Folder with the camera's heatmap network.")] = None,
    ordering: Annotated[Literal["noll", "ansi", "fringe"], typer.Option(help="zernike: order of the modes.")] = "noll",
    samples: Annotated[int | None, typer.Option(help="heightmap, stl: cells across; the camera's.")] = None,
    thickness: Annotated[float, typer.Option(help="stl: plate under the relief, metres.")] = 1e-3,
    rim: Annotated[float, typer.Option(help="stl: plate around the pupil, share of its radius.")] = 0.1,
    levels: Annotated[int, typer.Option(help="gdsii: levels, a power of 2 up to 256.")] = 16,
    feature: Annotated[float, typer.Option(help="gdsii: smallest feature, metres.")] = 2e-6,
    waves: Annotated[
        str, typer.Option(help="gdsii: depth of the steps in waves, or whole for the relief as it is.")
    ] = "1",
    wavelength: Annotated[
        float | None, typer.Option(help="gdsii, slm, dm: design wavelength, metres; the camera's middle one.")
    ] = None,
    pixels: Annotated[int, typer.Option(help="slm: pixels across the pupil.")] = 1024,
    pitch: Annotated[float, typer.Option(help="slm: pixel pitch, metres.")] = 8e-6,
    bits: Annotated[int, typer.Option(help="slm: bit depth, 1 to 16.")] = 8,
    influence: Annotated[
        Path | None, typer.Option(help="dm: influence_functions (A, M, M) in an npz; Zernike modes without.")
    ] = None,
    modes: Annotated[int, typer.Option(help="dm: highest Noll index that the mirror makes.")] = 21,
    stroke: Annotated[float | None, typer.Option(help="dm: range of each command; unlimited.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Prepared folder, or aligned crops: measures the landmark error.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV of photographs first,second,same: a quick attack.")] = None,
    faces: Annotated[int, typer.Option(min=1, help="Faces measured, at most.")] = 256,
    probes: Annotated[int, typer.Option(min=33, help="Genuine pairs attacked, at most.")] = 100,
    cache: Annotated[Path | None, typer.Option(help="Landmarks and clear embeddings, shared by runs.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of noise, split and draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a mask for whoever builds it; it is read back from the file and scored again."""
    from phaseveil.apps import fabrication as job
    from phaseveil.apps.attack_target import load_target
    from phaseveil.optics.camera import load_camera

    options = job.Options(
        ordering=ordering,
        samples=samples,
        thickness=thickness,
        rim=rim,
        levels=levels,
        feature=feature,
        waves=_waves(waves),
        wavelength=wavelength,
        pixels=pixels,
        pitch=pitch,
        bits=bits,
        influence=influence,
        modes=modes,
        stroke=stroke,
    )
    target = load_target(camera, load_camera(camera), weights)
    job.mask_of(target)
    checks = job.load_checks(target, data, pairs, cache or out.parent / "cache", seed, faces, probes)
    report = job.export_mask(target, kind, out, options, checks)
    print(json.dumps(report) if as_json else "\n".join(job.describe(report)))


@export_app.command("camera")
def export_camera(
    part: Annotated[Path, typer.Argument(help="Measured part: .csv, .npz, .png, .stl or .gds.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Camera file to write, .safetensors.", show_default=False)],
    camera: Annotated[str, typer.Option(help=f"Camera that it belongs to: {CAMERA_HELP}")] = "learned",
) -> None:
    """Make a camera file of a part that was measured, for every command that takes a camera."""
    from phaseveil.apps.attack_target import Target
    from phaseveil.apps.fabrication import mask_of, read_part
    from phaseveil.optics.camera import load_camera, save_camera

    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: a camera file is written as .safetensors")
    design = mask_of(Target(camera, load_camera(camera)))
    built = read_part(part, design).camera(design.config)
    print(save_camera(out, built, {"part": part.name, "design": camera}))


def _waves(text: str) -> float | None:
    if text == "whole":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--waves must be a number or whole, got {text!r}") from error


def _show(exported: "list[Exported]") -> None:
    """Print a line for each file: how large it is, and how far from PyTorch."""
    width = max(len(str(file.path)) for file in exported)
    print(f"{'file':<{width}}  {'MiB':>6}  {'largest':>8}  {'mean':>8}  landmarks, px of 256")
    for file in exported:
        print(
            f"{file.path!s:<{width}}  {file.size / 2**20:6.1f}  {file.largest:8.1e}  {file.mean:8.1e}  "
            f"{file.landmark_shift:.3f}"
        )
