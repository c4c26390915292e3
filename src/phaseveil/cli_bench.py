"""The command ``phaseveil bench``; part of the command line, see :mod:`phaseveil.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from phaseveil.cli_options import say


def bench(
    only: Annotated[
        str, typer.Option(help="Parts, such as camera,psf: camera, psf, networks, networks-256, training, scaling.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Of quick cases; slow ones have fewer.")] = 30,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here, as JSON.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of tables.")] = False,
) -> None:
    """Measure the speed of camera, networks and training on this machine. Takes some minutes."""
    from rich.console import Console
    from rich.markdown import Markdown

    from phaseveil.apps import bench as job
    from phaseveil.apps.bench_networks import machine

    parts = [part.strip() for part in only.split(",") if part.strip()]
    told, found = machine(), []
    console = Console()
    print(told)
    for part, section in job.bench(parts, rounds, say):
        found.append((part, section))
        text = section.as_markdown()
        if markdown:
            print(f"\n{text}", flush=True)
        else:
            console.print(Markdown(text))
    if json_file is not None:
        job.write_record(json_file, told, found)
