import json
from pathlib import Path
from typing import Any

import pytest

from phaseveil.apps.attack_front import (
    FAMILIES,
    SCHEMA,
    bundled_points,
    difference,
    enclosing,
    front_point,
    interpolate,
    read_points,
    trade_off,
)
from phaseveil.errors import InputError


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.01}


def point(family: str, error: float, auc: float, **changed: Any) -> dict[str, Any]:
    alike = {"budget": "quick", "seed": 0, "pairs": "abc", "recogniser": "dlib"}
    return {
        "camera": f"{family} {auc}",
        "family": family,
        "strength": 1.0,
        "landmark_error": figure(error),
        "auc": figure(auc),
        "tar": figure(auc / 2),
        "strongest": "A3-inversion",
        "attacks": {"A3-inversion": auc},
    } | (alike | changed)


def card(**changed: Any) -> dict[str, Any]:
    strongest = {"key": "A1-wiener", "auc": figure(0.7), "tar": figure(0.1)}
    return {
        "schema": SCHEMA,
        "camera": {"name": "mine", "family": "mask", "strength": None, "landmark_error": figure(0.057)},
        "headline": {"strongest": strongest},
        "settings": {
            "budget": {"name": "quick"},
            "seed": 0,
            "pairs": {"digest": "abc"},
            "recogniser": {"name": "dlib"},
        },
        "attacks": [{"key": "A1-wiener", "another": {"auc": figure(0.7)}}],
    } | changed


def test_a_card_becomes_a_point() -> None:
    found = front_point(card())
    assert found["camera"] == "mine"
    assert found["auc"]["value"] == 0.7
    assert found["attacks"] == {"A1-wiener": 0.7}
    assert [found[name] for name in ("budget", "seed", "pairs", "recogniser")] == ["quick", 0, "abc", "dlib"]
    assert json.loads(json.dumps(found)) == found


def test_figures_are_interpolated_between_the_nearest_neighbours() -> None:
    points = [point("gaussian", error, auc) for error, auc in ((0.05, 0.9), (0.06, 0.7), (0.09, 0.6), (0.04, 1.0))]
    ends = enclosing(points, 0.0575)
    assert ends == (points[0], points[1])
    assert interpolate(*ends, 0.0575, "auc") == pytest.approx({"value": 0.75, "low": 0.73, "high": 0.76})
    assert enclosing(points, 0.06) == (points[1], points[1])
    assert interpolate(points[1], points[1], 0.06, "auc")["value"] == 0.7
    assert enclosing(points, 0.0399) is None
    assert enclosing(points, 0.0901) is None


def test_a_difference_has_the_interval_of_independent_figures() -> None:
    first = {"value": 0.924, "low": 0.904, "high": 0.944}
    second = {"value": 0.896, "low": 0.881, "high": 0.911}  # standard errors 0.0102 and 0.00765
    found = difference(first, second)
    assert found == pytest.approx({"value": 0.028, "low": 0.003, "high": 0.053})  # 0.028 ± (0.02² + 0.015²)^½
    assert difference(second, first)["low"] == pytest.approx(-found["high"])


def test_baselines_are_compared_at_equal_landmark_error_only() -> None:
    others = [
        point("gaussian", 0.05, 0.9),
        point("gaussian", 0.06, 0.7),
        point("gaussian", 0.057, 0.1, seed=1),  # measured otherwise: drawn, never compared
        point("defocus", 0.06, 0.8),
        point("defocus", 0.08, 0.7),
    ]
    front = trade_off(front_point(card()), others)
    gaussian, defocus, low = (front["equal_error"][name] for name in ("gaussian", "defocus", "low-resolution"))
    assert gaussian["auc"]["value"] == pytest.approx(0.76)
    assert gaussian["between"] == ["gaussian 0.9", "gaussian 0.7"]
    assert gaussian["leaks_more"]["value"] == pytest.approx(0.76 - front_point(card())["auc"]["value"])
    assert defocus["auc"] is None
    assert "6.0% to 8.0%, do not enclose" in defocus["reason"]
    assert "no card of a low-resolution camera" in low["reason"]
    assert [p["differs"] for p in front["points"]] == [[], [], ["seed"], [], []]


def test_points_measured_otherwise_are_not_a_comparison() -> None:
    others = [point("gaussian", error, 0.9, budget="full", pairs="other") for error in (0.05, 0.06)]
    equal = trade_off(front_point(card()), others)["equal_error"]["gaussian"]
    assert equal["auc"] is None
    assert "measured otherwise (budget, pairs)" in equal["reason"]


def test_without_a_landmark_error_nothing_is_compared() -> None:
    blind = card(camera={"name": "mine", "family": "mask", "strength": None, "landmark_error": None})
    equal = trade_off(front_point(blind), [point("gaussian", 0.05, 0.9)])["equal_error"]
    assert set(equal) == set(FAMILIES)
    assert all("give --weights" in family["reason"] for family in equal.values())


def test_the_bundled_baselines_can_be_read(tmp_path: Path) -> None:
    assert all(p["family"] in FAMILIES for p in bundled_points())
    path = tmp_path / "baselines.json"
    path.write_text(json.dumps([point("defocus", 0.06, 0.8)]))
    assert bundled_points(path)[0]["family"] == "defocus"
    path.write_text(json.dumps([{"camera": "x"}]))
    with pytest.raises(InputError, match="a point lacks family, strength"):
        bundled_points(path)
    path.write_text(json.dumps([point("mask", 0.06, 0.8)]))
    with pytest.raises(InputError, match="lacks a family of low-resolution"):
        bundled_points(path)


def test_what_is_no_card_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    for text, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "not a JSON object"),
        ('{"schema": "x"}', "card.json: not a privacy card"),
        (json.dumps({"schema": SCHEMA}), "card.json: damaged privacy card"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_points([path])
    path.write_text(json.dumps(card()))
    assert read_points([path])[0]["camera"] == "mine"
