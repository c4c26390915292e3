"""The commands that measure and compare: they hand their settings on, and say what they lack."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcome import assert_one_error

from phaseveil.data.image_io import write_png
from phaseveil.pipeline import STRENGTH


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
