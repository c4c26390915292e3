"""Deconvolution of exposures whose mask was drawn: what each attacker knows, and that knowing more restores more."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from phaseveil.apps import attack_psf
from phaseveil.apps.attack_bench import Bench
from phaseveil.apps.attack_card import not_measured
from phaseveil.apps.attack_data import BUDGETS, Budget, Study
from phaseveil.apps.attack_psf import estimated_psf, exact_psf, likeliest_psf, real_sensor, wrong_psf
from phaseveil.apps.attack_results import Finding, Work, image_quality
from phaseveil.apps.attack_suite import run_attacks
from phaseveil.apps.attack_target import Target
from phaseveil.data.image_io import ImageArray, resize
from phaseveil.errors import ConfigError
from phaseveil.metrics.identity import Floats, Thresholds
from phaseveil.metrics.photographs import PairSet
from phaseveil.optics.camera import Camera, CameraConfig, PhaseMaskCamera
from phaseveil.optics.dynamic import DynamicCamera, dynamic_from

SIZE = 64
QUICK = replace(BUDGETS["quick"], tuning=2, captures=4, members=24, pictures=1)


class Pixels:
    """A recogniser that knows people by their pixels."""

    name = "pixels"

    def embed(self, images: Sequence[ImageArray], landmarks: ArrayLike) -> Floats:
        small = np.stack([resize(image, 16).astype(float).ravel() for image in images])
        small -= small.mean(axis=1, keepdims=True)
        return small / np.linalg.norm(small, axis=1, keepdims=True)


@pytest.fixture
def study(astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Six parts of a photograph for six people, two of them the attacker's."""
    corners = [(0, 120), (200, 100), (60, 0), (256, 256), (0, 256), (256, 0)]
    crops = [np.ascontiguousarray(astronaut[y : y + 256, x : x + 256]) for y, x in corners]
    monkeypatch.setattr(PairSet, "crop", lambda self, place: crops[place])
    monkeypatch.setattr(attack_psf, "tune", lambda *_: SimpleNamespace(parameter=1e-2))  # two people tell no optimum
    pairs = np.array([(2, 3), (4, 5)])
    listed = PairSet([Path("x")] * 6, np.zeros((6, 2, 3)), np.zeros((6, 68, 2)), np.arange(6), pairs, np.zeros(2, bool))
    places = np.arange(2), np.arange(2, 6), np.arange(2, 6)
    return Study(listed, SIZE, 0, *places, np.zeros((6, 768)), Thresholds(0, None), 1000)


@pytest.fixture(scope="module")
def family() -> DynamicCamera:
    """Clearly different blurs about a defocus."""
    fixed = PhaseMaskCamera(CameraConfig(pupil_samples=320)).eval()
    fixed.coefficients.data[0] = 2e-6
    return dynamic_from(fixed, 2, 6e-7, torch.Generator().manual_seed(0))


def bench_of(study: Study, camera: Camera, budget: Budget = QUICK, work: Any = None) -> Bench:
    return Bench(study, Target("x", camera, SIZE), budget, Pixels(), None, cast(Work, work))


def ignore(done: int, total: int | None) -> None:
    """Progress that nobody watches."""


def quality(finding: Finding) -> float:
    assert isinstance(finding.quality, dict)
    return float(finding.quality["psnr"])


def test_who_knows_more_of_a_drawn_mask_restores_more(study: Study, family: DynamicCamera) -> None:
    bench, real = bench_of(study, family), real_sensor(family)
    leaked = exact_psf(bench, "wiener", real, ignore)
    likely = likeliest_psf(bench, family, "wiener", ignore)
    mistaken = wrong_psf(bench, "wiener", ignore)
    (captured,) = estimated_psf(bench, "wiener", ignore)
    assert [finding.key for finding in (leaked, likely, mistaken, captured)] == [
        "A1-wiener",
        "A2-family",
        "A2-mistaken",
        "A2-captured",
    ]
    untouched = image_quality(bench.acquisitions, bench.scenes, None)["psnr"]
    assert quality(leaked) > quality(likely) + 0.3 > quality(captured) + 0.6 > untouched
    assert quality(leaked) > quality(mistaken) + 0.3
    assert "draw has leaked" in leaked.knowledge
    assert likely.settings["members"] == 24
    assert "of 24 members" in likely.knowledge


def test_a_sweep_over_sensors_keeps_the_masks(study: Study, family: DynamicCamera) -> None:
    bench = bench_of(study, family)
    noiseless = exact_psf(bench, "wiener", replace(real_sensor(family), noise=0, nominal=False), ignore)
    noisy = exact_psf(bench, "wiener", replace(real_sensor(family), noise=4, nominal=False), ignore)
    assert quality(noiseless) > quality(exact_psf(bench, "wiener", real_sensor(family), ignore)) > quality(noisy)


@pytest.mark.parametrize("dynamic", [False, True])
def test_only_a_family_is_searched(study: Study, family: DynamicCamera, dynamic: bool) -> None:
    camera = family if dynamic else family.member(torch.zeros(2))
    names: list[str] = []
    record = {"code": "A1", "nominal": True, "another": {"auc": {"value": 0.5}}, "settings": {"method": "wiener"}}

    def once(name: str, compute: Callable[[], Any]) -> list[dict[str, Any]]:
        names.append(name)
        return [record | {"key": name}]

    def stage(name: str) -> AbstractContextManager[Any]:
        return nullcontext(ignore)

    work = SimpleNamespace(once=once)
    work.of = lambda _: work
    bench = bench_of(study, camera, work=work)
    records = run_attacks(bench, stage)
    assert ("A2-family" in names) == dynamic
    assert [name for name in names if name.startswith("A2") and name != "A2-family"] == ["A2-captured", "A2-mistaken"]
    missing = {entry["what"] for entry in not_measured(bench, records)}
    assert "A3 trained for longer" in missing
    assert ("several exposures of one face" in missing) == dynamic


def test_no_member_to_try_is_refused() -> None:
    with pytest.raises(ConfigError, match="captures and members at least 1"):
        replace(QUICK, members=0)
