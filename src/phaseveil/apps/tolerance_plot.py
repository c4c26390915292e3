"""A tolerance study, drawn: the built cameras against their limits, and what harms most."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from phaseveil.data.image_io import write_atomically

_GOOD, _BAD, _DESIGN, _LIMIT = "#2b6cb0", "#b3541e", "#1a202c", "#9ca3af"
_LEAKAGE = {"auc": "AUC, deconvolution with the exact PSF", "information": "information let through, bits a mode"}


def write_plot(path: Path, result: Mapping[str, Any]) -> Path:
    """Draw ``tolerance.json`` as a PNG.

    Args:
        path: Where to.
        result: As :func:`phaseveil.apps.tolerance.tolerance` returns it.

    Raises:
        InputError: The place cannot be written.
    """
    leakages = [name for name in _LEAKAGE if name in result["limits"]]
    panels = len(leakages) + bool(result["ranking"])
    figure = Figure(figsize=(5 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for place, name in enumerate(leakages):
        _draw_cameras(axes[place], result, name)
    if result["ranking"]:
        _draw_ranking(axes[-1], result["ranking"])
    return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100))


def _draw_cameras(axes: Axes, result: Mapping[str, Any], name: str) -> None:
    limits, design = result["limits"], result["design"]
    inside = [all(one[figure] <= limit for figure, limit in limits.items()) for one in result["built"]]
    for kept, colour, label in ((True, _GOOD, "within all limits"), (False, _BAD, "not")):
        chosen = [one for one, good in zip(result["built"], inside, strict=True) if good is kept]
        x, y = [100 * one["landmark_error"] for one in chosen], [one[name] for one in chosen]
        axes.plot(x, y, "o", color=colour, markersize=4, label=f"{label}: {len(chosen)}")
    axes.plot([100 * design["landmark_error"]], [design[name]], "*", color=_DESIGN, markersize=12, label="design")
    axes.axvline(100 * limits["landmark_error"], color=_LIMIT, linestyle=":")
    axes.axhline(limits[name], color=_LIMIT, linestyle=":")
    axes.set_xlabel("landmark error, % of the distance of the eye centres")
    axes.set_ylabel(_LEAKAGE[name])
    privacy = result["yield"]
    axes.set_title(f"yield {100 * privacy['value']:.0f} % [{100 * privacy['low']:.0f}, {100 * privacy['high']:.0f}]")
    axes.legend(fontsize=8, loc="upper right")


def _draw_ranking(axes: Axes, ranking: list[Mapping[str, Any]]) -> None:
    names = [one["tolerance"] for one in reversed(ranking)]
    axes.barh(names, [100 * one["used"] for one in reversed(ranking)], color=_BAD)
    axes.axvline(100, color=_LIMIT, linestyle=":")
    axes.set_xlabel("share of the margin that it uses up alone, %")
    axes.set_title("most harmful first")
