"""Refractive indices from dispersion formulas; wavelengths in metres."""

from collections.abc import Sequence

from phaseveil.errors import ConfigError

# Sellmeier coefficients: (B_i, C_i in square micrometres).
SELLMEIER: dict[str, tuple[tuple[float, float], ...]] = {
    # Malitson 1965, J. Opt. Soc. Am. 55, 1205 (20 °C).
    "fused-silica": ((0.6961663, 0.0684043**2), (0.4079426, 0.1162414**2), (0.8974794, 9.896161**2)),
    # Schott data sheet, N-BK7.
    "n-bk7": ((1.03961212, 0.00600069867), (0.231792344, 0.0200179144), (1.01046945, 103.560653)),
    # Sultanova et al. 2009, Acta Physica Polonica A 116, 585.
    "pmma": ((1.1819, 0.011313),),
    "polycarbonate": ((1.4182, 0.021304),),
}


def refractive_index(material: str, wavelength: float) -> float:
    r"""Index by the Sellmeier equation :math:`n^2 = 1 + \sum_i B_i \lambda^2 / (\lambda^2 - C_i)`.

    Args:
        material: A key of :data:`SELLMEIER`.
        wavelength: Vacuum wavelength, metres.

    Raises:
        ConfigError: The material is unknown, or lets no light of this wavelength through.
    """
    if material not in SELLMEIER:
        raise ConfigError(f"unknown material {material!r}; known are {', '.join(SELLMEIER)}")
    square = (wavelength * 1e6) ** 2
    if any(abs(square - c) < 0.05 * c for _, c in SELLMEIER[material]):
        raise ConfigError(f"{material} absorbs at {wavelength:.3g} m; choose another wavelength")
    index_square = 1 + sum(b * square / (square - c) for b, c in SELLMEIER[material])
    if index_square < 1:
        raise ConfigError(f"{material} is opaque at {wavelength:.3g} m; choose another wavelength")
    return index_square**0.5


def air_index(wavelength: float) -> float:
    """Index of dry air at 15 °C and 101 325 Pa [Ciddor 1996, Applied Optics 35, 1566, eq. 1].

    Args:
        wavelength: Vacuum wavelength, metres.
    """
    wavenumber_square = (wavelength * 1e6) ** -2
    return 1 + 0.05792105 / (238.0185 - wavenumber_square) + 0.00167917 / (57.362 - wavenumber_square)


def index_contrast(material: str, wavelengths: Sequence[float]) -> list[float]:
    """Index of the material minus that of air at each wavelength, unitless: what turns height into optical path."""
    return [refractive_index(material, wavelength) - air_index(wavelength) for wavelength in wavelengths]
