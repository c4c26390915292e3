"""The command line. The only place that reads arguments, and that turns errors into text and exit codes.

Exit codes: 0 done, 1 some inputs were skipped, 2 an error, 130 interrupted. Results go to standard output, messages to
standard error. Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from phaseveil import __version__
from phaseveil.allocation import keep_freed_memory
from phaseveil.cli_anonymize import anonymize, conclude
from phaseveil.cli_bench import bench
from phaseveil.cli_calibrate import calibrate, point_sources
from phaseveil.cli_export import export_app
from phaseveil.cli_fabrication import design, tolerance
from phaseveil.cli_measure import attack, evaluate, sweep, table1
from phaseveil.cli_options import (
    CAMERA_HELP,
    CameraName,
    Config,
    CropSize,
    Device,
    FrameSize,
    Inputs,
    Json,
    MaxMinutes,
    Out,
    OutFile,
    Overrides,
    Resume,
    say,
)
from phaseveil.cli_web import web
from phaseveil.errors import PhaseVeilError, printable
from phaseveil.progress import progress

app = typer.Typer(name="phaseveil", add_completion=False, pretty_exceptions_enable=False)
camera_app = typer.Typer(help="Look at a camera's optics.")
train_app = typer.Typer(help="Train the networks.")
app.add_typer(camera_app, name="camera")
app.add_typer(train_app, name="train")
app.add_typer(export_app, name="export")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``phaseveil`` command."""
    keep_freed_memory()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(list(arguments) or ["--help"], prog_name="phaseveil", standalone_mode=False)
    except typer.TyperException as error:
        return _fail(error.format_message())
    except PhaseVeilError as error:
        return _fail(str(error))
    if code == 130:
        print("interrupted; finished outputs are intact", file=sys.stderr)
    return code or 0


def _fail(message: str) -> int:
    print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        print(f"phaseveil {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Face de-identification that starts in the optics."""


app.command()(anonymize)


@app.command()
def capture(
    inputs: Inputs,
    out: Out,
    camera: Annotated[str, typer.Option(help=f"Camera: {CAMERA_HELP}")] = "learned",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the sensor's noise.")] = 0,
    size: Annotated[int | None, typer.Option(min=16, max=4096, help="Resize to this side first, pixels.")] = None,
    as_json: Json = False,
) -> int:
    """Photograph square images with a simulated camera."""
    from phaseveil.apps.capture import capture as job
    from phaseveil.optics.camera import load_camera

    with progress("capture") as report:
        summary = job(inputs, out, load_camera(camera), report, say, seed, size)
    return conclude(summary, as_json)


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder or zip archive of photographs.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder for the training data.", show_default=False)],
    size: CropSize = 256,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    aligned: Annotated[bool, typer.Option("--aligned", help="Photographs are aligned crops: only resize.")] = False,
    as_json: Json = False,
) -> int:
    """Make training data: aligned faces with 68 landmarks and domains. An interrupted run is continued."""
    from phaseveil.data.prepare import prepare as align_and_store
    from phaseveil.data.prepare import prepare_aligned

    job = prepare_aligned if aligned else align_and_store
    with progress("prepare") as report:
        result = job(source, out, size, workers, report)
    counts = {"written": result.written, "kept": result.kept, "skipped": len(result.skipped)}
    if as_json:
        print(json.dumps(counts | {"seconds": round(result.seconds, 1), "reasons": dict(result.reasons)}))
    else:
        print(", ".join(f"{count} {name}" for name, count in counts.items()) + f" of {result.total}; see {out}")
        for reason, count in result.reasons.most_common():
            print(f"  skipped {count}: {reason}")
    return 0 if result.written + result.kept else 1


