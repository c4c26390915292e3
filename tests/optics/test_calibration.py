"""Phase retrieval on a simulated bench: unknown masks are found again, and what cannot be known is said."""

from dataclasses import replace

import pytest
import torch
from tests.optics.calibration_cases import CONFIG, SIZE, bench, camera_with, images, random_mask

from phaseveil.errors import ConfigError, OpticsError
from phaseveil.optics.calibration import correlations, fit_mask, focus_height, locate, twin
from phaseveil.optics.calibration_bench import bench_of, cell_shares, collect, point_images
from phaseveil.optics.calibration_search import departure, moved_mask, nearer_twin, retrieve, with_mask
from phaseveil.optics.psf import psf_correlation
from phaseveil.optics.zernike import zernike_basis


def quiet(message: str) -> None:
    """Say nothing."""


def test_cells_add_up_to_the_cameras_own_psf() -> None:
    camera = camera_with(random_mask(0, 3e-7))
    pixels = collect(cell_shares(camera, bench(), camera.coefficients), bench(), torch.zeros(1, 2))[0]
    assert torch.allclose(pixels, camera.enclosed_psf(SIZE), atol=1e-6)


def test_a_point_a_pixel_away_has_the_same_image_a_pixel_away() -> None:
    camera = camera_with(random_mask(1, 3e-7))
    shares = cell_shares(camera, bench(), camera.coefficients)
    still, moved = collect(shares, bench(), torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    assert torch.allclose(moved[:, 1:, :-1], still[:, :-1, 1:], atol=1e-7)
    tilted = cell_shares(camera, bench(), camera.coefficients, torch.tensor([1.0, -1.0]))
    assert torch.allclose(collect(tilted, bench(), torch.zeros(1, 2))[0], moved, atol=2e-5)


def test_half_a_pixel_lies_between() -> None:
    camera = camera_with(random_mask(1, 0.0))
    image = point_images(camera, bench(), [(48.0, 48.5)], SIZE)[0].sum(dim=0)
    centred = point_images(camera, bench(), [(48.0, 48.0)], SIZE)[0].sum(dim=0)
    columns = torch.arange(SIZE)
    shift = ((image - centred).sum(dim=0) * columns).sum() / image.sum()
    assert float(shift) == pytest.approx(0.5, abs=0.1)


def test_the_bench_keeps_the_sensor_and_moves_the_focus() -> None:
    near = bench_of(CONFIG, CONFIG.pixel_pitch(SIZE), 0.5)
    assert near.size == SIZE
    assert near.config.pixel_pitch(SIZE) == pytest.approx(CONFIG.pixel_pitch(SIZE))
    assert near.config.focus_error == pytest.approx(1 / 0.5 - 1 / CONFIG.object_distance)
    with pytest.raises(ConfigError, match="in metres"):
        bench_of(CONFIG, 9.4)


def test_a_mask_near_the_design_is_found_again() -> None:
    design = camera_with(random_mask(0, 4e-7))
    built = camera_with(design.coefficients + random_mask(10, 1.5e-7))
    fit = fit_mask(design, [images(built, 3)], design.coefficients)
    found = with_mask(design, fit.coefficients)
    assert psf_correlation(design.psf(SIZE), built.psf(SIZE)).mean() < 0.95
    assert psf_correlation(found.psf(SIZE), built.psf(SIZE)).mean() > 0.995
    assert float((fit.coefficients - built.coefficients).norm()) < 1e-8
    assert fit.misfit < 1.5
    other = images(built, 2, seed=7)
    wavefront = fit.coefficients, fit.tilt
    assert float(correlations(found, locate(found, other, wavefront), wavefront).min()) > 0.98


def test_a_wholly_random_mask_is_found_from_an_unknown_start() -> None:
    flat, built = camera_with(random_mask(0, 0.0)), camera_with(random_mask(3, 3e-7))
    found = retrieve(flat, [images(built, 3)], 6, 0, quiet)
    assert found.sign == "unknown"
    assert found.start == "flat" or found.start.startswith("random")
    mask = with_mask(flat, found.fit.coefficients)
    assert psf_correlation(mask.psf(SIZE), built.psf(SIZE)).mean() > 0.98


def test_a_decentred_mask_is_found_and_its_decentre_named() -> None:
    design = camera_with(random_mask(5, 4e-7))
    built = camera_with(moved_mask(design, 4e-6, -3e-6).float())
    fit = fit_mask(design, [images(built, 3)], design.coefficients)
    far = departure(design, with_mask(design, fit.coefficients), SIZE)
    assert far.decentre == pytest.approx((4e-6, -3e-6), abs=0.7e-6)
    assert far.rest < 0.5 * far.rms


def test_a_moved_mask_is_the_moved_height_map() -> None:
    """Over a whole cell of the pupil grid, where only piston and tilts may differ."""
    camera = camera_with(random_mask(6, 3e-7))
    cell = 2 * CONFIG.aperture_radius / CONFIG.pupil_samples
    moved = camera.height_map(moved_mask(camera, cell, 0.0).float())[:, 1:]
    difference = (moved - camera.height_map()[:, :-1]).double()
    inside = (camera.aperture[:, 1:] == 1) & (camera.aperture[:, :-1] == 1)
    plane = zernike_basis([1, 2, 3], CONFIG.pupil_samples)[:, :, 1:][:, inside].T
    left = difference[inside] - plane @ torch.linalg.lstsq(plane, difference[inside][:, None]).solution[:, 0]
    assert float(left.abs().max()) < 1e-3 * float(camera.height_map().abs().max())


@pytest.mark.parametrize("distance", [None, 0.4])
def test_the_twin_has_the_same_psf(distance: float | None) -> None:
    camera = camera_with(random_mask(2, 3e-7))
    where = bench(distance)
    other = twin(camera, where, camera.coefficients)
    here, there = (camera.under(where.config).enclosed_psf(SIZE, mask) for mask in (camera.coefficients, other))
    assert float((other - camera.coefficients).norm()) > 1e-7
    assert psf_correlation(here, there).mean() > (0.99999 if distance is None else 0.999)


def test_a_focus_error_is_worth_that_much_defocus_of_the_mask() -> None:
    camera = camera_with(random_mask(0, 0.0))
    error = bench(0.3).config.focus_error
    masked = torch.zeros_like(camera.coefficients)
    masked[0] = focus_height(camera, error)
    focus = camera.under(bench(0.3).config).pupil_phase(torch.zeros_like(masked))
    mask = camera.pupil_phase(masked)
    inside = camera.aperture == 1
    difference = (focus - mask)[:, inside]
    assert float(difference.std(dim=1).max()) < 0.03 * float(focus[:, inside].std(dim=1).max())


def test_the_twin_nearer_to_the_design_is_taken() -> None:
    design = camera_with(random_mask(4, 4e-7))
    built = camera_with(design.coefficients + random_mask(14, 5e-8))
    group = images(built, 2)
    fit = fit_mask(design, [group], twin(design, bench(), built.coefficients))
    assert float((fit.coefficients - built.coefficients).norm()) > 1e-7
    chosen = nearer_twin(design, fit)
    assert float((chosen.coefficients - built.coefficients).norm()) < 2e-8
    assert chosen.correlation == pytest.approx(fit.correlation, abs=0.01)


def test_a_second_distance_tells_twins_apart() -> None:
    built = camera_with(random_mask(4, 3e-7))
    groups = [images(built, 1), images(built, 1, seed=1, distance=0.1)]
    right = retrieve(built, groups, 1, 0, quiet)
    wrong = fit_mask(built, groups, twin(built, bench(), built.coefficients), smoothing=(0.0,), iterations=10)
    assert right.fit.misfit < 0.5 * wrong.misfit
    assert right.sign == "distances"


def test_noise_is_not_explained() -> None:
    camera = camera_with(random_mask(4, 3e-7))
    group = images(camera, 1)
    noise = torch.randn(group.signal.shape, generator=torch.Generator().manual_seed(0)).abs()
    with pytest.raises(OpticsError, match="no mask found that explains"):
        retrieve(camera, [replace(group, signal=noise)], 1, 0, quiet)
