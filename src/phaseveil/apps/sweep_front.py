"""The front of privacy against geometry that a sweep measured: as a record, a plot and Markdown tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from phaseveil import __version__
from phaseveil.apps.attack_card import bounds, percent
from phaseveil.apps.attack_front import FAMILIES, Card, Point, front_point, trade_off
from phaseveil.apps.evaluate_report import markdown_table
from phaseveil.apps.front_plot import draw_families, label_axes
from phaseveil.data.image_io import write_atomically

SCHEMA = "phaseveil-front-1"
CHANCE = 0.5
COLUMNS = (
    "camera",
    "landmark error",
    "strongest attack",
    "AUC",
    "TAR @ FMR 1e-3",
    "landmarks' variance",
    "shape's",
    "heatmap's",
    "highest copy",
    "alarms",
)
READING = (
    "AUC of the strongest attack, another photograph of the person; 95 % intervals over persons. Variance over people "
    "of what is read behind the camera, as a share of the truth's: below one half it counts as collapsed. Highest "
    "copy: secondary peak of the PSF's autocorrelation."
)
EQUAL = (
    "AUC of each family at the landmark error of the learned camera, interpolated between two of its strengths; in "
    "brackets what the learned camera's AUC has more (+) or less (-)."
)

Record = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """A camera of a sweep with all that was measured on it.

    Attributes:
        ceiling: On the landmark error under which its mask was learned; ``None`` for baselines.
        card: Its privacy card.
        collapse: ``geometry`` and ``psf``, the checks of :mod:`phaseveil.metrics.collapse` as plain values.
    """

    ceiling: float | None
    card: Card
    collapse: Mapping[str, Any]


def assemble(measured: Sequence[Measured], settings: Mapping[str, Any]) -> Record:
    """The front as ``front.json`` holds it.

    Args:
        measured: All cameras.
        settings: The sweep's configuration as plain values.

    Returns:
        ``schema``, ``phaseveil`` (version) and ``settings``; ``points``, see
        :func:`phaseveil.apps.attack_front.front_point`; by the camera's name ``ceilings``, ``collapse``, and for
        cameras that are no baseline ``equal_error``, the figures of each family in the sweep at their landmark error.

    Raises:
        InputError: A card is damaged.
    """
    points = [front_point(one.card) for one in measured]
    names = [point["camera"] for point in points]
    baselines = [point for point in points if point["family"] in FAMILIES]
    families = {point["family"] for point in baselines}
    return {
        "schema": SCHEMA,
        "phaseveil": __version__,
        "settings": dict(settings),
        "points": points,
        "ceilings": {name: one.ceiling for name, one in zip(names, measured, strict=True) if one.ceiling is not None},
        "collapse": {
            name: {part: one.collapse[part] for part in ("geometry", "psf")}
            for name, one in zip(names, measured, strict=True)
        },
        "equal_error": {
            point["camera"]: {
                family: at for family, at in trade_off(point, baselines)["equal_error"].items() if family in families
            }
            for point in points
            if point["family"] not in (*FAMILIES, "clear")
        },
    }


def write_plot(path: Path, front: Mapping[str, Any]) -> Path:
    """Draw AUC of the strongest attack over landmark error, a line a family, as a PNG.

    Args:
        path: Where to.
        front: As :func:`assemble` gives it.

    Raises:
        InputError: The place cannot be written.
    """
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw_families(axes, [{**point, "differs": []} for point in front["points"]], "auc")
    label_axes(axes, "AUC of the strongest attack (dotted: chance)", CHANCE)
    return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150))


def markdown(front: Mapping[str, Any]) -> str:
    """The front as GitHub's Markdown: all cameras, and the learned ones against each family at equal error."""
    rows = [_row(point, front["collapse"][point["camera"]]) for point in front["points"]]
    blocks = [markdown_table(COLUMNS, rows), READING]
    learned = [point for point in front["points"] if front["equal_error"].get(point["camera"])]
    if learned:
        compared = [_comparison(point, front["equal_error"][point["camera"]]) for point in learned]
        families = front["equal_error"][learned[0]["camera"]]
        blocks += [markdown_table(("camera", "landmark error", "AUC", *families), compared), EQUAL]
    if unknown := _reasons(front["equal_error"]):
        blocks.append("\n".join(f"- {line}" for line in unknown))
    return "\n\n".join(blocks)


def _row(point: Point, collapse: Mapping[str, Any]) -> list[str]:
    geometry, psf = collapse["geometry"], collapse["psf"]
    return [
        point["camera"],
        percent(point["landmark_error"]),
        point["strongest"],
        bounds(point["auc"]),
        percent(point["tar"]),
        *(f"{geometry[name]:.2f}" for name in ("landmarks", "shape", "heatmap")),
        f"{max(psf['replica']):.2f}",
        ", ".join(alarms(collapse)) or "none",
    ]


def alarms(collapse: Mapping[str, Any]) -> list[str]:
    """What the checks found wrong, in words."""
    geometry, psf = collapse["geometry"], collapse["psf"]
    found = [f"collapsed: {' '.join(geometry['collapsed'])}"] if geometry["collapsed"] else []
    found += ["replicates"] if psf["replicates"] else []
    return found + (["shifts"] if psf["shifts"] else [])


def _comparison(point: Point, equal_error: Mapping[str, Any]) -> list[str]:
    cells = []
    for at in equal_error.values():
        auc = at["auc"]
        more = "" if auc is None else f" ({point['auc']['value'] - auc['value']:+.3f})"
        cells.append(bounds(auc) + more)
    return [point["camera"], percent(point["landmark_error"]), bounds(point["auc"]), *cells]


def _reasons(equal_error: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why there is no figure at equal landmark error, a line for each camera and family."""
    return [
        f"{camera}, {family}: {at['reason']}"
        for camera, families in equal_error.items()
        for family, at in families.items()
        if at["reason"] is not None
    ]
