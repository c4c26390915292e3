"""The sensor: linear light to electrons, noise, quantisation; and the sRGB curve on either side of it."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phaseveil.errors import ConfigError

_DARK_CODE, _DARK_LIGHT = 0.04045, 0.0031308  # where the sRGB curve becomes a straight line


@dataclass
class SensorConfig:
    """Photosite and converter.

    Attributes:
        full_well: Electrons at saturation.
        read_noise: RMS read noise, electrons.
        exposure: Share of the full well that white fills, above 0; beyond 1 white saturates.
        bits: Bits of the analogue-digital converter.
    """

    full_well: float = 10_000.0
    read_noise: float = 3.0
    exposure: float = 0.9
    bits: int = 10

    def __post_init__(self) -> None:
        if self.full_well <= 0 or self.read_noise < 0 or self.exposure <= 0:
            raise ConfigError("sensor: full_well and exposure must be above 0 electrons, read_noise at least 0")
        if not 1 <= self.bits <= 16:
            raise ConfigError(f"sensor: bits must lie between 1 and 16, got {self.bits}")

    def noisier(self, factor: float) -> "SensorConfig":
        """The same sensor, its noise a factor larger against the signal; shot noise falls as the root of full well."""
        return replace(self, full_well=self.full_well / factor**2, read_noise=self.read_noise / factor)


def srgb_to_linear(image: Tensor) -> Tensor:
    """sRGB code values to linear light, both 0 to 1 (IEC 61966-2-1). Any shape; differentiable once."""
    return _SrgbToLinear.apply(image)


def linear_to_srgb(light: Tensor) -> Tensor:
    """Linear light to sRGB code values, both 0 to 1 (IEC 61966-2-1). Any shape; differentiable once."""
    return _LinearToSrgb.apply(light)


class _SrgbToLinear(torch.autograd.Function):
    """The power law; what is darker goes on along its straight line. The slope takes no second power.

    By logarithms to base 2: a fraction of the time of ``pow``, at errors of some units in the last place.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        curved = image.clamp_min(_DARK_CODE)
        straight = image - curved
        light = curved.add_(0.055).div_(1.055).log2_().mul_(2.4).exp2_().add_(straight, alpha=1 / 12.92)
        ctx.save_for_backward(image, light)
        return light

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        image, light = ctx.saved_tensors
        slope = (light / (image + 0.055)).mul_(2.4)
        return slope.masked_fill_(image < _DARK_CODE, 1 / 12.92).mul_(gradient)


class _LinearToSrgb(torch.autograd.Function):
    """The inverse of :class:`_SrgbToLinear`."""

    @staticmethod
    def forward(ctx: Any, light: Tensor) -> Tensor:
        curved = light.clamp_min(_DARK_LIGHT)
        straight = light - curved
        code = curved.log2_().div_(2.4).exp2_().mul_(1.055).sub_(0.055).add_(straight, alpha=12.92)
        ctx.save_for_backward(light, code)
        return code

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        light, code = ctx.saved_tensors
        slope = (code + 0.055).div_(light).div_(2.4)
        return slope.masked_fill_(light < _DARK_LIGHT, 12.92).mul_(gradient)


def expose(light: Tensor, config: SensorConfig, generator: torch.Generator | None = None) -> Tensor:
    """Read out linear light: shot and read noise, saturation, quantisation, at a fixed gain.

    Shot noise is drawn as a normal of variance equal to its mean, in electrons: the limit of the Poisson law, off by
    less than 2 % in skewness above 2500 electrons, and differentiable with respect to the light [Foi et al. 2008,
    IEEE TIP 17, 1737]. Nothing depends on the image's own maximum.

    Args:
        light: Linear light, 0 to 1. Any shape.
        config: The sensor.
        generator: Source of the noise, on the light's device; ``None`` gives the noiseless read-out.

    Returns:
        Linear light, 0 to 1, of the same shape; differentiable once, the gradient passes straight through the
        quantisation.
    """
    noise = None
    if generator is not None:
        noise = torch.randn(light.shape, generator=generator, device=light.device, dtype=light.dtype)
    reading: Tensor = _ReadOut.apply(light, noise, config)
    return reading


class _ReadOut(torch.autograd.Function):
    """To the gradient rounding is the identity [Bengio et al. 2013, arXiv 1308.3432]; what is cut off has none."""

    @staticmethod
    def forward(ctx: Any, light: Tensor, noise: Tensor | None, config: SensorConfig) -> Tensor:
        steps, slope = 2**config.bits - 1, None
        electrons = light * (config.exposure * config.full_well)
        if noise is not None:
            spread = electrons.clamp_min(0).add_(config.read_noise**2 + 1e-6).sqrt_()
            electrons.addcmul_(noise, spread)
            if ctx.needs_input_grad[0]:
                slope = (noise / spread).mul_(0.5).add_(1)
        filled = electrons.div_(config.full_well)
        ctx.save_for_backward(filled, slope)
        # Up to here a level is not above white.
        ctx.limit = min(1.0, (math.floor(config.exposure * steps) + 0.5) / steps)
        return filled.clamp(0, 1).mul_(steps).round_().div_(steps).div_(config.exposure).clamp_max_(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        filled, slope = ctx.saved_tensors
        passed = gradient * (filled.clamp(0, ctx.limit) == filled)
        return passed if slope is None else passed.mul_(slope), None, None


def noise_variance(config: SensorConfig, light: float) -> float:
    """Variance of the read-out of linear light (0 to 1) about it: shot and read noise, and rounding to the levels.

    Rounding counts as uniform noise of a twelfth of a squared step [Widrow 1956, IRE Trans. Circuit Theory 3, 266].
    """
    white = config.exposure * config.full_well
    step = 1 / ((2**config.bits - 1) * config.exposure)
    return (light * white + config.read_noise**2) / white**2 + step**2 / 12
