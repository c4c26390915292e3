"""Attack A1: deconvolution of acquisitions with a known point spread function, tuned by the attacker.

All methods work in linear light on the camera's own model: a scene continued beyond the frame by its border pixels is
convolved linearly, and only the frame is seen. That model is a linear map of the frame onto itself, so nothing has to
be guessed about the borders. Images are batches ``(B, 3, S, S)``, sRGB, 0 to 1, on any device; each is restored by
itself, whatever batch it comes in, with a PSF for all or one of its own.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from phaseveil.errors import ConfigError, InputError
from phaseveil.optics.psf import fast_fft_size, optical_transfer_function
from phaseveil.optics.sensor import linear_to_srgb, srgb_to_linear

MOST_WIENER_ITERATIONS = 320
TV_ITERATIONS = 25
AT_A_TIME = 4
"""Images restored together: their spectra stay in a core's cache, where 32 take a sixth longer."""
_PENALTY = 80.0  # ADMM's penalty over the TV weight: gradients are soft-thresholded at 1/80 of white
_COMPLETION_NOISE = 0.1  # noise-to-signal ratio of the estimate that completes an acquisition for TV
_DARKEST = 1e-6  # light, share of white; divisions stop there
_TINY = 1e-30

Restore = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Blur:
    r"""The camera's optics as the attacker models them: :math:`A = R\,F^{-1} H F\,E`, a linear map of S × S frames.

    E continues the scene onto a periodic grid of P pixels: by its border pixels as far as the PSF reaches into the
    frame, then by a smooth passage to the opposite border. H is the transfer function, R cuts out the frame.

    Attributes:
        transfer: H. Shape ``(3, P, P // 2 + 1)``, or ``(B, 3, P, P // 2 + 1)``, complex.
        power: ``|H|²``. Same shape.
        passage: Along one axis, how much of each pixel beyond the frame is the first pixel of the frame; the rest is
            its last. Shape ``(P - S,)``.
    """

    transfer: Tensor
    power: Tensor
    passage: Tensor

    @classmethod
    def of(cls, psf: Tensor, size: int) -> "Blur":
        """The model for frames of ``size`` pixels.

        Args:
            psf: Unit sum per channel, centred. Shape ``(3, K, K)``, or ``(B, 3, K, K)``, K odd.
            size: S.

        Raises:
            ConfigError: Not such a PSF.
        """
        support = psf.shape[-1]
        if psf.ndim not in (3, 4) or psf.shape[-3:] != (3, support, support) or support % 2 == 0:
            raise ConfigError(f"deconvolution: a PSF has the shape (3, K, K), K odd, got {tuple(psf.shape)}")
        if not torch.allclose(psf.sum(dim=(-2, -1)), psf.new_ones(3), atol=1e-3):
            raise ConfigError("deconvolution: each channel of a PSF must sum to 1; normalise it")
        margin = support // 2
        grid = fast_fft_size(size + 2 * margin + max(8, margin // 2))
        psf = psf.detach().float()
        transfer = optical_transfer_function(psf, grid)
        power = transfer.real.square() + transfer.imag.square()
        return cls(transfer, power, _passage(size, grid, margin).to(psf.device))

    @property
    def grid(self) -> int:
        """P."""
        return self.transfer.shape[-2]

    @property
    def size(self) -> int:
        """S."""
        return self.grid - len(self.passage)

    def spectrum(self, light: Tensor) -> Tensor:
        """F E: half-plane spectrum of frames continued onto the grid. ``(B, 3, S, S)`` → ``(B, 3, P, P // 2 + 1)``.

        Rows beyond the frame are mixtures of two of its rows, and so are their transforms.
        """
        lines = torch.fft.rfft(_continued(light, self.passage, dim=-1))
        return torch.fft.fft(_continued(lines, self.passage, dim=-2), dim=-2)

    def spectrum_adjoint(self, spectrum: Tensor) -> Tensor:
        """Adjoint of :meth:`spectrum`, but for the transform's factor P²."""
        rows = _folded(torch.fft.ifft(spectrum, dim=-2), self.passage, dim=-2)
        return _folded(torch.fft.irfft(rows, n=self.grid), self.passage, dim=-1)

    def on_grid(self, spectrum: Tensor) -> Tensor:
        """Inverse transform. ``(B, 3, P, P // 2 + 1)`` → ``(B, 3, P, P)``."""
        return torch.fft.irfft2(spectrum, s=(self.grid, self.grid))

    def in_frame(self, spectrum: Tensor) -> Tensor:
        """R F⁻¹: :meth:`on_grid` where the frame is, ``(B, 3, S, S)``. Other rows are not transformed."""
        rows = torch.fft.ifft(spectrum, dim=-2)[..., : self.size, :]
        return torch.fft.irfft(rows, n=self.grid)[..., : self.size]

    def framed_spectrum(self, frame: Tensor) -> Tensor:
        """F Rᵀ: spectrum of frames with darkness beyond, ``(B, 3, S, S)`` → ``(B, 3, P, P // 2 + 1)``."""
        return torch.fft.fft(torch.fft.rfft(frame, n=self.grid), n=self.grid, dim=-2)

    def forward(self, light: Tensor) -> Tensor:
        """A: what the optics make of linear light. Shape ``(B, 3, S, S)``, kept."""
        return self.in_frame(self.spectrum(light) * self.transfer)

    def adjoint(self, frame: Tensor) -> Tensor:
        """A's adjoint. Shape ``(B, 3, S, S)``, kept."""
        return self.spectrum_adjoint(self.framed_spectrum(frame) * self.transfer.conj())


def wiener(acquisition: Tensor, psf: Tensor, noise_to_signal: float) -> Tensor:
    r"""Wiener's estimate: least mean square error for white noise and a natural scene, power spectrum 1/f².

    .. math:: (A^T A + E^T F^{-1} K F E)\,x = A^T y, \qquad K = \mathrm{noise\_to\_signal}\,(f/f_N)^2

    On an endless frame that is Wiener's filter :math:`H^* / (|H|^2 + K)` (Wiener 1949; Gonzalez and Woods, *Digital
    Image Processing*, section 5.8; 1/f²: Field 1987, J. Opt. Soc. Am. A 4, 2379). On the real one, of which the
    blur carries light in and out, it is solved by conjugate gradients, preconditioned with the endless frame's inverse.

    Args:
        acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
        psf: Unit sum per channel. Shape ``(3, K, K)``, or ``(B, 3, K, K)``, K odd.
        noise_to_signal: Power of the noise over that of the scene at the Nyquist frequency f_N, above 0.

    Returns:
        Restored scene, sRGB, 0 to 1. Shape ``(B, 3, S, S)``.

    Raises:
        InputError: The acquisition is not such a batch.
        ConfigError: Not such a PSF, or an impossible parameter.
    """
    light, blur = _observed(acquisition, psf, noise_to_signal)
    return _image(_wiener_light(light, blur, noise_to_signal))


def richardson_lucy(acquisition: Tensor, psf: Tensor, iterations: float) -> Tensor:
    r"""Richardson-Lucy: towards the most likely scene under shot noise; stopping early is the regularisation.

    .. math:: x \leftarrow x \cdot A^T(y / A x) \,/\, A^T 1

    Richardson 1972, J. Opt. Soc. Am. 62, 55; Lucy 1974, Astron. J. 79, 745. The division by :math:`A^T 1` accounts
    for light that never reached the frame (Bertero and Boccacci 2005, Astron. Astrophys. 437, 369). Each step starts
    from an extrapolation of the last two (Biggs and Andrews 1997, Applied Optics 36, 1766): 40 do the work of 300.

    Args:
        acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
        psf: Unit sum per channel. Shape ``(3, K, K)``, or ``(B, 3, K, K)``, K odd.
        iterations: At least 1; rounded.

    Returns:
        Restored scene, sRGB, 0 to 1. Shape ``(B, 3, S, S)``.

    Raises:
        InputError: The acquisition is not such a batch.
        ConfigError: Not such a PSF, or an impossible parameter.
    """
    light, blur = _observed(acquisition, psf, iterations)
    sensitivity = blur.adjoint(torch.ones_like(light[:1])).clamp_min(_DARKEST)
    scene = ahead = light.clamp_min(1e-3)  # a factor never moves a zero
    move = torch.zeros_like(scene)
    for _ in range(max(1, round(iterations))):
        ratio = light / blur.forward(ahead).clamp_min(_DARKEST)
        previous, scene = scene, ahead * (blur.adjoint(ratio) / sensitivity).clamp_min(0)
        previous_move, move = move, scene - ahead
        reach = _inner(move, previous_move) / _inner(previous_move, previous_move).clamp_min(_TINY)
        ahead = (scene + reach.clamp(0, 1) * (scene - previous)).clamp_min(0)
    return _image(scene)


def tv_admm(acquisition: Tensor, psf: Tensor, weight: float, iterations: int = TV_ITERATIONS) -> Tensor:
    r"""Total variation, isotropic and joint over the colours, by the alternating direction method of multipliers.

    .. math:: \min_x \tfrac12 |H x - y|^2 + \mathrm{weight} \sum_i \Big(\sum_{c} |\nabla x_{c,i}|^2\Big)^{1/2}

    Rudin, Osher and Fatemi 1992, Physica D 60, 259; colours: Bresson and Chan 2008, Inverse Problems and Imaging 2,
    455; splitting: Wang, Yang, Yin and Zhang 2008, SIAM J. Imaging Sci. 1, 248, as ADMM in Boyd et al. 2011, section
    6.4. Each step is one division in the Fourier domain and one soft threshold. What lies beyond the frame is first
    completed by blurring Wiener's estimate of the scene.

    Args:
        acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
        psf: Unit sum per channel. Shape ``(3, K, K)``, or ``(B, 3, K, K)``, K odd.
        weight: Of the total variation, linear light, above 0.
        iterations: Of ADMM.

    Returns:
        Restored scene, sRGB, 0 to 1. Shape ``(B, 3, S, S)``.

    Raises:
        InputError: The acquisition is not such a batch.
        ConfigError: Not such a PSF, or an impossible parameter.
    """
    light, blur = _observed(acquisition, psf, weight)
    observed = _completed(light, blur)
    penalty = weight * _PENALTY
    seen = torch.fft.rfft2(observed) * blur.transfer.conj()
    denominator = blur.power + penalty * _laplacian(blur.grid, light.device)
    split, dual = _gradient(observed), torch.zeros(2, *observed.shape, device=light.device)
    scene = observed
    for _ in range(iterations):
        pulled = torch.fft.rfft2(_gradient_adjoint(split - dual))
        scene = blur.on_grid((seen + penalty * pulled) / denominator)
        slope = _gradient(scene)
        split = _shrink(slope + dual, 1 / _PENALTY)
        dual = dual + slope - split
    return _image(scene[..., : blur.size, : blur.size])


def with_psf(images: Tensor, psf: Tensor, batch_size: int = AT_A_TIME) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images ``(N, 3, S, S)`` with their PSF: one for all ``(3, K, K)``, or one each ``(N, 3, K, K)``."""
    own = psf.split(batch_size) if psf.ndim == 4 else repeat(psf)
    return zip(images.split(batch_size), own, strict=False)


@dataclass(frozen=True)
class Method:
    """A deconvolution with one parameter to tune.

    Attributes:
        restore: Takes acquisition, PSF and parameter, as :func:`wiener` does.
        parameter: What the parameter is called.
        candidates: Values to try first, rising.
        limits: Lowest and highest value worth trying.
    """

    restore: Restore
    parameter: str
    candidates: tuple[float, ...]
    limits: tuple[float, float]


METHODS: dict[str, Method] = {
    "wiener": Method(wiener, "noise_to_signal", (3e-3, 3e-2, 3e-1), (1e-6, 1e3)),
    "richardson-lucy": Method(richardson_lucy, "iterations", (5, 20, 80), (1, 160)),
    "tv": Method(tv_admm, "weight", (1e-5, 1e-4, 1e-3), (1e-8, 1.0)),
}


def _observed(acquisition: Tensor, psf: Tensor, parameter: float) -> tuple[Tensor, Blur]:
    """Linear light of an acquisition, and the model of its blur."""
    if acquisition.ndim != 4 or acquisition.shape[1] != 3 or acquisition.shape[-1] != acquisition.shape[-2]:
        raise InputError(f"deconvolution takes batches (B, 3, S, S) of square frames, got {tuple(acquisition.shape)}")
    if not parameter > 0:
        raise ConfigError(f"deconvolution: the parameter must be above 0, got {parameter:g}")
    if psf.ndim == 4 and len(psf) != len(acquisition):
        raise InputError(f"deconvolution: {len(acquisition)} images need as many PSFs or one, got {len(psf)}")
    return srgb_to_linear(acquisition.float()), Blur.of(psf.to(acquisition.device), acquisition.shape[-1])


def _image(light: Tensor) -> Tensor:
    """sRGB of linear light, 0 to 1; the second clamp removes the curve's rounding at black."""
    return linear_to_srgb(light.clamp(0, 1)).clamp(0, 1)


def _passage(size: int, grid: int, margin: int) -> Tensor:
    """Share of the frame's first pixel in those beyond its last: 0 as far as the blur reaches, then smoothly to 1."""
    place = torch.arange(size, grid, dtype=torch.float32)
    way = ((place - (size - 1) - margin) / (grid - size + 1 - 2 * margin)).clamp(0, 1)
    return way.square() * (3 - 2 * way)


def _continued(frame: Tensor, passage: Tensor, dim: int) -> Tensor:
    """E along a dimension: S pixels, then mixtures of the last and the first."""
    shape = [1] * frame.ndim
    shape[dim] = len(passage)
    share = passage.view(shape)
    first, last = frame.narrow(dim, 0, 1), frame.narrow(dim, frame.shape[dim] - 1, 1)
    return torch.cat([frame, last * (1 - share) + first * share], dim)


def _folded(wide: Tensor, passage: Tensor, dim: int) -> Tensor:
    """Adjoint of :func:`_continued`: what lies beyond the frame is added to its last and its first pixel."""
    size = wide.shape[dim] - len(passage)
    frame = wide.narrow(dim, 0, size).clone()
    beyond = wide.narrow(dim, size, len(passage)).movedim(dim, -1)
    share = passage.to(wide.dtype)
    frame.select(dim, 0).add_(beyond @ share)
    frame.select(dim, -1).add_(beyond @ (1 - share))
    return frame


def _wiener_light(light: Tensor, blur: Blur, noise_to_signal: float) -> Tensor:
    """Wiener's estimate in linear light, by preconditioned conjugate gradients (Nocedal and Wright, algorithm 5.3)."""
    along_y, along_x = _frequencies(blur.grid, light.device)
    prior = noise_to_signal * ((2 * along_y).square() + (2 * along_x).square())
    inverse = 1 / (blur.power + prior)

    def normal(scene: Tensor) -> Tensor:
        spectrum = blur.spectrum(scene)
        seen = blur.framed_spectrum(blur.in_frame(spectrum * blur.transfer)).mul_(blur.transfer.conj())
        return blur.spectrum_adjoint(seen.addcmul_(prior, spectrum))

    def precondition(residual: Tensor) -> Tensor:
        return blur.in_frame(blur.framed_spectrum(residual).mul_(inverse))

    scene = light
    residual = blur.adjoint(light) - normal(scene)
    step = precondition(residual)
    direction, gain = step, _inner(residual, step)
    for _ in range(_wiener_iterations(noise_to_signal)):
        image = normal(direction)
        length = gain / _inner(direction, image).clamp_min(_TINY)
        scene = scene + length * direction
        residual = residual - length * image
        step = precondition(residual)
        new_gain = _inner(residual, step)
        direction = step + new_gain / gain.clamp_min(_TINY) * direction
        gain = new_gain
    return scene


def _wiener_iterations(noise_to_signal: float) -> int:
    """Steps until the estimate stands to about 0.1 dB: they grow as the root of the system's condition number."""
    return min(round(10 + 3 / math.sqrt(noise_to_signal)), MOST_WIENER_ITERATIONS)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of each image. Shape ``(B, 1, 1, 1)``."""
    return (first * second).sum(dim=(1, 2, 3), keepdim=True)


def _completed(light: Tensor, blur: Blur) -> Tensor:
    """The acquisition on the periodic grid: as seen inside the frame, blurred from an estimate beyond it."""
    estimate = _wiener_light(light, blur, _COMPLETION_NOISE).clamp(0, 1)
    completed = blur.on_grid(blur.spectrum(estimate) * blur.transfer)
    completed[..., : blur.size, : blur.size] = light
    return completed


def _frequencies(grid: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cycles per pixel of a half-plane spectrum. Shapes ``(P, 1)`` and ``(1, P // 2 + 1)``."""
    return torch.fft.fftfreq(grid, device=device)[:, None], torch.fft.rfftfreq(grid, device=device)[None, :]


def _laplacian(grid: int, device: torch.device) -> Tensor:
    """Spectrum of the gradient's adjoint times the gradient, at least 0. Shape ``(P, P // 2 + 1)``."""
    along_y, along_x = _frequencies(grid, device)
    return 4 * (torch.sin(math.pi * along_y).square() + torch.sin(math.pi * along_x).square())


def _gradient(image: Tensor) -> Tensor:
    """Periodic forward differences along x and y. Shape ``(2, *image.shape)``."""
    return torch.stack([torch.roll(image, -1, -1) - image, torch.roll(image, -1, -2) - image])


def _gradient_adjoint(slope: Tensor) -> Tensor:
    return torch.roll(slope[0], 1, -1) - slope[0] + torch.roll(slope[1], 1, -2) - slope[1]


def _shrink(slope: Tensor, threshold: float) -> Tensor:
    """Shorten each pixel's gradient, over directions and colours together, by ``threshold``; at most to 0."""
    length = slope.square().sum(dim=(0, 2), keepdim=True).sqrt()
    return slope * (1 - threshold / length.clamp_min(_DARKEST)).clamp_min(0)
