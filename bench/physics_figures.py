"""The figures of docs/physics.md.

    python -m bench.physics_figures [--out docs/images] [--only zernike,laws,mask,acquisitions]

Writes physics-NAME.png for each; every one is computed by the package, the closed forms beside it.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from phaseveil.checkpoint import replace_atomically
from phaseveil.data.image_io import read_image, resize, to_array, to_tensor
from phaseveil.metrics.optics import radial_mtf
from phaseveil.optics import grid
from phaseveil.optics.camera import PhaseMaskCamera, load_camera
from phaseveil.optics.propagation import fraunhofer
from phaseveil.optics.zernike import noll_to_radial_azimuthal, zernike_basis
from phaseveil.training.pictures import draw_height_map, draw_psf

SIZE = 256
COLOURS = ("tab:red", "tab:green", "tab:blue")
WAVELENGTH, F_NUMBER, RADIUS = 550e-9, 8.0, 0.5e-3  # metres; of the clear pupil that the closed forms are compared on
CAMERAS = {
    "identity": "clear lens",
    "learned": "learned mask",
    "defocus": "defocus, 24 px",
    "gaussian": "Gaussian, σ = 12 px",
    "low-resolution": "16 × 16 photosites",
}


def zernike() -> Figure:
    """Noll's modes 4 to 21, each at one scale."""
    modes = range(4, 22)
    figure, axes = _figure(2, 9, (12, 3.1))
    outside = grid.circular_aperture(128) == 0
    for place, surface, j in zip(axes.flat, zernike_basis(modes, 128), modes, strict=True):
        place.imshow(np.ma.array(surface, mask=outside), cmap="RdBu_r", vmin=-3, vmax=3)
        n, m = noll_to_radial_azimuthal(j)
        place.set_title(f"{j}: n = {n}, m = {m}", fontsize=8)
        place.set_axis_off()
    return figure


