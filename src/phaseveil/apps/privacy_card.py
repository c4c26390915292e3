"""The privacy card as one self-contained HTML file: nothing is fetched when it is opened, and no script runs in it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from phaseveil.apps.attack_card import bounds, percent
from phaseveil.apps.attack_results import ARTEFACTS, Record, write_text
from phaseveil.apps.front_plot import draw_families, error_bar, label_axes, scaled
from phaseveil.data.image_io import ImageArray, resize

TEMPLATE = "privacy_card.html"
SHOWN_SIDE = 128  # pixels of a picture in the card
COLOURS = {
    "acquisition": "#2b6cb0",
    "recovered": "#c53030",
    "heatmap": "#2f855a",
    "generated": "#6b46c1",
}
ARTEFACT_TITLES = {
    "acquisition": ("Acquisition", "what the sensor records"),
    "recovered": ("Recovered image", "what an attacker restores from the acquisition"),
    "heatmap": ("Heatmap", "the geometry that the next stage reads"),
    "generated": ("Generated face", "what is published instead"),
}
OWN = "#111827"


@dataclass(frozen=True)
class Column:
    """Pictures of the test persons, of one kind.

    Attributes:
        heading: Artefact, or ``source``.
        caption: How it was made.
        pictures: One a person, any square size. Each ``(H, H, 3)``, uint8.
    """

    heading: str
    caption: str
    pictures: Sequence[ImageArray]


def write_html(path: Path, card: Mapping[str, Any], columns: Sequence[Column]) -> Path:
    """Write the card.

    Args:
        path: Where to.
        card: As ``privacy_card.json`` holds it.
        columns: Pictures of real people; the card shows none where it is empty.

    Raises:
        InputError: The file cannot be written.
    """
    return write_text(path, render(card, columns))


def render(card: Mapping[str, Any], columns: Sequence[Column]) -> str:
    """The card as HTML; every text in it is escaped."""
    environment = Environment(
        loader=PackageLoader("phaseveil", "apps"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bounds": bounds, "percent": percent, "plain_percent": _plain_percent, "fixed": _fixed}
    rows = list(zip(*[[picture_uri(p) for p in column.pictures] for column in columns], strict=True))
    return environment.get_template(TEMPLATE).render(
        card=card,
        meaning=meaning(card),
        artefacts=[(name, *ARTEFACT_TITLES[name], _of_artefact(card, name)) for name in ARTEFACTS],
        reasons={entry["what"]: entry["why"] for entry in card["not_measured"]},
        columns=[(_heading(column.heading), column.caption) for column in columns],
        rows=rows,
        sweep=_sweep(card),
        plots=_plots(card),
    )


def meaning(card: Mapping[str, Any]) -> list[str]:
    """What the headline says, in plain sentences."""
    found, clear = card["headline"]["strongest"], card["upper_bound"]["another"]
    share, value = _plain_percent(found["auc"]["value"], 0), found["tar"]["value"]
    return [
        f"Shown two photographs, one of the person before the camera and one of somebody else, this attacker picks the "
        f"right one in {share} of all cases; guessing gives 50 %, and clear pictures give "
        f"{_plain_percent(clear['auc']['value'], 1)}.",
        f"Where one stranger in a thousand may pass by mistake, it links {_plain_percent(value, 1)} of the faces to "
        f"another photograph of the same person; clear pictures would be linked in "
        f"{_plain_percent(clear['tar']['value'], 1)}.",
        f"Among {found['gallery_size']} people it names the right one first in "
        f"{_plain_percent(found['rank_one']['value'], 1)} of all cases; guessing gives "
        f"{_plain_percent(found['chance'], 1)}.",
        "Every attacker was told where the face's landmarks are, so that a face that no detector finds never counts as "
        "private. The figures tell what these attackers reach: a stronger one may exist.",
    ]


def picture_uri(picture: ImageArray) -> str:
    """A picture as a PNG in a ``data:`` address."""
    pixels = cv2.cvtColor(resize(picture, SHOWN_SIDE), cv2.COLOR_RGB2BGR)
    return _uri("image/png", cv2.imencode(".png", pixels)[1].tobytes())


def _plots(card: Mapping[str, Any]) -> Record:
    """Figures as ``data:`` addresses; the trade-off only where there are landmark errors to draw it over."""
    plots: Record = {"attacks": _attack_plot(card), "auc": None, "tar": None}
    drawn = any(point["landmark_error"] for point in card["front"]["points"])
    if card["front"]["landmark_error"] is not None and drawn:
        plots["auc"] = _trade_off_plot(card, "auc", "AUC of the strongest attack", 0.5)
        plots["tar"] = _trade_off_plot(card, "tar", "TAR of the strongest attack at FMR 1e-3", 0.001)
    return plots


def _attack_plot(card: Mapping[str, Any]) -> str:
    """AUC of every attack on the real sensor, with its interval, between chance and the clear upper bound."""
    attacks = [attack for attack in card["attacks"] if attack["nominal"]]
    figure = Figure(figsize=(8.4, 0.9 + 0.3 * len(attacks)), layout="constrained")
    axes = figure.subplots()
    for place, attack in enumerate(reversed(attacks)):
        auc = attack["another"]["auc"]
        error_bar(axes, (auc["value"], place), COLOURS[attack["artefact"]], x=auc)
    labels = [f"{a['key']} ({a['artefact']}, {a['gallery']} gallery)" for a in reversed(attacks)]
    axes.set_yticks(range(len(attacks)), labels, fontsize=8)
    axes.axvline(0.5, color="#9ca3af", linestyle=":")
    axes.axvline(card["upper_bound"]["another"]["auc"]["value"], color="#9ca3af", linestyle="--")
    axes.set_xlabel("AUC, another photograph of the person (dotted: chance, dashed: clear photographs)", fontsize=8)
    axes.set_xlim(min(0.45, *axes.get_xlim()), 1.01)
    return _figure_uri(figure)


def _trade_off_plot(card: Mapping[str, Any], name: str, label: str, chance: float) -> str:
    """A figure of the strongest attack over the landmark error: this camera and all others."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    draw_families(axes, card["front"]["points"], name)
    own, error = card["headline"]["strongest"][name], card["front"]["landmark_error"]
    error_bar(axes, (100 * error["value"], own["value"]), OWN, x=scaled(error, 100), y=own, marker="*", size=13)
    axes.annotate(card["camera"]["name"], (100 * error["value"], own["value"]), (8, 8), textcoords="offset points")
    label_axes(axes, label, chance)
    return _figure_uri(figure)


def _figure_uri(figure: Figure) -> str:
    FigureCanvasAgg(figure)
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "phaseveil", "axes.spines.top": False, "axes.spines.right": False}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return _uri("image/svg+xml", drawn.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _of_artefact(card: Mapping[str, Any], name: str) -> list[Record]:
    return [attack for attack in card["attacks"] if attack["artefact"] == name and attack["nominal"]]


def _sweep(card: Mapping[str, Any]) -> list[Record]:
    """Deconvolution over noise and bit depth, the real sensor's among them, by method."""
    swept = [attack for attack in card["attacks"] if "noise" in attack["settings"]]
    methods = {attack["settings"]["method"] for attack in swept if not attack["nominal"]}
    chosen = [attack for attack in swept if attack["settings"]["method"] in methods]
    return sorted(chosen, key=lambda a: [a["settings"][name] for name in ("method", "bits", "noise")])


def _heading(name: str) -> str:
    return "Source" if name == "source" else ARTEFACT_TITLES[name][0]


def _plain_percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
