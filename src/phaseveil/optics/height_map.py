"""A camera behind a part that was built or measured: its surface is a table of heights, not a sum of modes alone."""

from dataclasses import replace

import torch
from torch import Tensor

from phaseveil.errors import OpticsError
from phaseveil.optics.camera import CAMERAS, CameraConfig, PhaseMaskCamera
from phaseveil.optics.grid import circular_aperture
from phaseveil.optics.propagation import check_phase_sampling, phase_delay
from phaseveil.optics.zernike import FIRST_MODE, zernike_basis

KIND = "height-map"
MOST_SAMPLES = 2048
"""Cells across the pupil that a built part may have."""


class HeightMapCamera(PhaseMaskCamera):
    r"""A lens behind a surface that was built or measured.

    .. math:: h(x) = \sum_j c_j Z_j(x/a) + r(x), \qquad \phi_\lambda = \frac{2\pi}{\lambda} C(\lambda)\, h

    c are the modes that fit the surface best, r is what they leave: figure error, roughness, steps. The optical
    contrast C turns height into path: Δn of a refractive part, 2 of a mirror at normal incidence, 1 where the table
    holds path itself. Each cell of the table is a flat facet, so steps of any height between facets are real and not
    refused: whoever makes a camera of a smooth surface has to sample it finely enough, see :func:`built_camera`.

    Attributes:
        coefficients: c, metres RMS. Shape ``(num_modes - 3,)``; the only parameter.
        residual: r, metres. Shape ``(pupil_samples, pupil_samples)``.
        delta_n: C(λ), unitless. Shape ``(3,)``.
    """

    def __init__(self, config: CameraConfig) -> None:
        super().__init__(config)
        self.residual: Tensor
        self.register_buffer("residual", torch.zeros(config.pupil_samples, config.pupil_samples))
        self.register_buffer("delta_n", self.delta_n)  # unlike a mask's it does not follow from the material

    def height_map(self, coefficients: Tensor | None = None) -> Tensor:
        return super().height_map(coefficients) + self.residual * (self.aperture > 0)

    def check_sampling(self, phase: Tensor) -> None:
        """Refuse heights that are no numbers (OpticsError); steps between facets are real."""
        if not phase.isfinite().all():
            raise OpticsError("the part's phase is not finite; its height map holds NaN or infinity")


CAMERAS[KIND] = HeightMapCamera


def built_camera(
    design: CameraConfig, height: Tensor, contrast: Tensor | None = None, num_modes: int = FIRST_MODE
) -> HeightMapCamera:
    """The camera that a design becomes with a built surface in its pupil.

    Piston and tilts of the surface are taken out: they blur nothing.

    Args:
        design: Lens, geometry, wavelengths, sensor and material.
        height: Surface over the square that bounds the pupil, metres; rows y, columns x. Shape ``(N, N)``, N from 8 to
            :data:`MOST_SAMPLES`.
        contrast: Optical path per height for each wavelength, unitless, shape ``(3,)``; that of the material where
            ``None``.
        num_modes: Highest Noll index of the modes that are split off the surface.

    Returns:
        In evaluation mode.

    Raises:
        OpticsError: The table is not square, too small or too large, or holds NaN; or N is too coarse for the window.
    """
    samples = height.shape[-1]
    if height.ndim != 2 or len(height) != samples or not 8 <= samples <= MOST_SAMPLES:
        raise OpticsError(
            f"a height map has the shape (N, N), N from 8 to {MOST_SAMPLES}, got {tuple(height.shape)}; resample it"
        )
    if not height.isfinite().all():
        raise OpticsError("the height map holds NaN or infinity; fill the holes first")
    camera = HeightMapCamera(replace(design, kind=KIND, pupil_samples=samples, num_modes=num_modes))
    flat, modes = fit_modes(height.double(), num_modes)
    camera.coefficients.data.copy_(modes[FIRST_MODE - 1 :])
    basis = zernike_basis(range(FIRST_MODE, num_modes + 1), samples)
    within = torch.einsum("m,mhw->hw", camera.coefficients.data.double(), basis)
    camera.residual.copy_((flat - within) * (camera.aperture > 0))
    if contrast is not None:
        camera.delta_n.copy_(contrast)
    return camera.eval()


def fit_modes(height: Tensor, num_modes: int) -> tuple[Tensor, Tensor]:
    """Zernike modes that fit a surface best inside the pupil (least squares, cells weighted by their coverage).

    Args:
        height: Metres. Shape ``(N, N)``.
        num_modes: Highest Noll index, at least 3.

    Returns:
        The surface without piston and tilts, metres, ``(N, N)``, float64; and the coefficients of the modes from Noll
        index 1, metres RMS, ``(num_modes,)``, float64.
    """
    samples = len(height)
    basis = zernike_basis(range(1, num_modes + 1), samples)
    weight = circular_aperture(samples).double()
    weighted = (basis * weight).flatten(1)
    normal, right = weighted @ basis.flatten(1).mT, weighted @ height.double().flatten()
    modes = torch.linalg.solve(normal, right)
    return height.double() - torch.einsum("m,mhw->hw", modes[:3], basis[:3]), modes


def check_smooth(camera: HeightMapCamera) -> None:
    """Refuse a surface that is meant to be smooth but is too steep for its samples.

    Raises:
        OpticsError: Says how many samples across the pupil are needed.
    """
    phase = phase_delay(camera.height_map().detach(), camera.wavelengths, camera.delta_n)
    check_phase_sampling(phase, camera.aperture)
