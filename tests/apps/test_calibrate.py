"""From files of captures to a camera file: the command line against a simulated bench whose mask it is not told."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from phaseveil import cli
from phaseveil.apps.calibrate_inputs import read_captures, read_exposures, read_linear, write_linear
from phaseveil.checkpoint import load
from phaseveil.errors import InputError
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera, load_camera, save_camera
from phaseveil.optics.psf import psf_correlation
from phaseveil.optics.sensor import SensorConfig

SIZE = 96


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera file whose calibration takes little time."""
    camera = PhaseMaskCamera(
        CameraConfig(
            aperture_radius=0.1e-3,
            frame_width=0.06,
            pupil_samples=48,
            psf_support=0.45,
            num_modes=10,
            sensor=SensorConfig(bits=12),
        )
    )
    draw = torch.randn(7, generator=torch.Generator().manual_seed(0))
    camera.coefficients.data.copy_(2.5e-7 * draw / draw.norm())
    return save_camera(tmp_path_factory.mktemp("design") / "design.safetensors", camera)


@pytest.fixture(scope="module")
def bench(design: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captures by a camera whose mask is 100 nm RMS off."""
    out = tmp_path_factory.mktemp("bench")
    arguments = ["--camera", design, "--error", "1e-7", "--size", SIZE, "--positions", "3", "--seed", "4"]
    assert cli.run([str(each) for each in ("point-sources", "--out", out, *arguments)]) == 0
    return out


def command(bench: Path, design: Path, *more: str | Path) -> list[str]:
    given = [bench / "points", "--dark", bench / "dark", "--exposures", bench / "exposures.csv", "--camera", design]
    return [str(each) for each in ("calibrate", *given, *more)]


def test_an_unknown_mask_is_measured(
    bench: Path, design: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "measured.safetensors"
    capsys.readouterr()
    assert cli.run(command(bench, design, "--out", out, "--psf", tmp_path / "psf.npy", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    found, truth, designed = (load_camera(path) for path in (out, bench / "camera.safetensors", design))
    assert psf_correlation(designed.psf(SIZE), truth.psf(SIZE)).mean() < 0.98
    assert psf_correlation(found.psf(SIZE), truth.psf(SIZE)).mean() > 0.99
    assert report["correlation_held_out"] > 0.98
    assert report["positions"] == 3
    assert report["sign"] == "design"
    assert report["departure"]["rms"] == pytest.approx(1e-7, rel=0.1)
    assert load(out).metadata["calibration"]["misfit"] == report["misfit"] < 3
    psf = np.load(tmp_path / "psf.npy")
    assert psf.shape == tuple(found.psf(SIZE).shape)
    assert report["psf_correlation_measured"] > 0.95


def test_the_report_is_readable_and_the_networks_are_tuned(
    bench: Path,
    design: Path,
    prepared: Path,
    tiny_weights: Path,
    tmp_path: Path,
    no_tensorboard: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    preset = tmp_path / "tiny.yaml"
    preset.write_text("network: {size: 32, width: 4}\nbatch_size: 4\nval_faces: 4\n")
    out = tmp_path / "measured.safetensors"
    more = ["--out", out, "--fine-tune", prepared, "--steps", "2", "--weights", tiny_weights, "--stage1", preset]
    assert cli.run(command(bench, design, *more)) == 0
    shown = capsys.readouterr().out
    for part in ("height difference, RMS", "mode (Noll)", "positions not used", "the same, fine-tuned"):
        assert part in shown
    weights = tmp_path / "measured-tuned" / "weights"
    assert {path.name for path in weights.iterdir()} == {"camera.safetensors", "heatmap.safetensors"}
    tuned, measured = (load_camera(path) for path in (weights / "camera.safetensors", out))
    assert torch.equal(tuned.psf(32), measured.psf(32))


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--out", "camera.yaml"], "ends in .safetensors"),
        (["--out", "x.safetensors", "--camera", "gaussian"], "only a phase-mask camera can be calibrated"),
        (["--out", "x.safetensors", "--pixel-pitch", "9.4"], "in metres"),
        (["--out", "x.safetensors", "--modes", "6"], "the design has 10"),
        (["--out", "x.safetensors", "--exposures", "absent.csv"], "absent.csv"),
        (["--out", "x.safetensors", "--face-steps", "3", "--fine-tune", "data"], "--perceptual"),
    ],
)
def test_a_wrong_call_is_one_line(
    bench: Path, design: Path, more: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.run(command(bench, design, *more)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err


def test_captures_of_a_bench_without_exposure_times_are_refused(
    bench: Path, design: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "calibrate",
        bench / "points",
        "--dark",
        bench / "dark",
        "--camera",
        design,
        "--out",
        tmp_path / "x.safetensors",
    ]
    capsys.readouterr()
    assert cli.run([str(each) for each in given]) == 2
    assert "give the times by --exposures" in capsys.readouterr().err


def test_a_capture_that_the_table_lacks_is_named(bench: Path, tmp_path: Path) -> None:
    rows = (bench / "exposures.csv").read_text().splitlines()
    short = tmp_path / "short.csv"
    short.write_text("\n".join([rows[0], *rows[2:]]) + "\n")
    with pytest.raises(InputError, match=r"point-0-0-0\.02s\.png: its exposure time is missing"):
        read_captures([bench / "points"], short, None)


def test_linear_files_of_any_depth_are_read_alike(tmp_path: Path) -> None:
    values = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0))
    pixels = values.permute(1, 2, 0).numpy()
    np.save(tmp_path / "a.npy", pixels)
    write_linear(tmp_path / "b.png", values)
    cv2.imwrite(str(tmp_path / "c.tiff"), (pixels[..., ::-1] * 65_535).round().astype(np.uint16))
    cv2.imwrite(str(tmp_path / "d.png"), (pixels[..., ::-1] * 255).round().astype(np.uint8))
    for name, within in (("a.npy", 1e-7), ("b.png", 1e-5), ("c.tiff", 1e-5), ("d.png", 2e-3)):
        assert torch.allclose(read_linear(tmp_path / name, None), values, atol=within), name
    twelve = tmp_path / "twelve.npy"
    np.save(twelve, (pixels * 4095).round().astype(np.uint16))
    assert torch.allclose(read_linear(twelve, 4095), values, atol=2e-4)


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros((20, 20), np.uint8), "three colours"),
        (np.zeros((20, 20, 3), np.int64), "8 or 16 bits"),
        (np.full((20, 20, 3), 2.0), "--white"),
        (np.full((20, 20, 3), np.nan), "--white"),
        (np.array([{}]), "not an array"),
    ],
)
def test_arrays_that_are_no_captures(array: Any, part: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=part):
        read_linear(tmp_path / "a.npy", None)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_pictures(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png"):
        read_linear(tmp_path / "a.png", None)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([["file"], ["a.png"]], "needs the columns"),
        ([["file", "seconds", "colour"], ["a.png", "1", "red"]], "needs the columns"),
        ([["file", "seconds"], ["a.png", "long"]], "line 2"),
        ([["file", "seconds", "distance"], ["a.png", "1", "-1"]], "line 2"),
        ([["file", "seconds"], ["a.png"]], "line 2"),
    ],
)
def test_tables_that_are_wrong(rows: list[list[str]], part: str, tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(InputError, match=part):
        read_exposures(tmp_path / "t.csv")
