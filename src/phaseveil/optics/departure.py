"""What a workshop does to a mask, in the mask's own modes: differentiable and cheap enough for every training step.

:func:`phaseveil.optics.tolerance.built_within` computes the whole surface, with everything that can go wrong with it.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from phaseveil.optics.grid import circular_aperture
from phaseveil.optics.zernike import FIRST_MODE, zernike, zernike_basis

_SAMPLES = 64  # enough for modes of radial degree 15
_NUDGE = 1e-3  # pupil radii, for derivatives


@dataclass(frozen=True)
class MaskDeparture:
    """A built mask's departure from its design.

    Attributes:
        scale: Factor of the heights.
        figure: Added to the lowest modes from Noll 4 on, metres RMS.
        shift: Of the mask against the pupil along x and y, pupil radii; to first order.
    """

    scale: float = 1.0
    figure: tuple[float, ...] = ()
    shift: tuple[float, float] = (0.0, 0.0)

    def of(self, coefficients: Tensor) -> Tensor:
        """The built mask's coefficients from Noll 4 on, metres; shape ``(M,)`` kept, differentiable."""
        built = self.scale * coefficients
        for distance, derivative in zip(self.shift, _derivatives(FIRST_MODE + len(coefficients) - 1), strict=True):
            if distance:
                built = built - self.scale * distance * (derivative.to(coefficients) @ coefficients)
        if self.figure:
            error = coefficients.new_zeros(len(coefficients))
            error[: len(self.figure)] = coefficients.new_tensor(self.figure)[: len(coefficients)]
            built = built + error
        return built


@lru_cache
def _derivatives(num_modes: int) -> tuple[Tensor, Tensor]:
    r"""Matrices of ∂/∂x and ∂/∂y between modes from Noll 4 on; what becomes piston and tilt blurs nothing.

    The derivative of a Zernike polynomial is a sum of lower ones [Noll 1976, J. Opt. Soc. Am. 66, 207, eq. 13]; here it
    is fitted. Shape ``(M, M)`` each, float64.
    """
    axis = (torch.arange(_SAMPLES, dtype=torch.float64) - (_SAMPLES - 1) / 2) * (2 / _SAMPLES)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    weight = circular_aperture(_SAMPLES).double().flatten().sqrt()[:, None]
    basis = zernike_basis(range(1, num_modes + 1), _SAMPLES).double().flatten(1).mT
    modes = range(FIRST_MODE, num_modes + 1)
    slopes = [
        torch.stack([(zernike(j, x + a, y + b) - zernike(j, x - a, y - b)).flatten() / (2 * _NUDGE) for j in modes], 1)
        for a, b in ((_NUDGE, 0.0), (0.0, _NUDGE))
    ]
    across, along = (torch.linalg.lstsq(weight * basis, weight * slope).solution[FIRST_MODE - 1 :] for slope in slopes)
    return across, along
