"""Known answers: what hides nothing is told apart from what blurs, and the mean face from faces."""

import math

import pytest
import torch
from torch import Tensor

from phaseveil.data.heatmaps import GROUPS, draw_heatmaps
from phaseveil.errors import InputError
from phaseveil.metrics.collapse import (
    autocorrelation,
    check_geometry,
    check_psf,
    procrustes_fit,
    reconstruct,
    secondary_peak,
)
from phaseveil.optics.camera import load_camera
from phaseveil.optics.grid import centred_axis

SIZE, PIXELS = 128, 57
MIDDLE = PIXELS // 2


def points(*places: tuple[int, int], weights: tuple[float, ...] | None = None) -> Tensor:
    """Single bright pixels (x, y) from the middle, the same in all channels."""
    psf = torch.zeros(PIXELS, PIXELS)
    for (x, y), weight in zip(places, weights or (1.0,) * len(places), strict=True):
        psf[MIDDLE + y, MIDDLE + x] += weight
    return (psf / psf.sum()).expand(3, -1, -1)


def gaussian(sigma: float, *centres: tuple[float, float]) -> Tensor:
    axis = centred_axis(PIXELS, 1.0)
    psf = torch.zeros(PIXELS, PIXELS)
    for x, y in centres or [(0.0, 0.0)]:
        psf += torch.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * sigma**2))
    return (psf / psf.sum()).expand(3, -1, -1)


def test_a_point_neither_replicates_nor_shifts() -> None:
    check = check_psf(points((0, 0)), SIZE)
    assert (check.replicates, check.shifts) == (False, False)
    assert check.replica == check.replica_distance == check.shift == check.rms_radius == (0, 0, 0)
    assert check.lobe_energy == (1, 1, 1)


def test_two_points_are_two_copies() -> None:
    check = check_psf(points((-8, -6), (8, 6)), SIZE)
    assert check.replicates
    assert check.replica == pytest.approx((0.5,) * 3)
    assert check.replica_distance == pytest.approx((20,) * 3)
    assert check.lobe_energy == pytest.approx((0.5,) * 3)
    assert not check.shifts


@pytest.mark.parametrize(("weight", "found"), [(0.5, True), (0.3, True), (0.2, False), (0.05, False)])
def test_a_faint_copy_is_measured_and_no_alarm(weight: float, found: bool) -> None:
    check = check_psf(points((0, 0), (12, 5), weights=(1, weight)), SIZE)
    assert check.replica[1] == pytest.approx(weight / (1 + weight**2))
    assert check.replica_distance[1] == pytest.approx(13)
    assert check.replicates is found


def test_copies_in_a_row_and_in_general_position() -> None:
    assert check_psf(points((-10, 0), (0, 0), (10, 0)), SIZE).replica[0] == pytest.approx(2 / 3)
    assert check_psf(points((-10, 0), (3, 4), (10, 11)), SIZE).replica[0] == pytest.approx(1 / 3)


def test_blurred_copies_count_and_merged_ones_do_not() -> None:
    assert check_psf(gaussian(2, (-10, 0), (10, 0)), SIZE).replica[0] == pytest.approx(0.5, abs=0.01)
    assert check_psf(gaussian(6, (-5, 0), (5, 0)), SIZE).replica == (0, 0, 0)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_a_narrow_psf_beside_the_middle_merely_shifts(sigma: float) -> None:
    check = check_psf(gaussian(sigma, (6, -8)), SIZE)
    assert check.shifts
    assert check.shift == pytest.approx((10,) * 3, rel=1e-3)
    assert not check.replicates


def test_a_broad_psf_beside_the_middle_blurs() -> None:
    check = check_psf(gaussian(5, (6, -8)), SIZE)
    assert check.shift[0] > check.rms_radius[0]
    assert not check.shifts


def test_what_is_narrow_depends_on_the_frame() -> None:
    psf = gaussian(2, (6, -8))  # RMS radius 2.8 pixels
    assert not check_psf(psf, 128).shifts
    assert check_psf(psf, 256).shifts


def test_one_channel_is_enough() -> None:
    psf = torch.cat([gaussian(6)[:2], points((-10, 0), (10, 0))[:1]])
    assert check_psf(psf, SIZE).replicates
    psf = torch.cat([gaussian(6)[:2], points((9, 0))[:1]])
    assert check_psf(psf, SIZE).shifts


@pytest.mark.parametrize("name", ["identity", "gaussian", "defocus", "defocus-48", "low-resolution", "learned"])
def test_no_alarm_for_the_cameras_that_blur(name: str) -> None:
    check = check_psf(load_camera(name).psf(SIZE), SIZE)
    assert (check.replicates, check.shifts) == (False, False)
    assert max(check.replica) < 0.1


