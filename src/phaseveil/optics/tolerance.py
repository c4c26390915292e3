"""A camera as it comes out of the workshop and is used: its mask and circumstances drawn within tolerances."""

import math
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from phaseveil.errors import ConfigError, OpticsError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera
from phaseveil.optics.fabrication import surface
from phaseveil.optics.grid import circular_aperture
from phaseveil.optics.height_map import HeightMapCamera, built_camera, check_smooth
from phaseveil.optics.materials import air_index, index_contrast, refractive_index
from phaseveil.optics.propagation import steepest_phase_step
from phaseveil.optics.zernike import zernike_basis

FIGURE_MODES = range(4, 16)
"""Noll indices of figure error: radial degrees 2 to 4."""

THERMAL: dict[str, tuple[float, float]] = {
    "fused-silica": (1.0e-5, 0.55e-6),
    "n-bk7": (3.0e-6, 7.1e-6),
}
"""dn/dT relative to air in the visible, and linear expansion, 1/K, about 20 °C: Malitson 1965, J. Opt. Soc. Am. 55,
1205, and Corning's data sheet of HPFS 7980; Schott's data sheet of N-BK7."""


@dataclass
class Tolerances:
    """How far a built camera may be from its design; 0, or equal ends, leave a tolerance out. Lengths in metres.

    Attributes:
        scale: Standard deviation of the relief's relative error of height (etch depth, shrinkage).
        figure: RMS of a random low-order error of the surface, Noll 4 to 15.
        roughness: RMS of a random rough surface, its autocorrelation Gaussian.
        correlation_length: Of the roughness: where the autocorrelation is 1/e.
        quantisation: Step to which the tool rounds heights, its zero anywhere.
        decentre: Standard deviation of the mask's place against the pupil, along x and along y.
        tilt: Standard deviation of the mask's tilt about one axis, radians.
        focus: Standard deviation of the sensor's place along the axis.
        distance: Nearest and farthest subject, as factors of the configured distance, uniform in dioptres. The frame
            follows the face, as aligned crops do: a nearer one is larger on the sensor and out of focus.
        wavelength: Standard deviation of a common shift of the colours' wavelengths (illuminant, filters).
        noise: Lowest and highest factor of the sensor's noise, uniform in its logarithm.
        temperature: Lowest and highest departure from the design's temperature, kelvin, uniform. Index and expansion of
            the mask alone: what the lens mount does to the focus depends on the mount and belongs to ``focus``.
    """

    scale: float = 0.0
    figure: float = 0.0
    roughness: float = 0.0
    correlation_length: float = 50e-6
    quantisation: float = 0.0
    decentre: float = 0.0
    tilt: float = 0.0
    focus: float = 0.0
    distance: list[float] = field(default_factory=lambda: [1.0, 1.0])
    wavelength: float = 0.0
    noise: list[float] = field(default_factory=lambda: [1.0, 1.0])
    temperature: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list):
                if len(value) != 2 or not value[0] <= value[1] or not all(map(math.isfinite, value)):
                    raise ConfigError(f"tolerances: {item.name} must be a lowest and a highest value, got {value}")
            elif not 0 <= value < math.inf:
                raise ConfigError(f"tolerances: {item.name} must be at least 0, got {value}")
        if min(self.distance[0], self.noise[0], self.correlation_length) <= 0:
            raise ConfigError("tolerances: distance, noise and correlation_length must be above 0")
        too_long = [name for name in _LENGTHS if getattr(self, name) > 1e-2]
        if too_long or self.scale >= 1 or self.tilt >= 1:
            name = too_long[0] if too_long else "scale or tilt"
            raise ConfigError(
                f"tolerances: {name} is too large; lengths are in metres (such as 50e-9), tilt in radians"
            )

    def active(self) -> list[str]:
        """Names of the tolerances that change anything."""
        names = [item.name for item in fields(self) if item.name != "correlation_length"]
        neutral = Tolerances()
        return [name for name in names if getattr(self, name) != getattr(neutral, name)]

    def only(self, name: str) -> "Tolerances":
        """This one tolerance, all others left out."""
        return Tolerances(**{name: getattr(self, name), "correlation_length": self.correlation_length})


