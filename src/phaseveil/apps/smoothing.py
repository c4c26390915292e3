"""Steady landmarks: the one-euro filter."""

import math

import numpy as np
from numpy.typing import NDArray

from phaseveil.data.landmarks import Points, crop_box

MIN_CUTOFF = 0.3  # hertz
BETA = 10.0  # hertz per (crop side per second)
DERIVATIVE_CUTOFF = 1.0  # hertz


class OneEuro:
    r"""The one-euro filter: little jitter at rest, little lag in motion, on the landmarks of a moving face.

    .. math:: \hat x = \alpha x + (1 - \alpha) \bar x, \quad \alpha = \frac{1}{1 + 1/(2\pi f_c T)},
        \quad f_c = f_{min} + \beta |\hat{\dot x}|

    Casiez, Roussel and Vogel, *1€ filter*, CHI 2012. There, :math:`\bar x` is the previous estimate; here it is the
    previous estimate carried along by the optical flow, so that the filter only sees what the flow did not, and a face
    in steady motion is not behind. Lengths are in crop sides, so that the size of a face does not matter.

    Args:
        derivative: The filtered derivative to go on with, crop sides per second, shape ``(5, 2)``.
    """

    def __init__(self, derivative: Points | None = None) -> None:
        self.derivative = np.zeros((5, 2)) if derivative is None else derivative

    def update(self, expected: Points, measured: Points, interval: float) -> Points:
        """The next estimate.

        Args:
            expected: Where the points would be without the measurement, shape ``(5, 2)``, pixels.
            measured: Where a detector sees them, shape ``(5, 2)``, pixels.
            interval: Seconds since the last measurement, more than 0.
        """
        left, _, right, _ = crop_box(expected)
        news = (measured - expected) / (right - left)
        step = _alpha(DERIVATIVE_CUTOFF, interval)
        self.derivative = step * news / interval + (1 - step) * self.derivative
        return expected + _alpha(MIN_CUTOFF + BETA * np.abs(self.derivative), interval) * (measured - expected)


def _alpha(cutoff: float | NDArray[np.float64], interval: float) -> float | NDArray[np.float64]:
    """Smoothing factor of a first-order low-pass at a cutoff, hertz [Casiez et al. 2012, equation 8]."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * interval))
