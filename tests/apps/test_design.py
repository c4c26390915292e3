"""`phaseveil design`: files, figures that hold together, an improvement on every step, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phaseveil.apps import design as job
from phaseveil.apps.design import SIDE, Design, best_light, equal_gaussian, improve, load_design, read
from phaseveil.cli import run
from phaseveil.errors import ConfigError
from phaseveil.losses.linear import LinearReaders, Observations
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, build_camera, load_camera, save_camera
from phaseveil.optics.departure import MaskDeparture
from phaseveil.optics.propagation import steepest_phase_step
from phaseveil.optics.transport import transport_coefficients

FEW = Design(target_steps=30, steps=12, points=300, components=8, size=SIDE)


@pytest.fixture(scope="module")
def camera_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    camera = PhaseMaskCamera(
        CameraConfig(aperture_radius=0.1e-3, frame_width=0.03, pupil_samples=64, num_modes=15, psf_support=0.7)
    )
    return save_camera(tmp_path_factory.mktemp("camera") / "flat.safetensors", camera)


@pytest.fixture(scope="module")
def readers() -> LinearReaders:
    """Of smooth random scenes whose coarse structure holds the landmarks and whose finer holds the identity."""
    luck = torch.Generator().manual_seed(0)
    scenes = torch.randn(600, 3, SIDE, SIDE, generator=luck)
    transform = torch.fft.rfft2(scenes)
    across, down = torch.fft.rfftfreq(SIDE) * SIDE, torch.fft.fftfreq(SIDE) * SIDE
    frequency = (across[None, :].square() + down[:, None].square()).sqrt()
    light = 0.3 + 0.1 * torch.fft.irfft2(transform * (frequency < 8) / frequency.clamp_min(1))
    coarse, fine = (torch.fft.irfft2(transform * band) for band in (frequency < 2.5, (frequency > 3) & (frequency < 8)))
    mean = torch.rand(68, 2, generator=luck)
    landmarks = mean + 0.01 * (coarse.flatten(1) @ torch.randn(3 * SIDE**2, 136, generator=luck)).unflatten(1, (68, 2))
    embeddings = fine.flatten(1) @ torch.randn(3 * SIDE**2, 16, generator=luck)
    return LinearReaders.fit(Observations(light, landmarks, embeddings), CameraConfig().sensor, SIDE, 90, 1e-3)


def loss(readers: LinearReaders, camera: PhaseMaskCamera, config: Design) -> float:
    reading = read(readers, camera)
    return (reading.identity + config.geometry * reading.landmark_error).item()


def nothing(_done: int, _of: int) -> None:
    """Takes reports."""


def test_every_step_of_a_design_gains(readers: LinearReaders, camera_file: Path) -> None:
    config, camera = replace(FEW, target_steps=100, steps=40, geometry=0.5, points=1000), load_camera(str(camera_file))
    assert isinstance(camera, PhaseMaskCamera)
    flat = loss(readers, camera, config)
    target = best_light(readers, camera.config.psf_pixels(SIDE), config, nothing)
    assert target.sum(dim=(1, 2)) == pytest.approx(torch.ones(3), rel=1e-5)
    assert (target >= 0).all()
    bound = (readers(target).identity + config.geometry * readers(target).landmark_error).item()
    camera.coefficients.data = transport_coefficients(camera, target[0], SIDE, config.points)
    camera.keep_samplable()
    start = loss(readers, camera, config)
    improve(camera, readers, config, nothing)
    end = loss(readers, camera, config)
    assert bound < end < start < flat


@pytest.mark.parametrize("weight", ["fine", "outside"])
def test_what_linear_readers_overlook_has_its_own_price(readers: LinearReaders, camera_file: Path, weight: str) -> None:
    """Fine structure above the noise, and light beyond the window: less of it where it costs."""
    found = []
    for price in (0.0, 10.0):
        camera = load_camera(str(camera_file))
        assert isinstance(camera, PhaseMaskCamera)
        camera.coefficients.data = 3e-7 * torch.randn(12, generator=torch.Generator().manual_seed(1))
        improve(camera, readers, replace(FEW, steps=80, mask_rate=1e-8, **{weight: price}), nothing)
        with torch.no_grad():
            overlooked = {"fine": job._fine(camera, SIDE), "outside": job._outside(camera.enclosed_psf(SIDE))}
        found.append(overlooked[weight].item())
    assert found[1] < 0.9 * found[0]


def test_what_is_too_steep_beyond_the_rim_costs(readers: LinearReaders, camera_file: Path) -> None:
    """Polynomials run away beyond the rim, where a workshop's decentring moves them into the pupil."""
    camera = PhaseMaskCamera(replace(load_camera(str(camera_file)).config, num_modes=136))
    round_blur = torch.exp(-0.1 * (torch.arange(-11, 12) ** 2)[:, None] - 0.1 * torch.arange(-11, 12) ** 2)
    runaway = transport_coefficients(camera, round_blur, SIDE, points=150)
    margin = job._margin_steps(camera, 0.06)
    beside = []
    for angle in range(0, 360, 30):
        shift = (0.06 * math.cos(math.radians(angle)), 0.06 * math.sin(math.radians(angle)))
        camera.coefficients.data = runaway
        moved = camera.under(camera.config, MaskDeparture(shift=shift))
        beside.append(steepest_phase_step(moved.pupil_phase(), moved.aperture))
    assert (margin @ runaway).abs().max().item() == pytest.approx(max(beside), rel=0.15)  # 64 cells miss the rim itself
    costs = []
    for width in (0.0, 0.06):
        camera.coefficients.data = runaway.clone()
        improve(camera, readers, replace(FEW, slope=1e5, mask_rate=1e-10, margin=width), nothing)
        costs.append(job._steep_beyond(margin, camera.coefficients).item())
    assert costs[1] < 0.5 * costs[0]


