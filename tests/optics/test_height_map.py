"""A camera behind a built surface: it equals its design where the surface does, and survives its file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from phaseveil.errors import CheckpointError, OpticsError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, load_camera, save_camera
from phaseveil.optics.fabrication import surface
from phaseveil.optics.height_map import HeightMapCamera, built_camera, check_smooth, fit_modes
from phaseveil.optics.zernike import zernike_basis

SIZE = 32


def design(scale: float = 2e-7) -> PhaseMaskCamera:
    camera = PhaseMaskCamera(
        CameraConfig(aperture_radius=0.1e-3, frame_width=0.03, pupil_samples=48, num_modes=8, psf_support=0.5)
    )
    camera.coefficients.data = scale * torch.randn(5, generator=torch.Generator().manual_seed(5))
    return camera


def waves(samples: int = 48) -> Tensor:
    return 6e-8 * torch.sin(torch.arange(samples) * 0.9).double()[:, None].expand(samples, samples)


@torch.no_grad()
def test_the_designs_own_surface_gives_its_psf() -> None:
    camera = design()
    built = built_camera(camera.config, surface(camera, 48), num_modes=8)
    torch.testing.assert_close(built.psf(SIZE), camera.psf(SIZE), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(built.coefficients, camera.coefficients, rtol=1e-2, atol=2e-9)


@torch.no_grad()
def test_piston_and_tilts_change_nothing_and_another_surface_does() -> None:
    camera, lifted = design(), zernike_basis(range(1, 4), 48).sum(dim=0) * 5e-7
    height = surface(camera, 48)
    plain, moved, rough = (
        built_camera(camera.config, h).psf(SIZE) for h in (height, height + lifted, height + waves())
    )
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-6)
    assert (rough - plain).abs().max() > 0.01 * plain.max()


@torch.no_grad()
def test_a_built_camera_survives_its_file(tmp_path: Path) -> None:
    camera = design()
    mirror = built_camera(camera.config, surface(camera, 48) + waves(), contrast=torch.full((3,), -2.0))
    loaded = load_camera(save_camera(tmp_path / "built.safetensors", mirror))
    assert isinstance(loaded, HeightMapCamera)
    assert loaded.config.kind == "height-map"
    assert torch.equal(loaded.delta_n, torch.full((3,), -2.0))
    assert torch.equal(loaded.psf(SIZE), mirror.psf(SIZE))
    scene = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.frozen(SIZE)(scene), mirror(scene))


def test_a_file_of_other_samples_is_refused(tmp_path: Path) -> None:
    from phaseveil import checkpoint
    from phaseveil.optics.camera import plain_config

    built = built_camera(design().config, waves())
    tensors = {f"camera.{name}": tensor for name, tensor in built.state_dict().items()}
    tensors["camera.residual"] = torch.zeros(47, 48)
    checkpoint.save(tmp_path / "bad.safetensors", "camera", plain_config(built.config), tensors)
    with pytest.raises(CheckpointError, match="residual"):
        load_camera(tmp_path / "bad.safetensors")


def test_steps_are_real_but_a_steep_smooth_surface_is_refused() -> None:
    steps = torch.zeros(48, 48)
    steps[:, 24:] = 3e-6  # several waves
    built = built_camera(design().config, steps)
    assert built.psf(SIZE).isfinite().all()
    with pytest.raises(OpticsError, match="pupil_samples"):
        check_smooth(built)


@pytest.mark.parametrize("height", [torch.zeros(48, 47), torch.zeros(4, 4), torch.full((48, 48), float("nan"))])
def test_no_table_of_heights_is_one_line(height: Tensor) -> None:
    with pytest.raises(OpticsError, match="height map"):
        built_camera(design().config, height)


def test_modes_of_a_sum_of_modes_are_found() -> None:
    amounts = torch.tensor([3e-7, -1e-7, 2e-7, 4e-7, -5e-8], dtype=torch.float64)
    height = torch.einsum("m,mhw->hw", amounts, zernike_basis(range(1, 6), 48))
    flat, modes = fit_modes(height, 5)
    torch.testing.assert_close(modes, amounts, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(fit_modes(flat, 5)[1][:3], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-14)
