"""From a mask to what a workshop makes: orders of Zernike modes, stepped reliefs, plates, mirrors; and back again."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from phaseveil.errors import ConfigError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera
from phaseveil.optics.grid import circular_aperture
from phaseveil.optics.height_map import HeightMapCamera, built_camera, check_smooth
from phaseveil.optics.zernike import FIRST_MODE, noll_to_radial_azimuthal, zernike, zernike_basis

ORDERINGS = ("noll", "ansi", "fringe")
FEWEST_SAMPLES = 512
"""Cells across the pupil that facets are simulated on, at least: fewer would hide what their edges scatter."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Relief:
    """A surface that was read back from a file.

    Attributes:
        height: Over the square that bounds the pupil, metres; rows y, columns x. Shape ``(N, N)``, float64.
        smooth: Whether it is a smooth surface, sampled; flat facets with steps otherwise.
        contrast: Optical path per height for each wavelength ``(3,)``; that of the camera's material where ``None``.
    """

    height: Tensor
    smooth: bool
    contrast: Tensor | None = None

    def camera(self, design: CameraConfig) -> HeightMapCamera:
        """The camera that has this surface in the place of its mask; modes and residual, or facets.

        Raises:
            OpticsError: The surface cannot be simulated: too coarse, too steep, not finite.
        """
        samples = len(self.height)
        if self.smooth:
            camera = built_camera(
                design, resample(self.height, max(samples, design.pupil_samples)), self.contrast, design.num_modes
            )
            check_smooth(camera)
            return camera
        fine = repeat_cells(self.height, math.ceil(max(FEWEST_SAMPLES, design.pupil_samples) / samples))
        return built_camera(design, fine, self.contrast)


def surface(
    camera: PhaseMaskCamera, samples: int, shift: tuple[float, float] = (0.0, 0.0), stretch: float = 1.0
) -> Tensor:
    """Height of a camera's mask over the square that bounds the pupil; modes go on beyond the circle.

    Args:
        camera: Its mask, or its built part.
        samples: N, cells across.
        shift: Of the mask against the pupil along x and y, metres.
        stretch: Of the mask along x.

    Returns:
        Metres, rows y, columns x. Shape ``(N, N)``, float64.
    """
    axis = (torch.arange(samples, dtype=torch.float64) - (samples - 1) / 2) * (2 / samples)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x = (x - shift[0] / camera.config.aperture_radius) / stretch
    y = y - shift[1] / camera.config.aperture_radius
    height = modes_at(camera, x, y)
    if isinstance(camera, HeightMapCamera):
        places = torch.stack([x, y], dim=-1)[None]
        residual = camera.residual.detach().double().cpu()[None, None]
        height += functional.grid_sample(residual, places, padding_mode="border", align_corners=False)[0, 0]
    return height


def modes_at(camera: PhaseMaskCamera, x: Tensor, y: Tensor) -> Tensor:
    """Height of a camera's Zernike modes at places over the pupil radius, metres; shape kept."""
    height = torch.zeros_like(x)
    for place, coefficient in enumerate(camera.coefficients.detach().double().tolist()):
        if coefficient:
            height += coefficient * zernike(FIRST_MODE + place, x, y)
    return height


def resample(height: Tensor, samples: int) -> Tensor:
    """A smooth surface ``(M, M)`` on another number of cells, bicubic: ``(samples, samples)``."""
    if len(height) == samples:
        return height
    fine = functional.interpolate(height[None, None], size=(samples, samples), mode="bicubic", align_corners=False)
    return fine[0, 0]


def repeat_cells(height: Tensor, times: int) -> Tensor:
    """Each facet of ``(N, N)`` as ``times`` × ``times`` cells."""
    return height.repeat_interleave(times, dim=0).repeat_interleave(times, dim=1)