def test_the_gaussian_of_equal_geometry_has_that_geometry(readers: LinearReaders, camera_file: Path) -> None:
    camera = load_camera(str(camera_file))
    blur = build_camera(replace(camera.config, kind="gaussian", gaussian_sigma=0.08, psf_support=0.64))
    wanted = read(readers, blur).landmark_error.item()
    found = equal_gaussian(readers, camera, wanted)
    assert found["sigma"] == pytest.approx(0.08, abs=1e-3)
    assert found["landmark_error"] == pytest.approx(wanted, rel=1e-3)


def command(camera_file: Path, prepared: Path, out: Path, *settings: str) -> list[str]:
    few = (f"camera={camera_file}", "size=32", "components=1", "target_steps=5", "steps=3", "points=50", *settings)
    return [
        *("design", "--data", str(prepared), "--out", str(out), "--json"),
        *(part for text in few for part in ("--set", text)),
    ]


def test_the_command_writes_a_camera_that_others_take(
    camera_file: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(camera_file, prepared, tmp_path / "one")) == 0
    record = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "one" / "design.json").read_text()) == record
    assert (tmp_path / "one" / "optics.png").read_bytes().startswith(b"\x89PNG")
    camera = load_camera(str(tmp_path / "one" / "camera.safetensors"))
    assert isinstance(camera, PhaseMaskCamera)
    assert camera.coefficients.any()
    assert record["relief"] == pytest.approx((camera.height_map().amax() - camera.height_map().amin()).item())
    assert run(command(camera_file, prepared, tmp_path / "two")) == 0
    again = load_camera(str(tmp_path / "two" / "camera.safetensors"))
    assert isinstance(again, PhaseMaskCamera)
    assert torch.equal(again.coefficients, camera.coefficients)
    assert "identity" in job.describe(record)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("components=600",), "too few for 600 components"),
        (("camera=gaussian",), "no mask to design"),
        (("camera=dynamic",), "no mask to design"),
        (("geometri=3",), "geometri"),
        (("eyes_within=0.0001",), "set eyes_within=0"),
        (("geometry=-1",), "must be above 0"),
        (("margin=0.6",), "margin must lie in [0, 0.5]"),
        (("size=8",), "size must lie between"),
    ],
)
def test_what_cannot_be_designed_is_said_in_one_line(
    camera_file: Path,
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, ...],
    words: str,
) -> None:
    assert run(command(camera_file, prepared, tmp_path / "out", *settings)) == 2
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert not (tmp_path / "out" / "camera.safetensors").exists()


def test_a_place_that_cannot_be_written_is_refused_at_once(
    camera_file: Path,
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr(job, "observe", lambda *_: pytest.fail("began to work"))
    assert run(command(camera_file, prepared, tmp_path / "taken")) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_file_of_settings_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("geometry: 7.0\n")
    assert load_design(str(file), ("steps=9",)) == Design(geometry=7.0, steps=9)
    file.write_text("unknown: 7.0\n")
    with pytest.raises(ConfigError, match="unknown"):
        load_design(str(file))
