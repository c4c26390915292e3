"""Deconvolution: known blurs undone, and known answers at the borders."""

import numpy as np
import pytest
import torch
from torch import Tensor

from phaseveil.attacks.deconvolution import METHODS, Blur, tv_admm, wiener
from phaseveil.data.image_io import resize, to_tensor
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics.image import psnr
from phaseveil.optics.camera import Camera, CameraConfig, build_camera
from phaseveil.optics.sensor import SensorConfig, srgb_to_linear

SIZE = 64
FINE = SensorConfig(full_well=1e8, read_noise=0, bits=16)
GENTLE = {"wiener": 1e-3, "richardson-lucy": 60.0, "tv": 3e-5}  # parameters for next to no noise
FAITHFUL = {"wiener": 1e-6, "richardson-lucy": 10.0, "tv": 1e-6}
EACH_METHOD = pytest.mark.parametrize("name", list(METHODS))


def gaussian(sigma: float, sensor: SensorConfig = FINE) -> Camera:
    """A Gaussian camera; sigma in pixels of a 64-px frame."""
    return build_camera(
        CameraConfig(
            kind="gaussian", gaussian_sigma=sigma / SIZE, psf_support=max(0.32, 6 * sigma / SIZE), sensor=sensor
        )
    )


@pytest.fixture(scope="module")
def scenes(astronaut: np.ndarray) -> Tensor:
    """Three crops of the photograph, face, suit and flag. Shape ``(3, 3, 64, 64)``."""
    corners = ((0, 150), (200, 100), (60, 0))
    return torch.stack([to_tensor(resize(astronaut[y : y + 192, x : x + 192], SIZE)) for y, x in corners])


def lopsided_psf() -> Tensor:
    """A motion that differs between the colours. Shape ``(3, 9, 9)``."""
    psf = torch.zeros(3, 9, 9)
    psf[0, 4, 4:9] = 0.2
    psf[1, 4:8, 4] = 0.25
    psf[2, 4, 4], psf[2, 1, 2] = 0.7, 0.3
    return psf


@EACH_METHOD
def test_an_exact_psf_undoes_the_blur(name: str, scenes: Tensor) -> None:
    camera = gaussian(1.5)
    acquisition = camera(scenes, torch.Generator().manual_seed(0))
    restored = METHODS[name].restore(acquisition, camera.psf(SIZE), GENTLE[name])
    assert restored.shape == scenes.shape
    assert restored.min() >= 0
    assert restored.max() <= 1
    assert (psnr(restored, scenes) > psnr(acquisition, scenes) + 3).all()


@EACH_METHOD
def test_the_direction_of_a_lopsided_blur_is_undone(name: str, scenes: Tensor) -> None:
    """A flipped PSF would move the image the other way."""
    psf = lopsided_psf()
    acquisition = camera_of(psf)(scenes)
    right = METHODS[name].restore(acquisition, psf, GENTLE[name])
    wrong = METHODS[name].restore(acquisition, psf.flip(-1, -2), GENTLE[name])
    assert (psnr(right, scenes) > psnr(acquisition, scenes) + 3).all()
    assert (psnr(right, scenes) > psnr(wrong, scenes) + 6).all()


def camera_of(psf: Tensor) -> Camera:
    """A noiseless camera with any PSF of 9 pixels in a 64-pixel frame."""

    class Fixed(type(gaussian(1.0))):  # type: ignore[misc]
        def psf(self, size: int) -> Tensor:
            return psf

    return Fixed(CameraConfig(kind="gaussian", gaussian_sigma=1 / SIZE, psf_support=9 / SIZE, sensor=FINE))


@EACH_METHOD
def test_without_a_blur_the_image_comes_back(name: str, scenes: Tensor) -> None:
    clear = torch.zeros(3, 5, 5)
    clear[:, 2, 2] = 1
    restored = METHODS[name].restore(scenes, clear, FAITHFUL[name])
    assert (restored - scenes).abs().max() < 0.01


@EACH_METHOD
@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_a_flat_image_stays_flat_up_to_the_border(name: str, strength: float) -> None:
    """Colours kept, no ringing: neither the prior nor the frame's end may act on what has no structure."""
    grey = torch.tensor([0.3, 0.5, 0.7])[None, :, None, None].expand(2, 3, SIZE, SIZE)
    restored = METHODS[name].restore(grey, gaussian(4.0).psf(SIZE), strength)
    assert (restored - grey).abs().max() < 1e-3


@EACH_METHOD
def test_borders_are_restored_nearly_as_well_as_the_middle(name: str, scenes: Tensor) -> None:
    """With a periodic frame in place of the camera's continued one, the border's error is many times the middle's."""
    camera = gaussian(2.0)
    restored = METHODS[name].restore(camera(scenes), camera.psf(SIZE), GENTLE[name])
    error = (srgb_to_linear(restored) - srgb_to_linear(scenes)).square().mean(dim=(0, 1))
    middle = error[16:-16, 16:-16].mean()
    border = (error.sum() - error[6:-6, 6:-6].sum()) / (error.numel() - error[6:-6, 6:-6].numel())
    detail = _detail(scenes)
    assert border / detail[1] < 2 * middle / detail[0]