def laws() -> Figure:
    """PSF, encircled energy and MTF of a clear circular pupil against their closed forms."""
    figure, axes = _figure(1, 3, (12, 3.6))
    pitch, points = 0.1e-6, 601
    intensity = _clear_intensity(points, pitch)
    radius = torch.arange(points // 2 + 1) * pitch / (WAVELENGTH * F_NUMBER)
    x = math.pi * radius.clamp_min(1e-9)
    line = intensity[points // 2, points // 2 :]
    axes[0].semilogy(radius, line / line[0], "tab:blue", label="computed")
    airy = (2 * torch.special.bessel_j1(x) / x).square()
    axes[0].semilogy(radius, airy.clamp_min(1e-7), "k:", label="Airy, (2 J₁(x)/x)²")
    axes[0].axvline(1.22, color="0.7", linewidth=0.8)
    axes[0].set(xlabel="radius, λF", ylabel="intensity over its peak", ylim=(1e-6, 1.2), title="PSF")
    steps, enclosed = _enclosed(intensity * pitch**2, pitch)
    axes[1].plot(steps, enclosed, "tab:blue", label="computed")
    argument = math.pi * steps
    rayleigh = 1 - torch.special.bessel_j0(argument).square() - torch.special.bessel_j1(argument).square()
    axes[1].plot(steps, rayleigh, "k:", label="1 − J₀² − J₁²")
    axes[1].set(xlabel="radius, λF", ylabel="share of the light", title="encircled energy")
    wide, coarse = 1201, 0.5e-6
    modulation = torch.fft.rfft2(_clear_intensity(wide, coarse)).abs()[0]
    frequency = torch.arange(len(modulation)) / (wide * coarse) * WAVELENGTH * F_NUMBER
    axes[2].plot(frequency, modulation / modulation[0], "tab:blue", label="computed")
    inside = frequency.clamp_max(1)
    axes[2].plot(frequency, 2 / math.pi * (inside.acos() - inside * (1 - inside**2).sqrt()), "k:", label="closed form")
    axes[2].set(xlabel="frequency, 1/(λF)", ylabel="contrast", xlim=(0, 1.2), title="MTF")
    for place in axes:
        place.legend(frameon=False)
    return figure


def mask() -> Figure:
    """Surface, PSF and MTF of the learned camera, and the clear lens beside it."""
    clear, learned = load_camera("portrait"), load_camera("learned")
    assert isinstance(learned, PhaseMaskCamera)
    figure, axes = _figure(1, 4, (14, 3.4))
    draw_height_map(figure, axes[0], learned)
    axes[0].set_title("learned mask, pupil of 1 mm")
    psfs = {"clear lens": clear.psf(SIZE), "learned": learned.psf(SIZE)}
    for place, (name, psf) in zip(axes[1:3], psfs.items(), strict=True):
        draw_psf(place, psf)
        place.set_title(f"PSF, {name} (square root)")
    for place in axes[:3]:
        place.set(xticks=[], yticks=[])
    for (name, psf), style in zip(psfs.items(), ("--", "-"), strict=True):
        _draw_contrast(axes[3], psf, style, name)
    axes[3].set(xlabel="cycles per frame", ylim=(1e-4, 1.1), title="MTF, mean over angles")
    axes[3].legend(frameon=False)
    return figure


def acquisitions() -> Figure:
    """One scene through every camera, and what each makes of a point."""
    crop = resize(read_image(Path(__file__).parents[1] / "examples" / "crops" / "astronaut.png"), SIZE)
    figure, axes = _figure(2, len(CAMERAS), (12, 5))
    for column, (name, title) in enumerate(CAMERAS.items()):
        camera = load_camera(name)
        psf = camera.psf(SIZE)
        beyond = (114 - psf.shape[-1]) // 2
        draw_psf(axes[0, column], torch.nn.functional.pad(psf, (beyond,) * 4))
        axes[0, column].set_title(title, fontsize=10)
        seen = camera(to_tensor(crop)[None], torch.Generator().manual_seed(0))[0]
        axes[1, column].imshow(to_array(seen))
    for place in axes.flat:
        place.set_axis_off()
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "zernike": zernike,
    "laws": laws,
    "mask": mask,
    "acquisitions": acquisitions,
}


def _figure(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _clear_intensity(points: int, pitch: float) -> Tensor:
    """Intensity of a clear circular pupil on the sensor, unit energy. Shape ``(points, points)``."""
    aperture, axis = grid.circular_aperture(512).double(), grid.centred_axis(512, 2 * RADIUS / 512, torch.float64)
    sensor = grid.centred_axis(points, pitch, torch.float64)
    length = torch.tensor([WAVELENGTH], dtype=torch.float64)
    field = fraunhofer(aperture[None].to(torch.complex128), axis, sensor, length, 2 * RADIUS * F_NUMBER)
    return field[0].abs().square() / (aperture.square().sum() * (2 * RADIUS / 512) ** 2)


def _enclosed(light: Tensor, pitch: float) -> tuple[Tensor, Tensor]:
    """Radii in λF, and the share of the light inside each."""
    axis = grid.centred_axis(len(light), pitch, torch.float64)
    distance = torch.hypot(axis[:, None], axis[None, :]) / (WAVELENGTH * F_NUMBER)
    steps = torch.linspace(0, 6.5, 131, dtype=torch.float64)
    return steps, torch.stack([light[distance <= step].sum() for step in steps])


def _draw_contrast(place: Axes, psf: Tensor, style: str, name: str) -> None:
    frequency, modulation = radial_mtf(psf, SIZE)
    for channel, colour in zip(modulation, COLOURS, strict=True):
        place.semilogy(frequency, channel.clamp_min(1e-5), color=colour, linestyle=style, linewidth=0.9)
    place.plot([], [], color="0.3", linestyle=style, label=name)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the figures")
    parser.add_argument("--only", default=",".join(FIGURES), help="names, with commas")
    chosen = parser.parse_args(arguments)
    names = chosen.only.split(",")
    if unknown := [name for name in names if name not in FIGURES]:
        parser.error(f"no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = chosen.out / f"physics-{name}.png"
        with replace_atomically(path) as temporary:
            FIGURES[name]().savefig(temporary, dpi=80)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
