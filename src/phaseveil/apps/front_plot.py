"""The trade-off between landmark error and identity, drawn: for privacy cards and sweeps."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

COLOURS = {
    "low-resolution": "#b3541e",
    "gaussian": "#2b6cb0",
    "defocus": "#2f855a",
    "clear": "#718096",
    "mask": "#6b46c1",
    "dynamic-mask": "#b83280",
}
"""By the family of the camera, see :func:`phaseveil.apps.attack_target.family_of`."""

_TITLES = {"mask": "learned mask", "dynamic-mask": "dynamic mask"}
_OTHER, _CHANCE = "#718096", "#9ca3af"

Figure = Mapping[str, float]
"""A figure with its bounds: ``value``, ``low``, ``high``."""


def draw_families(axes: Axes, points: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draw points over their landmark errors with their intervals, a line a family, in the order of the errors.

    Args:
        axes: Where to.
        points: As :func:`phaseveil.apps.attack_front.trade_off` gives them; those without a landmark error are left
            out, those that differ from the others in how they were measured are hollow and not joined.
        name: The figure upwards, ``auc`` or ``tar``.
    """
    placed = sorted((p for p in points if p["landmark_error"]), key=lambda p: p["landmark_error"]["value"])
    for family in dict.fromkeys(point["family"] for point in points):
        members = [point for point in placed if point["family"] == family]
        if members:
            _draw_family(axes, family, members, name)


def label_axes(axes: Axes, label: str, chance: float) -> None:
    """Name both axes, mark what guessing gives, and explain the lines."""
    axes.axhline(chance, color=_CHANCE, linestyle=":")
    axes.set_xlabel("landmark error, % of the distance of the eye centres")
    axes.set_ylabel(label)
    axes.legend(fontsize=8, loc="lower left")  # "best" takes seconds


def error_bar(
    axes: Axes,
    place: tuple[float, float],
    colour: str,
    x: Figure | None = None,
    y: Figure | None = None,
    marker: str = "o",
    size: float = 6,
    fill: str | None = None,
) -> None:
    """A point with its intervals.

    Args:
        axes: Where to.
        place: Of the point.
        colour: Of point and bars.
        x: The figure along, with its bounds; no bar where ``None``.
        y: The figure upwards.
        marker: Shape of the point, as matplotlib names it.
        size: Of the point, typographic points.
        fill: Of the point; ``colour`` where ``None``.
    """
    axes.errorbar(
        [place[0]],
        [place[1]],
        xerr=_arms(x),
        yerr=_arms(y),
        fmt=marker,
        color=colour,
        markersize=size,
        markerfacecolor=fill or colour,
        capsize=2,
        linewidth=1,
    )


def scaled(figure: Figure, factor: float) -> dict[str, float]:
    """A figure and its bounds in another unit."""
    return {name: factor * value for name, value in figure.items()}


def _draw_family(axes: Axes, family: str, points: Sequence[Mapping[str, Any]], name: str) -> None:
    colour, title = COLOURS.get(family, _OTHER), _TITLES.get(family, family)
    alike = [point for point in points if not point["differs"]]
    axes.plot(
        [100 * point["landmark_error"]["value"] for point in alike],
        [point[name]["value"] for point in alike],
        color=colour,
        label=title if alike else f"{title} (measured otherwise)",
    )
    for point in points:
        error = scaled(point["landmark_error"], 100)
        place = error["value"], point[name]["value"]
        error_bar(axes, place, colour, x=error, y=point[name], fill="none" if point["differs"] else colour)
        axes.annotate(point["camera"], place, (5, -10), textcoords="offset points", fontsize=7, color=colour)


def _arms(figure: Figure | None) -> list[list[float]] | None:
    if figure is None:
        return None
    return [[max(0.0, figure["value"] - figure["low"])], [max(0.0, figure["high"] - figure["value"])]]