@app.command()
def align(inputs: Inputs, out: Out, size: CropSize = 256, as_json: Json = False) -> int:
    """Cut every face of photographs into an aligned crop."""
    from phaseveil.apps.batch import plan
    from phaseveil.data.prepare import align_images

    paths = [job.path for job in plan(inputs, out)]
    with progress("align") as report:
        result = align_images(paths, out, size, progress=report)
    for skip in result.skipped:
        say(f"skipped {skip.source}: {skip.reason}")
    if as_json:
        print(json.dumps({"written": [str(path) for path in result.written], "skipped": len(result.skipped)}))
    else:
        print(f"faces written: {len(result.written)}, photographs skipped: {len(result.skipped)}; see {out}")
    return 1 if result.skipped else 0


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="Catalogue entry, or list.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for all downloads.")] = Path("data/downloads"),
    from_file: Annotated[Path | None, typer.Option("--from", help="A copy that you fetched by hand.")] = None,
) -> None:
    """Fetch public data and weights of the original work; `phaseveil download list` names them."""
    from phaseveil.data.download import CATALOGUE
    from phaseveil.data.download import download as fetch

    if name == "list":
        for entry, package in CATALOGUE.items():
            print(f"{entry:<12}{package.title} ({package.terms})")
        return
    with progress(f"download {name}, bytes") as report:
        ready = fetch(name, out, from_file, report)
    for path in ready:
        print(path)


for command in (bench, calibrate, design, evaluate, attack, table1, sweep, tolerance, web):
    app.command()(command)
app.command("point-sources")(point_sources)


@camera_app.command("info")
def camera_info(camera: CameraName = "learned", size: FrameSize = 256, as_json: Json = False) -> None:
    """Print frame width, F-number, pixel pitch, mask heights and slopes, PSF width, MTF50."""
    from dataclasses import asdict

    from phaseveil.metrics.optics import describe_camera
    from phaseveil.optics.camera import load_camera

    report = describe_camera(load_camera(camera), size)
    if as_json:
        print(json.dumps(asdict(report)))
        return
    for name, value in report.table():
        print(f"{name:<30}{value}")


@camera_app.command("check")
def camera_check(camera: CameraName = "learned", size: FrameSize = 256, as_json: Json = False) -> None:
    """Tell whether the point spread function merely repeats or shifts the image."""
    from phaseveil.metrics.collapse import check_psf
    from phaseveil.optics.camera import load_camera

    check = check_psf(load_camera(camera).psf(size), size)
    if as_json:
        print(json.dumps(check.as_dict()))
        return
    for name, value in check.table():
        print(f"{name:<30}{value}")


@camera_app.command("psf")
def camera_psf(camera: CameraName = "learned", out: OutFile = Path("psf.png"), size: FrameSize = 256) -> None:
    """Write the point spread function: .png shows its square root, .npy holds its values."""
    from phaseveil.apps.optics import write_psf
    from phaseveil.optics.camera import load_camera

    print(write_psf(out, load_camera(camera), size))


@camera_app.command("plot")
def camera_plot(camera: CameraName = "learned", out: OutFile = Path("optics.png"), size: FrameSize = 256) -> None:
    """Draw height map, PSF and MTF."""
    from phaseveil.apps.optics import write_plot
    from phaseveil.optics.camera import load_camera

    print(write_plot(out, load_camera(camera), size))


@train_app.command("camera")
def train_camera(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = False,
    max_minutes: MaxMinutes = float("inf"),
    device: Device = "cpu",
) -> None:
    """Stage I: phase mask and heatmap network together."""
    from phaseveil.config import load_config
    from phaseveil.pipeline import usable_device
    from phaseveil.training.camera import train_camera as job
    from phaseveil.training.camera_config import CameraTraining
    from phaseveil.training.parallel import is_main

    settings = load_config(CameraTraining, config, overrides or ())
    figures = job(settings, resume, max_minutes, str(usable_device(device)), say)
    if is_main():
        print(json.dumps(figures))


@train_app.command("face")
def train_face(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = False,
    max_minutes: MaxMinutes = float("inf"),
    device: Device = "cpu",
) -> None:
    """Stage II: generator, mapping network and style encoder."""
    from phaseveil.config import load_config
    from phaseveil.pipeline import usable_device
    from phaseveil.training.face import train_face as job
    from phaseveil.training.face_config import FaceTraining
    from phaseveil.training.parallel import is_main

    settings = load_config(FaceTraining, config, overrides or ())
    figures = job(settings, resume, max_minutes, str(usable_device(device)), say)
    if is_main():
        print(json.dumps(figures))
