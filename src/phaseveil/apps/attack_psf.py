"""Attacks that undo a known point spread function: exact (A1), over sensor noise and bit depth, or approximate (A2)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from phaseveil.apps.attack_bench import Bench
from phaseveil.apps.attack_data import BATCH
from phaseveil.apps.attack_results import Finding
from phaseveil.apps.attack_target import acquire, noisier, with_sensor
from phaseveil.attacks.deconvolution import METHODS, tune
from phaseveil.attacks.psf_knowledge import TOLERANCE, average_psf, captured_psf, mistaken_psf
from phaseveil.metrics.identity import Floats, similarity
from phaseveil.optics.camera import Camera
from phaseveil.progress import Report
from phaseveil.run_state import seeded

TITLES = {"wiener": "Wiener", "richardson-lucy": "Richardson–Lucy", "tv": "total variation (ADMM)"}
NOISES = (0, 1, 4)
BITS = (8, 12)

_EXACT = "the exact PSF; tuned on its own photographs"
_CAPTURED = "a PSF that it estimates from {captures} exposures of point sources"
_MISTAKEN = "a PSF that is {tolerance:.0f} % too wide"
_POINTS = 13  # purpose of the noise of captured point sources


@dataclass(frozen=True)
class Sensor:
    """A sensor that the same optics stand before.

    Attributes:
        noise: Factor of its noise against the real one's; 0 is noiseless.
        bits: Of its converter.
        nominal: Whether it is the real one.
    """

    noise: int
    bits: int
    nominal: bool

    def before(self, camera: Camera) -> Camera:
        """The camera with this sensor (whose noise must still be switched off where there is none)."""
        sensor = noisier(camera.config.sensor, max(self.noise, 1))
        return with_sensor(camera, replace(sensor, bits=self.bits))

    @property
    def key(self) -> str:
        """End of an attack's name, empty for the real sensor."""
        return "" if self.nominal else f"-noise{self.noise}-{self.bits}bit"


def real_sensor(camera: Camera) -> Sensor:
    """The sensor that the camera has."""
    return Sensor(1, camera.config.sensor.bits, nominal=True)


def other_sensors(camera: Camera) -> Iterator[Sensor]:
    """Sensors of the sweep: other noise at the real bit depth, other bit depths at the real noise."""
    real = real_sensor(camera)
    yield from (replace(real, noise=noise, nominal=False) for noise in NOISES if noise != real.noise)
    yield from (replace(real, bits=bits, nominal=False) for bits in BITS if bits != real.bits)


def exact_psf(bench: Bench, method: str, sensor: Sensor, report: Report) -> Finding:
    """A1: the PSF is known exactly."""
    camera = sensor.before(bench.target.camera)
    psf = average_psf(camera, bench.study.size)
    images, parameter = _restore(bench, method, psf, camera, sensor.noise == 0, report)
    return bench.recovered(
        images,
        key=f"A1-{method}{sensor.key}",
        code="A1",
        title=TITLES[method],
        knowledge=_EXACT,
        nominal=sensor.nominal,
        settings={"method": method, "parameter": parameter, "noise": sensor.noise, "bits": sensor.bits},
    )


def estimated_psf(bench: Bench, method: str, report: Report) -> list[Finding]:
    """A2: the PSF is estimated from a handful of captured point sources; nothing where none of them can be seen."""
    study, captures = bench.study, bench.budget.captures
    psf = captured_psf(bench.target.camera, study.size, captures, seeded(study.seed, 0, _POINTS))
    if not psf.isfinite().all():
        return []
    return [_approximate(bench, method, psf, "captured", _CAPTURED.format(captures=captures), report)]


def wrong_psf(bench: Bench, method: str, report: Report) -> Finding:
    """A2: the PSF is off by a stated tolerance."""
    psf = mistaken_psf(average_psf(bench.target.camera, bench.study.size))
    return _approximate(bench, method, psf, "mistaken", _MISTAKEN.format(tolerance=100 * TOLERANCE), report)


def _approximate(bench: Bench, method: str, psf: Tensor, key: str, knowledge: str, report: Report) -> Finding:
    images, parameter = _restore(bench, method, psf, bench.target.camera, False, report)
    return bench.recovered(
        images,
        key=f"A2-{key}",
        code="A2",
        title=f"{TITLES[method]}, {key} PSF",
        knowledge=f"{knowledge}; tuned on its own photographs",
        settings={"method": method, "parameter": parameter},
    )


def _restore(
    bench: Bench, method: str, psf: Tensor, camera: Camera, noiseless: bool, report: Report
) -> tuple[Tensor, float]:
    """Tune a method on the attacker's photographs and restore the probes; returns the images and the parameter."""
    study, own = bench.study, bench.tuning_places()
    clear = study.embed_clear(bench.recogniser, own)

    def score(restored: Tensor) -> float:
        return separation(study.embed(bench.recogniser, restored, own), clear)

    parameter = tune(METHODS[method], acquire(camera, study, own, noiseless), psf, score).parameter
    images = []
    for part in acquire(camera, study, study.probes, noiseless).split(BATCH):
        images.append(METHODS[method].restore(part, psf, parameter))
        report(sum(map(len, images)), len(study.probes))
    return torch.cat(images), parameter


def separation(restored: Floats, clear: Floats) -> float:
    """How far restored faces are nearer to their own clear photograph than to the others', in standard deviations.

    The d' of signal detection [Green and Swets 1966, *Signal Detection Theory and Psychophysics*].

    Args:
        restored: Embeddings of N faces of different people. Shape ``(N, D)``.
        clear: Of the same, clear. Shape ``(N, D)``.
    """
    scores = similarity(restored[:, None], clear[None])
    own = np.eye(len(scores), dtype=bool)
    spread = np.sqrt((scores[own].var() + scores[~own].var()) / 2)
    return float((scores[own].mean() - scores[~own].mean()) / (spread + 1e-9))