def test_a_gaussian_has_the_radius_and_the_lobe_of_a_gaussian() -> None:
    check = check_psf(gaussian(4), SIZE)
    assert check.rms_radius[1] == pytest.approx(4 * math.sqrt(2), rel=1e-3)
    assert check.lobe_energy[1] == pytest.approx(0.5, abs=0.02)  # 1 - 1/2, whatever its width
    assert check.replica == (0, 0, 0)


def test_the_table_says_it_in_words() -> None:
    rows = dict(check_psf(points((-10, 0), (10, 0)), SIZE).table())
    assert rows["highest secondary peak"].startswith("0.500 at 20.0 px / ")
    assert (rows["replicates the image"], rows["merely shifts the image"]) == ("yes", "no")
    assert dict(check_psf(points((9, 0)), SIZE).table())["highest secondary peak"].startswith("none / none")


def test_autocorrelation_is_that_of_the_definition() -> None:
    psf = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = autocorrelation(psf)
    assert found.shape == (2, 9, 9)
    assert found[1, 4 + 2, 4 - 1].item() == pytest.approx(
        (psf[1, 2:, :4] * psf[1, :3, 1:]).sum().item() / psf[1].square().sum().item()
    )


def test_reconstruction_is_that_of_scikit_image() -> None:
    from skimage.morphology import reconstruction

    mask = torch.rand(40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    marker = torch.zeros_like(mask)
    marker[20, 20] = mask[20, 20]
    theirs = reconstruction(marker.numpy(), mask.numpy(), footprint=torch.ones(3, 3).numpy())
    torch.testing.assert_close(reconstruct(marker, mask), torch.from_numpy(theirs))


def test_bumps_on_a_pedestal_are_no_copies() -> None:
    axis = centred_axis(81, 1.0, torch.float64)
    pedestal = torch.exp(-(axis[None] ** 2 + axis[:, None] ** 2) / 800)
    ripple = 1 + 0.2 * torch.cos(axis[None] / 2)
    assert secondary_peak(pedestal * ripple / 1.2) == (0, 0)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """Landmarks of 64 drawn faces: a shape with noise of its own, moved, scaled and turned."""
    generator = torch.Generator().manual_seed(0)
    shape = 0.3 + 0.4 * torch.rand(68, 2, generator=generator)
    faces = shape + 0.02 * torch.randn(64, 68, 2, generator=generator)
    return similar(faces, generator)


def similar(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Every face somewhat moved, scaled and turned about the frame's middle."""
    angle, scale = 0.1 * torch.randn(2, len(faces), 1, generator=generator)
    turn = torch.polar((1 + scale).exp() / math.e, angle)
    turned = torch.view_as_real(torch.view_as_complex(faces - 0.5) * turn) + 0.5
    return turned + 0.03 * torch.randn(len(faces), 1, 2, generator=generator)


def test_the_teacher_has_all_its_variance(truth: Tensor) -> None:
    check = check_geometry(truth, draw_heatmaps(truth, 32), truth)
    ratios = (check.landmarks, check.shape, check.heatmap, *check.groups.values())
    assert ratios == pytest.approx((1,) * 8)
    assert list(check.groups) == list(GROUPS)
    assert (check.collapsed, check.faces) == ([], 64)


def test_the_mean_face_has_none(truth: Tensor) -> None:
    mean = truth.mean(dim=0).expand_as(truth)
    check = check_geometry(mean, draw_heatmaps(mean, 32), truth)
    assert check.collapsed == ["landmarks", "shape", "heatmap"]
    assert max(check.landmarks, check.shape, check.heatmap) < 1e-6


def test_a_mean_face_that_follows_the_pose_has_no_shape(truth: Tensor) -> None:
    placed = similar(truth.mean(dim=0).expand_as(truth), torch.Generator().manual_seed(5))
    check = check_geometry(placed, draw_heatmaps(placed, 32), truth)
    assert check.collapsed == ["shape"]
    assert check.shape < 1e-6


def test_half_the_way_to_the_mean_is_a_quarter_of_the_variance(truth: Tensor) -> None:
    half = (truth + truth.mean(dim=0)) / 2
    assert check_geometry(half, draw_heatmaps(half, 32), truth).landmarks == pytest.approx(0.25)


def test_a_fit_undoes_every_similarity(truth: Tensor) -> None:
    reference = truth[0] - truth[0].mean(dim=0)
    moved = similar(reference.expand(8, -1, -1), torch.Generator().manual_seed(2))
    torch.testing.assert_close(procrustes_fit(moved, truth[0]), reference.double().expand(8, -1, -1), atol=1e-6, rtol=0)


def test_one_face_tells_nothing(truth: Tensor) -> None:
    for few in (truth[:1], truth[:1].expand(3, -1, -1)):
        with pytest.raises(InputError, match="do not differ"):
            check_geometry(few, draw_heatmaps(few, 32), few)
