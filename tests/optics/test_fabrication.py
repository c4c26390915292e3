"""Conversions of a mask: published index tables, laws of stepped reliefs, closed plates, least squares on a mirror."""

import numpy as np
import pytest
import torch

from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera
from phaseveil.optics.fabrication import (
    Relief,
    mode_index,
    peak_of_unit_rms,
    plate,
    project_on_influence,
    quantise_relief,
    surface,
    wave_height,
)
from phaseveil.optics.height_map import built_camera
from phaseveil.optics.zernike import zernike_basis

# (n, m): Noll 1976 table I, ANSI Z80.28 table, Fringe (Wyant and Creath 1992, table III), unit-RMS factor.
TABLE = [
    ((0, 0), 1, 0, 1),
    ((1, 1), 2, 2, 2),
    ((1, -1), 3, 1, 3),
    ((2, 0), 4, 4, 4),
    ((2, 2), 6, 5, 5),
    ((2, -2), 5, 3, 6),
    ((3, 1), 8, 8, 7),
    ((3, -1), 7, 7, 8),
    ((4, 0), 11, 12, 9),
    ((3, 3), 10, 9, 10),
    ((3, -3), 9, 6, 11),
    ((6, 0), 22, 24, 16),
]


def camera() -> PhaseMaskCamera:
    made = PhaseMaskCamera(
        CameraConfig(aperture_radius=0.1e-3, frame_width=0.03, pupil_samples=48, num_modes=8, psf_support=0.5)
    )
    made.coefficients.data = 2e-7 * torch.randn(5, generator=torch.Generator().manual_seed(5))
    return made


@pytest.mark.parametrize(("mode", "noll", "ansi", "fringe"), TABLE)
def test_orders_are_the_published_ones(mode: tuple[int, int], noll: int, ansi: int, fringe: int) -> None:
    assert [mode_index(order, *mode) for order in ("noll", "ansi", "fringe")] == [noll, ansi, fringe]


@pytest.mark.parametrize("j", range(1, 12))
def test_the_fringe_factor_is_the_mode_at_the_rim(j: int) -> None:
    from phaseveil.optics.zernike import noll_to_radial_azimuthal, zernike

    angle = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    rim = zernike(j, angle.cos(), angle.sin())
    assert rim.abs().max().item() == pytest.approx(peak_of_unit_rms(*noll_to_radial_azimuthal(j)), rel=1e-4)


def test_the_surface_is_the_height_map_and_shifts_with_the_mask() -> None:
    made = camera()
    inside = made.aperture > 0
    torch.testing.assert_close(
        surface(made, 48).float()[inside], made.height_map().detach()[inside], rtol=1e-4, atol=1e-12
    )
    pitch = 2 * made.config.aperture_radius / 48
    moved = surface(made, 48, shift=(pitch, -2 * pitch))
    torch.testing.assert_close(moved[:-2, 1:], surface(made, 48)[2:, :-1], rtol=1e-9, atol=1e-15)


def test_a_kinoform_sends_sinc_squared_the_intended_way() -> None:
    """Of a prism in L levels of one wave the share sinc²(1/L) goes to the first order [Swanson and Veldkamp 1989]."""
    made, cells = camera(), 256
    wave = wave_height(made, 550e-9)
    ramp = (torch.arange(cells, dtype=torch.float64) * wave / 32)[None, :].expand(cells, cells)
    for levels in (2, 4, 8):
        level, step = quantise_relief(ramp, levels, wave)
        assert level.max() == levels - 1
        field = torch.polar(torch.ones(cells, dtype=torch.float64), 2 * torch.pi * level[0].double() * step / wave)
        share = torch.fft.fft(field)[cells // 32].abs().square() / cells**2
        assert share.item() == pytest.approx(np.sinc(1 / levels) ** 2, rel=0.02)


def test_a_whole_relief_is_off_by_half_a_step_at_most() -> None:
    height = surface(camera(), 48)
    level, step = quantise_relief(height, 16, None)
    assert (level.min(), level.max()) == (0, 15)
    assert (level * step - (height - height.min())).abs().max() <= step / 2 * 1.0001


def test_a_plate_is_closed_and_has_its_volume() -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs the extra 'fabrication'")
    vertices, faces = plate(surface(camera(), 21) * 0 + 1e-6, 1e-3, 2e-3)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx((2e-3) ** 2 * 2e-3, rel=1e-9)
    slanted = torch.linspace(0, 1e-3, 21, dtype=torch.float64)[None, :].expand(21, 21)
    assert trimesh.Trimesh(*plate(slanted, 1e-3, 2e-3)).volume == pytest.approx(4e-6 * 2.5e-3, rel=1e-9)


def test_commands_of_what_actuators_can_make_are_found() -> None:
    influence = zernike_basis(range(4, 9), 32)
    wanted = torch.tensor([1e-6, -2e-7, 3e-7, 0, 5e-7], dtype=torch.float64)
    height = torch.einsum("a,ahw->hw", wanted, influence) + 3e-6 * zernike_basis([2], 32)[0] + 1e-6
    torch.testing.assert_close(project_on_influence(height, influence), wanted, rtol=1e-6, atol=1e-14)


@torch.no_grad()
def test_facets_are_sampled_finely_and_smooth_reliefs_at_the_designs_samples() -> None:
    made = camera()
    assert Relief(torch.zeros(20, 20).double(), smooth=False).camera(made.config).config.pupil_samples == 520
    coarse = Relief(surface(made, 40), smooth=True).camera(made.config)
    assert coarse.config.pupil_samples == 48
    fine = built_camera(made.config, surface(made, 48))
    difference = (coarse.height_map() - fine.height_map())[made.aperture == 1]
    assert difference.square().mean().sqrt() < 5e-9
