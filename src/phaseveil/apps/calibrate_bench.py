"""A simulated bench: captures of point sources by a camera whose mask nobody told, to try a calibration with."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from phaseveil.apps.attack_results import write_text
from phaseveil.apps.calibrate_inputs import COLUMNS, write_linear
from phaseveil.errors import ConfigError
from phaseveil.optics.calibration_bench import bench_of, point_images, raw_values
from phaseveil.optics.calibration_search import with_mask
from phaseveil.optics.camera import Camera, PhaseMaskCamera, save_camera
from phaseveil.optics.zernike import FIRST_MODE, noll_to_radial_azimuthal

PEAK = 0.8  # of white: the brightest pixel in the middle exposure
DARKS = 4  # of each exposure time
SECONDS = (0.02, 0.1, 0.5)


@dataclass(frozen=True)
class BenchOptions:
    """Settings of a simulated bench.

    Attributes:
        size: Side of the captures, the whole frame, pixels.
        positions: Of the point, at each distance.
        distances: Point to lens, metres; the design's subject where empty.
        error: Random error of the mask, metres RMS.
        seed: Of error, positions and noise.
    """

    size: int = 256
    positions: int = 4
    distances: Sequence[float] = ()
    error: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.positions < 1 or not 0 <= self.error < 1e-4 or not all(d > 0 for d in self.distances):
            raise ConfigError("point sources: need 1 position, distances above 0 metres, an error of 0 to 1e-4 metres")


def wrong_mask(camera: PhaseMaskCamera, error: float, seed: int) -> PhaseMaskCamera:
    """The camera with random errors of its mask, normal, that weaken as 1/n with a mode's radial order n.

    Args:
        camera: As designed.
        error: Metres RMS.
        seed: Of the errors.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(len(camera.coefficients), generator=generator)
    draw /= torch.tensor([noll_to_radial_azimuthal(FIRST_MODE + place)[0] for place in range(len(draw))])
    return with_mask(camera, camera.coefficients.detach() + error * draw / draw.norm())


def simulate(camera: Camera, out: Path, options: BenchOptions) -> Path:
    """Write captures ``OUT/points``, dark frames ``OUT/dark``, ``exposures.csv``, the truth ``camera.safetensors``.

    Args:
        camera: As designed; what takes the captures is written to the camera file.
        out: Output folder.
        options: Settings.

    Returns:
        The table.

    Raises:
        ConfigError: The camera has no fixed phase mask.
        InputError, CheckpointError: The folder cannot be written.
        OpticsError: The mask is steeper than the pupil is sampled.
    """
    if not isinstance(camera, PhaseMaskCamera) or camera.config.kind != "phase-mask":
        raise ConfigError(f"point sources need a phase-mask camera, not {camera.config.kind}")
    built, generator = wrong_mask(camera, options.error, options.seed), torch.Generator().manual_seed(options.seed)
    rows: list[Sequence[str | float]] = []

    def expose(folder: str, name: str, shares: Tensor, seconds: float, lamp: float, distance: float) -> None:
        values = raw_values(shares, built.config.sensor, seconds, lamp, generator)
        file = write_linear(out / folder / f"{name}-{seconds:g}s.png", values)
        rows.append((file.name, seconds, distance, name))

    dark = torch.zeros(3, options.size, options.size)
    for place, distance in enumerate(options.distances or (camera.config.object_distance,)):
        bench = bench_of(camera.config, camera.config.pixel_pitch(options.size), distance)
        spread = options.size / 8
        places = options.size / 2 + spread * (2 * torch.rand(options.positions, 2, generator=generator) - 1)
        for number, shares in enumerate(point_images(built, bench, places.tolist(), options.size)):
            for seconds in SECONDS:
                lamp = PEAK / (SECONDS[1] * shares.amax().item())
                expose("points", f"point-{place}-{number}", shares, seconds, lamp, distance)
    for seconds in SECONDS:
        for number in range(DARKS):
            expose("dark", f"dark-{number}", dark, seconds, 0.0, camera.config.object_distance)
    save_camera(out / "camera.safetensors", built, {"simulated_error": options.error, "seed": options.seed})
    return _write_table(out / "exposures.csv", rows)


def _write_table(path: Path, rows: Sequence[Sequence[str | float]]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    return write_text(path, text.getvalue())
