"""Our PSF and Zernike modes against poppy's [Perrin et al., STScI]."""

import numpy as np
import pytest
import torch

from phaseveil.optics import psf
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera
from phaseveil.optics.zernike import noll_to_radial_azimuthal

poppy = pytest.importorskip("poppy", reason="poppy is in the extra 'dev'")


def test_noll_indices_agree() -> None:
    for j in range(1, 67):
        n, m = noll_to_radial_azimuthal(j)
        assert poppy.zernike.noll_indices(j) == (n, m)


@pytest.mark.parametrize("seed", [0, 1])
def test_psf_of_a_random_mask_agrees(seed: int) -> None:
    config, pixels = CameraConfig(pupil_samples=128, psf_support=0.18), 101
    camera = PhaseMaskCamera(config)  # terms 4 … 36, about 3 rad RMS
    camera.coefficients.data = torch.randn(33, generator=torch.Generator().manual_seed(seed)) * 1e-7
    wavelength, pitch = config.wavelengths[1], config.wavelengths[1] * config.f_number / 2
    with torch.no_grad():
        pupil, colour = (camera.aperture, camera.pupil_phase()[1:2], camera.pupil_axis), camera.wavelengths[1:2]
        ours = psf.sampled_psf(*pupil, colour, config.image_distance, pixels, pitch)[0].numpy()
    path = [0, 0, 0, *(camera.coefficients * camera.delta_n[1]).tolist()]
    theirs = poppy_psf(path, wavelength, config, pixels, pitch)
    # Their transform has the opposite sign in the exponent: the same image turned by half a turn.
    turned = theirs[::-1, ::-1]
    assert (ours * turned).sum() / np.sqrt((ours**2).sum() * (turned**2).sum()) >= 0.999
    assert ours.sum() == pytest.approx(turned.sum(), rel=2e-3)
    assert ours.max() == pytest.approx(turned.max(), rel=0.02)


def poppy_psf(path: list[float], wavelength: float, config: CameraConfig, pixels: int, pitch: float) -> np.ndarray:
    """PSF of a grey-edged circular pupil with an optical path difference of Noll modes 1, 2, …, metres RMS."""
    from astropy import units

    radius = config.aperture_radius * units.m
    system = poppy.OpticalSystem(npix=config.pupil_samples, pupil_diameter=2 * radius, oversample=1)
    system.add_pupil(poppy.CircularAperture(radius=radius, gray_pixel=True))
    system.add_pupil(poppy.ZernikeWFE(radius=radius, coefficients=path))
    system.add_detector(pixelscale=np.degrees(pitch / config.image_distance) * 3600, fov_pixels=pixels)
    return system.calc_psf(wavelength * units.m, normalize="first")[0].data
