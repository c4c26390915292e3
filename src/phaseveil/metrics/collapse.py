"""Does a camera cheat? Geometry that is the mean face for everybody; a PSF that only repeats or moves the image.

Both score well where they should not: the mean face hides the person and still has a landmark error, and an image that
is shifted or doubled is far from its source pixel by pixel while nothing in it is hidden.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.data.heatmaps import GROUPS, draw_heatmaps
from phaseveil.errors import InputError
from phaseveil.metrics.optics import rms_diameter
from phaseveil.optics import grid

Rgb = tuple[float, float, float]

COLLAPSED = 0.5
"""Share of the teacher's variance below which geometry counts as collapsed."""

REPLICATED = 0.25
"""Height of a secondary peak of the autocorrelation from which a PSF counts as several copies.

Two copies of weights 1 and w give w / (1 + w²), at most one half; N equal ones give 1/N where no two of them are apart
by the same vector, and up to (N - 1)/N in a row. So this finds two copies down to a weight of 0.27, three in any place,
and rows of any length.
"""

NARROW = 2 / 128
"""RMS radius, share of the frame, below which a PSF hides nothing wherever it lies."""

_VALLEY = 0.5  # of a secondary peak: what lies higher separates nothing
_FAINTEST = 1e-3  # peak that is told at all; less is rounding
_HALF_PIXEL = 0.5  # less is no shift


@dataclass(frozen=True)
class GeometryCheck:
    """Variance over people of what a network reads, as a share of that of the true landmarks.

    The best estimate under a squared error varies less than the truth, by the share that it cannot see: 1 is out of
    reach behind any blur, 0 is the mean face. Noise varies too, so that a high share says little without a low landmark
    error; heatmaps, being graded by how sure the network is, lose their variance before the points do.

    Attributes:
        landmarks: Of the 68 points in the frame.
        shape: Of the 68 points once position, size and rotation of each face are removed.
        heatmap: Of the heatmaps' pixels, against heatmaps drawn from the true landmarks.
        groups: The same for each channel of the heatmaps by name.
        faces: How many faces.
    """

    landmarks: float
    shape: float
    heatmap: float
    groups: dict[str, float]
    faces: int

    @property
    def collapsed(self) -> list[str]:
        """Which of ``landmarks``, ``shape`` and ``heatmap`` vary less than :data:`COLLAPSED`."""
        return [name for name in ("landmarks", "shape", "heatmap") if getattr(self, name) < COLLAPSED]

    def as_dict(self) -> dict[str, Any]:
        """All figures and ``collapsed`` as plain values."""
        return asdict(self) | {"collapsed": self.collapsed}


def check_geometry(landmarks: Tensor, heatmaps: Tensor, truth: Tensor) -> GeometryCheck:
    """Look for the mean face.

    Args:
        landmarks: Read by a network, normalised to [0, 1]. Shape ``(N, 68, 2)``.
        heatmaps: Read by it, 0 to 1. Shape ``(N, 5, H, H)``.
        truth: Landmarks of the clear images, normalised to [0, 1]. Shape ``(N, 68, 2)``.

    Raises:
        InputError: Fewer than two faces, or all of them alike.
    """
    if len(truth) < 2 or not truth.var(dim=0).any():
        raise InputError(f"{len(truth)} faces that do not differ tell nothing of collapse; give more held-out faces")
    reference = truth.mean(dim=0)
    taught = draw_heatmaps(truth, heatmaps.shape[-1])
    seen, wanted = (maps.double().var(dim=0).mean(dim=(-2, -1)) for maps in (heatmaps, taught))
    return GeometryCheck(
        landmarks=_spread(landmarks, truth),
        shape=_spread(procrustes_fit(landmarks, reference), procrustes_fit(truth, reference)),
        heatmap=(seen.sum() / wanted.sum()).item(),
        groups=dict(zip(GROUPS, (seen / wanted).tolist(), strict=True)),
        faces=len(truth),
    )


