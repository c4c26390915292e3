"""`phaseveil tolerance`: what is drawn, kept, ranked and counted."""

import json
from pathlib import Path

import pytest
import torch

from phaseveil.apps import tolerance as job
from phaseveil.apps.tolerance import ToleranceStudy, load_study, wilson_interval
from phaseveil.cli import run
from phaseveil.errors import ConfigError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, save_camera
from phaseveil.optics.tolerance import Tolerances


@pytest.fixture(scope="module")
def camera_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    camera = PhaseMaskCamera(
        CameraConfig(aperture_radius=0.1e-3, frame_width=0.03, pupil_samples=48, num_modes=8, psf_support=0.5)
    )
    camera.coefficients.data = 2e-7 * torch.randn(5, generator=torch.Generator().manual_seed(5))
    return save_camera(tmp_path_factory.mktemp("camera") / "design.safetensors", camera)


def command(camera_file: Path, weights: Path, prepared: Path, out: Path, *settings: str) -> list[str]:
    fixed = ["tolerance", "--camera", str(camera_file), "--weights", str(weights), "--data", str(prepared)]
    few = ("tolerances.correlation_length=2e-5", "draws=4", "alone=2", "faces=3", *settings)
    return [*fixed, "--out", str(out), "--json", *(part for text in few for part in ("--set", text))]


def test_a_study_counts_ranks_and_goes_on(
    camera_file: Path,
    tiny_weights: Path,
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = command(camera_file, tiny_weights, prepared, tmp_path, "information_rise=0.02", "landmark_rise=5.0")
    built = job.built_within
    calls = []

    def interrupted(*given: object):  # type: ignore[no-untyped-def]
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return built(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "built_within", interrupted)
    assert run(arguments) == 130
    capsys.readouterr()
    assert run(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(calls) == 3 + 2 + 2 * len(result["ranking"])  # the two finished draws were not done again
    assert json.loads((tmp_path / "tolerance.json").read_text()) == result
    assert (tmp_path / "tolerance.png").read_bytes().startswith(b"\x89PNG")

    limit = result["limits"]["information"]
    assert limit == pytest.approx(1.02 * result["design"]["information"])
    inside = sum(one["information"] <= limit and one["landmark_error"] <= result["limits"]["landmark_error"]
                 for one in result["built"])  # fmt: skip
    assert result["yield"]["value"] == inside / 4
    assert result["yield"]["low"] <= inside / 4 <= result["yield"]["high"]
    used = [one["used"] for one in result["ranking"]]
    assert used == sorted(used, reverse=True)
    assert {one["tolerance"] for one in result["ranking"]} == set(load_study("lithography").tolerances.active())

    monkeypatch.setattr(job, "built_within", built)
    again = command(
        camera_file, tiny_weights, prepared, tmp_path / "fresh", "information_rise=0.02", "landmark_rise=5.0"
    )
    assert run(again) == 0
    assert json.loads(capsys.readouterr().out) == result


def test_another_designs_limits_are_kept(
    camera_file: Path, tiny_weights: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"landmark_error": 1e-6, "information": 100.0}
    (tmp_path / "before.json").write_text(json.dumps({"limits": limits}))
    arguments = command(camera_file, tiny_weights, prepared, tmp_path / "out", "alone=1")
    assert run([*arguments, "--limits", str(tmp_path / "before.json")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["limits"] == limits
    assert result["yield"]["geometry"] == 0.0
    assert result["yield"]["leakage"] == 1.0
    assert all(0 <= one["used"] < 100 for one in result["ranking"])  # of the margin of the design, not of the limit


@pytest.mark.parametrize("text", [None, "no json", "[]", '{"limits": {"information": 1}}'])
def test_limits_that_are_none_are_one_line(
    camera_file: Path,
    tiny_weights: Path,
    prepared: Path,
    tmp_path: Path,
    text: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if text is not None:
        (tmp_path / "before.json").write_text(text)
    arguments = command(camera_file, tiny_weights, prepared, tmp_path / "out")
    assert run([*arguments, "--limits", str(tmp_path / "before.json")]) == 2
    assert "tolerance.json" in capsys.readouterr().err


def test_a_large_tolerance_costs_yield_and_ranks_first(
    camera_file: Path, tiny_weights: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(
        "tolerances: {focus: 300e-6, quantisation: 1e-9}\ndraws: 6\nalone: 6\ninformation_rise: 0.001\nfaces: 2\n"
    )
    arguments = ["tolerance", "--spec", str(file), "--camera", str(camera_file), "--weights", str(tiny_weights)]
    assert run([*arguments, "--data", str(prepared), "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "tolerance.json").read_text())
    assert result["ranking"][0]["tolerance"] == "focus"
    assert result["ranking"][1]["used"] < 0.5
    assert result["yield"]["value"] < 1
    assert "yield" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["lithography", "diamond-turned"])
def test_presets_are_complete(name: str) -> None:
    assert len(load_study(name).tolerances.active()) >= 10


def test_wilson_interval_is_the_published_one() -> None:
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1


def test_impossible_studies_are_one_line(camera_file: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tolerance"):
        ToleranceStudy()
    with pytest.raises(ConfigError, match="probes"):
        ToleranceStudy(tolerances=Tolerances(scale=0.1), probes=5)
    with pytest.raises(ConfigError, match="nonsense"):
        load_study("lithography", ["tolerances.nonsense=1"])
    assert run(["tolerance", "--camera", "gaussian", "--data", str(prepared), "--out", str(tmp_path)]) == 2
    assert run(["tolerance", "--camera", str(camera_file), "--data", str(prepared), "--out", str(tmp_path)]) == 2