_LENGTHS = ("figure", "roughness", "correlation_length", "quantisation", "decentre", "focus", "wavelength")


@dataclass(frozen=True)
class Deviation:
    """One built camera's departure from its design; units as in :class:`Tolerances`.

    Attributes:
        scale: Factor of the heights.
        figure: Metres RMS of the modes :data:`FIGURE_MODES`.
        roughness: Metres RMS.
        correlation_length: Metres.
        surface_seed: Of the rough surface.
        quantisation: Step, metres.
        zero: Of the steps, share of a step.
        decentre: Along x and y, metres.
        tilt: Radians, about the y axis.
        focus: Metres.
        distance: Factor.
        wavelength: Metres.
        noise: Factor.
        temperature: Kelvin.
    """

    scale: float
    figure: tuple[float, ...]
    roughness: float
    correlation_length: float
    surface_seed: int
    quantisation: float
    zero: float
    decentre: tuple[float, float]
    tilt: float
    focus: float
    distance: float
    wavelength: float
    noise: float
    temperature: float


def draw_deviation(tolerances: Tolerances, generator: torch.Generator) -> Deviation:
    """A built camera at random.

    Args:
        tolerances: What to draw from.
        generator: On the CPU; always takes the same numbers, so that one tolerance alone draws what it draws among all.
    """
    normal = torch.randn(6, generator=generator, dtype=torch.float64).tolist()
    share = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    modes = torch.randn(len(FIGURE_MODES), generator=generator, dtype=torch.float64) / math.sqrt(len(FIGURE_MODES))
    seed = int(torch.randint(2**31, (), generator=generator))
    nearness = _between(1 / tolerances.distance[1], 1 / tolerances.distance[0], share[0])
    return Deviation(
        scale=1 + tolerances.scale * normal[0],
        figure=tuple((tolerances.figure * modes).tolist()),
        roughness=tolerances.roughness,
        correlation_length=tolerances.correlation_length,
        surface_seed=seed,
        quantisation=tolerances.quantisation,
        zero=share[1],
        decentre=(tolerances.decentre * normal[1], tolerances.decentre * normal[2]),
        tilt=tolerances.tilt * normal[3],
        focus=tolerances.focus * normal[4],
        distance=1 / nearness,
        wavelength=tolerances.wavelength * normal[5],
        noise=math.exp(_between(math.log(tolerances.noise[0]), math.log(tolerances.noise[1]), share[2])),
        temperature=_between(tolerances.temperature[0], tolerances.temperature[1], share[3]),
    )


def built_within(camera: PhaseMaskCamera, deviation: Deviation) -> HeightMapCamera:
    r"""The camera that a design becomes with a deviation.

    A tilted plate is foreshortened by cos θ, and a thin relief on it delays by
    :math:`(n \cos\theta' - n_0 \cos\theta)\,h`, :math:`n \sin\theta' = n_0 \sin\theta`.

    Args:
        camera: The design: a fixed mask, or a built part, smooth and refractive.
        deviation: What differs.

    Raises:
        ConfigError: A mirror, an SLM or a stepped part; an impossible distance or focus; or temperature for a material
            whose coefficients are not known.
        OpticsError: The deviating surface cannot be simulated as the pupil is sampled.
    """
    _check_refractive(camera)
    config = _circumstances(camera.config, deviation)
    samples, pitch = config.pupil_samples, 2 * config.aperture_radius / config.pupil_samples
    grown, contrast_change = _thermal(config, deviation.temperature)
    height = surface(camera, samples, deviation.decentre, math.cos(deviation.tilt) * grown)
    height = height * deviation.scale * grown
    if any(deviation.figure):
        amounts = torch.tensor(deviation.figure, dtype=torch.float64)
        height = height + torch.einsum("m,mhw->hw", amounts, zernike_basis(FIGURE_MODES, samples))
    if deviation.roughness > 0:
        noise = torch.Generator().manual_seed(deviation.surface_seed)
        height = height + deviation.roughness * rough_surface(samples, deviation.correlation_length / pitch, noise)
    if deviation.quantisation > 0:
        steps = height / deviation.quantisation + deviation.zero
        height = (steps.round() - deviation.zero) * deviation.quantisation
    built = built_camera(config, height, num_modes=config.num_modes)
    built.delta_n.add_(contrast_change + _oblique(config, deviation.tilt))
    check_smooth(built)
    return built


