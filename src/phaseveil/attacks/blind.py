r"""Attack A2: the family of a camera's PSFs is known, not the one that an exposure was taken with.

Empirical Bayes, as in blind deconvolution: the PSF of highest marginal likelihood, the scene being integrated out
[Levin, Weiss, Durand and Freeman 2009, CVPR, Understanding and evaluating blind deconvolution algorithms, section 3.3].
With a Gaussian scene and Gaussian noise the integral is closed. Let a scene have the power spectrum
:math:`P/f^\gamma`, γ about 2 (Field 1987, J. Opt. Soc. Am. A 4, 2379), and a sensor white noise of variance
:math:`\sigma^2`. The acquisition :math:`Y = HX + N` is then Gaussian with zero mean and variance :math:`S_f` at each
frequency, independently, so that but for a constant

.. math:: \log p(Y \mid H) = -\sum_f \left[\log S_f + \frac{|Y_f|^2}{S_f}\right],
          \qquad S_f = P\,\frac{|H_f|^2}{f^\gamma} + \sigma^2

over half the plane. It needs no phase: a PSF and the same turned by half a turn are equally likely.

A frame is no endless scene. Its borders, where light comes in from outside, are faded out by a window w, and
:math:`|H|^2/f^\gamma` is replaced by what a windowed frame shows of it on average,
:math:`F\{r \cdot (w \star w)\}` with the autocovariance r [Sykulski et al. 2019, Biometrika 106, 251, The debiased
Whittle likelihood]: what leaks into the zeros of H would otherwise pass for light. P is the likeliest for each image
and colour, γ that of :data:`SLOPES` for each image: pictures differ in it, and a wrong one is mended by a wrong PSF.
"""

import torch
from torch import Tensor

from phaseveil.errors import ConfigError, InputError
from phaseveil.optics.psf import optical_transfer_function
from phaseveil.optics.sensor import SensorConfig, srgb_to_linear
from phaseveil.progress import Report

SLOPES = (2.0, 2.5, 3.0)
LOWEST = 2.5  # cycles per frame; below, the window mixes with the mean that was taken off
SCORING_STEPS = 8
_LARGEST_STEP = 2.0  # of log P
_TINY = 1e-30


@torch.no_grad()
def log_evidence(acquisitions: Tensor, psfs: Tensor, sensor: SensorConfig) -> Tensor:
    """Log marginal likelihood of PSFs, but for a constant of each image; see the module.

    Neighbouring frequencies of a windowed frame are not independent, so differences are too large by about two; their
    order is right.

    Args:
        acquisitions: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
        psfs: Unit sum per channel. Shape ``(J, 3, K, K)``, K odd, at most 2 S.
        sensor: That took the acquisitions, with its noise.

    Returns:
        Nats, float64. Shape ``(B, J)``.

    Raises:
        InputError: Not such a batch.
        ConfigError: Not such PSFs.
    """
    if acquisitions.ndim != 4 or acquisitions.shape[1] != 3 or acquisitions.shape[-1] != acquisitions.shape[-2]:
        raise InputError(f"evidence takes batches (B, 3, S, S) of square frames, got {tuple(acquisitions.shape)}")
    size = acquisitions.shape[-1]
    if psfs.ndim != 4 or psfs.shape[1] != 3 or psfs.shape[-1] % 2 == 0 or psfs.shape[-1] > 2 * size:
        raise ConfigError(f"evidence: PSFs have the shape (J, 3, K, K), K odd and at most 2 S, got {tuple(psfs.shape)}")
    light, window = srgb_to_linear(acquisitions.float()), _window(size).to(acquisitions.device)
    observed = _periodogram(light, window)
    noise = _noise_power(light, window, sensor)
    weights = _weights(size).to(acquisitions.device)

    def evidence(psf: Tensor) -> Tensor:
        scenes = [_expected_periodogram(psf, window, slope) for slope in SLOPES]
        return torch.stack([_profile(observed, scene, noise, weights) for scene in scenes]).amax(dim=0)

    return torch.stack([evidence(psf) for psf in psfs], dim=1)


@torch.no_grad()
def likeliest(acquisitions: Tensor, psfs: Tensor, sensor: SensorConfig, report: Report, batch_size: int = 32) -> Tensor:
    """Number of the PSF of highest evidence for each acquisition.

    Args:
        acquisitions: sRGB, 0 to 1. Shape ``(B, 3, S, S)``, B at least 1.
        psfs: Unit sum per channel. Shape ``(J, 3, K, K)``, K odd, at most 2 S.
        sensor: That took the acquisitions, with its noise.
        report: Told the acquisitions done.
        batch_size: Acquisitions at a time; changes nothing.

    Returns:
        0 … J - 1. Shape ``(B,)``, int64.

    Raises:
        InputError: Not such a batch.
        ConfigError: Not such PSFs.
    """
    chosen: list[Tensor] = []
    for part in acquisitions.split(batch_size):
        chosen.append(log_evidence(part, psfs, sensor).argmax(dim=1))
        report(sum(map(len, chosen)), len(acquisitions))
    return torch.cat(chosen)


