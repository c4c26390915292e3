"""Refractive indices against published values, and what dispersion does to a mask."""

import pytest

from phaseveil.errors import ConfigError
from phaseveil.optics.materials import SELLMEIER, air_index, index_contrast, refractive_index

SODIUM_D, HELIUM_D = 589.29e-9, 587.56e-9


@pytest.mark.parametrize(
    ("material", "wavelength", "index"),
    [
        ("fused-silica", 587.6e-9, 1.4585),  # Malitson 1965
        ("fused-silica", 656.3e-9, 1.4564),
        ("fused-silica", 486.1e-9, 1.4631),
        ("n-bk7", HELIUM_D, 1.5168),  # Schott
        ("pmma", HELIUM_D, 1.4906),  # Sultanova et al. 2009
        ("polycarbonate", HELIUM_D, 1.5848),
    ],
)
def test_indices_are_the_published_ones(material: str, wavelength: float, index: float) -> None:
    assert refractive_index(material, wavelength) == pytest.approx(index, abs=2e-4)


def test_air_at_the_sodium_line() -> None:
    assert air_index(SODIUM_D) - 1 == pytest.approx(2.77e-4, rel=5e-3)


@pytest.mark.parametrize("material", sorted(SELLMEIER))
def test_contrast_falls_with_wavelength(material: str) -> None:
    contrast = index_contrast(material, [440e-9, 550e-9, 640e-9])
    assert contrast[0] > contrast[1] > contrast[2] > 0.4
    assert contrast[1] == pytest.approx(refractive_index(material, 550e-9) - 1, abs=4e-4)


def test_an_unknown_material_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown material 'glass'; known are fused-silica, .*pmma"):
        refractive_index("glass", 550e-9)