def procrustes_fit(points: Tensor, reference: Tensor) -> Tensor:
    r"""Each set of points moved, scaled and turned onto a reference as well as can be, about the origin.

    The full Procrustes fit of planar shapes: with points as complex numbers about their centroid,
    :math:`z \mapsto z\,(z^* r) / (z^* z)`. Dryden and Mardia 1998, *Statistical Shape Analysis*, p. 40.

    Args:
        points: Not all in one place. Shape ``(N, P, 2)``.
        reference: Shape ``(P, 2)``.

    Returns:
        Shape ``(N, P, 2)``.
    """
    z, r = (torch.view_as_complex(given.double().contiguous()) for given in (points, reference))
    z, r = z - z.mean(dim=-1, keepdim=True), r - r.mean()
    turn = (z.conj() * r).sum(dim=-1, keepdim=True) / z.abs().square().sum(dim=-1, keepdim=True)
    return torch.view_as_real(z * turn)


def _spread(found: Tensor, truth: Tensor) -> float:
    """Total variance of points over faces, over that of the truth. Shapes ``(N, P, 2)``."""
    return (found.double().var(dim=0).sum() / truth.double().var(dim=0).sum()).item()


@dataclass(frozen=True)
class PsfCheck:
    """What a PSF does besides blurring. Pixels of the frame; three values stand for R, G, B.

    Attributes:
        size: Side of the frame, pixels.
        replica: Highest secondary peak of the autocorrelation over the central one, 0 to 1; 0 where there is none.
        replica_distance: How far it lies from the central one; 0 where there is none.
        lobe_energy: Share of the light in the lobe about the brightest pixel: what is joined to it and at least half
            as bright.
        shift: Distance of the light's centroid from the window's middle.
        rms_radius: RMS distance of the light from its own centroid.
    """

    size: int
    replica: Rgb
    replica_distance: Rgb
    lobe_energy: Rgb
    shift: Rgb
    rms_radius: Rgb

    @property
    def replicates(self) -> bool:
        """Whether a channel holds the image more than once; an attacker takes the channel that tells most."""
        return max(self.replica) >= REPLICATED

    @property
    def shifts(self) -> bool:
        """Whether a channel is moved by more than it is blurred, and blurred so little that nothing is hidden."""
        narrow = NARROW * self.size
        return any(
            radius < narrow and shift > max(radius, _HALF_PIXEL)
            for radius, shift in zip(self.rms_radius, self.shift, strict=True)
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures, ``replicates`` and ``shifts`` as plain values."""
        return asdict(self) | {"replicates": self.replicates, "shifts": self.shifts}

    def table(self) -> list[tuple[str, str]]:
        """Name and value with its unit, a pair a line, as people read them."""
        far = zip(self.replica, self.replica_distance, strict=True)
        peaks = " / ".join(f"{peak:.3f} at {distance:.1f} px" if peak else "none" for peak, distance in far)
        return [
            ("frame", f"{self.size} × {self.size} pixels"),
            ("highest secondary peak", f"{peaks} (R, G, B)"),
            ("light in the central lobe", " / ".join(f"{100 * share:.1f}" for share in self.lobe_energy) + " %"),
            ("shift of the centroid", " / ".join(f"{shift:.2f}" for shift in self.shift) + " pixels"),
            ("RMS radius", " / ".join(f"{radius:.2f}" for radius in self.rms_radius) + " pixels"),
            ("replicates the image", "yes" if self.replicates else "no"),
            ("merely shifts the image", "yes" if self.shifts else "no"),
        ]


@torch.no_grad()
def check_psf(psf: Tensor, size: int) -> PsfCheck:
    """Look for copies and a mere shift.

    Args:
        psf: Unit sum per channel. Shape ``(3, K, K)``, K odd.
        size: Pixels of the frame that the PSF was sampled for.
    """
    light = psf.double().cpu()
    peaks = [secondary_peak(correlation) for correlation in autocorrelation(light)]
    axis = grid.centred_axis(light.shape[-1], 1.0, torch.float64)
    centroid = [(light.sum(dim=along) * axis).sum(dim=-1) for along in (-2, -1)]
    return PsfCheck(
        size=size,
        replica=_rgb([height for height, _ in peaks]),
        replica_distance=_rgb([distance for _, distance in peaks]),
        lobe_energy=_rgb([_lobe_energy(channel) for channel in light]),
        shift=_rgb(torch.hypot(*centroid).tolist()),
        rms_radius=_rgb((rms_diameter(light) / 2).tolist()),
    )


def autocorrelation(psf: Tensor) -> Tensor:
    r"""Autocorrelation :math:`\sum_x h(x)\,h(x + u)` of each channel over its value at u = 0, without wrap-around.

    By the Wiener–Khinchin theorem the inverse transform of |FT h|²; Goodman, *Introduction to Fourier Optics*, 2.1.3
    (autocorrelation theorem).

    Args:
        psf: Shape ``(L, K, K)``.

    Returns:
        1 in the middle. Shape ``(L, 2K - 1, 2K - 1)``.
    """
    support = psf.shape[-1]
    wide = 2 * support - 1
    power = torch.fft.rfft2(psf, s=(wide, wide)).abs().square()
    found = torch.fft.irfft2(power, s=(wide, wide)).roll((support - 1, support - 1), dims=(-2, -1))
    return found / found[:, support - 1, support - 1][:, None, None]


def secondary_peak(correlation: Tensor) -> tuple[float, float]:
    """Highest peak beside the central one that a valley separates from it.

    The valley of a peak is the lowest point on the best path to the centre. It must lie below half the peak: bumps on
    the broad pedestal of a blur are no copies.

    Args:
        correlation: 1 in its middle, which is its highest point. Shape ``(N, N)``, N odd.

    Returns:
        Height, 0 to 1, and distance from the middle, pixels; both 0 where there is none.
    """
    middle = len(correlation) // 2
    marker = torch.zeros_like(correlation)
    marker[middle, middle] = correlation[middle, middle]
    floor = correlation.clamp_min(0)
    peaks = floor * (reconstruct(marker, floor) < _VALLEY * floor) * (floor >= _FAINTEST)
    place = int(peaks.argmax())
    height = peaks.flatten()[place].item()
    row, column = divmod(place, len(correlation))
    return height, math.hypot(row - middle, column - middle) if height else 0.0


def reconstruct(marker: Tensor, mask: Tensor) -> Tensor:
    """Morphological reconstruction by dilation, 8 neighbours: how high one can stay on the way from the marker.

    Vincent 1993, *Morphological Grayscale Reconstruction in Image Analysis*, IEEE Trans. Image Process. 2(2); his
    standard technique: dilate, cut off at the mask, until nothing changes.

    Args:
        marker: At most ``mask``. Shape ``(H, W)``.
        mask: Shape ``(H, W)``, at least 0.

    Returns:
        Shape ``(H, W)``.
    """
    reached = marker
    while True:
        dilated = functional.max_pool2d(reached[None, None], 3, stride=1, padding=1)[0, 0]
        grown = torch.minimum(dilated, mask)
        if torch.equal(grown, reached):
            return reached
        reached = grown


def _lobe_energy(channel: Tensor) -> float:
    """Share of the light that is joined to the brightest pixel of ``(K, K)`` and at least half as bright."""
    bright = (channel >= channel.max() / 2).to(channel.dtype)
    marker = torch.zeros_like(channel)
    marker.flatten()[channel.argmax()] = 1
    return ((reconstruct(marker, bright) * channel).sum() / channel.sum()).item()


def _rgb(values: list[float]) -> Rgb:
    red, green, blue = values
    return red, green, blue
