import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phaseveil.apps.attack_data import Study
from phaseveil.apps.attack_results import Finding, Work, image_quality, keep, plain, score, upper_bound
from phaseveil.errors import InputError
from phaseveil.metrics.identity import Thresholds
from phaseveil.metrics.photographs import PairSet

PROBES = 40


@pytest.fixture(scope="module")
def study() -> Study:
    """Forty test persons with a probe and a gallery photograph each; embeddings one-hot by person."""
    persons = np.arange(2 * PROBES) % PROBES
    probes, gallery = np.arange(PROBES), np.arange(PROBES, 2 * PROBES)
    pairs = np.stack(np.meshgrid(probes, gallery, indexing="ij"), axis=-1).reshape(-1, 2)
    same = persons[pairs[:, 0]] == persons[pairs[:, 1]]
    files = [Path(f"{place}.png") for place in range(2 * PROBES)]
    count = 2 * PROBES
    listed = PairSet(files, np.zeros((count, 2, 3)), np.zeros((count, 68, 2)), persons, pairs, same)
    clear = np.concatenate([np.eye(PROBES), np.eye(PROBES)])
    return Study(listed, 32, 0, np.array([0]), probes, gallery, clear, Thresholds(-0.5, None), 5000)


def finding(study: Study, **changed: Any) -> Finding:
    described = {"code": "A0", "title": "a", "artefact": "acquisition", "knowledge": "b", "clear": study.clear}
    return Finding(**{"key": "k", "probes": study.clear[study.probes], **described, **changed})


def test_a_perfect_attack_reaches_the_upper_bound_in_both_questions(study: Study) -> None:
    record = score(finding(study), study)
    for question in ("another", "itself"):
        figures = record[question]
        assert figures["auc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert figures["tar"]["value"] == figures["rank_one"]["value"] == 1
        assert figures["tar_1e4"] is None
    assert record["another"] == upper_bound(study)["another"]
    assert record["quality"] is None
    assert record["quality_reason"] == "recovers no image"
    assert json.loads(json.dumps(plain(record))) == plain(record)


def test_a_blind_attack_is_at_chance(study: Study) -> None:
    record = score(finding(study, probes=np.ones((PROBES, PROBES))), study)
    assert record["another"]["auc"]["value"] == 0.5
    assert record["another"]["tar"]["value"] == 0
    assert record["another"]["rank_one"]["value"] == record["another"]["chance"] == 1 / PROBES


def test_a_trained_recogniser_gets_its_own_thresholds_and_an_acquired_gallery_no_same_photograph(study: Study) -> None:
    small = 1e-3 * study.clear  # an embedding in which everybody is near everybody
    kept = score(finding(study, probes=small[study.probes], clear=small), study)
    assert kept["another"]["fmr"] == 1  # the clean threshold would accept all
    fitted = score(finding(study, probes=small[study.probes], gallery=small[study.gallery], refitted=True), study)
    assert fitted["another"]["tar"]["value"] == 1
    assert fitted["another"]["fmr"] <= 1e-3
    assert (fitted["gallery"], fitted["itself"]) == ("acquired", None)
    assert "trivially alike" in fitted["itself_reason"]


def test_quality_is_against_the_scene() -> None:
    scenes = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    same, shifted = image_quality(scenes, scenes, None), image_quality(scenes + 0.1, scenes, None)
    assert same["psnr"] == 99
    assert same["ssim"] == pytest.approx(1)
    assert shifted["psnr"] == pytest.approx(20, abs=1e-3)
    assert same["lpips"] is None
    assert "--perceptual" in same["lpips_reason"]


def test_a_finished_step_is_not_run_again(study: Study, tmp_path: Path) -> None:
    work, runs = Work(tmp_path / "work"), []
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def compute() -> Any:
        runs.append(1)
        return keep([finding(study, pictures=pictures)], study)

    first = work.once("step", compute)
    again = Work(tmp_path / "work").once("step", compute)
    assert first == again
    assert len(runs) == 1
    assert first[0]["step"] == "step"
    arrays = work.arrays("step")
    assert np.array_equal(arrays["k/probes"], study.clear[study.probes])
    assert arrays["k/pictures"].shape == (2, 8, 8, 3)
    assert np.array_equal(arrays["k/pictures"][0], np.rint(pictures[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))


def test_an_interrupted_step_leaves_no_result_but_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, now = Work(tmp_path), [0.0]
    monkeypatch.setattr("phaseveil.apps.attack_results.time.monotonic", lambda: now[0])

    def compute() -> Any:
        now[0] += 5.0
        if now[0] < 10:
            raise KeyboardInterrupt
        return [{"key": "k"}], {"k/probes": np.zeros(1)}

    with pytest.raises(KeyboardInterrupt):
        work.once("step", compute)
    assert not list(tmp_path.glob("*.json"))
    assert work.once("step", compute)[0]["seconds"] == 10


def test_damaged_files_are_told(tmp_path: Path) -> None:
    work = Work(tmp_path)
    (tmp_path / "step.json").write_text("{")
    with pytest.raises(InputError, match=r"step\.json: damaged; delete it"):
        work.once("step", lambda: ([], {}))
    (tmp_path / "step.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"step\.npz: missing or damaged"):
        work.arrays("step")


def test_plain_values_are_json() -> None:
    values = {"a": np.float64(1.5), "b": (1, math.inf), "c": np.array([2])[0], "d": float("nan"), 3: None}
    assert plain(values) == {"a": 1.5, "b": [1, None], "c": 2, "d": None, "3": None}
