"""What a workshop does to a mask, in the mask's own modes: differentiable and cheap enough for every training step.

:func:`phaseveil.optics.tolerance.built_within` computes the whole surface, with everything that can go wrong with it.
"""

from dataclasses import dataclass

from torch import Tensor

from phaseveil.optics.zernike import FIRST_MODE, shift_matrix


@dataclass(frozen=True)
class MaskDeparture:
    """A built mask's departure from its design.

    Attributes:
        scale: Factor of the heights.
        figure: Added to the lowest modes from Noll 4 on, metres RMS.
        shift: Of the mask against the pupil along x and y, pupil radii.
    """

    scale: float = 1.0
    figure: tuple[float, ...] = ()
    shift: tuple[float, float] = (0.0, 0.0)

    def of(self, coefficients: Tensor) -> Tensor:
        """The built mask's coefficients from Noll 4 on, metres; shape ``(M,)`` kept, differentiable."""
        built = self.scale * coefficients
        if any(self.shift):
            built = shift_matrix(FIRST_MODE + len(coefficients) - 1, *self.shift).to(coefficients) @ built
        if self.figure:
            error = coefficients.new_zeros(len(coefficients))
            error[: len(self.figure)] = coefficients.new_tensor(self.figure)[: len(coefficients)]
            built = built + error
        return built
