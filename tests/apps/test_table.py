"""Rows are trained with one budget and evaluated alike; a second call does nothing anew."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseveil import checkpoint
from phaseveil.apps import table
from phaseveil.apps.evaluate_inputs import Options
from phaseveil.apps.table import ROWS, TableRow, comparison, load_row, make_table, train_row
from phaseveil.errors import ConfigError
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import Report

pytestmark = pytest.mark.usefixtures("no_tensorboard")

STAGE1 = """network: {size: 32, width: 4}
batch_size: 4
val_faces: 4
"""
STAGE2 = """networks: {size: 32, width: 8, bottleneck: 1, style_width: 4, style_dim: 8, latent_dim: 4}
weights: {identity: 0.0}
discriminator_width: 4
batch_size: 4
"""


@contextmanager
def quiet(description: str) -> Iterator[Report]:
    yield lambda done, total: None


def say(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def row(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> TableRow:
    folder = tmp_path_factory.mktemp("presets")
    (folder / "stage1.yaml").write_text(STAGE1)
    (folder / "stage2.yaml").write_text(STAGE2)
    stages = {f"stage{number}": str(folder / f"stage{number}.yaml") for number in (1, 2)}
    return TableRow("gaussian", heatmap_steps=2, face_steps=1, start=str(tiny_weights), **stages)


@pytest.fixture
def out(row: TableRow, prepared: Path, perceptual_file: Path, tmp_path: Path) -> Path:
    train_row(row, prepared, perceptual_file, tmp_path / "row", say)
    return tmp_path / "row"


def times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors") if file.parent != folder}


def test_every_preset_row_has_the_same_budget() -> None:
    rows = [load_row(name) for name in ROWS]
    assert [row.camera for row in rows] == list(ROWS)
    assert len({str(replace(row, camera="")) for row in rows}) == 1


@pytest.mark.parametrize("name", ["gaussian-24", "low-resolution-8", "defocus-48"])
def test_points_of_the_curve_train_the_heatmap_network_as_long_as_the_rows(name: str) -> None:
    point, first = load_row(f"front/{name}"), load_row(ROWS[0])
    assert (point.camera, point.heatmap_steps, point.face_steps) == (name, first.heatmap_steps, 0)


def test_a_row_gives_weights_that_work_together(out: Path, tiny_weights: Path) -> None:
    pipeline = PhaseVeil.from_pretrained(out / "weights")
    assert pipeline.camera.config.kind == "gaussian"
    for name in ("heatmap", "face"):
        trained = checkpoint.load(out / "weights" / f"{name}.safetensors").tensors
        start = checkpoint.load(tiny_weights / f"{name}.safetensors").tensors
        assert any(not torch.equal(trained[key], start[key]) for key in trained)


def test_a_finished_row_is_not_trained_again(
    row: TableRow, out: Path, prepared: Path, perceptual_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = times(out / "stage1") | times(out / "stage2")
    monkeypatch.setattr("phaseveil.training.camera._train_step", lambda *given: pytest.fail("trained again"))
    monkeypatch.setattr("phaseveil.training.face._train_step", lambda *given: pytest.fail("trained again"))
    train_row(row, prepared, perceptual_file, out, say)
    assert times(out / "stage1") | times(out / "stage2") == before


def test_a_folder_of_another_budget_is_refused(row: TableRow, out: Path, prepared: Path, perceptual_file: Path) -> None:
    with pytest.raises(ConfigError, match="begun with another steps; choose another --out"):
        train_row(replace(row, heatmap_steps=3), prepared, perceptual_file, out, say)


def test_a_row_of_other_perceptual_weights_is_refused(row: TableRow, out: Path, prepared: Path) -> None:
    with pytest.raises(ConfigError, match="begun with another perceptual; choose another --out"):
        train_row(replace(row, perceptual="vgg16.safetensors"), prepared, None, out, say)


def test_a_row_of_another_camera_is_refused(row: TableRow, out: Path, prepared: Path, perceptual_file: Path) -> None:
    with pytest.raises(ConfigError, match="begun with another camera; choose another --out"):
        train_row(replace(row, camera="low-resolution"), prepared, perceptual_file, out, say)


def test_face_networks_need_perceptual_weights(row: TableRow, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --perceptual, or face_steps=0"):
        train_row(row, prepared, None, tmp_path, say)


def test_a_row_may_name_its_own_perceptual_weights(
    row: TableRow, prepared: Path, perceptual_file: Path, tmp_path: Path
) -> None:
    weights = train_row(replace(row, perceptual=str(perceptual_file)), prepared, Path("absent"), tmp_path, say)
    assert (weights / "face.safetensors").is_file()


def test_a_row_without_face_networks_has_a_heatmap_network_alone(row: TableRow, prepared: Path, tmp_path: Path) -> None:
    weights = train_row(replace(row, face_steps=0), prepared, None, tmp_path, say)
    assert sorted(file.name for file in weights.iterdir()) == ["camera.safetensors", "heatmap.safetensors"]


@pytest.mark.parametrize("override", ["heatmap_steps=0", "face_steps=-1", "stride=2"])
def test_impossible_budgets_and_unknown_keys_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_row("gaussian", [override])


def record(auc: float) -> dict[str, Any]:
    interval = {"value": auc, "low": auc - 0.01, "high": auc + 0.01}
    rows = {
        name: {"verification": {"auc": interval, "tar": interval}} for name in ("acquisition", "generated (reference)")
    }
    score = {"fd": 0.99, "bb": 3.2, "lm": 2.1}
    return {
        "modes": {
            "reference": {
                "FID": None,
                "FD-AlexNet": {"mean": {"corrected": 12.3}},
                "KID-AlexNet": {"mean": {"value": 0.0123}},
                "LPIPS": {"mean": 0.2},
                "expression": {"agreement": 0.8},
                "detection": {"MTCNN": score, "dlib": score},
            }
        },
        "geometry": {"error_over_eye_centres": 0.057},
        "identity": {"sources": {"rows": rows}, "pairs": None},
    }


def test_the_comparison_has_a_line_a_camera() -> None:
    heading, rule, learned, gaussian = comparison({"learned": record(0.6), "gaussian": record(0.9)}).splitlines()
    assert heading.count("|") == rule.count("|") == learned.count("|") == gaussian.count("|")
    for cell in ("learned", "–", "12.30", "0.0123", "0.990", "3.20", "5.70 %", "0.600 [0.590, 0.610]"):
        assert f"| {cell} |" in learned
    assert "0.900" in gaussian


def test_the_table_trains_evaluates_and_writes_each_row(
    row: TableRow, prepared: Path, perceptual_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def evaluate(pipeline: PhaseVeil, options: Options, stage: object) -> dict[str, Any]:
        seen.append((pipeline.camera.config.kind, options.camera))
        return record(0.6)

    monkeypatch.setattr(table, "evaluate", evaluate)
    options = Options(prepared, prepared, tmp_path / "work", perceptual=perceptual_file)
    rows = {"blur": row, "front": replace(row, face_steps=0)}
    text = make_table(rows, prepared, options, tmp_path, quiet, say)
    assert seen == [("gaussian", "blur")]
    assert (tmp_path / "blur" / "evaluate.json").is_file()
    assert len(text.splitlines()) == 3


def test_the_table_needs_perceptual_weights(row: TableRow, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--perceptual"):
        make_table({"blur": row}, prepared, Options(prepared, prepared, tmp_path), tmp_path, quiet, say)
