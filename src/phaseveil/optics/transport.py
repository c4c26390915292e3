"""A smooth mask for a wanted PSF: optimal transport of the pupil's light, fitted by Zernike modes.

Searches that began elsewhere ended in caustics, which no small step undoes (``docs/experiments.md``); a transported
mask has none.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseveil.errors import ConfigError
from phaseveil.optics.camera import PhaseMaskCamera
from phaseveil.optics.zernike import FIRST_MODE, zernike

STEP = 1e-4  # of the modes' derivatives, pupil radii

BEYOND_WEIGHT = 0.03
"""Of slopes beyond the rim in the fit: enough to keep the modes from running away there; more makes a sharper PSF."""

Points = NDArray[np.float64]


def transport_coefficients(
    camera: PhaseMaskCamera, target: Tensor, size: int, points: int = 2000, margin: float = 0.0
) -> Tensor:
    r"""Coefficients of a mask whose PSF is about ``target``, where that is many diffraction widths across.

    Light goes where the slope sends it, from pupil point x to :math:`u = z\,\Delta n\,\nabla h(x)`. Of all maps of the
    evenly lit pupil onto the target the one of least squared distance is the gradient of a convex function [Brenier
    1991, Comm. Pure Appl. Math. 44, 375; of refracting surfaces: Schwartzburg et al. 2014, ACM Trans. Graph. 33(4),
    74]: no two rays cross, and the surface is smooth. The map is found exactly for as many points of equal light
    in the pupil and in the target, and the modes are fitted to its slopes.

    Args:
        camera: In focus; its material at the middle wavelength counts, its own mask does not.
        target: Wanted light, at least 0, centred. Shape ``(K, K)``, K odd, rows are y.
        size: Pixels of the frame that the target was sampled for.
        points: Of equal light; at least as many as the mask has modes.
        margin: Beyond the pupil's rim, pupil radii, in which the modes roughly keep the slopes of the rim.

    Returns:
        RMS height of each mode, metres. Shape ``(num_modes - 3,)``, float32. Steeper than the pupil's samples can hold
        where the target is too wide for them.

    Raises:
        ConfigError: SciPy is missing, too few points, or a target without light.
    """
    try:
        from scipy.optimize import linear_sum_assignment
        from scipy.spatial import KDTree
    except ImportError as error:
        raise ConfigError("optimal transport needs SciPy; install phaseveil[train]") from error
    config = camera.config
    if points < config.num_modes:
        raise ConfigError(f"{points} points cannot determine {config.num_modes} modes; give more points")
    pupil, places = disk_points(points), equal_shares(target.detach().cpu().double().numpy(), points)
    _, order = linear_sum_assignment(-pupil @ places.T)  # least squared distance is largest inner product
    metres = places[order] * config.pixel_pitch(size)
    slopes = metres / (config.image_distance * camera.delta_n[1].item())
    beyond = disk_points(points, margin)[points:]
    _, nearest = KDTree(pupil).query(beyond)
    where, slopes = np.concatenate([pupil, beyond]), np.concatenate([slopes, slopes[nearest]])
    weight = torch.ones(len(where), dtype=torch.float64)
    weight[points:] = BEYOND_WEIGHT
    weight = weight.repeat(2)[:, None]  # slopes along x, then along y
    gradients = mode_gradients(config.num_modes, torch.from_numpy(where)) / config.aperture_radius
    fitted = torch.linalg.lstsq(weight * gradients, weight * torch.from_numpy(slopes.T.reshape(-1, 1))).solution
    return fitted[:, 0].float()


def disk_points(count: int, margin: float = 0.0) -> Points:
    """Points that share the unit disk evenly, middle first, on Vogel's spiral [1979, Math. Biosci. 44, 179].

    Args:
        count: In the disk.
        margin: How far the spiral goes on beyond its rim.

    Returns:
        Shape ``(count (1 + margin)², 2)``, rounded down.
    """
    number = np.arange(int(count * (1 + margin) ** 2))
    radius, angle = np.sqrt((number + 0.5) / count), number * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def equal_shares(light: Points, count: int) -> Points:
    """Points of equal light: inverse transform sampling of pixels, from Halton's points.

    Args:
        light: At least 0. Shape ``(K, K)``, rows are y.
        count: Of points.

    Returns:
        x and y from the middle of the table, pixels. Shape ``(count, 2)``.

    Raises:
        ConfigError: No light, or a negative one.
    """
    from scipy.stats import qmc

    if not (np.isfinite(light).all() and light.min() >= 0 and light.sum() > 0):
        raise ConfigError("a target PSF needs light, nowhere below 0")
    edges = np.arange(len(light) + 1, dtype=np.float64)
    luck = qmc.Halton(2, scramble=False).random(count + 1)[1:]  # the first is the corner
    y = np.interp(luck[:, 0], _cumulative(light.sum(axis=1)), edges)
    rows = np.minimum(y.astype(int), len(light) - 1)
    x = np.empty_like(y)
    for row in np.unique(rows):
        x[rows == row] = np.interp(luck[rows == row, 1], _cumulative(light[row]), edges)
    return np.stack([x, y], axis=1) - len(light) / 2


def _cumulative(light: Points) -> Points:
    return np.concatenate([[0.0], np.cumsum(light)]) / light.sum()


def mode_gradients(num_modes: int, points: Tensor) -> Tensor:
    """Derivatives of the mask's modes by x, then by y, per pupil radius. Shape ``(2 P, num_modes - 3)``, float64."""
    x, y = points.unbind(1)
    modes = range(FIRST_MODE, num_modes + 1)
    by_x = [(zernike(j, x + STEP, y) - zernike(j, x - STEP, y)) / (2 * STEP) for j in modes]
    by_y = [(zernike(j, x, y + STEP) - zernike(j, x, y - STEP)) / (2 * STEP) for j in modes]
    return torch.cat([torch.stack(by_x, dim=1), torch.stack(by_y, dim=1)])
