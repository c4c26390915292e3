"""Phase retrieval: the mask of a camera from images of points that it took.

The camera's own model is fitted, by its gradient [Fienup 1993, Applied Optics 32, 1737]: Zernike coefficients of the
mask, and as nuisance parameters the place of every point between the pixels and its brightness in every colour. Tilt is
such a place; decentre of the mask stays among the modes, whose orders are complete.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.optics import grid
from phaseveil.optics.calibration_bench import Bench, cell_shares, collect
from phaseveil.optics.camera import PhaseMaskCamera
from phaseveil.optics.zernike import FIRST_MODE, noll_to_radial_azimuthal

UNIT = 1e-7  # metres; the scale of a mask's coefficients for the search
SMOOTHING = (3.0, 1.0, 0.0)  # pixels; the search goes from coarse to fine, which keeps it out of local optima
ITERATIONS = 60  # of each


Wavefront = tuple[Tensor, Tensor]
"""Coefficients of the mask, metres, and the tilt, pixels, see :func:`calibration_bench.cell_shares`."""


@dataclass(frozen=True)
class Windows:
    """Images of points from one distance, cut out about them, dark level subtracted.

    Attributes:
        bench: Where they were taken.
        signal: Any unit, the same for all. Shape ``(P, 3, K, K)``.
        variance: Of the noise, in that unit squared; infinite where nothing was measured. Shape ``(P, 3, K, K)``.
        places: Row and column of each point from the middle of its window, pixels. Shape ``(P, 2)``.
    """

    bench: Bench
    signal: Tensor
    variance: Tensor
    places: Tensor

    def part(self, kept: Sequence[int]) -> "Windows":
        """The windows of some of the points."""
        index = list(kept)
        return replace(self, signal=self.signal[index], variance=self.variance[index], places=self.places[index])


@dataclass(frozen=True)
class Fit:
    """A mask that explains images of points.

    Attributes:
        coefficients: Metres RMS. Shape ``(num_modes - 3,)``.
        tilt: Row and column from the PSF's origin to where the windows' middles lie, pixels. Shape ``(2,)``.
        windows: What was explained, its places as they were found.
        misfit: Mean squared deviation over the noise's variance; 1 where nothing but noise is left.
        correlation: Of images and model, mean over points and colours, -1 to 1.
    """

    coefficients: Tensor
    tilt: Tensor
    windows: tuple[Windows, ...]
    misfit: float
    correlation: float


def fit_mask(
    camera: PhaseMaskCamera,
    windows: Sequence[Windows],
    start: Tensor,
    smoothing: Sequence[float] = SMOOTHING,
    iterations: int = ITERATIONS,
) -> Fit:
    r"""Search for the mask and the places that explain images of points, from one start.

    .. math:: \min_{c, s, g} \sum_{p, \lambda, x}
              \Big[ G_\sigma * \frac{g_{p\lambda} H_\lambda(x - s_p; c) - d_{p\lambda}(x)}{\sqrt{v_{p\lambda}}} \Big]^2

    d are the windows with noise of variance v, H is the camera's PSF, G a Gaussian whose width σ falls to nothing, and
    the brightness g has a closed form. By L-BFGS with a strong Wolfe search [Nocedal & Wright 2006, ch. 7].

    Args:
        camera: As designed; it is not changed.
        windows: One or several distances.
        start: Coefficients, metres. Shape ``(num_modes - 3,)``.
        smoothing: Widths σ, pixels, one after another.
        iterations: Of each, at most.
    """
    mask = (start.detach() / UNIT).clone().requires_grad_(True)
    tilt = _offset(camera, windows, start).requires_grad_(True)
    places = [group.places.clone().requires_grad_(True) for group in windows]
    for sigma in smoothing:
        search = torch.optim.LBFGS(
            [mask, tilt, *places],
            1.0,
            iterations,
            tolerance_change=1e-5,
            history_size=20,
            line_search_fn="strong_wolfe",
        )
        kernel = _gaussian(sigma)

        def loss(search: torch.optim.LBFGS = search, kernel: Tensor | None = kernel) -> Tensor:
            search.zero_grad()
            found = [_moved(group, place) for group, place in zip(windows, places, strict=True)]
            total = torch.stack([_misfit(camera, group, (mask * UNIT, tilt), kernel) for group in found]).mean()
            total.backward()
            return total

        search.step(loss)
    found = tuple(_moved(group, place.detach()) for group, place in zip(windows, places, strict=True))
    return judge(camera, found, (mask.detach() * UNIT, tilt.detach()))


@torch.no_grad()
def judge(camera: PhaseMaskCamera, windows: Sequence[Windows], wavefront: Wavefront) -> Fit:
    """How well a mask explains windows whose places are known."""
    misfits = [_misfit(camera, group, wavefront, None).item() for group in windows]
    alike = torch.cat([correlations(camera, group, wavefront) for group in windows])
    return Fit(*wavefront, tuple(windows), sum(misfits) / len(misfits), alike.mean().item())


def locate(camera: PhaseMaskCamera, windows: Windows, wavefront: Wavefront) -> Windows:
    """The windows with the places at which a known mask explains them best: for points that were not fitted to."""
    with torch.no_grad():
        shares = cell_shares(camera, windows.bench, *wavefront)
    places = windows.places.clone().requires_grad_(True)
    search = torch.optim.LBFGS([places], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        total = _residual(collect(shares, windows.bench, places), windows).square().mean()
        total.backward()
        return total

    search.step(loss)
    return _moved(windows, places.detach())


@torch.no_grad()
def correlations(camera: PhaseMaskCamera, windows: Windows, wavefront: Wavefront) -> Tensor:
    """Pearson's correlation of images and model over the pixels that were measured. Shape ``(P * 3,)``."""
    model = collect(cell_shares(camera, windows.bench, *wavefront), windows.bench, windows.places)
    known = windows.variance.isfinite()
    pairs = zip(model.flatten(0, 1), windows.signal.flatten(0, 1), known.flatten(0, 1), strict=True)
    return torch.stack([torch.corrcoef(torch.stack([m[k], d[k]]))[0, 1] for m, d, k in pairs])


