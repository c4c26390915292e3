"""The command ``phaseveil anonymize --engine ray``; part of the command line, see :mod:`phaseveil.cli`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phaseveil.cli_options import say
from phaseveil.errors import ConfigError
from phaseveil.progress import progress

if TYPE_CHECKING:
    from phaseveil.apps.anonymize_settings import Settings

ActorEngine = Annotated[
    Literal["torch", "onnxruntime", "openvino"] | None,
    typer.Option(help="--engine ray: what runs the networks in each worker.", show_default="torch"),
]
Address = Annotated[
    str | None, typer.Option(help="--engine ray: a running cluster, HOST:PORT or auto.", show_default="this machine")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="--engine ray: workers, each on one core or GPU.", show_default="all cores")
]
KeepFields = Annotated[str, typer.Option(help="--engine ray: other fields of shards to keep, such as cls,txt.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="--engine ray: column of the images in Parquet.", show_default="image")
]


def refuse_without_ray(given: dict[str, bool]) -> None:
    """Refuse options that only ``--engine ray`` knows."""
    for name, present in given.items():
        if present:
            raise ConfigError(f"{name} belongs to --engine ray; add that, or leave {name} out")


def run_cluster(
    inputs: Sequence[str],
    out: Path,
    settings: "Settings",
    address: str | None,
    workers: int | None,
    as_json: bool,
) -> int:
    """Run a data set through workers and print what is done; returns the exit code."""
    from phaseveil.apps.cluster import Cluster
    from phaseveil.apps.cluster import anonymize as job

    with progress("anonymize") as report:
        summary, before = job(inputs, out, settings, Cluster(address, workers), report, say)
    if as_json:
        print(json.dumps(summary.as_dict() | {"before": before}))
    else:
        print(
            f"{summary.done} done ({before} of them before), {summary.skipped} skipped, wholly or in part, "
            f"in {summary.seconds:.1f} s; see {summary.manifest}"
        )
    return 1 if summary.skipped else 0
