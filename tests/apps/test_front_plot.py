"""The trade-off plot draws what it is given: a line a family in the order of the errors, with both intervals."""

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from phaseveil.apps.front_plot import COLOURS, draw_families, error_bar, label_axes, scaled


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.01}


def point(family: str, error: float | None, auc: float, differs: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "camera": f"{family}-{auc}",
        "family": family,
        "landmark_error": None if error is None else figure(error),
        "auc": figure(auc),
        "differs": list(differs),
    }


POINTS = [
    point("gaussian", 0.07, 0.9),
    point("mask", 0.06, 0.7),
    point("gaussian", 0.05, 0.95),
    point("gaussian", None, 0.5),
    point("defocus", 0.04, 0.99, ("budget",)),
]


@pytest.fixture
def axes() -> Axes:
    found: Axes = Figure().subplots()
    return found


def test_a_line_a_family_in_the_order_of_the_errors(axes: Axes) -> None:
    draw_families(axes, POINTS, "auc")
    lines = {line.get_label(): line for line in axes.get_lines() if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["gaussian", "learned mask", "defocus (measured otherwise)"]
    assert lines["gaussian"].get_xydata().tolist() == [pytest.approx([5, 0.95]), pytest.approx([7, 0.9])]
    assert lines["gaussian"].get_color() == COLOURS["gaussian"]
    assert len(lines["defocus (measured otherwise)"].get_xydata()) == 0


def test_points_are_named_and_have_both_intervals(axes: Axes) -> None:
    draw_families(axes, POINTS[:2], "auc")
    assert [text.get_text() for text in axes.texts] == ["gaussian-0.9", "mask-0.7"]
    bars = axes.containers[0]
    along, upwards = (collection.get_segments()[0] for collection in bars.lines[2])
    assert along[:, 0] == pytest.approx([5, 8])
    assert upwards[:, 1] == pytest.approx([0.88, 0.91])


def test_what_was_measured_otherwise_is_hollow(axes: Axes) -> None:
    draw_families(axes, POINTS, "auc")
    fills = {bars.lines[0].get_ydata()[0]: bars.lines[0].get_markerfacecolor() for bars in axes.containers}
    assert fills[0.99] == "none"
    assert to_hex(fills[0.9]) == COLOURS["gaussian"]


def test_a_value_outside_its_bounds_has_no_negative_bar(axes: Axes) -> None:
    error_bar(axes, (1, 1), "red", y={"value": 1.0, "low": 1.1, "high": 1.2})
    assert axes.containers[0].lines[2][0].get_segments()[0][:, 1] == pytest.approx([1.0, 1.2])


def test_axes_say_what_they_show(axes: Axes) -> None:
    draw_families(axes, POINTS, "auc")
    label_axes(axes, "AUC", 0.5)
    assert "landmark error, %" in axes.get_xlabel()
    assert axes.get_ylabel() == "AUC"
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in axes.get_lines()]
    assert axes.get_legend() is not None


def test_scaling_keeps_the_bounds() -> None:
    assert scaled({"value": 0.5, "low": 0.4, "high": 0.6}, 100) == {"value": 50, "low": 40, "high": 60}
