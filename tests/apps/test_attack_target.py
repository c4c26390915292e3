from pathlib import Path

import numpy as np
import pytest
import torch

from phaseveil.apps.attack_data import Study
from phaseveil.apps.attack_psf import other_sensors, real_sensor, separation
from phaseveil.apps.attack_target import (
    Target,
    acquire,
    draw_faces,
    draw_heatmaps,
    family_of,
    landmark_error,
    load_target,
    member_psfs,
    view_of_acquisitions,
    view_of_faces,
    view_of_heatmaps,
    with_sensor,
)
from phaseveil.data.heatmaps import normalised_mean_error
from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.metrics.identity import Thresholds
from phaseveil.metrics.photographs import PairSet
from phaseveil.models.heatmap import HeatmapNet
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, build_camera, load_camera, plain_config
from phaseveil.optics.dynamic import DynamicCamera, dynamic_from
from phaseveil.optics.sensor import SensorConfig, expose
from phaseveil.run_state import seeded


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Six photographs of three people, a grey of its own each, in frames of 32 px."""
    monkeypatch.setattr(PairSet, "crop", lambda self, place: np.full((256, 256, 3), 40 * place, np.uint8))
    persons, pairs = np.arange(6) // 2, np.array([(0, 1), (2, 5)])
    landmarks = np.random.default_rng(0).uniform(60, 200, (6, 68, 2))
    listed = PairSet([Path("x")] * 6, np.zeros((6, 2, 3)), landmarks, persons, pairs, np.array([True, False]))
    return Study(listed, 32, 0, np.arange(2), np.arange(6), np.arange(6), np.zeros((6, 2)), Thresholds(0, None), 1000)


@pytest.fixture
def target(tiny_weights: Path) -> Target:
    return load_target("tiny", build_camera(CameraConfig(kind="gaussian")), tiny_weights)


@pytest.mark.parametrize(
    ("name", "family", "strength"),
    [
        ("gaussian", "gaussian", 12),
        ("gaussian-24", "gaussian", 24),
        ("low-resolution", "low-resolution", 16),
        ("defocus", "defocus", 24),
        ("defocus-48", "defocus", 48),
        ("identity", "clear", 0),
        ("learned", "mask", None),
        ("dynamic", "dynamic-mask", None),
    ],
)
def test_cameras_know_their_family(name: str, family: str, strength: float | None) -> None:
    found = family_of(load_camera(name))
    assert found.name == family
    assert found.strength == (None if strength is None else pytest.approx(strength, rel=0.03))


def test_weights_are_the_bundled_ones_for_the_learned_camera_alone(tiny_weights: Path, tmp_path: Path) -> None:
    camera = build_camera(CameraConfig())
    assert load_target("learned", camera, None).pipeline is not None
    other = load_target("gaussian", camera, None)
    assert (other.heatmap_net, other.pipeline, other.size) == (None, None, 128)
    (tmp_path / "heatmap.safetensors").write_bytes((tiny_weights / "heatmap.safetensors").read_bytes())
    half = load_target("learned", camera, tmp_path)
    assert half.heatmap_net is not None
    assert (half.pipeline, half.size) == (None, 32)
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_target("learned", camera, tmp_path / "none")


def test_a_digest_changes_with_optics_sensor_and_networks(target: Target) -> None:
    camera = target.camera
    others = [
        Target("x", build_camera(CameraConfig(kind="gaussian", gaussian_sigma=0.05)), 32),
        Target("x", with_sensor(camera, SensorConfig(bits=8)), 32),
        Target("x", camera, 32),
        Target("x", camera, 32, HeatmapNet(target.heatmap_net.config)),  # type: ignore[union-attr]
        target,
    ]
    digests = [other.digest() for other in others]
    assert len(set(digests)) == len(digests)
    assert "family_size" not in plain_config(camera.config)
    assert Target("y", camera, 32).digest() == digests[2]
    assert target.erasing_shape(0).digest() == target.digest()
    assert len({target.erasing_shape(count).digest() for count in (0, 10, 20)}) == 3


def test_shape_is_erased_from_new_faces_alone(target: Target) -> None:
    assert target.erasing_shape(5).heatmap_net is target.heatmap_net
    with pytest.raises(ConfigError, match="--erase-shape concerns new faces"):
        Target("x", target.camera).erasing_shape(5)


@pytest.mark.parametrize("factor", [4.0, 0.5])
def test_noise_grows_by_its_factor_against_the_signal(factor: float) -> None:
    light = torch.full((200_000,), 0.3)
    spread = [
        expose(light, sensor, torch.Generator().manual_seed(0)).std().item()
        for sensor in (SensorConfig(bits=16), SensorConfig(bits=16).noisier(factor))
    ]
    assert spread[1] / spread[0] == pytest.approx(factor, rel=0.01)


def test_the_sweep_changes_noise_or_bits_and_leaves_the_camera_alone() -> None:
    camera = load_camera("gaussian")
    real = real_sensor(camera)
    swept = list(other_sensors(camera))
    assert real.key == ""
    assert [sensor.key for sensor in swept] == ["-noise0-10bit", "-noise4-10bit", "-noise1-8bit", "-noise1-12bit"]
    changed = swept[1].before(camera).config.sensor
    assert (changed.full_well, changed.read_noise, changed.bits) == (625, 0.75, 10)
    assert camera.config.sensor == SensorConfig()
    assert real.before(camera).config.sensor == SensorConfig()


def test_an_acquisition_depends_on_its_place_not_on_its_batch(study: Study) -> None:
    camera = load_camera("gaussian")
    every = acquire(camera, study, np.arange(6))
    assert torch.equal(every[4:5], acquire(camera, study, np.array([4])))
    assert not torch.equal(every[4:5], acquire(camera, study, np.array([4]), noiseless=True))
    assert every.mean(dim=(1, 2, 3)).diff().min() > 0.1


@pytest.fixture(scope="module")
def family() -> DynamicCamera:
    """A camera with a drawn mask that few pupil samples describe, its sensor next to noiseless."""
    quiet = SensorConfig(full_well=1e8, read_noise=0, bits=16)
    config = CameraConfig(
        aperture_radius=0.1e-3, frame_width=0.03, pupil_samples=48, num_modes=10, psf_support=0.5, sensor=quiet
    )
    return dynamic_from(PhaseMaskCamera(config).eval(), 3, 2e-7, torch.Generator().manual_seed(0))


def test_each_photograph_has_a_mask_of_its_own_that_leaks_with_its_seed(
    family: DynamicCamera, study: Study, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PairSet, "crop", lambda self, place: astronaut[:256, 100:356])
    places = np.arange(6)
    psfs = member_psfs(family, study, places)
    acquired = acquire(family, study, places)
    assert torch.equal(acquire(family, study, places, psfs=psfs), acquired)
    assert torch.equal(acquire(family, study, places[4:5]), acquired[4:5])
    assert torch.equal(member_psfs(family, study, places[4:5]), psfs[4:5])
    assert torch.equal(family.frozen(32)(study.scenes(places[4:5]), seeded(0, 4, 11)), acquired[4:5])
    assert (psfs[1:] - psfs[:-1]).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    clean = acquire(family, study, places, noiseless=True)  # of the sensor's noise; the masks stay
    assert 0 < (clean - acquired).abs().mean() < 1e-3
    coarse = acquire(with_sensor(family, SensorConfig(full_well=1e8, read_noise=0, bits=6)), study, places)
    assert 1e-3 < (coarse - acquired).abs().mean() < 0.02


def test_in_training_the_attacker_sees_fresh_masks_shared_by_scattered_scenes(family: DynamicCamera) -> None:
    scenes = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).repeat(8, 1, 1, 1)
    view = view_of_acquisitions(family, 32)
    first, other = (view(scenes, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    together = torch.cat([first, other]).flatten(1)
    same = (torch.cdist(together, together, p=1) / together.shape[1]) < 1e-3
    assert same.sum(dim=1).tolist() == [2] * 16  # four masks of eight scenes, no mask twice
    assert not same[:8:2, 1:8:2].diagonal().all()  # neighbours
    assert not family.training


def test_views_for_training_look_like_what_is_scored(target: Target, study: Study) -> None:
    scenes, network, pipeline = torch.rand(3, 3, 32, 32), target.heatmap_net, target.pipeline
    assert network is not None
    assert pipeline is not None
    views = {
        "acquisition": view_of_acquisitions(target.camera, 32),
        "heatmap": view_of_heatmaps(target.camera, network),
        "face": view_of_faces(pipeline),
    }
    for name, view in views.items():
        first, again, other = (view(scenes, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert first.shape == (3, 3, *((16, 16) if name == "heatmap" else (32, 32)))
        assert torch.equal(first, again)
        assert name == "heatmap" or not torch.equal(first, other)  # the random network tells nothing apart
    acquired = views["acquisition"](scenes, torch.Generator().manual_seed(1))
    seen = views["heatmap"](scenes, torch.Generator().manual_seed(1))
    assert torch.equal(draw_heatmaps(network, acquired), seen)


def test_new_faces_keep_their_style_whatever_the_batch(target: Target, study: Study) -> None:
    assert target.pipeline is not None
    acquired = acquire(target.camera, study, np.arange(6))
    every = draw_faces(target.pipeline, acquired, study, np.arange(6))
    alone = draw_faces(target.pipeline, acquired[4:5], study, np.array([4]))
    assert every.shape == (6, 3, 32, 32)
    assert (every[4:5] - alone).abs().max() < 0.02


def test_landmark_error_is_the_mean_over_photographs_with_bounds_over_persons(target: Target, study: Study) -> None:
    network = target.heatmap_net
    assert network is not None
    acquired = acquire(target.camera, study, np.arange(6))
    error = landmark_error(network, acquired, study, np.arange(6))
    with torch.inference_mode():
        found = normalised_mean_error(network(acquired).landmarks, study.landmarks(np.arange(6)))
    assert error.value == pytest.approx(found.mean().item(), rel=1e-5)
    assert error.low <= error.value <= error.high


def test_separation_is_d_prime() -> None:
    random = np.random.default_rng(0)
    clear = random.normal(size=(50, 8))
    near = separation(clear + 0.1 * random.normal(size=clear.shape), clear)
    far = separation(clear + 1.0 * random.normal(size=clear.shape), clear)
    assert near > far > 0.5
    assert abs(separation(random.normal(size=clear.shape), clear)) < 0.5
    assert np.isfinite(separation(np.zeros((5, 8)), np.zeros((5, 8))))
