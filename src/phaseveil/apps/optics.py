"""Files that show a camera's optics."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phaseveil.data.image_io import to_array, write_atomically, write_png, write_problem
from phaseveil.errors import InputError
from phaseveil.optics.camera import Camera
from phaseveil.training.pictures import save_optics_figure


@torch.no_grad()
def write_psf(path: Path, camera: Camera, size: int) -> Path:
    """Write a point spread function: ``.npy`` holds the values ``(3, K, K)``, ``.png`` their square root, scaled to 1.

    Args:
        path: Where to.
        camera: Whose.
        size: Side of the frame that the PSF is sampled for, pixels.

    Raises:
        InputError: Another suffix, or the place cannot be written.
    """
    return write_values(path, camera.psf(size).cpu())


def write_values(path: Path, psf: Tensor) -> Path:
    """:func:`write_psf` of values ``(3, K, K)`` that are at hand, on the CPU."""
    if path.suffix == ".png":
        return write_png(path, to_array((psf / psf.amax()).sqrt()))
    if path.suffix != ".npy":
        raise InputError(f"{path}: a PSF is written as .png or .npy")
    return write_atomically(path, partial(np.save, arr=psf.numpy()))


def write_plot(path: Path, camera: Camera, size: int) -> Path:
    """Draw height map, PSF and MTF as a PNG.

    Args:
        path: Where to, ending in ``.png``.
        camera: Whose.
        size: Side of the frame, pixels.

    Raises:
        InputError: Another suffix, or the place cannot be written.
    """
    if path.suffix != ".png":
        raise InputError(f"{path}: a plot is written as .png")
    try:
        save_optics_figure(path, camera, size)
    except OSError as error:
        raise InputError(f"{path}: {write_problem(error)}") from error
    return path
