"""Point spread functions: energy, MTF and pixels against closed forms; convolutions against a direct sum."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from torch import Tensor

from phaseveil.optics import psf
from phaseveil.optics.grid import centred_axis, circular_aperture, pixel_axis
from phaseveil.optics.propagation import fraunhofer
from phaseveil.optics.zernike import zernike_basis

DISTANCE, RADIUS, SAMPLES = 8e-3, 0.5e-3, 128
WAVELENGTHS = torch.tensor([640e-9, 550e-9, 440e-9], dtype=torch.float64)
SPOT = 550e-9 * DISTANCE / (2 * RADIUS)  # λF of the green channel, metres
AXIS = centred_axis(SAMPLES, 2 * RADIUS / SAMPLES, torch.float64)
APERTURE = circular_aperture(SAMPLES).double()


def green_psf(pixels: int, pitch: float, per_pixel: int = 1) -> Tensor:
    """Clear circular pupil at 550 nm. Shape ``(pixels, pixels)``."""
    pupil = APERTURE[None].to(torch.complex128)
    return psf.pixel_integrated_psf(pupil, AXIS, WAVELENGTHS[1:2], DISTANCE, pixels, pitch, per_pixel)[0]


def circular_mtf(frequency: np.ndarray) -> np.ndarray:
    """MTF of a clear circular pupil; frequency over its cut-off 1/(λF). Goodman eq. (7-31)."""
    nu = np.clip(frequency, 0, 1)
    return 2 / math.pi * (np.arccos(nu) - nu * np.sqrt(1 - nu**2))


def test_mtf_of_a_clear_circular_pupil_is_the_analytic_one() -> None:
    pixels, pitch = 401, SPOT / 4
    transfer = psf.optical_transfer_function(psf.normalise_energy(green_psf(pixels, pitch)[None]), pixels)[0].abs()
    frequency = np.fft.rfftfreq(pixels, d=0.25)  # in units of the cut-off
    along_x, analytic = transfer[0].numpy(), circular_mtf(frequency)
    assert np.abs(along_x - analytic).max() < 0.01
    assert np.abs(transfer[: pixels // 2 + 1, 0].numpy() - analytic).max() < 0.01
    diagonal = transfer.diagonal().numpy()
    assert np.abs(diagonal - circular_mtf(frequency[: len(diagonal)] * math.sqrt(2))).max() < 0.01


def test_pixels_multiply_the_mtf_by_their_own_sinc() -> None:
    pixels, pitch, per_pixel = 201, SPOT / 2, 4
    transfer = psf.optical_transfer_function(psf.normalise_energy(green_psf(pixels, pitch, per_pixel)[None]), pixels)
    frequency = np.fft.rfftfreq(pixels, d=0.5)
    expected = circular_mtf(frequency) * np.sinc(frequency / 2)
    assert np.abs(transfer[0, 0].abs().numpy() - expected).max() < 0.01


@pytest.mark.parametrize("radius", [0.61, 1.22, 2.23, 5.0])
def test_encircled_energy_of_the_airy_disk(radius: float) -> None:
    """1 - J0(v)² - J1(v)², v = π r/(λF): Rayleigh 1881, Born & Wolf eq. 8.5 (18)."""
    pixels, steps = 162, 16
    axis = centred_axis(pixels, 1 / steps, torch.float64)
    inside = torch.hypot(axis[:, None], axis[None, :]) <= radius
    v = math.pi * radius
    expected = 1 - special.j0(v) ** 2 - special.j1(v) ** 2
    assert (green_psf(pixels, SPOT / steps) * inside).sum().item() == pytest.approx(expected, abs=0.008)


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("per_pixel", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energy_is_kept_on_a_support_that_holds_it(channel: int, per_pixel: int, dtype: torch.dtype) -> None:
    """One period λz/Δx of the pattern holds all the light that a sampled pupil can send anywhere (Parseval)."""
    wavelength = WAVELENGTHS[channel : channel + 1].to(dtype)
    height = torch.einsum("m,mhw->hw", torch.linspace(-1, 1, 12).double(), zernike_basis(range(4, 16), SAMPLES))
    pupil = torch.polar(APERTURE, height)[None].to(torch.complex64 if dtype == torch.float32 else torch.complex128)
    period = wavelength.item() * DISTANCE * SAMPLES / (2 * RADIUS)
    shares = psf.pixel_integrated_psf(pupil, AXIS.to(dtype), wavelength, DISTANCE, 151, period / 151, per_pixel)
    assert shares.sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("pixels", "per_pixel"), [(8, 1), (9, 1), (8, 3), (9, 2), (9, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-13)])
def test_pixels_collect_the_squared_field_of_the_plain_transform(
    pixels: int, per_pixel: int, dtype: torch.dtype, tolerance: float
) -> None:
    phase = 3 * torch.randn(2, 21, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pupil, axis, pitch = torch.polar(torch.ones_like(phase), phase), centred_axis(21, 4e-5, torch.float64), 5e-6
    sensor = pixel_axis(pixels, pitch, per_pixel, torch.float64)
    points = fraunhofer(pupil, axis, sensor, WAVELENGTHS[:2], DISTANCE).abs().square()
    expected = torch.nn.functional.avg_pool2d(points, per_pixel) * pitch**2 / (21 * 4e-5) ** 2
    kind = torch.complex64 if dtype == torch.float32 else torch.complex128
    arguments = pupil.to(kind), axis.to(dtype), WAVELENGTHS[:2].to(dtype), DISTANCE, pixels, pitch, per_pixel
    shares = psf.pixel_integrated_psf(*arguments).double()
    assert (shares - expected).abs().max() <= tolerance * expected.max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-6)])
def test_gradients_of_the_pixels_are_those_of_the_plain_transform(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(1)
    phase = torch.randn(1, 10, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    axis, pitch, wavelengths = centred_axis(10, 1e-4, torch.float64), 5e-6, WAVELENGTHS[:1]
    wanted = torch.rand(1, 7, 7, generator=generator, dtype=torch.float64)

    pupil = torch.polar(torch.ones_like(phase), phase).to(dtype.to_complex())
    shares = psf.pixel_integrated_psf(pupil, axis.to(dtype), wavelengths.to(dtype), DISTANCE, 7, pitch, 2)
    (found,) = torch.autograd.grad((shares * wanted).sum(), phase)

    field = fraunhofer(torch.polar(torch.ones_like(phase), phase), axis, pixel_axis(7, pitch, 2), wavelengths, DISTANCE)
    plain = torch.nn.functional.avg_pool2d(field.abs().square(), 2) * pitch**2 / (10 * 1e-4) ** 2
    (expected,) = torch.autograd.grad((plain * wanted).sum(), phase)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_energy_of_a_soft_pupil_lies_in_a_small_window() -> None:
    soft = torch.exp(-(AXIS[:, None] ** 2 + AXIS[None, :] ** 2) / (0.3 * RADIUS) ** 2)
    pupil = soft.to(torch.complex128).expand(3, -1, -1)
    shares = psf.pixel_integrated_psf(pupil, AXIS, WAVELENGTHS, DISTANCE, 41, SPOT / 2, 1)
    torch.testing.assert_close(shares.sum(dim=(-2, -1)), torch.ones(3).double(), rtol=0, atol=1e-4)


def test_points_per_pixel_reach_the_nyquist_pitch_of_each_colours_intensity() -> None:
    wavelengths = (640e-9, 550e-9, 440e-9)
    for pitch in (0.1e-6, 1.0e-6, 1.5e-6, 8.1e-6):
        counts = psf.samples_per_pixel(pitch, wavelengths, DISTANCE, RADIUS)
        for wavelength, count in zip(wavelengths, counts, strict=True):
            nyquist = wavelength * DISTANCE / (4 * RADIUS)
            assert pitch / count <= nyquist
            assert count <= 2 or pitch / (count - 1) > nyquist
        assert (min(counts) == 1) == (max(counts) == 1)


def test_each_colour_is_integrated_with_its_own_number_of_points() -> None:
    soft = torch.exp(-(AXIS[:, None] ** 2 + AXIS[None, :] ** 2) / (0.5 * RADIUS) ** 2)
    pupil = soft.to(torch.complex128).expand(3, -1, -1)
    together = psf.pixel_integrated_psf(pupil, AXIS, WAVELENGTHS, DISTANCE, 21, SPOT / 2, (1, 2, 3))
    for colour, count in enumerate((1, 2, 3)):
        part = slice(colour, colour + 1)
        alone = psf.pixel_integrated_psf(pupil[part], AXIS, WAVELENGTHS[part], DISTANCE, 21, SPOT / 2, count)
        torch.testing.assert_close(together[part], alone)


def test_each_channel_is_normalised_by_itself() -> None:
    uneven = torch.rand(3, 5, 5) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    torch.testing.assert_close(psf.normalise_energy(uneven).sum(dim=(-2, -1)), torch.ones(3))


@pytest.mark.parametrize(("at_least", "size"), [(1, 2), (9, 10), (64, 64), (97, 100), (336, 360)])
def test_fft_sizes_have_small_factors(at_least: int, size: int) -> None:
    assert psf.fast_fft_size(at_least) == size


@pytest.fixture
def scene() -> tuple[Tensor, Tensor]:
    """Two images ``(2, 3, 24, 24)`` and a lopsided PSF ``(3, 9, 9)``."""
    generator = torch.Generator().manual_seed(1)
    kernel = torch.rand(3, 9, 9, generator=generator, dtype=torch.float64) ** 4
    return torch.rand(2, 3, 24, 24, generator=generator, dtype=torch.float64), psf.normalise_energy(kernel)


@pytest.mark.parametrize("mode", ["nearest", "wrap"])
def test_convolutions_equal_a_direct_sum(scene: tuple[Tensor, Tensor], mode: str) -> None:
    image, kernel = scene
    if mode == "nearest":  # linear, the scene continued by its border
        transfer = psf.optical_transfer_function(kernel, psf.fast_fft_size(24 + 9 - 1))
        blurred = psf.convolve_linear(image, transfer, margin=4)
    else:
        blurred = psf.convolve_circular(image, psf.optical_transfer_function(kernel, 24))
    for item in range(2):
        for channel in range(3):
            direct = ndimage.convolve(image[item, channel].numpy(), kernel[channel].numpy(), mode=mode)
            np.testing.assert_allclose(blurred[item, channel].numpy(), direct, atol=1e-12)


def test_a_point_becomes_the_psf_the_right_way_round(scene: tuple[Tensor, Tensor]) -> None:
    _, kernel = scene
    point = torch.zeros(1, 3, 24, 24, dtype=torch.float64)
    point[..., 10, 13] = 1
    transfer = psf.optical_transfer_function(kernel, psf.fast_fft_size(32))
    image = psf.convolve_linear(point, transfer, margin=4)[0]
    torch.testing.assert_close(image[:, 6:15, 9:18], kernel)
    assert image.sum().item() == pytest.approx(3)


@pytest.mark.parametrize("each", [False, True], ids=["one for all", "one each"])
@pytest.mark.parametrize("margin", [0, 3])
def test_the_convolution_has_the_gradients_of_its_plain_form(each: bool, margin: int) -> None:
    random = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, 7, 7, generator=random, dtype=torch.float64)
    kernels = torch.rand(*((2,) if each else ()), 3, 2 * margin + 1, 2 * margin + 1, generator=random).double()
    wanted, size = torch.rand(image.shape, generator=random, dtype=torch.float64), psf.fast_fft_size(7 + 2 * margin)

    def plain(image: Tensor, transfer: Tensor) -> Tensor:
        after = size - 7 - margin
        wide = torch.nn.functional.pad(image, (margin, after, margin, after), mode="replicate")
        return torch.fft.irfft2(torch.fft.rfft2(wide) * transfer)[..., margin : margin + 7, margin : margin + 7]

    found = []
    for convolve in (lambda *given: psf.convolve_linear(*given, margin), plain):
        given = image.clone().requires_grad_(), kernels.clone().requires_grad_()
        blurred = convolve(given[0], psf.optical_transfer_function(given[1], size))
        found.append((blurred, *torch.autograd.grad((blurred * wanted).sum(), given)))
    for quick, expected in zip(*found, strict=True):
        torch.testing.assert_close(quick, expected)
