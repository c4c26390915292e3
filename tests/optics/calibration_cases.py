"""A camera whose calibration takes little time, and images of points by it."""

import torch
from torch import Tensor

from phaseveil.optics.calibration import Windows
from phaseveil.optics.calibration_bench import Bench, bench_of, cell_shares, collect, raw_values
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera
from phaseveil.optics.sensor import SensorConfig, noise_variance

SIZE = 96
CONFIG = CameraConfig(
    aperture_radius=0.1e-3,
    frame_width=0.06,
    pupil_samples=48,
    psf_support=0.45,
    num_modes=15,
    sensor=SensorConfig(bits=12),
)


def random_mask(seed: int, rms: float) -> Tensor:
    draw = torch.randn(CONFIG.num_modes - 3, generator=torch.Generator().manual_seed(seed))
    return rms * draw / draw.norm()


def camera_with(coefficients: Tensor) -> PhaseMaskCamera:
    camera = PhaseMaskCamera(CONFIG).requires_grad_(False).eval()
    camera.coefficients.copy_(coefficients)
    return camera


def bench(distance: float | None = None) -> Bench:
    return bench_of(CONFIG, CONFIG.pixel_pitch(SIZE), distance)


def images(camera: PhaseMaskCamera, points: int, seed: int = 0, distance: float | None = None) -> Windows:
    """Noisy windows of points between the pixels, as if their places were known to the nearest pixel."""
    where, generator = bench(distance), torch.Generator().manual_seed(seed)
    places = torch.rand(points, 2, generator=generator) - 0.5
    shares = collect(cell_shares(camera, where, camera.coefficients), where, places)
    signal = raw_values(shares, CONFIG.sensor, 1.0, 0.8 / shares.amax().item(), generator)
    white = CONFIG.sensor.exposure * CONFIG.sensor.full_well
    variance = signal / white + noise_variance(CONFIG.sensor, 0.0)
    return Windows(where, signal, variance, torch.zeros(points, 2))
