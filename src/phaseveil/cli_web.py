"""The command ``phaseveil web``; part of the command line, see :mod:`phaseveil.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from phaseveil.cli_options import CAMERA_HELP, Device, say


def web(
    weights: Annotated[Path | None, typer.Option(help="Folder with other weights than the bundled ones.")] = None,
    camera: Annotated[
        str | None, typer.Option(help=f"Camera at first: {CAMERA_HELP}  [default: the weights' own]")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other computers in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 7860,
    opened: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    device: Device = "cpu",
) -> None:
    """Try it in the browser: new faces, optics, an attack on your own picture. Nothing is stored or sent."""
    from phaseveil.engines.packages import need

    need("gradio", extra="web")
    from phaseveil.apps.web import listen, serve
    from phaseveil.pipeline import PhaseVeil

    with listen(host, port) as listener:
        serve(PhaseVeil.from_pretrained(weights, device=device), camera, listener, opened, say)
