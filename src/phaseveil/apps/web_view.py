"""Pieces of the web page as HTML: pictures travel inside it, so that the server keeps no file of them."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from phaseveil.apps.web_studio import MAX_BYTES, MAX_PIXELS, Attacked, Drawing
from phaseveil.data.image_io import ImageArray, encode_png
from phaseveil.metrics.optics import describe_camera
from phaseveil.optics.camera import Camera, PhaseMaskCamera
from phaseveil.training.pictures import draw_height_map, draw_mtf, draw_psf

PREVIEW = 1000  # longer side of a photograph on the page, pixels

_INK = "#8b8b95"  # of plots; readable on light and on dark paper
_PLOT: Any = {
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}

Draw = Callable[[Figure, Axes], None]


def data_uri(file: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(file).decode("ascii")


def preview(photograph: ImageArray) -> ImageArray:
    """A photograph ``(H, W, 3)``, made smaller where its longer side exceeds :data:`PREVIEW`."""
    height, width = photograph.shape[:2]
    factor = PREVIEW / max(height, width)
    if factor >= 1:
        return photograph
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(photograph, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def tile(title: str, file: bytes, note: str = "") -> str:
    """A picture with its title, and a note under it."""
    name, small = html.escape(title), f"<small>{html.escape(note)}</small>" if note else ""
    return f'<figure><img src="{data_uri(file)}" alt="{name}"><figcaption>{name}{small}</figcaption></figure>'


def row(tiles: Sequence[str], kind: str = "") -> str:
    """Pictures side by side, under each other where the page is narrow."""
    return f'<div class="pv-row {kind}">{"".join(tiles)}</div>'


def empty() -> str:
    """What stands in the place of the pictures before there are any."""
    places = ("source", "acquisition", "heatmap", "new face")
    boxes = [f'<figure><div class="pv-blank"></div><figcaption>{place}</figcaption></figure>' for place in places]
    return row(boxes, "pv-four")


def drawing(drawn: Drawing) -> str:
    """Source, acquisition, heatmap, new face."""
    pictures = (
        tile("source", encode_png(drawn.source), "your photograph, aligned"),
        tile("acquisition", encode_png(drawn.acquisition), "all that the sensor records"),
        tile("heatmap", encode_png(drawn.heatmap), "geometry read from it"),
        tile("new face", encode_png(drawn.face), "drawn from geometry and style"),
    )
    return row(pictures, "pv-four")


def photographs(before: ImageArray, after: ImageArray) -> str:
    """The photograph, and the same with every face replaced."""
    pictures = tile("photograph", encode_png(preview(before))), tile("every face replaced", encode_png(preview(after)))
    return row(pictures, "pv-two")


def attack(attacked: Attacked) -> str:
    """What the attacker has, makes of it, and wants."""
    notes = [
        f"PSNR {gain:.1f} dB, SSIM {like:.2f}" for gain, like in zip(attacked.gain, attacked.likeness, strict=True)
    ]
    pictures = (
        tile("acquisition", encode_png(attacked.acquisition), notes[0]),
        tile("attacker's picture", encode_png(attacked.recovered), notes[1]),
        tile("source", encode_png(attacked.source), "what the attacker wants"),
    )
    return row(pictures, "pv-three")


def message(text: str, kind: str = "note") -> str:
    """A line above the pictures; ``kind`` is ``note`` or ``error``."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="pv-message pv-{kind}" role="{role}">{html.escape(" ".join(text.split()))}</div>'


def promise(local: bool) -> str:
    """What happens to photographs; ``local`` where only this computer can open the page."""
    where = "on this computer" if local else "on the computer that serves this page, which you have to trust"
    limits = f"at most {MAX_BYTES // 2**20} MiB and {MAX_PIXELS // 10**6} million pixels"
    return (
        f'<div class="pv-promise"><strong>Nothing is stored or sent.</strong> Everything is computed {where}. '
        "Your photograph stays in memory until you close the page or choose another; the uploaded file is deleted a "
        "second after it has been read. No analytics, no outside addresses. "
        f"JPEG, PNG, WebP, TIFF or BMP, {limits}.</div>"
    )


@torch.no_grad()
def optics(camera: Camera, size: int) -> str:
    """Height map, PSF and MTF of a camera for ``size``-pixel frames, and its figures.

    Raises:
        OpticsError: The optics cannot be simulated as they are sampled.
    """
    psf = camera.psf(size).cpu()
    tiles = []
    if isinstance(camera, PhaseMaskCamera):
        tiles.append(tile("height map", _plot(partial(_height_map, camera)), "of the phase mask"))
    tiles.append(tile("PSF", _plot(partial(_psf, psf)), f"square root; {psf.shape[-1]} of {size} px"))
    tiles.append(tile("MTF", _plot(partial(_mtf, psf, size)), "contrast, mean over angles"))
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in describe_camera(camera, size).table()
    )
    return row(tiles, "pv-plots") + f'<table class="pv-figures">{rows}</table>'


def _height_map(camera: PhaseMaskCamera, figure: Figure, axes: Axes) -> None:
    draw_height_map(figure, axes, camera)


def _psf(psf: torch.Tensor, figure: Figure, axes: Axes) -> None:
    draw_psf(axes, psf)


def _mtf(psf: torch.Tensor, size: int, figure: Figure, axes: Axes) -> None:
    draw_mtf(axes, psf, size)


def _plot(draw: Draw) -> bytes:
    """A plot on no paper, as a PNG file."""
    with matplotlib.rc_context(_PLOT):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(figure, axes)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120, transparent=True, metadata={"Software": None})
    return file.getvalue()
