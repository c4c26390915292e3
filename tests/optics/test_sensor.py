"""The sRGB curve, noise statistics, quantisation and fixed gain."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from phaseveil.errors import ConfigError
from phaseveil.optics.sensor import (
    SensorConfig,
    expose,
    linear_to_srgb,
    noise_variance,
    srgb_to_linear,
)

FINE = SensorConfig(bits=16)


def test_srgb_round_trip() -> None:
    code = torch.linspace(0, 1, 4097, dtype=torch.float64)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(code)), code, rtol=0, atol=1e-7)
    torch.testing.assert_close(srgb_to_linear(linear_to_srgb(code)), code, rtol=0, atol=1e-7)


def test_srgb_known_values() -> None:
    linear = srgb_to_linear(torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64))
    expected = torch.tensor([0.0, 0.04045 / 12.92, 0.21404114, 1.0], dtype=torch.float64)  # IEC 61966-2-1
    torch.testing.assert_close(linear, expected, rtol=0, atol=1e-7)


def test_srgb_gradients_are_finite_and_positive_everywhere() -> None:
    for curve in (srgb_to_linear, linear_to_srgb):
        value = torch.tensor([0.0, 1e-4, 0.0031308, 0.04045, 0.5, 1.0], requires_grad=True)
        (gradient,) = torch.autograd.grad(curve(value).sum(), value)
        assert gradient.isfinite().all()
        assert (gradient > 0).all()


@pytest.mark.parametrize("curve", [srgb_to_linear, linear_to_srgb])
def test_srgb_gradients_are_the_slopes(curve: Callable[[Tensor], Tensor]) -> None:
    values = torch.tensor([-0.1, 0.0, 0.001, 0.003, 0.0032, 0.04, 0.041, 0.2, 0.7, 1.0, 1.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(curve, (values.requires_grad_(True),))


def test_white_reads_white_and_black_black() -> None:
    for exposure in (0.5, 0.9, 1.0):
        read = expose(torch.tensor([0.0, 1.0]), SensorConfig(exposure=exposure))
        torch.testing.assert_close(read, torch.tensor([0.0, 1.0]), rtol=0, atol=1e-3)


def test_half_the_light_gives_half_the_reading() -> None:
    light = torch.linspace(0, 1, 101)
    torch.testing.assert_close(expose(light / 2, FINE), expose(light, FINE) / 2, rtol=0, atol=2e-5)


def test_a_bright_spot_changes_no_other_pixel() -> None:
    light = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2
    brighter = light.clone()
    brighter[..., 3, 4] = 1.0
    same = torch.ones(8, 8, dtype=torch.bool)
    same[3, 4] = False
    assert torch.equal(expose(light, FINE)[..., same], expose(brighter, FINE)[..., same])


@pytest.mark.parametrize(("level", "read_noise"), [(0.05, 3.0), (0.15, 40.0), (0.6, 3.0)])
def test_noise_variance_is_shot_plus_read(level: float, read_noise: float) -> None:
    config = SensorConfig(full_well=2000, read_noise=read_noise, exposure=0.8, bits=16)
    light = torch.full((100_000,), level, dtype=torch.float64)
    electrons = expose(light, config, torch.Generator().manual_seed(3)) * (0.8 * 2000)
    mean = level * 0.8 * 2000
    variance = mean + read_noise**2
    assert electrons.mean().item() == pytest.approx(mean, abs=5 * (variance / len(light)) ** 0.5)
    assert electrons.var().item() == pytest.approx(variance, rel=0.03)


def test_the_seed_makes_the_noise() -> None:
    light = torch.full((64,), 0.4)
    first, again, other = (expose(light, FINE, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(expose(light, FINE), expose(light, FINE))


def test_light_above_the_full_well_saturates() -> None:
    read = expose(torch.tensor([0.4, 0.6, 1.0]), SensorConfig(exposure=2.0, bits=16))
    torch.testing.assert_close(read, torch.tensor([0.4, 0.5, 0.5]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_quantisation_has_its_levels_and_lets_the_gradient_through(bits: int) -> None:
    signal = torch.linspace(0, 1, 5000, requires_grad=True)
    levels = expose(signal, SensorConfig(exposure=1.0, bits=bits))
    assert len(levels.detach().unique()) == 2**bits
    assert (levels - signal).abs().max().item() <= 0.5 / (2**bits - 1) + 1e-6
    (gradient,) = torch.autograd.grad(levels.sum(), signal)
    assert torch.equal(gradient, torch.ones_like(signal))


@pytest.mark.parametrize("exposure", [0.5, 0.9, 1.5])
@pytest.mark.parametrize("noisy", [False, True])
def test_gradient_is_that_of_the_formula_without_the_rounding(exposure: float, noisy: bool) -> None:
    config = SensorConfig(full_well=200, read_noise=2, exposure=exposure, bits=8)
    light = torch.linspace(-0.1, 1.1, 400, dtype=torch.float64, requires_grad=True)
    seeded = [torch.Generator().manual_seed(0) if noisy else None for _ in range(2)]
    (found,) = torch.autograd.grad(expose(light, config, seeded[0]).sum(), light)

    electrons = light * exposure * 200
    if seeded[1] is not None:
        noise = torch.randn(400, generator=seeded[1], dtype=torch.float64)
        electrons = electrons + noise * (electrons.clamp_min(0) + 4 + 1e-6).sqrt()
    smooth = (electrons / 200).clamp(0, 1) / exposure
    (expected,) = torch.autograd.grad(smooth.clamp_max(1).sum(), light)
    inside = ((smooth - 1).abs() > 1 / 255 / exposure) & (light > 0)  # rounding moves the edge of white by half a step
    torch.testing.assert_close(found[inside], expected[inside])
    assert inside.sum() > 250
    assert not found[light > 1.05].any() or noisy


@pytest.mark.parametrize(
    "values", [{"full_well": 0.0}, {"read_noise": -1.0}, {"exposure": 0.0}, {"bits": 0}, {"bits": 17}]
)
def test_impossible_sensors_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"^sensor: .*(electrons|bits)"):
        SensorConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [SensorConfig(), SensorConfig(full_well=1000, read_noise=10, exposure=0.5, bits=6)])
def test_noise_variance_is_that_of_the_read_out(config: SensorConfig) -> None:
    light = torch.linspace(0.19, 0.21, 200_000)
    seen = expose(light, config, torch.Generator().manual_seed(0))
    assert (seen - light).var().item() == pytest.approx(noise_variance(config, 0.2), rel=0.03)
