"""The commands ``calibrate`` and ``point-sources``; part of the command line, see :mod:`phaseveil.cli`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from phaseveil.cli_options import CAMERA_HELP, PERCEPTUAL_HELP, Json, Out, say


def calibrate(
    images: Annotated[
        list[str],
        typer.Argument(help="Point-source captures, linear: PNG, TIFF, .npy; folders, patterns.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Camera file to write, .safetensors.", show_default=False)],
    dark: Annotated[list[str], typer.Option(help="Dark frames; may be repeated.", show_default=False)],
    camera: Annotated[str, typer.Option(help=f"The design: {CAMERA_HELP}")] = "learned",
    exposures: Annotated[
        Path | None, typer.Option(help="CSV: file,seconds and, where they vary, distance,position.")
    ] = None,
    white: Annotated[
        float | None, typer.Option(help="Value at which the sensor saturates; the file type's largest by default.")
    ] = None,
    pixel_pitch: Annotated[
        float | None, typer.Option(help="Metres; by default the captures show the design's whole frame.")
    ] = None,
    distance: Annotated[float | None, typer.Option(help="Point to lens, metres; the design's by default.")] = None,
    modes: Annotated[int | None, typer.Option(help="Highest Noll mode to fit; the design's by default.")] = None,
    starts: Annotated[int, typer.Option(min=1, help="Starts of the search, at most.")] = 6,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of random starts and of fine-tuning.")] = 0,
    psf: Annotated[Path | None, typer.Option(help="Also write the measured PSF, .png or .npy.")] = None,
    fine_tune: Annotated[
        Path | None, typer.Option(help="Folder that prepare wrote: fine-tune the heatmap network to the camera.")
    ] = None,
    tuned: Annotated[Path | None, typer.Option(help="Folder for the fine-tuned weights; beside the camera.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the heatmap network's fine-tuning.")] = 400,
    face_steps: Annotated[int, typer.Option(min=0, help="Of the face networks' fine-tuning; 0: leave them.")] = 0,
    perceptual: Annotated[Path | None, typer.Option(help=PERCEPTUAL_HELP)] = None,
    stage1: Annotated[str, typer.Option(help="Preset of the heatmap network's training.")] = "stage1/base",
    stage2: Annotated[str, typer.Option(help="Preset of the face networks' training.")] = "stage2/base",
    weights: Annotated[Path | None, typer.Option(help="Folder of the design's weights; the bundled ones.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a built camera from captures of point sources; write a camera file that every command takes."""
    from phaseveil.apps import calibrate as job
    from phaseveil.apps import calibrate_tune as tune
    from phaseveil.apps.calibrate_inputs import read_captures
    from phaseveil.apps.optics import write_values

    job.check_name(out)
    folder = tuned or out.with_name(f"{out.stem}-tuned")
    tuning = None
    if fine_tune is not None:
        tuning = tune.Tuning(fine_tune, folder, weights, steps, face_steps, perceptual, stage1, stage2, seed)
    options = job.Options(pixel_pitch, distance, modes, starts, seed)
    captures, darks = (read_captures(inputs, exposures, white) for inputs in (images, dark))
    found = job.calibrate(camera, captures, darks, options, say)
    if psf is not None:
        write_values(psf, found.psf)
    job.write(found, out)
    result = {"camera": str(out), **found.report}
    if not as_json:
        print("\n".join([*job.lines(found.report), str(out)]))
    if tuning is not None:
        result["fine_tuned"] = tune.fine_tune(camera, out, tuning, say)
        if not as_json:
            print("\n".join(tune.lines(result["fine_tuned"])))
    if as_json:
        print(json.dumps(result))


def point_sources(
    out: Out,
    camera: Annotated[str, typer.Option(help=f"Camera: {CAMERA_HELP}")] = "learned",
    error: Annotated[float, typer.Option(help="Random error of the mask, metres RMS (such as 3e-7).")] = 0.0,
    size: Annotated[int, typer.Option(min=32, max=4096, help="Side of the captures, pixels.")] = 256,
    positions: Annotated[int, typer.Option(min=1, help="Of the point, at each distance.")] = 4,
    distance: Annotated[
        list[float] | None, typer.Option(help="Point to lens, metres; may be repeated; the design's by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of error, positions, noise.")] = 0,
) -> None:
    """Simulate the captures that calibrate takes: brackets of points, dark frames, exposure times."""
    from phaseveil.apps.calibrate_bench import BenchOptions, simulate
    from phaseveil.optics.camera import load_camera

    print(simulate(load_camera(camera), out, BenchOptions(size, positions, tuple(distance or ()), error, seed)))
