"""Sample positions and the grey-edged aperture."""

import math

import pytest
import torch

from phaseveil.optics.grid import centred_axis, circular_aperture


@pytest.mark.parametrize(("samples", "first"), [(4, -1.5), (5, -2.0)])
def test_axis_is_symmetric_and_evenly_spaced(samples: int, first: float) -> None:
    axis = centred_axis(samples, 2e-3, torch.float64)
    assert axis[0].item() == pytest.approx(first * 2e-3)
    torch.testing.assert_close(axis, -axis.flip(0))
    torch.testing.assert_close(axis.diff(), torch.full((samples - 1,), 2e-3, dtype=torch.float64))


@pytest.mark.parametrize("samples", [32, 63, 256])
def test_grey_edges_keep_the_area_of_the_circle(samples: int) -> None:
    aperture = circular_aperture(samples)
    area = aperture.double().mean().item() * 4  # in pupil radii squared
    assert area == pytest.approx(math.pi, rel=5e-4)
    assert aperture[samples // 2, samples // 2] == 1
    assert aperture[0, 0] == 0
    torch.testing.assert_close(aperture, aperture.T)
    torch.testing.assert_close(aperture, aperture.flip(0))