def rough_surface(samples: int, correlation: float, generator: torch.Generator) -> Tensor:
    """A random surface of unit RMS inside the pupil, zero mean, Gaussian autocorrelation exp(-r²/l²).

    Args:
        samples: Cells across.
        correlation: l, cells, at least 2.
        generator: On the CPU.

    Returns:
        Shape ``(samples, samples)``, float64.

    Raises:
        OpticsError: The pupil's samples cannot hold so short a correlation.
    """
    if correlation < 2:
        needed = math.ceil(samples * 2 / correlation)
        raise OpticsError(
            f"a correlation length of {correlation:.2g} pupil samples cannot be simulated; set pupil_samples to "
            f"{needed} or correlation_length larger"
        )
    grid = samples + 4 * math.ceil(correlation)  # the transform's wrap-around stays outside
    white = torch.randn(grid, grid, generator=generator, dtype=torch.float64)
    square = torch.fft.fftfreq(grid, dtype=torch.float64)[:, None] ** 2 + torch.fft.rfftfreq(grid).double() ** 2
    # The amplitude's filter is the root of the power spectrum, exp(-π² l² f²).
    amplitude = torch.exp(-0.5 * (math.pi * correlation) ** 2 * square)
    smooth = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(grid, grid))
    cut = smooth[:samples, :samples]
    weight = circular_aperture(samples).double()
    cut = cut - (cut * weight).sum() / weight.sum()
    surface_rms = ((cut.square() * weight).sum() / weight.sum()).sqrt()
    scaled: Tensor = cut / surface_rms
    return scaled


def _check_refractive(camera: PhaseMaskCamera) -> None:
    """Refuse parts whose errors are not those that are modelled here."""
    if not isinstance(camera, HeightMapCamera):
        return
    own = torch.tensor(index_contrast(camera.config.material, camera.config.wavelengths))
    steep = steepest_phase_step(camera.pupil_phase(), camera.aperture) > math.pi
    if steep or not torch.allclose(camera.delta_n.double().cpu(), own.double(), rtol=1e-2):
        raise ConfigError(
            "tolerances are modelled for smooth refractive masks, not for mirrors, SLMs and stepped parts"
        )


def _circumstances(design: CameraConfig, deviation: Deviation) -> CameraConfig:
    """Lens, sensor and light as they are; the mask is left to the caller."""
    return replace(
        design,
        sensor=design.sensor.noisier(deviation.noise),
        object_distance=design.object_distance * deviation.distance,
        sensor_distance=design.image_distance + deviation.focus,
        wavelengths=[wavelength + deviation.wavelength for wavelength in design.wavelengths],
    )


def _thermal(config: CameraConfig, change: float) -> tuple[float, float]:
    """Factor of all lengths of the mask, and change of its index against air, at another temperature."""
    if change == 0:
        return 1.0, 0.0
    if config.material not in THERMAL:
        raise ConfigError(
            f"temperature is known for {', '.join(THERMAL)}, not for {config.material}; leave it out of the tolerances"
        )
    index, expansion = THERMAL[config.material]
    return 1 + expansion * change, index * change


def _oblique(config: CameraConfig, tilt: float) -> Tensor:
    """Change of the optical contrast where the mask is tilted. Shape ``(3,)``, float64."""
    changes = []
    for wavelength in config.wavelengths:
        glass, air = refractive_index(config.material, wavelength), air_index(wavelength)
        inside = math.asin(air * math.sin(tilt) / glass)
        changes.append(glass * math.cos(inside) - air * math.cos(tilt) - (glass - air))
    return torch.tensor(changes, dtype=torch.float64)


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)
