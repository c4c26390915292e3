"""The commands ``phaseveil export …``; part of the command line, see :mod:`phaseveil.cli`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phaseveil.progress import progress

if TYPE_CHECKING:
    from phaseveil.engines.export import Exported

export_app = typer.Typer(help="Write the networks for other programs.")


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


def _show(exported: "list[Exported]") -> None:
    """Print a line for each file: how large it is, and how far from PyTorch."""
    width = max(len(str(file.path)) for file in exported)
    print(f"{'file':<{width}}  {'MiB':>6}  {'largest':>8}  {'mean':>8}  landmarks, px of 256")
    for file in exported:
        print(
            f"{file.path!s:<{width}}  {file.size / 2**20:6.1f}  {file.largest:8.1e}  {file.mean:8.1e}  "
            f"{file.landmark_shift:.3f}"
        )
