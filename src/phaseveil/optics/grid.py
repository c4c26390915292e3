"""Sample positions in the pupil and on the sensor, metres; the optical axis passes between or through samples at 0."""

import torch
from torch import Tensor


def centred_axis(samples: int, pitch: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Positions of ``samples`` cells of width ``pitch``, symmetric about 0, metres. Shape ``(samples,)``."""
    index = torch.arange(samples, dtype=torch.float64) - (samples - 1) / 2
    return (index * pitch).to(dtype)


def circular_aperture(samples: int, subsamples: int = 8) -> Tensor:
    """Transmission of a circle that touches the edges of a square grid: the covered share of each cell.

    Grey edge cells keep the area and the diffraction pattern right where a hard mask would be a staircase.

    Args:
        samples: Cells across the diameter.
        subsamples: Sub-cells per cell and axis that coverage is counted on.

    Returns:
        Coverage, unitless, 0 to 1. Shape ``(samples, samples)``.
    """
    fine = centred_axis(samples * subsamples, 2 / (samples * subsamples), torch.float64)
    bands = []
    for rows in fine.split(64 * subsamples):  # all at once, sub-cells of a fine grid take gigabytes
        inside = (rows[:, None] ** 2 + fine[None, :] ** 2 <= 1).to(torch.float64)
        bands.append(torch.nn.functional.avg_pool2d(inside[None, None], subsamples)[0, 0])
    return torch.cat(bands).to(torch.float32)