def mode_index(ordering: str, n: int, m: int) -> int:
    r"""Index of a Zernike mode.

    ANSI Z80.28: :math:`j = (n(n+2) + m)/2`. Fringe (University of Arizona; Wyant and Creath 1992, *Applied Optics and
    Optical Engineering* 11, 1): :math:`j = (1 + (n+|m|)/2)^2 - 2|m| + [m < 0]`; its standard set ends at 37.

    Args:
        ordering: One of :data:`ORDERINGS`.
        n: Radial degree.
        m: Azimuthal degree, below 0 for the sine.
    """
    if ordering == "ansi":
        return (n * (n + 2) + m) // 2
    if ordering == "fringe":
        return (1 + (n + abs(m)) // 2) ** 2 - 2 * abs(m) + (m < 0)
    first = n * (n + 1) // 2 + 1
    return next(j for j in range(first, first + n + 1) if noll_to_radial_azimuthal(j) == (n, m))


def peak_of_unit_rms(n: int, m: int) -> float:
    """Value at the rim of a mode of unit RMS, Noll eq. (1): what a coefficient is multiplied with for Fringe modes,
    whose radial part is 1 at the rim."""
    return math.sqrt((n + 1) * (1 if m == 0 else 2))


def sum_of_modes(modes: dict[int, float], samples: int) -> Tensor:
    """Surface of Noll modes, metres RMS by index: metres, ``(samples, samples)``, float64."""
    indices = sorted(modes)
    amounts = torch.tensor([modes[j] for j in indices], dtype=torch.float64)
    return torch.einsum("m,mhw->hw", amounts, zernike_basis(indices, samples))


def wave_height(camera: PhaseMaskCamera, wavelength: float) -> float:
    """Height that delays light of a wavelength by one wave, metres; its contrast interpolated between the camera's."""
    known = camera.wavelengths.double().cpu().numpy(), camera.delta_n.double().cpu().numpy()
    order = np.argsort(known[0])
    return wavelength / float(np.interp(wavelength, known[0][order], known[1][order]))


def quantise_relief(height: Tensor, levels: int, depth: float | None) -> tuple[Tensor, float]:
    """Levels of a stepped relief: heights modulo ``depth``, each cell at the nearest of ``levels`` steps.

    With the depth of one wave it is a kinoform [Swanson and Veldkamp 1989, Opt. Eng. 28, 605]: of the design wavelength
    the share sinc²(1/levels) goes the intended way.

    Args:
        height: Metres. Shape ``(N, N)``.
        levels: How many, at least 2.
        depth: Metres, of ``levels`` steps; ``None`` for the whole relief, not wrapped.

    Returns:
        Level of each cell, 0 to ``levels - 1``, int64, ``(N, N)``, and the height of a step, metres.
    """
    low = height.min()
    if depth is not None:
        step = depth / levels
        return torch.round((height - low) / step).long() % levels, step
    step = max((height.max() - low).item() / (levels - 1), 1e-12)
    return torch.round((height - low) / step).long(), step


def project_on_influence(height: Tensor, influence: Tensor) -> Tensor:
    """Commands with which actuators approach a surface best inside the pupil; piston and tilts are left to others.

    Args:
        height: Wanted displacement, metres. Shape ``(M, M)``.
        influence: Displacement per unit of each actuator's command over the square that bounds the pupil, such as
            metres per metre. Shape ``(A, M, M)``.

    Returns:
        Commands. Shape ``(A,)``, float64.

    Raises:
        ConfigError: The influence functions do not tell the actuators apart inside the pupil.
    """
    samples = len(height)
    weight = circular_aperture(samples).double().sqrt().flatten()
    free = zernike_basis(range(1, 4), samples)
    columns = (torch.cat([influence.double(), free]).flatten(1) * weight).mT
    scale = columns.norm(dim=0).clamp_min(1e-30)
    solution = torch.linalg.lstsq(
        columns / scale, (height.double().flatten() * weight)[:, None], rcond=1e-9, driver="gelsd"
    ).solution[:, 0]
    if not solution.isfinite().all():
        raise ConfigError("the influence functions cannot be fitted to the mask; are they all zero inside the pupil?")
    commands: Tensor = (solution / scale)[: len(influence)]
    return commands


def plate(height: Tensor, half_side: float, thickness: float) -> tuple[Floats, Integers]:
    """A square plate with a relief on top: a closed mesh, normals outwards.

    Args:
        height: At the vertices of an even grid that spans the plate, metres, any offset. Shape ``(V, V)``.
        half_side: Half the plate's side, metres.
        thickness: Of the plate under the relief's lowest point, metres.

    Returns:
        Vertices (x, y, z), metres, z from 0 at the bottom, ``(P, 3)``; and triangles, ``(T, 3)``.
    """
    count = len(height)
    axis = np.linspace(-half_side, half_side, count)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    top = np.stack([x, y, thickness + (height - height.min()).numpy()], axis=-1).reshape(-1, 3)
    place = np.arange(count * count).reshape(count, count)
    a, b, c, d = place[:-1, :-1].ravel(), place[:-1, 1:].ravel(), place[1:, 1:].ravel(), place[1:, :-1].ravel()
    faces = [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
    ring = np.concatenate([place[0, :-1], place[:-1, -1], place[-1, :0:-1], place[:0:-1, 0]])  # as seen from above: +
    foot = len(top) + np.arange(len(ring))
    bottom = top[ring] * [1.0, 1.0, 0.0]
    centre = len(top) + len(ring)
    after, foot_after = np.roll(ring, -1), np.roll(foot, -1)
    faces += [np.stack([ring, foot, foot_after], axis=1), np.stack([ring, foot_after, after], axis=1)]
    faces.append(np.stack([np.full(len(ring), centre), foot_after, foot], axis=1))
    return np.concatenate([top, bottom, np.zeros((1, 3))]), np.concatenate(faces).astype(np.int64)