def _profile(observed: Tensor, scene: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
    """Log-likelihood at the likeliest P of each image and colour, found by Fisher scoring in log P. Shape ``(B,)``.

    Args:
        observed: Periodograms. Shape ``(B, 3, S, S // 2 + 1)``.
        scene: Expected periodogram of a scene with P = 1. Shape ``(3, S, S // 2 + 1)``.
        noise: Expected periodogram of the noise. Shape ``(B, 3, 1, 1)``.
        weights: Of the frequencies. Shape ``(S, S // 2 + 1)``.
    """

    def total(values: Tensor) -> Tensor:
        return (values * weights).sum(dim=(-2, -1), keepdim=True)

    power = (total((observed - noise).clamp_min(0)) / total(scene)).clamp_min(_TINY)
    for _ in range(SCORING_STEPS):
        signal = power * scene
        expected = signal + noise
        share = signal / expected
        slope = total(share * (observed / expected - 1))
        curvature = total(share.square())
        power = power * (slope / curvature.clamp_min(_TINY)).clamp(-_LARGEST_STEP, _LARGEST_STEP).exp()
    expected = power * scene + noise
    return -total((expected.log() + observed / expected).double()).sum(dim=(1, 2, 3))


def _window(size: int) -> Tensor:
    """Hann's window in both directions. Shape ``(S, S)``."""
    line = torch.sin(torch.pi * (torch.arange(size) + 0.5) / size).square()
    return line[:, None] * line[None, :]


def _periodogram(light: Tensor, window: Tensor) -> Tensor:
    """Power of windowed frames about their windowed mean. ``(B, 3, S, S)`` → ``(B, 3, S, S // 2 + 1)``."""
    mean = (light * window).sum(dim=(-2, -1), keepdim=True) / window.sum()
    spectrum = torch.fft.rfft2((light - mean) * window)
    return spectrum.real.square() + spectrum.imag.square()


def _expected_periodogram(psf: Tensor, window: Tensor, slope: float) -> Tensor:
    """What windowed frames of a blurred scene of power 1/f^slope show on average.

    On a grid of twice the frame the window's autocorrelation is linear; each second frequency of the result is one of
    the frame's. In float32, rounding would drown high frequencies. ``(3, K, K)`` → ``(3, S, S // 2 + 1)``.
    """
    psf, window, grid = psf.double(), window.double(), 2 * window.shape[-1]
    along_y, along_x = torch.fft.fftfreq(grid)[:, None], torch.fft.rfftfreq(grid)[None, :]
    squared = (along_y.square() + along_x.square()).to(psf)
    scene = torch.where(squared > 0, squared.clamp_min(_TINY) ** (-slope / 2), 0)
    transfer = optical_transfer_function(psf, grid)
    covariance = torch.fft.irfft2(scene * (transfer.real.square() + transfer.imag.square()), s=(grid, grid))
    spectrum = torch.fft.rfft2(window, s=(grid, grid))
    overlap = torch.fft.irfft2(spectrum.real.square() + spectrum.imag.square(), s=(grid, grid))
    return torch.fft.rfft2(covariance * overlap).real[..., ::2, ::2].clamp_min(_TINY).float()


def _noise_power(light: Tensor, window: Tensor, sensor: SensorConfig) -> Tensor:
    """Expected periodogram of shot noise, read noise and rounding; see :func:`phaseveil.optics.sensor.expose`.

    ``(B, 3, S, S)`` → ``(B, 3, 1, 1)``.
    """
    white = sensor.exposure * sensor.full_well
    variance = (light.clamp_min(0) * white + sensor.read_noise**2) / white**2
    rounding = (1 / (sensor.exposure * (2**sensor.bits - 1))) ** 2 / 12
    return ((variance + rounding) * window.square()).sum(dim=(-2, -1), keepdim=True)


def _weights(size: int) -> Tensor:
    """1 for each independent frequency of a real frame, 0 for the lowest. Shape ``(S, S // 2 + 1)``."""
    along_y, along_x = torch.fft.fftfreq(size)[:, None] * size, torch.fft.rfftfreq(size)[None, :] * size
    weights = (along_y.square() + along_x.square() >= LOWEST**2).float()
    weights[:, 0] /= 2  # the other half of these columns is there as well
    if size % 2 == 0:
        weights[:, -1] /= 2
    return weights
