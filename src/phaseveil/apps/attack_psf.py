"""Attacks that undo a known point spread function: exact (A1), over sensor noise and bit depth, or approximate (A2).

Of a dynamic camera, "exact" means that the draw of every exposure has leaked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from phaseveil.apps.attack_bench import Bench, Psfs
from phaseveil.apps.attack_results import Finding
from phaseveil.apps.attack_target import with_sensor
from phaseveil.attacks.blind import likeliest
from phaseveil.attacks.deconvolution import METHODS, with_psf
from phaseveil.attacks.psf_knowledge import TOLERANCE, average_psf, captured_psf, mistaken_psf
from phaseveil.attacks.tuning import tune
from phaseveil.metrics.identity import Floats, similarity
from phaseveil.optics.camera import Camera
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.progress import Report
from phaseveil.run_state import seeded

TITLES = {"wiener": "Wiener", "richardson-lucy": "Richardson–Lucy", "tv": "total variation (ADMM)"}
NOISES = (0, 1, 4)
BITS = (8, 12)

_EXACT = "the exact PSF; tuned on its own photographs"
_LEAKED = "the exact PSF of every exposure, whose draw has leaked; tuned on its own photographs"
_CAPTURED = "a PSF that it estimates from {captures} exposures of point sources"
_MISTAKEN = "a PSF that is {tolerance:.0f} % too wide"
_FAMILY = "the family of masks but no draw: of {members} members that it draws itself, the likeliest for each exposure"
_POINTS, _MEMBERS = 13, 14  # purposes of random numbers: captured point sources, members to try


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
        sensor = camera.config.sensor.noisier(max(self.noise, 1))
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
    images, parameter = _restore(bench, method, _exact(bench, camera), camera, sensor.noise == 0, report)
    return bench.recovered(
        images,
        key=f"A1-{method}{sensor.key}",
        code="A1",
        title=TITLES[method],
        knowledge=_EXACT if bench.leaked is None else _LEAKED,
        nominal=sensor.nominal,
        settings={"method": method, "parameter": parameter, "noise": sensor.noise, "bits": sensor.bits},
    )


def estimated_psf(bench: Bench, method: str, report: Report) -> list[Finding]:
    """A2: the PSF is estimated from a handful of captured point sources; nothing where none of them can be seen."""
    study, captures = bench.study, bench.budget.captures
    psf = captured_psf(bench.target.camera, study.size, captures, seeded(study.seed, 0, _POINTS))
    if not psf.isfinite().all():
        return []
    return [_approximate(bench, method, Psfs(psf, psf), "captured", _CAPTURED.format(captures=captures), report)]


def wrong_psf(bench: Bench, method: str, report: Report) -> Finding:
    """A2: the PSF is off by a stated tolerance."""
    psfs = Psfs(*map(_mistaken, _exact(bench, bench.target.camera)))
    return _approximate(bench, method, psfs, "mistaken", _MISTAKEN.format(tolerance=100 * TOLERANCE), report)


def likeliest_psf(bench: Bench, camera: DynamicCamera, method: str, report: Report) -> Finding:
    """A2 on a dynamic camera: for each exposure the likeliest member of its family, of some that the attacker draws."""
    study, members = bench.study, bench.budget.members
    with torch.inference_mode():
        psfs = camera.psfs(camera.draw(members, seeded(study.seed, 0, _MEMBERS)), study.size)

    def chosen(acquisitions: Tensor) -> Tensor:
        return psfs[likeliest(acquisitions, psfs, camera.config.sensor, report)]

    knowledge = _FAMILY.format(members=members)
    found = _approximate(bench, method, Psfs(*map(chosen, bench.exposures(camera))), "family", knowledge, report)
    return replace(found, settings={**found.settings, "members": members})


def _exact(bench: Bench, camera: Camera) -> Psfs:
    """The PSFs themselves."""
    if bench.leaked is not None:
        return bench.leaked
    psf = average_psf(camera, bench.study.size)
    return Psfs(psf, psf)


def _mistaken(psf: Tensor) -> Tensor:
    """Each PSF, or the only one, off by a stated tolerance."""
    return torch.stack([mistaken_psf(one) for one in psf]) if psf.ndim == 4 else mistaken_psf(psf)


def _approximate(bench: Bench, method: str, psfs: Psfs, key: str, knowledge: str, report: Report) -> Finding:
    images, parameter = _restore(bench, method, psfs, bench.target.camera, False, report)
    return bench.recovered(
        images,
        key=f"A2-{key}",
        code="A2",
        title=f"{TITLES[method]}, {key} PSF",
        knowledge=f"{knowledge}; tuned on its own photographs",
        settings={"method": method, "parameter": parameter},
    )


def _restore(
    bench: Bench, method: str, psfs: Psfs, camera: Camera, noiseless: bool, report: Report
) -> tuple[Tensor, float]:
    """Tune a method on the attacker's photographs and restore the probes; returns the images and the parameter."""
    study, places = bench.study, bench.tuning_places()
    clear = study.embed_clear(bench.recogniser, places)

    def score(restored: Tensor) -> float:
        return separation(study.embed(bench.recogniser, restored, places), clear)

    own, probes = bench.exposures(camera, noiseless)
    parameter = tune(METHODS[method], own, psfs.own, score).parameter
    images = []
    for part, psf in with_psf(probes, psfs.probes):
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
