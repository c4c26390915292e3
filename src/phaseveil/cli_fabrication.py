"""The commands ``design`` and ``tolerance``; part of the command line, see :mod:`phaseveil.cli`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from phaseveil.cli_options import CAMERA_HELP, Json, Out, Overrides, say


def design(
    data: Annotated[Path, typer.Option(help="Folder that prepare wrote, to learn from.", show_default=False)],
    out: Out,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Design a phase mask in minutes, without training networks: little identity for a given landmark error."""
    from phaseveil.apps import design as job

    result = job.design(job.load_design(config, overrides or ()), data, out, say)
    print(json.dumps(result) if as_json else job.describe(result))


def tolerance(
    data: Annotated[
        Path, typer.Option(help="Folder that prepare wrote, or aligned crops, to measure on.", show_default=False)
    ],
    out: Out,
    spec: Annotated[str, typer.Option(help="Tolerances: lithography, diamond-turned, or a YAML file.")] = "lithography",
    camera: Annotated[str, typer.Option(help=f"Camera with a fixed mask: {CAMERA_HELP}")] = "learned",
    weights: Annotated[Path | None, typer.Option(help="Folder with the camera's heatmap network.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="CSV of photographs first,second,same: attacks each camera, too.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Landmarks and clear embeddings, shared by runs.")] = None,
    limits: Annotated[
        Path | None, typer.Option(help="tolerance.json of another design: hold this one to the same limits.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Draw built cameras within tolerances: how many still see enough and leak no more? Can be interrupted."""
    from phaseveil.apps import tolerance as job
    from phaseveil.apps.attack_target import load_target
    from phaseveil.optics.camera import load_camera

    study = job.load_study(spec, overrides or ())
    target = load_target(camera, load_camera(camera), weights)
    result = job.tolerance(target, study, job.Options(data, out, pairs, cache, limits))
    print(json.dumps(result) if as_json else "\n".join(job.describe(result)))
