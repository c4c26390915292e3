"""A calibration from several starts, which of two twins it is, and how far a mask is from its design."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phaseveil.errors import OpticsError
from phaseveil.optics.calibration import Fit, Windows, fit_mask, judge, twin
from phaseveil.optics.camera import PhaseMaskCamera
from phaseveil.optics.psf import psf_correlation
from phaseveil.optics.zernike import FIRST_MODE, noll_to_radial_azimuthal, shift_matrix

GOOD = 0.98  # correlation of images and model at which no further start is tried
LEAST = 0.9  # below, nothing was found
SPREAD = 4e-7  # metres RMS of random starts

Say = Callable[[str], None]


@dataclass(frozen=True)
class Retrieval:
    """The best of several fits.

    Attributes:
        fit: The mask.
        start: Where its search began: ``design``, ``flat`` or ``random N``.
        sign: How the mask was told from its twin, see :func:`phaseveil.optics.calibration.twin`: ``distances`` (two or
            more), ``design`` (the nearer one) or ``unknown``.
    """

    fit: Fit
    start: str
    sign: str


def retrieve(camera: PhaseMaskCamera, windows: Sequence[Windows], starts: int, seed: int, say: Say) -> Retrieval:
    """Fit from the design; where that explains the images badly or the design is flat, from further starts.

    Args:
        camera: As designed.
        windows: One or several distances.
        starts: At most so many.
        seed: Of the random ones.
        say: Told each start and how well it went.

    Raises:
        OpticsError: No start explains the images.
    """
    best: tuple[str, Fit] | None = None
    for name, start in _starts(camera, starts, seed):
        fit = fit_mask(camera, windows, start)
        say(f"from the start {name!r}: correlation {fit.correlation:.4f}, {fit.misfit:.3g} times the noise's variance")
        if math.isfinite(fit.misfit) and (best is None or fit.misfit < best[1].misfit):
            best = name, fit
        if best is not None and best[1].correlation >= GOOD:
            break
    if best is None or best[1].correlation < LEAST:
        raise OpticsError(
            f"no mask found that explains the captures (correlation {best[1].correlation if best else 0:.2f}); check "
            "--pixel-pitch and --distance, try more --starts, or capture from a second distance too"
        )
    name, fit = best
    if len({group.bench.config.object_distance for group in windows}) > 1:
        return Retrieval(fit, name, "distances")
    if not camera.coefficients.any():
        return Retrieval(fit, name, "unknown")
    return Retrieval(nearer_twin(camera, fit), name, "design")


def nearer_twin(camera: PhaseMaskCamera, fit: Fit) -> Fit:
    """Of a fit and its twin the one whose mask is nearer to the design's."""
    other = twin(camera, fit.windows[0].bench, fit.coefficients)
    design = camera.coefficients.detach()
    if (other - design).norm() >= (fit.coefficients - design).norm():
        return fit
    return judge(camera, fit.windows, (other, fit.tilt))


def _starts(camera: PhaseMaskCamera, count: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Named coefficients to start from: the design, no mask, random ones whose modes weaken with their order."""
    design = camera.coefficients.detach()
    generator = torch.Generator().manual_seed(seed)
    orders = [noll_to_radial_azimuthal(FIRST_MODE + place)[0] for place in range(len(design))]
    named = [("design", design)] if design.any() else []
    named.append(("flat", torch.zeros_like(design)))
    for number in range(1, count + 1):
        draw = torch.randn(design.shape, generator=generator) / torch.tensor(orders)
        named.append((f"random {number}", SPREAD * draw / draw.norm()))
    yield from named[:count]


@dataclass(frozen=True)
class Departure:
    """How far a mask is from its design. Metres, but for the correlation and the modes' numbers.

    Attributes:
        rms: Difference of heights, RMS over the pupil.
        defocus: Mode 4's part of it.
        decentre: Shift (x, y) of the design that together with defocus explains most of it.
        rest: RMS of what these leave.
        psf_correlation: Of both PSFs, mean over the colours, -1 to 1.
        modes: Noll index, design, calibrated: where they differ most, largest difference first.
    """

    rms: float
    defocus: float
    decentre: tuple[float, float]
    rest: float
    psf_correlation: float
    modes: tuple[tuple[int, float, float], ...]


@torch.no_grad()
def departure(design: PhaseMaskCamera, found: PhaseMaskCamera, size: int, modes: int = 8) -> Departure:
    """Compare two masks of one camera.

    Args:
        design: One.
        found: The other, of as many modes.
        size: Frame that their PSFs are compared in, pixels.
        modes: Rows of the table.
    """
    first, second = design.coefficients.double(), found.coefficients.double()
    difference = second - first
    step = 0.01 * design.config.aperture_radius
    slopes = [(moved_mask(design, *move) - first) / step for move in ((step, 0.0), (0.0, step))]
    focus = torch.zeros_like(first)
    focus[0] = 1
    matrix = torch.stack([focus, *slopes], dim=1)
    explained = torch.linalg.lstsq(matrix, difference[:, None], driver="gelsd").solution[:, 0]
    order = difference.abs().argsort(descending=True)[:modes].tolist()
    return Departure(
        rms=difference.norm().item(),
        defocus=difference[0].item(),
        decentre=(explained[1].item(), explained[2].item()),
        rest=(difference - matrix @ explained).norm().item(),
        psf_correlation=psf_correlation(design.psf(size), found.psf(size)).mean().item(),
        modes=tuple((FIRST_MODE + place, first[place].item(), second[place].item()) for place in order),
    )


def moved_mask(camera: PhaseMaskCamera, x: float, y: float) -> Tensor:
    """Coefficients of a camera's mask that lies beside the aperture's axis.

    Args:
        camera: Whose.
        x, y: Shift of the mask, metres.

    Returns:
        Metres, float64, piston and tilts left out. Shape ``(num_modes - 3,)``.
    """
    radius = camera.config.aperture_radius
    moved = shift_matrix(camera.config.num_modes, x / radius, y / radius)
    return moved @ camera.coefficients.detach().double()


def with_mask(camera: PhaseMaskCamera, coefficients: Tensor) -> PhaseMaskCamera:
    """The camera with another mask, of as many modes or more.

    Args:
        camera: As designed.
        coefficients: Metres. Shape ``(N,)``, N at least the camera's; missing ones are 0.
    """
    modes = max(camera.config.num_modes, len(coefficients) + FIRST_MODE - 1)
    other = PhaseMaskCamera(replace(camera.config, num_modes=modes)).requires_grad_(False).eval()
    other.coefficients.data[: len(coefficients)] = coefficients.detach().to(other.coefficients)
    return other
