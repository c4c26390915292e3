"""Arguments that several commands share; part of the command line, see :mod:`phaseveil.cli`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from phaseveil.errors import printable

CAMERA_HELP = "learned, portrait, paper, low-resolution, gaussian, defocus, identity, or a camera file."
PERCEPTUAL_HELP = "LPIPS-AlexNet weights; 'phaseveil download perceptual' fetches them."
RECOGNISER_HELP = "Another recogniser, FILE.onnx with FILE.yaml beside it; dlib's by default."
DOMAIN_HELP = "Appearance of the new faces; drawn from the seed by default, female with --reference."

Inputs = Annotated[list[str], typer.Argument(help="Images, folders, glob patterns.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Folder for the outputs.", show_default=False)]
CameraName = Annotated[str, typer.Argument(help=CAMERA_HELP, metavar="CAMERA")]
Domain = Annotated[Literal["female", "male"] | None, typer.Option(help=DOMAIN_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
EraseShape = Annotated[
    int, typer.Option(min=0, metavar="N", help="Take N identifying directions out of new faces' shape (0 to 40).")
]
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


def say(message: str) -> None:
    """Tell the user something that is no result."""
    print(printable(message), file=sys.stderr, flush=True)
