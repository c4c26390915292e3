"""The figures of an evaluation, from what was measured on each source."""

from types import SimpleNamespace

import numpy as np
import pytest

from phaseveil.apps import evaluate_identity, evaluate_summary


def test_variance_does_not_depend_on_the_parts() -> None:
    heatmaps = np.random.default_rng(0).random((7, 5, 4, 4))
    spread = evaluate_summary.Spread()
    for part in (heatmaps[:3], heatmaps[3:]):
        spread.add(part)
    assert spread.of_groups() == pytest.approx(heatmaps.var(axis=0, ddof=1).mean(axis=(1, 2)))


def test_a_network_that_always_sees_the_mean_face_is_found_out() -> None:
    generator = np.random.default_rng(0)
    landmarks = np.stack([np.linspace(40, 200, 68), np.linspace(60, 180, 68)], axis=1)
    truth = landmarks + generator.normal(0, 4, (6, 1, 2))
    points = np.repeat((truth.mean(axis=0, keepdims=True) + 0.5) / 256, 6, axis=0)
    rows, figures = evaluate_summary.gather(
        [{"heatmap": np.full((3, 5, 16, 16), 0.5, np.float16), "points": points[:3]} for _ in range(2)], truth
    )
    assert rows["points"].shape == (6, 68, 2)
    assert all(ratio == pytest.approx(0) for ratio in figures["heatmap_variance_over_teacher"].values())
    found = evaluate_summary.geometry(points, truth)
    assert found["error_over_eye_centres"] == pytest.approx(found["mean_face_error"], rel=1e-4)
    assert found["mean_face_error"] > 0


def test_landmarks_that_are_wrong_themselves_are_told_from_errors() -> None:
    face = np.stack([np.linspace(40, 200, 68), np.linspace(60, 180, 68)], axis=1)
    face[36:42], face[42:48] = (90, 100), (170, 100)
    truth = np.repeat(face[None], 10, axis=0)
    points = (truth + 0.5) / 256 + 0.8 / 256 / 2**0.5  # 0.8 px off, 1 % of the eye distance
    truth[3] += (40.0, 0.0)  # the detector took something else for the face
    found = evaluate_summary.geometry(points, truth)
    assert found["trusted"] == {"error_over_eye_centres": pytest.approx(0.01, rel=1e-3), "faces": 9}
    assert found["median"] == pytest.approx(0.01, rel=1e-3)
    assert found["error_over_eye_centres"] > 0.05


def test_sources_that_show_through_are_recognised_and_others_are_not() -> None:
    clear = np.random.default_rng(0).normal(size=(50, 8))
    embeddings = np.stack([clear, clear, np.zeros_like(clear), clear + 0.01, -clear], axis=1)
    table, missing = evaluate_identity.among_sources(embeddings, "test", 0)
    rows = table["rows"]
    assert (table["gallery"], table["chance"], table["clean_impostor_pairs"]) == (50, 0.02, 1225)
    assert rows["clear"] is None
    assert "--pairs" in missing["identity.sources.rows.clear"]
    for name in ("acquisition", "generated (reference)"):
        assert (rows[name]["verification"].tar.value, rows[name]["rank_one"].value) == (1, 1)
    assert rows["heatmap"]["verification"].tar.value < 0.1
    assert rows["generated (latent)"]["rank_one"].value == 0
    assert rows["acquisition"]["verification"].impostor_pairs == 50 * 49
    assert rows["acquisition"]["verification"].tar_1e4 is None
    assert "10,000" in missing["identity.sources.thresholds.fmr_1e4"]


def test_distances_compare_with_the_references_of_the_target_domain() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 10, 3))
    generated = noise + np.array([1.0, 1.0, 0.0, 0.0])[:, None, None]  # two females drawn as males, two males
    reals = {"male": noise[:2].reshape(20, 3) + 1, "female": noise[2:].reshape(20, 3) + 5}
    domains = ["female", "female", "male", "male"]
    features = SimpleNamespace(name="FID", kid_name="KID")
    figures = evaluate_summary.distances(generated, reals, domains, features, seed=0)
    tasks = figures["FID"]["tasks"]
    assert tasks["female to male"]["value"] == pytest.approx(0, abs=1e-9)
    assert tasks["male to female"]["value"] == pytest.approx(75)
    assert figures["FID"]["mean"]["value"] == pytest.approx(37.5)
    assert figures["FID"]["mean"]["corrected"] == pytest.approx(37.5, abs=2)
