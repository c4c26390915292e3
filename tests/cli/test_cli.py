"""The command line: every command's help, every failure as one clear line, and the right exit code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcome import assert_one_error

from phaseveil import __version__
from phaseveil.data.image_io import read_image, write_png
from phaseveil.pipeline import PhaseVeil

COMMANDS = [
    [],
    ["anonymize"],
    ["capture"],
    ["camera"],
    ["camera", "info"],
    ["camera", "check"],
    ["camera", "psf"],
    ["camera", "plot"],
    ["prepare"],
    ["align"],
    ["download"],
    ["train"],
    ["train", "camera"],
    ["train", "face"],
    ["evaluate"],
    ["attack"],
    ["table1"],
    ["sweep"],
    ["export"],
    ["export", "onnx"],
    ["export", "mask"],
    ["export", "camera"],
    ["design"],
    ["tolerance"],
    ["calibrate"],
    ["point-sources"],
    ["web"],
    ["bench"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(run: Any, command: list[str]) -> None:
    outcome = run(*command, "--help")
    assert outcome.code == 0
    assert "Usage: phaseveil" in outcome.out
    assert outcome.err == ""


def test_no_arguments_show_the_help(run: Any) -> None:
    assert "anonymize" in run().out


def test_the_version(run: Any) -> None:
    assert run("--version").out == f"phaseveil {__version__}\n"


def test_the_installed_command_exits_with_the_code() -> None:
    code = "import sys; from phaseveil.cli import main; sys.argv = ['phaseveil', 'nonsense']; main()"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "error: No such command 'nonsense'.\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["anonymize"], "Missing argument"),
        (["anonymize", "x.png"], "--out"),
        (["anonymize", "x.png", "--out", "o", "--domain", "robot"], "--domain"),
        (["anonymize", "x.png", "--out", "o", "--seed", "-1"], "--seed"),
        (["anonymize", "x.png", "--out", "o", "--speed"], "--speed"),
        (["anonymize", "x.png", "--out", "o", "--seed", "1", "--reference", "r.png"], "--seed and --reference exclude"),
        (["anonymize", "x.png", "--out", "o", "--acquired", "--align"], "--acquired and --align exclude"),
        (["anonymize", "x.png", "--out", "o", "--acquired", "--camera", "paper"], "--acquired and --camera exclude"),
        (["anonymize", "x.png", "--out", "o", "--align", "--size", "64"], "--align and --size exclude"),
        (["anonymize", "x.png", "--out", "o", "--save", "poster"], "--save poster"),
        (["anonymize", "x.png", "--out", "o", "--engine", "abacus"], "--engine"),
        (["anonymize", "x.png", "--out", "o", "--erase-shape", "-1"], "--erase-shape"),
        (["anonymize", "x.png", "--out", "o", "--erase-shape", "9", "--engine", "openvino"], "and the engine openvino"),
        (["export"], "Missing command"),
        (["export", "onnx"], "--out"),
        (["export", "onnx", "--out", "o", "--opset", "9"], "--opset"),
        (["camera", "info", "telescope"], "telescope"),
        (["train"], "Missing command"),
        (["train", "camera", "absent"], "no such config file or preset"),
        (["train", "camera", "stage1/base", "--set", "lerning_rate=1"], "lerning_rate"),
        (["train", "face", "stage2/base", "--set", "steps=many"], "steps"),
        (["train", "face", "stage2/base", "--device", "warp"], "not usable on this machine"),
        (["download", "everything"], "not in the catalogue"),
        (["prepare", "absent", "out"], "absent"),
        (["align", "absent.jpg", "--out", "out"], "no such file or folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_is_one_line(run: Any, arguments: list[str], part: str) -> None:
    assert_one_error(run(*arguments), part)


def test_capture_and_camera_files(run: Any, face_file: Path, tmp_path: Path) -> None:
    outcome = run("capture", face_file, "--out", tmp_path / "out", "--camera", "gaussian", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["done"] == 1
    assert read_image(tmp_path / "out/face.png").shape == (96, 96, 3)
    psf, plot = tmp_path / "psf.png", tmp_path / "plot.png"
    assert run("camera", "psf", "gaussian", "--out", psf, "--size", "64").out == f"{psf}\n"
    assert run("camera", "plot", "gaussian", "--out", plot, "--size", "64").out == f"{plot}\n"
    assert psf.is_file()
    assert plot.is_file()


def test_camera_info(run: Any) -> None:
    outcome = run("camera", "info", "portrait", "--size", "64")
    assert outcome.code == 0
    for name in ("frame width", "F-number", "pixel pitch", "mask height range", "slope", "PSF width", "MTF50"):
        assert name in outcome.out
    assert json.loads(run("camera", "info", "gaussian", "--size", "64", "--json").out)["kind"] == "gaussian"


def test_camera_check(run: Any) -> None:
    outcome = run("camera", "check", "gaussian", "--size", "64")
    assert outcome.code == 0
    for line in ("highest secondary peak        none", "RMS radius", "replicates the image          no"):
        assert line in outcome.out
    check = json.loads(run("camera", "check", "gaussian", "--size", "64", "--json").out)
    assert (check["replicates"], check["shifts"], check["shift"]) == (False, False, pytest.approx([0, 0, 0], abs=1e-6))
    assert_one_error(run("camera", "check", "pinhole"), "no such config file or preset")


def test_align(run: Any, astronaut: np.ndarray, tmp_path: Path) -> None:
    write_png(tmp_path / "in/astronaut.png", astronaut)
    outcome = run("align", tmp_path / "in", "--out", tmp_path / "in/out", "--size", "64")
    assert outcome.code == 0
    assert outcome.out.startswith("faces written: 1, photographs skipped: 0;")
    assert read_image(tmp_path / "in/out/astronaut.png").shape == (64, 64, 3)
    (tmp_path / "in/text.png").write_text("no picture")
    outcome = run("align", tmp_path / "in", "--out", tmp_path / "in/out", "--size", "64", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["skipped"] == 1
    assert "text.png: not an image" in outcome.err


def test_prepare_counts(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phaseveil.data import prepare

    report = prepare.PrepareReport(3, 1, 1, [prepare.Skipped("a.png", "no face found, try again")], 0.5)
    monkeypatch.setattr(prepare, "prepare", lambda *_: report)
    monkeypatch.setattr(prepare, "prepare_aligned", lambda *_: prepare.PrepareReport(total=1))
    assert run("prepare", "photos", tmp_path).out.startswith("1 written, 1 kept, 1 skipped of 3")
    assert json.loads(run("prepare", "photos", tmp_path, "--json").out)["reasons"] == {"no face found": 1}
    assert run("prepare", "photos", tmp_path, "--aligned").code == 1


def test_download_lists_its_catalogue(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phaseveil.data import download

    assert "celeba-hq" in run("download", "list").out
    monkeypatch.setattr(download, "download", lambda name, out, copy, report: [out / name])
    assert run("download", "wing", "--out", tmp_path).out == f"{tmp_path / 'wing'}\n"


@pytest.mark.parametrize("stage", ["camera", "face"])
def test_training_gets_its_settings(run: Any, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    from phaseveil.training import camera, face

    calls: list[Any] = []

    def train(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        arguments[-1]("step 1")
        return {"loss": 0.5}

    monkeypatch.setattr({"camera": camera, "face": face}[stage], f"train_{stage}", train)
    preset = {"camera": "stage1/base", "face": "stage2/base"}[stage]
    outcome = run("train", stage, preset, "--set", "steps=7", "--set", "seed=3", "--resume", "--max-minutes", "1.5")
    config, resume, minutes, device = calls[0][:4]
    assert (config.steps, config.seed, resume, minutes, device) == (7, 3, True, 1.5, "cpu")
    assert json.loads(outcome.out) == {"loss": 0.5}
    assert outcome.err == "step 1\n"


def test_export_tells_how_well_the_files_agree(
    run: Any, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phaseveil.engines.export import Exported, Settings

    seen: list[Any] = []

    def export(pipeline: PhaseVeil, out: Path, settings: Settings, report: Any) -> list[Exported]:
        seen.append((pipeline.size, settings))
        return [Exported(out / "pair.onnx", 3 * 2**20, 1.5e-6, 2e-7, 0.25)]

    monkeypatch.setattr("phaseveil.apps.export.export_onnx", export)
    given = ("export", "onnx", "--out", tmp_path, "--weights", tiny_weights)
    lines = run(*given, "--opset", "20", "--precision", "int8").out.splitlines()
    assert lines[1].split() == [str(tmp_path / "pair.onnx"), "3.0", "1.5e-06", "2.0e-07", "0.250"]
    assert seen == [(32, Settings(20, "int8"))]
    (record,) = json.loads(run(*given, "--json").out)
    assert record == {
        "path": str(tmp_path / "pair.onnx"),
        "size": 3 * 2**20,
        "largest": 1.5e-6,
        "mean": 2e-7,
        "landmark_shift": 0.25,
    }