def twin(camera: PhaseMaskCamera, bench: Bench, coefficients: Tensor) -> Tensor:
    r"""The other mask with the same PSF: turned by half a turn and reversed, φ(x) → -φ(-x).

    Both pupils' fields are each other's conjugate, turned, so their intensities agree. Modes of even order change their
    sign, defocus takes the focus error along. Images from a second distance tell the two apart.

    Args:
        camera: Lens and material.
        bench: Whose focus error it is.
        coefficients: Metres. Shape ``(num_modes - 3,)``.

    Returns:
        Metres, the same shape. To the mask's dispersion, where the focus error is not 0.
    """
    orders = [noll_to_radial_azimuthal(FIRST_MODE + place)[0] for place in range(len(coefficients))]
    sign = coefficients.new_tensor([(-1.0) ** (order + 1) for order in orders])
    other = coefficients * sign
    other[0] -= 2 * focus_height(camera, bench.config.focus_error)
    return other


def focus_height(camera: PhaseMaskCamera, focus_error: float) -> float:
    r"""Defocus (Noll 4) of the mask, metres RMS, that does what a focus error does: a² ε / (4√3 Δn).

    From (k/2) ε r² = k Δn c √3 (2 r²/a² - 1), at the mean index contrast.

    Args:
        camera: Aperture and material.
        focus_error: ε, dioptres.
    """
    return camera.config.aperture_radius**2 * focus_error / (4 * math.sqrt(3) * camera.delta_n.mean().item())


@torch.no_grad()
def _offset(camera: PhaseMaskCamera, windows: Sequence[Windows], start: Tensor) -> Tensor:
    """Tilt that lays the model's centroid over the images', pixels. Shape ``(2,)``."""
    moves = []
    for group in windows:
        model = collect(cell_shares(camera, group.bench, start), group.bench, group.places)
        moves.append((_centroid(group.signal) - _centroid(model)).mean(dim=0))
    return torch.stack(moves).mean(dim=0)


def _centroid(images: Tensor) -> Tensor:
    """Centroid of images ``(P, 3, K, K)`` from their middle, all colours together, pixels. Shape ``(P, 2)``."""
    light = images.sum(dim=1)
    axis = grid.centred_axis(light.shape[-1], 1.0)
    sums = torch.stack([(light.sum(dim=2) * axis).sum(dim=1), (light.sum(dim=1) * axis).sum(dim=1)], dim=1)
    return sums / light.sum(dim=(1, 2))[:, None]


def _moved(windows: Windows, places: Tensor) -> Windows:
    return replace(windows, places=places)


def _misfit(camera: PhaseMaskCamera, windows: Windows, wavefront: Wavefront, kernel: Tensor | None) -> Tensor:
    """Mean squared deviation from the windows over the noise's variance, smoothed first where a kernel is given."""
    model = collect(cell_shares(camera, windows.bench, *wavefront), windows.bench, windows.places)
    residual = _residual(model, windows)
    if kernel is not None:
        flat = residual.flatten(0, 1)[:, None]
        residual = functional.conv2d(functional.conv2d(flat, kernel, padding="same"), kernel.mT, padding="same")
    return residual.square().sum() / windows.variance.isfinite().sum()


def _residual(model: Tensor, windows: Windows) -> Tensor:
    """Deviation in standard deviations of the noise at the best brightness, 0 where nothing was measured."""
    weight = windows.variance.reciprocal()  # of infinity: 0
    gain = (weight * model * windows.signal).sum((-2, -1), True) / (weight * model.square()).sum((-2, -1), True)
    return (gain * model - windows.signal) * weight.sqrt()


def _gaussian(sigma: float) -> Tensor | None:
    """Row kernel of a Gaussian blur, unit sum. Shape ``(1, 1, 1, N)``; nothing for σ = 0."""
    if sigma == 0:
        return None
    line = torch.exp(-0.5 * (grid.centred_axis(2 * math.ceil(2.5 * sigma) + 1, 1.0) / sigma) ** 2)
    return (line / line.sum())[None, None, None]
