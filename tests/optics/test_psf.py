"""Point spread functions: energy, MTF and pixels against closed forms; convolutions against a direct sum."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from torch import Tensor

from phaseveil.optics import propagation, psf
from phaseveil.optics.grid import centred_axis, circular_aperture
from phaseveil.optics.propagation import fraunhofer
from phaseveil.optics.zernike import zernike_basis

DISTANCE, RADIUS, SAMPLES = 8e-3, 0.5e-3, 128
WAVELENGTHS = torch.tensor([640e-9, 550e-9, 440e-9], dtype=torch.float64)
SPOT = 550e-9 * DISTANCE / (2 * RADIUS)  # λF of the green channel, metres
AXIS = centred_axis(SAMPLES, 2 * RADIUS / SAMPLES, torch.float64)
APERTURE = circular_aperture(SAMPLES).double()


def green_psf(pixels: int, pitch: float, of: Callable[..., Tensor] = psf.sampled_psf) -> Tensor:
    """Clear circular pupil at 550 nm. Shape ``(pixels, pixels)``."""
    return of(APERTURE, torch.zeros_like(APERTURE)[None], AXIS, WAVELENGTHS[1:2], DISTANCE, pixels, pitch)[0]


def plain(pupil: Tensor, axis: Tensor, wavelengths: Tensor, points: Tensor) -> Tensor:
    """Intensity over the pupil's energy, by the plain transform. Shape ``(L, U, U)``."""
    energy = pupil.abs().square().sum(dim=(1, 2), keepdim=True) * (axis[1] - axis[0]) ** 2
    return fraunhofer(pupil, axis, points, wavelengths, DISTANCE).abs().square() / energy


def plain_points(pupil: Tensor, axis: Tensor, wavelengths: Tensor, pixels: int, pitch: float) -> Tensor:
    """Shares of pixels whose middle stands for all of them."""
    return plain(pupil, axis, wavelengths, centred_axis(pixels, pitch, torch.float64)) * pitch**2


def plain_pixels(pupil: Tensor, axis: Tensor, wavelengths: Tensor, pixels: int, pitch: float) -> Tensor:
    """Shares of the pixels by quadrature: 16 Gauss-Legendre nodes a pixel and axis."""
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(16))
    points = centred_axis(pixels, pitch, torch.float64)[:, None] + nodes * pitch / 2
    intensity = plain(pupil, axis, wavelengths, points.flatten()).reshape(-1, pixels, 16, pixels, 16)
    return (intensity * weights[:, None, None] * weights).sum(dim=(2, 4)) * (pitch / 2) ** 2


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
    pixels, pitch = 201, SPOT / 2
    shares = green_psf(pixels, pitch, psf.pixel_integrated_psf)
    transfer = psf.optical_transfer_function(psf.normalise_energy(shares[None]), pixels)
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energy_is_kept_on_a_support_that_holds_it(channel: int, dtype: torch.dtype) -> None:
    """One period λz/Δx of the pattern holds all the light that a sampled pupil can send anywhere (Parseval)."""
    wavelength = WAVELENGTHS[channel : channel + 1].to(dtype)
    height = torch.einsum("m,mhw->hw", torch.linspace(-1, 1, 12).double(), zernike_basis(range(4, 16), SAMPLES))
    period = wavelength.item() * DISTANCE * SAMPLES / (2 * RADIUS)
    pupil = APERTURE.to(dtype), height[None].to(dtype), AXIS.to(dtype)
    shares = psf.pixel_integrated_psf(*pupil, wavelength, DISTANCE, 151, period / 151)
    assert shares.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.fixture(params=[True, False], ids=["convolutions", "products"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of a transform's products in turn, whatever processor this is."""
    monkeypatch.setattr(propagation, "wide_avx512", lambda: request.param)


KINDS = [(psf.pixel_integrated_psf, plain_pixels), (psf.sampled_psf, plain_points)]


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("pixels", [8, 9])
@pytest.mark.parametrize("samples", [20, 21])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("quick", "slow"), KINDS)
def test_shares_are_those_of_the_plain_transform(
    quick: Callable[..., Tensor],
    slow: Callable[..., Tensor],
    dtype: torch.dtype,
    tolerance: float,
    samples: int,
    pixels: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    amplitude = torch.rand(samples, samples, generator=generator, dtype=torch.float64)
    phase = 3 * torch.randn(2, samples, samples, generator=generator, dtype=torch.float64)
    axis, pitch = centred_axis(samples, 4e-5, torch.float64), 10e-6  # 2 to 4 λz/(4a)
    expected = slow(torch.polar(amplitude.expand_as(phase), phase), axis, WAVELENGTHS[:2], pixels, pitch)
    given = (value.to(dtype) for value in (amplitude, phase, axis, WAVELENGTHS[:2]))
    found = quick(*given, DISTANCE, pixels, pitch)
    assert (found - expected).abs().max() <= tolerance * expected.max()
    assert (found >= 0).all()


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize(("quick", "slow"), KINDS)
def test_gradients_are_those_of_the_plain_transform(
    quick: Callable[..., Tensor], slow: Callable[..., Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    amplitude = torch.rand(10, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    phase = torch.randn(1, 10, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    axis, pitch, wavelengths = centred_axis(10, 1e-4, torch.float64), 5e-6, WAVELENGTHS[:1]
    wanted = torch.rand(1, 7, 7, generator=generator, dtype=torch.float64)

    given = (value.to(dtype) for value in (amplitude, phase, axis, wavelengths))
    found = torch.autograd.grad((quick(*given, DISTANCE, 7, pitch) * wanted).sum(), (amplitude, phase))
    shares = slow(torch.polar(amplitude[None], phase), axis, wavelengths, 7, pitch)
    expected = torch.autograd.grad((shares * wanted).sum(), (amplitude, phase))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


def test_a_psf_computed_in_inference_mode_leaves_gradients_to_later_ones() -> None:
    phase, of = torch.zeros(1, SAMPLES, SAMPLES, dtype=torch.float64), (AXIS, WAVELENGTHS[:1], DISTANCE, 9, SPOT / 3)
    with torch.inference_mode():
        psf.pixel_integrated_psf(APERTURE, phase, *of)
    psf.pixel_integrated_psf(APERTURE, phase.requires_grad_(), *of).square().sum().backward()
    assert phase.grad is not None


def test_energy_of_a_soft_pupil_lies_in_a_small_window() -> None:
    soft, flat = torch.exp(-(AXIS[:, None] ** 2 + AXIS[None, :] ** 2) / (0.3 * RADIUS) ** 2), torch.zeros_like(APERTURE)
    shares = psf.pixel_integrated_psf(soft, flat.expand(3, -1, -1), AXIS, WAVELENGTHS, DISTANCE, 41, SPOT / 2)
    torch.testing.assert_close(shares.sum(dim=(-2, -1)), torch.ones(3).double(), rtol=0, atol=1e-4)


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
