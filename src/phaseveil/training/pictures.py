"""Pictures of a run: grids of faces, heatmaps in colour, and the optics."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional

from phaseveil.checkpoint import replace_atomically
from phaseveil.figures import colour_heatmap
from phaseveil.metrics.optics import radial_mtf
from phaseveil.optics.camera import Camera, PhaseMaskCamera


def heatmap_pictures(heatmap: Tensor, size: int) -> Tensor:
    """Semantic heatmaps ``(B, K, h, w)``, 0 to 1, in colour: ``(B, 3, size, size)``, 0 to 1, on the CPU."""
    pictures = [torch.from_numpy(colour_heatmap(maps)) for maps in heatmap.float().cpu().numpy()]
    stacked = torch.stack(pictures).permute(0, 3, 1, 2).float() / 255
    return functional.interpolate(stacked, size=(size, size), mode="bilinear", align_corners=False)


def save_grid(path: Path, rows: Sequence[Tensor]) -> None:
    """Write rows of images ``(N, 3, H, W)``, 0 to 1, as one PNG."""
    stacked = torch.cat([torch.cat(list(row.detach().float().cpu()), dim=-1) for row in rows], dim=-2)
    pixels = (stacked.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    with replace_atomically(path) as temporary:
        Image.fromarray(pixels).save(temporary)


@torch.no_grad()
def save_optics_figure(path: Path, camera: Camera, size: int) -> None:
    """Write height map (µm), PSF and radial MTF of a camera as one PNG."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    if isinstance(camera, PhaseMaskCamera):
        draw_height_map(figure, axes[0], camera)
    axes[0].set_title("mask")
    psf = camera.psf(size).cpu()
    draw_psf(axes[1], psf)
    axes[1].set_title(f"PSF (square root), {psf.shape[-1]} px of {size}")
    draw_mtf(axes[2], psf, size)
    axes[2].set_title("MTF, mean over angles")
    with replace_atomically(path) as temporary:
        figure.savefig(temporary, dpi=80)


@torch.no_grad()
def draw_height_map(figure: Figure, axes: Axes, camera: PhaseMaskCamera) -> None:
    """Show a mask's surface with its scale in micrometres, nothing outside the pupil."""
    height = camera.height_map().cpu().numpy() * 1e6
    inside = camera.aperture.cpu().numpy() > 0
    picture = axes.imshow(np.where(inside, height, np.nan), cmap="viridis")
    figure.colorbar(picture, ax=axes, label="height, µm")


def draw_psf(axes: Axes, psf: Tensor) -> None:
    """Show the square root of a PSF ``(3, K, K)``, on the CPU, in its colours."""
    axes.imshow((psf / psf.amax()).permute(1, 2, 0).sqrt().numpy())


def draw_mtf(axes: Axes, psf: Tensor, size: int) -> None:
    """Plot the MTF of a PSF ``(3, K, K)``, on the CPU, for ``size``-pixel frames, averaged over angles."""
    frequency, modulation = radial_mtf(psf, size)
    for channel, colour in zip(modulation, ("tab:red", "tab:green", "tab:blue"), strict=True):
        axes.plot(frequency, channel, colour)
    axes.set(xlabel="cycles per frame", ylim=(0, 1))
