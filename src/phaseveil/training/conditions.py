"""Circumstances that stage I draws afresh for every batch: sensor noise, bit depth, distance, focus, mask as built."""

import math
from dataclasses import dataclass, field, replace

import torch

from phaseveil.errors import ConfigError
from phaseveil.optics.camera import CameraConfig
from phaseveil.optics.departure import MaskDeparture
from phaseveil.optics.tolerance import Tolerances, draw_deviation

REJECTED = 3.0
"""Standard deviations of decentring beyond which a part is not built in."""


@dataclass
class ConditionsConfig:
    """Ranges that circumstances are drawn from; by default the camera as it is configured.

    Attributes:
        noise: Lowest and highest factor of the sensor's noise against the signal, drawn uniformly in its logarithm.
        bits: Bit depths, one drawn per batch; the camera's own where empty.
        distance: Nearest and farthest subject, as factors of the configured distance, drawn uniformly in dioptres. The
            sensor stays where it is: a nearer face is out of focus and larger on the sensor.
        focus: Largest shift of the sensor along the axis, metres either way.
        scale: Standard deviation of the relief's relative error of height.
        figure: RMS of a random low-order error of the surface, Noll 4 to 15, metres.
        decentre: Standard deviation of the mask's place against the pupil, along x and along y, metres. Three of them
            off at most: what lies farther, a workshop rejects, and a mask's polynomials run away there.
    """

    noise: list[float] = field(default_factory=lambda: [1.0, 1.0])
    bits: list[int] = field(default_factory=list)
    distance: list[float] = field(default_factory=lambda: [1.0, 1.0])
    focus: float = 0.0
    scale: float = 0.0
    figure: float = 0.0
    decentre: float = 0.0

    def __post_init__(self) -> None:
        for name, ends in (("noise", self.noise), ("distance", self.distance)):
            if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
                raise ConfigError(f"conditions: {name} must be a lowest and a highest factor above 0, got {ends}")
        if any(not 1 <= bits <= 16 for bits in self.bits) or self.focus < 0:
            raise ConfigError("conditions: bits must lie between 1 and 16, focus must be at least 0 metres")
        if not 0 <= self.scale < 0.5 or not 0 <= self.figure < 1e-5 or not 0 <= self.decentre < 1e-2:
            raise ConfigError(
                "conditions: scale must lie in [0, 0.5), figure and decentre in metres (such as 50e-9), 0 or more"
            )

    @property
    def move_optics(self) -> bool:
        """Whether the PSF differs from batch to batch; noise and bit depths are the sensor's alone."""
        return self.distance != [1.0, 1.0] or any((self.focus, self.scale, self.figure, self.decentre))


def draw_conditions(camera: CameraConfig, ranges: ConditionsConfig, generator: torch.Generator) -> CameraConfig:
    """The camera's configuration in circumstances drawn at random.

    Args:
        camera: As designed.
        ranges: What to draw from.
        generator: On the CPU; always takes four numbers.

    Raises:
        ConfigError: A drawn distance or focus is impossible for the camera.
    """
    noise, bits, distance, focus = torch.rand(4, generator=generator).tolist()
    factor = math.exp(_between(math.log(ranges.noise[0]), math.log(ranges.noise[1]), noise))
    sensor = replace(
        camera.sensor.noisier(factor),
        bits=ranges.bits[int(bits * len(ranges.bits))] if ranges.bits else camera.sensor.bits,
    )
    nearness = _between(1 / ranges.distance[1], 1 / ranges.distance[0], distance)
    return replace(
        camera,
        sensor=sensor,
        object_distance=camera.object_distance / nearness,
        sensor_distance=camera.image_distance + _between(-ranges.focus, ranges.focus, focus),
    )


def draw_departure(camera: CameraConfig, ranges: ConditionsConfig, generator: torch.Generator) -> MaskDeparture | None:
    """A mask as a workshop may build it; ``None`` where no tolerance is set.

    Args:
        camera: As designed.
        ranges: What to draw from.
        generator: On the CPU; takes nothing where no tolerance is set.
    """
    if not ranges.scale and not ranges.figure and not ranges.decentre:
        return None
    drawn = draw_deviation(Tolerances(scale=ranges.scale, figure=ranges.figure, decentre=ranges.decentre), generator)
    far = math.hypot(*drawn.decentre)
    held = min(1.0, REJECTED * ranges.decentre / far) if far else 1.0
    across, along = (held * place for place in drawn.decentre)
    return MaskDeparture(drawn.scale, drawn.figure, (across / camera.aperture_radius, along / camera.aperture_radius))


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)
