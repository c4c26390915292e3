"""Circumstances that stage I draws afresh for every batch: sensor noise, bit depth, distance, focus."""

import math
from dataclasses import dataclass, field, replace

import torch

from phaseveil.errors import ConfigError
from phaseveil.optics.camera import CameraConfig


@dataclass
class ConditionsConfig:
    """Ranges that circumstances are drawn from; by default the camera as it is configured.

    Attributes:
        noise: Lowest and highest factor of the sensor's noise against the signal, drawn uniformly in its logarithm.
        bits: Bit depths, one drawn per batch; the camera's own where empty.
        distance: Nearest and farthest subject, as factors of the configured distance, drawn uniformly in dioptres. The
            sensor stays where it is: a nearer face is out of focus and larger on the sensor.
        focus: Largest shift of the sensor along the axis, metres either way.
    """

    noise: list[float] = field(default_factory=lambda: [1.0, 1.0])
    bits: list[int] = field(default_factory=list)
    distance: list[float] = field(default_factory=lambda: [1.0, 1.0])
    focus: float = 0.0

    def __post_init__(self) -> None:
        for name, ends in (("noise", self.noise), ("distance", self.distance)):
            if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
                raise ConfigError(f"conditions: {name} must be a lowest and a highest factor above 0, got {ends}")
        if any(not 1 <= bits <= 16 for bits in self.bits) or self.focus < 0:
            raise ConfigError("conditions: bits must lie between 1 and 16, focus must be at least 0 metres")


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
        camera.sensor,
        full_well=camera.sensor.full_well / factor**2,  # shot noise falls as the root of the full well
        read_noise=camera.sensor.read_noise / factor,
        bits=ranges.bits[int(bits * len(ranges.bits))] if ranges.bits else camera.sensor.bits,
    )
    nearness = _between(1 / ranges.distance[1], 1 / ranges.distance[0], distance)
    return replace(
        camera,
        sensor=sensor,
        object_distance=camera.object_distance / nearness,
        sensor_distance=camera.image_distance + _between(-ranges.focus, ranges.focus, focus),
    )


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)
