"""The command line: every command's help, every failure as one clear line, and the right exit code."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phaseveil import __version__, cli
from phaseveil.data import image_io
from phaseveil.data.image_io import read_image, write_png
from phaseveil.models.face import FaceConfig, FaceNetworks, save_face_networks
from phaseveil.pipeline import STRENGTH, PhaseVeil

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


class Outcome:
    """What a command line gave: exit code, standard output and standard error."""

    def __init__(self, code: int, captured: Any) -> None:
        self.code, self.out, self.err = code, captured.out, captured.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process."""

    def call(*arguments: str | Path) -> Outcome:
        code = cli.run([str(argument) for argument in arguments])
        return Outcome(code, capsys.readouterr())

    return call


@pytest.fixture
def anonymize(run: Any, tiny_weights: Path) -> Any:
    """Run ``phaseveil anonymize`` with the tiny networks."""
    return lambda *arguments: run("anonymize", *arguments, "--weights", tiny_weights)


def assert_one_error(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert part in outcome.err


def manifest(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text("utf-8").splitlines()]


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


def test_anonymize_writes_a_face_a_manifest_and_a_summary(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    outcome = anonymize(face_file, "--out", tmp_path / "out", "--seed", "3", "--save", "sheet")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert outcome.out.startswith("1 done, 0 skipped in ")
    assert read_image(tmp_path / "out/face.png").shape == (96, 96, 3)
    assert str(tmp_path / "out/sheet/page-1.png") in outcome.out
    assert manifest(tmp_path / "out")[0]["seed"] == 3


def test_the_summary_can_be_json(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    outcome = anonymize(face_file, "--out", tmp_path / "out", "--json", "--size", "40")
    summary = json.loads(outcome.out)
    assert (summary["done"], summary["skipped"], summary["faces"]) == (1, 0, 1)
    assert read_image(tmp_path / "out/face.png").shape == (40, 40, 3)


def test_same_command_same_bytes(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        anonymize(face_file, "--out", tmp_path / name, "--seed", seed)
    first, again, other = ((tmp_path / name / "face.png").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_photographs_references_and_acquisitions(
    anonymize: Any, astronaut: np.ndarray, face_file: Path, tmp_path: Path
) -> None:
    photograph = write_png(tmp_path / "astronaut.png", astronaut)
    assert anonymize(photograph, "--out", tmp_path / "a", "--align", "--reference", photograph).code == 0
    assert read_image(tmp_path / "a/astronaut.png").shape == astronaut.shape
    assert anonymize(face_file, "--out", tmp_path / "b", "--acquired", "--domain", "male").code == 0
    assert anonymize(face_file, "--out", tmp_path / "c", "--camera", "low-resolution").code == 0


def test_bad_files_in_a_batch_are_skipped_and_told(anonymize: Any, face_crop: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_png(folder / "good.png", face_crop)
    write_png(folder / "noface.png", np.full((64, 64, 3), 90, np.uint8))
    write_png(folder / "wide.png", np.concatenate([face_crop, face_crop], axis=1))
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not a picture")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:1000])
    Image.new("L", (20_000, 16)).save(folder / "huge.png")
    outcome = anonymize(folder, "--out", tmp_path / "out", "--seed", "1")
    reasons = {Path(line["input"]).stem: line.get("reason", "") for line in manifest(tmp_path / "out")}
    assert outcome.code == 1
    assert outcome.out.startswith("1 done, 6 skipped")
    assert outcome.err.count("\n") == 6
    assert reasons["good"] == ""
    assert "no face found" in reasons["noface"]
    assert "not square" in reasons["wide"]
    assert "0 bytes" in reasons["empty"]
    assert "not an image" in reasons["text"]
    assert "damaged" in reasons["cut"]
    assert "too large" in reasons["huge"]
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["good.png"]


def test_one_bad_file_alone_is_skipped(anonymize: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    outcome = anonymize(tmp_path / "text.png", "--out", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.startswith(f"skipped {tmp_path / 'text.png'}: not an image")


def test_missing_inputs_are_an_error(anonymize: Any, tmp_path: Path) -> None:
    assert_one_error(
        anonymize(tmp_path / "absent.png", "--out", tmp_path / "out"), "absent.png: no such file or folder"
    )
    (tmp_path / "empty").mkdir()
    assert_one_error(anonymize(tmp_path / "empty", "--out", tmp_path / "out"), "no images found")


def test_an_output_that_is_a_file(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("keep me")
    assert_one_error(anonymize(face_file, "--out", tmp_path / "out"), "is a file, not a folder; choose another --out")
    assert_one_error(anonymize(face_file, "--out", tmp_path / "out" / "below"), "choose another output folder")
    assert (tmp_path / "out").read_text() == "keep me"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "no permission to write here"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_keeps_the_old_one(
    anonymize: Any, face_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, part: str
) -> None:
    anonymize(face_file, "--out", tmp_path / "out", "--seed", "1")
    before = (tmp_path / "out/face.png").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(code, "it failed")

    monkeypatch.setattr(image_io, "replace_atomically", refuse)
    assert_one_error(anonymize(face_file, "--out", tmp_path / "out", "--seed", "2"), "face.png", part)
    assert (tmp_path / "out/face.png").read_bytes() == before


def test_weights_that_do_not_fit(
    run: Any, face_file: Path, tiny_weights: Path, tiny_face_config: FaceConfig, tmp_path: Path
) -> None:
    for name in ("camera", "heatmap", "face"):
        (tmp_path / f"{name}.safetensors").write_bytes((tiny_weights / f"{name}.safetensors").read_bytes())
    call = ("anonymize", face_file, "--out", tmp_path / "out", "--weights", tmp_path)
    tiny_face_config = FaceConfig(**vars(tiny_face_config) | {"size": 64})
    save_face_networks(tmp_path / "face.safetensors", FaceNetworks(tiny_face_config))
    assert_one_error(run(*call), "works at 32 pixels, the face networks at 64")
    (tmp_path / "face.safetensors").write_bytes(b"nonsense")
    assert_one_error(run(*call), "face.safetensors", "damaged")
    (tmp_path / "heatmap.safetensors").unlink()
    assert_one_error(run(*call), "heatmap.safetensors", "no such weights file")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_ends_cleanly(
    anonymize: Any, face_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PhaseVeil, "redraw", interrupt)
    outcome = anonymize(face_file, "--out", tmp_path / "out")
    assert outcome.code == 130
    assert outcome.err == "interrupted; finished outputs are intact\n"
    assert not list((tmp_path / "out").glob(".*"))


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


def test_shape_is_erased_on_request(anonymize: Any, face_file: Path, tmp_path: Path) -> None:
    plain, erased, again = (tmp_path / name for name in ("plain", "erased", "again"))
    assert anonymize(face_file, "--out", plain, "--save", "acquisition,heatmap").code == 0
    for out in (erased, again):
        assert anonymize(face_file, "--out", out, "--erase-shape", "20", "--save", "acquisition,heatmap").code == 0
    faces = [read_image(out / "face.png") for out in (plain, erased, again)]
    assert not np.array_equal(faces[0], faces[1])
    assert np.array_equal(faces[1], faces[2])
    seen = [read_image(out / "acquisition" / "face.png") for out in (plain, erased)]
    assert np.array_equal(seen[0], seen[1])  # what the camera recorded is what it recorded
    assert_one_error(anonymize(face_file, "--out", tmp_path / "many", "--erase-shape", "41"), "1 to 40 directions")


@pytest.fixture
def domains(face_crop: np.ndarray, tmp_path: Path) -> Path:
    """Three crops of each domain, as ``evaluate`` wants them."""
    for domain in ("female", "male"):
        for number in range(3):
            write_png(tmp_path / "faces" / domain / f"{number}.png", np.roll(face_crop, number, axis=1))
    return tmp_path / "faces"


def test_evaluate_writes_its_record_and_prints_the_tables(
    run: Any, domains: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    given = ("--sources", domains, "--references", domains, "--weights", tiny_weights, "--outputs", "3", "--limit", "2")
    table = run("evaluate", *given, "--json", tmp_path / "record.json")
    assert table.code == 0, table.err
    assert "LPIPS" in table.out
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["samples"]["sources"] == {"female": 1, "male": 1}
    assert record["missing"]["modes.latent.LPIPS"].endswith("give --perceptual")
    again = run("evaluate", *given, "--json", tmp_path / "record.json", "--markdown")
    assert "| FD (dlib) |" in again.out
    figures = json.loads((tmp_path / "record.json").read_text())
    assert {**figures, "seconds": None} == {**record, "seconds": None}


def test_evaluate_draws_styles_as_strong_as_asked(run: Any, domains: Path, tiny_weights: Path, tmp_path: Path) -> None:
    given = ("--sources", domains, "--references", domains, "--weights", tiny_weights, "--outputs", "3", "--limit", "2")
    for name, extra, wanted in (("default", (), STRENGTH), ("full", ("--strength", "1"), 1.0)):
        done = run("evaluate", *given, "--json", tmp_path / f"{name}.json", *extra)
        assert done.code == 0, done.err
        assert json.loads((tmp_path / f"{name}.json").read_text("utf-8"))["settings"]["strength"] == wanted
    refused = run("evaluate", *given, "--json", tmp_path / "refused.json", "--strength", "-1")
    assert_one_error(refused, "style strength must be a number from 0 on, got -1.0")
    assert not (tmp_path / "refused.json").exists()


def test_evaluate_says_what_it_lacks(run: Any, domains: Path, tiny_weights: Path, tmp_path: Path) -> None:
    given = ("--references", domains, "--json", tmp_path / "record.json", "--weights", tiny_weights)
    few = run("evaluate", "--sources", domains, *given)
    assert_one_error(few, "3 images, at least 10 are needed")
    no_folders = run("evaluate", "--sources", domains / "male", *given, "--outputs", "3")
    assert_one_error(no_folders, "needs subfolders female and male")
    missing = run("evaluate", "--sources", domains, *given, "--outputs", "3", "--perceptual", tmp_path / "none")
    assert_one_error(missing, "phaseveil download perceptual")
    assert not (tmp_path / "record.json").exists()


def test_attack_gets_its_settings_and_prints_the_headline(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def attack(camera: str, weights: Path | None, options: Any, say: Any) -> dict[str, Any]:
        seen.append((camera, weights, options))
        return {"schema": "card"}

    monkeypatch.setattr("phaseveil.apps.attack.attack", attack)
    monkeypatch.setattr("phaseveil.apps.attack_card.summary", lambda card, folder: [card["schema"], str(folder)])
    given = ("attack", "--camera", "gaussian", "--pairs", "pairs.csv", "--out", tmp_path, "--no-pictures")
    outcome = run(*given, "--against", "a.json", "--against", "b.json", "--seed", "3", "--budget", "full")
    assert (outcome.code, outcome.out) == (0, f"card\n{tmp_path}\n")
    camera, weights, options = seen[0]
    assert (camera, weights, options.seed, options.budget.name, options.pictures) == (
        "gaussian",
        None,
        3,
        "full",
        False,
    )
    assert options.against == (Path("a.json"), Path("b.json"))
    assert json.loads(run(*given, "--json").out) == {"schema": "card"}


def test_attack_says_what_it_lacks(run: Any, tmp_path: Path) -> None:
    assert_one_error(run("attack", "--pairs", tmp_path / "none.csv", "--out", tmp_path), "cannot be read as CSV")
    assert_one_error(
        run("attack", "--camera", "pinhole", "--pairs", tmp_path / "none.csv", "--out", tmp_path),
        "no such config file or preset",
    )
    assert_one_error(run("attack", "--budget", "endless", "--pairs", "p.csv", "--out", tmp_path), "endless")


def test_table1_hands_its_rows_on(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def make_table(rows: Any, data: Path, options: Any, out: Path, stage: Any, say: Any) -> str:
        seen.append((rows, options))
        return "| camera |"

    monkeypatch.setattr("phaseveil.apps.table.make_table", make_table)
    given = ("--data", "d", "--sources", "s", "--references", "r", "--perceptual", "p", "--out", tmp_path)
    assert run("table1", *given).out == "| camera |\n"
    run("table1", *given, "--row", "gaussian", "--row", "front/gaussian-24", "--set", "heatmap_steps=7")
    assert list(seen[0][0]) == ["learned", "low-resolution", "gaussian", "defocus"]
    assert {name: row.heatmap_steps for name, row in seen[1][0].items()} == {"gaussian": 7, "gaussian-24": 7}
    assert_one_error(run("table1", *given, "--row", "pinhole"), "no such config file or preset")


def test_sweep_hands_its_settings_on(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def sweep(config: Any, options: Any, say: Any) -> str:
        seen.append((config, options))
        say("learned-0.05: training")
        return "| camera |"

    monkeypatch.setattr("phaseveil.apps.sweep.sweep", sweep)
    given = ("--data", "d", "--pairs", "p.csv", "--out", tmp_path)
    outcome = run("sweep", "front", *given, "--set", "ceilings=[0.05]", "--set", "seed=3", "--cache", "c")
    assert (outcome.out, outcome.err) == ("| camera |\n", "learned-0.05: training\n")
    config, options = seen[0]
    assert (config.ceilings, config.seed, config.budget) == ([0.05], 3, "quick")
    assert (options.data, options.pairs, options.out) == (Path("d"), Path("p.csv"), tmp_path)
    assert (options.perceptual, options.cache) == (None, Path("c"))


def test_sweep_says_what_it_lacks(run: Any, tmp_path: Path) -> None:
    given = ("--data", tmp_path / "none", "--pairs", tmp_path / "none.csv", "--out", tmp_path / "out")
    assert_one_error(run("sweep", "wishful", *given), "sweep/wishful: no such config file or preset")
    assert_one_error(run("sweep", "front", *given, "--set", "ceiling=0.05"), "ceiling")
    assert_one_error(run("sweep", "front", *given, "--set", "budget=endless"), "budget must be one of quick, full")
    assert_one_error(run("sweep", "front", *given), "no index.jsonl; run 'phaseveil prepare")
    assert_one_error(run("sweep", "front", "--out", tmp_path), "--data")
    assert not (tmp_path / "out").exists()


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


def test_anonymize_runs_on_another_engine(anonymize: Any, exported: Path, face_file: Path, tmp_path: Path) -> None:
    call = ("--seed", "3", "--engine", "onnxruntime", "--engine-dir", exported)
    assert anonymize(face_file, "--out", tmp_path / "a", *call).code == 0
    assert anonymize(face_file, "--out", tmp_path / "b", "--seed", "3").code == 0
    found, expected = (read_image(tmp_path / name / "face.png").astype(int) for name in "ab")
    assert np.abs(found - expected).mean() < 1  # PyTorch's may be in bfloat16
    assert_one_error(
        anonymize(face_file, "--out", tmp_path / "c", "--engine", "onnxruntime", "--engine-dir", tmp_path),
        "no pair.onnx here; write it by 'phaseveil export onnx",
    )