def _detail(scenes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square of what a small blur removes, in the middle and at the border."""
    light = srgb_to_linear(scenes)
    lost = (light - gaussian(2.0).blur(light)).square().mean(dim=(0, 1))
    border = (lost.sum() - lost[6:-6, 6:-6].sum()) / (lost.numel() - lost[6:-6, 6:-6].numel())
    return lost[16:-16, 16:-16].mean(), border


@EACH_METHOD
def test_images_of_a_batch_do_not_touch_each_other(name: str, scenes: Tensor) -> None:
    psf = gaussian(1.5).psf(SIZE)
    parameter = METHODS[name].candidates[1]
    together = METHODS[name].restore(scenes, psf, parameter)
    alone = torch.cat([METHODS[name].restore(scene[None], psf, parameter) for scene in scenes])
    assert torch.allclose(together, alone, atol=1e-3)


@pytest.mark.parametrize("psf", [lopsided_psf(), build_camera(CameraConfig(kind="gaussian")).psf(SIZE)])
def test_the_model_is_the_camera_and_its_adjoint_is_one(psf: Tensor, scenes: Tensor) -> None:
    blur = Blur.of(psf, SIZE)
    light = srgb_to_linear(scenes)
    if psf.shape[-1] == 9:
        assert torch.allclose(blur.forward(light), camera_of(psf).blur(light), atol=1e-5)
    other = torch.rand(light.shape, generator=torch.Generator().manual_seed(0))
    there, back = (blur.forward(light) * other).sum(), (light * blur.adjoint(other)).sum()
    assert float(there) == pytest.approx(float(back), rel=1e-4)


def test_wiener_in_the_middle_of_a_wide_frame_is_the_textbook_filter() -> None:
    """Far from the borders the estimate is y filtered by H*/(|H|² + K)."""
    generator, ratio = torch.Generator().manual_seed(0), 0.3
    light = torch.full((1, 3, 96, 96), 0.4)
    light[..., 36:60, 36:60] += 0.2 * torch.rand(1, 3, 24, 24, generator=generator)
    camera = gaussian(1.0)
    psf = camera.psf(SIZE)[:, 5:-5, 5:-5]
    psf = psf / psf.sum(dim=(-2, -1), keepdim=True)
    transfer = torch.fft.rfft2(torch.roll(torch.nn.functional.pad(psf, (0, 96 - psf.shape[-1]) * 2), (-5, -5), (1, 2)))
    frequency = torch.fft.fftfreq(96)[:, None].square() + torch.fft.rfftfreq(96)[None, :].square()
    textbook = transfer.conj() / (transfer.abs().square() + ratio * frequency / 0.25)
    expected = torch.fft.irfft2(torch.fft.rfft2(light) * textbook, s=(96, 96))
    restored = srgb_to_linear(wiener(_srgb(light), psf, ratio))
    assert psf.shape[-1] == 11
    assert torch.allclose(restored[..., 24:72, 24:72], expected[..., 24:72, 24:72], atol=2e-3)


def _srgb(light: Tensor) -> Tensor:
    return 1.055 * light ** (1 / 2.4) - 0.055


def test_total_variation_flattens_noise_and_keeps_an_edge() -> None:
    step = torch.full((1, 3, SIZE, SIZE), 0.3)
    step[..., SIZE // 2 :] = 0.7
    clear = torch.zeros(3, 3, 3)
    clear[:, 1, 1] = 1
    noisy = step + 0.02 * torch.randn(step.shape, generator=torch.Generator().manual_seed(0))
    restored = tv_admm(noisy, clear, 0.05, iterations=100)
    assert restored[..., 8:24].std() < 0.2 * noisy[..., 8:24].std()
    assert (restored[..., 36:].mean() - restored[..., :28].mean()) == pytest.approx(0.4, abs=0.04)
    assert (restored[..., 33] - restored[..., 30]).mean() > 0.35


@EACH_METHOD
def test_impossible_inputs_are_refused(name: str, scenes: Tensor) -> None:
    restore, psf = METHODS[name].restore, gaussian(1.5).psf(SIZE)
    with pytest.raises(InputError, match="square frames"):
        restore(scenes[0], psf, 1.0)
    with pytest.raises(InputError, match="square frames"):
        restore(scenes[..., :50], psf, 1.0)
    with pytest.raises(ConfigError, match="K odd"):
        restore(scenes, psf[:, 1:, 1:], 1.0)
    with pytest.raises(ConfigError, match="sum to 1"):
        restore(scenes, 2 * psf, 1.0)
    with pytest.raises(ConfigError, match="above 0"):
        restore(scenes, psf, 0.0)
    with pytest.raises(InputError, match="3 images need as many PSFs or one, got 2"):
        restore(scenes, psf.expand(2, -1, -1, -1), 1.0)


@EACH_METHOD
def test_images_with_a_psf_each_are_restored_as_if_alone(name: str, scenes: Tensor) -> None:
    psfs = torch.stack([gaussian(sigma).psf(SIZE) for sigma in (1.0, 1.5, 2.0)])
    blurred = torch.cat([gaussian(sigma)(scene[None]) for sigma, scene in zip((1.0, 1.5, 2.0), scenes, strict=True)])
    together = METHODS[name].restore(blurred, psfs, GENTLE[name])
    for number, psf in enumerate(psfs):
        alone = METHODS[name].restore(blurred[number : number + 1], psf, GENTLE[name])
        assert torch.allclose(together[number : number + 1], alone, atol=2e-3)
