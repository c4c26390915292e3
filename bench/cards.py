"""Privacy cards of several cameras side by side, and the baselines that new cards are compared with.

    python -m bench.cards CARD.json … [--baselines src/phaseveil/configs/attack/baselines.json] [--plot FRONT.svg]

Prints a Markdown table: AUC of the strongest attack of each kind, another photograph of the person, 95 % intervals.
With --baselines, the points of the low-resolution, Gaussian and defocus cameras among the cards are written there; with
--plot, the AUC of each one's strongest attack over its landmark error.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from phaseveil.apps.attack_card import bounds, equal_error, percent
from phaseveil.apps.attack_front import FAMILIES, front_point
from phaseveil.apps.front_plot import draw_families, label_axes
from phaseveil.checkpoint import replace_atomically
from phaseveil.errors import PhaseVeilError

KINDS = {
    "A0 off the shelf": ("A0", "acquisition"),
    "A1 deconvolution, exact PSF": ("A1", "recovered"),
    "A2 PSF estimated or 5 % off": ("A2", "recovered"),
    "A3 inversion network": ("A3", "recovered"),
    "A4 recogniser trained on acquisitions": ("A4", "acquisition"),
    "heatmap, strongest": (None, "heatmap"),
    "generated face, strongest": (None, "generated"),
}
Card = Mapping[str, Any]


def row(card: Card) -> list[str]:
    """One camera: landmark error, the best of each kind of attack, the strongest of all."""
    cells = [card["camera"]["name"], percent(card["camera"]["landmark_error"])]
    for code, artefact in KINDS.values():
        found = [
            attack["another"]["auc"]
            for attack in card["attacks"]
            if attack["nominal"] and attack["artefact"] == artefact and code in (None, attack["code"])
        ]
        cells.append(bounds(max(found, key=lambda auc: auc["value"], default=None)))
    strongest = card["headline"]["strongest"]
    return [*cells, f"{bounds(strongest['auc'])} ({strongest['code']})", percent(strongest["tar"])]


def table(cards: Sequence[Card]) -> str:
    """The cards in Markdown, one line each."""
    headings = ["camera", "landmark error", *KINDS, "strongest attack on the acquisition", "its TAR @ FMR 1e-3"]
    lines = [headings, ["---"] * len(headings), *map(row, cards)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(points: Sequence[Card], path: Path) -> None:
    """Draw the front, the format by the file's ending."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.margins(x=0.14)
    draw_families(axes, [{**point, "differs": []} for point in points], "auc")
    label_axes(axes, "AUC of the strongest attack", 0.5)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cards", nargs="+", type=Path, help="privacy_card.json of 'phaseveil attack'")
    parser.add_argument("--baselines", type=Path, help="JSON list to write")
    parser.add_argument("--plot", type=Path, help="picture to write")
    arguments = parser.parse_args()
    try:
        cards = [json.loads(path.read_text("utf-8")) for path in arguments.cards]
        points = [front_point(card) for card in cards]
    except (OSError, ValueError, PhaseVeilError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(cards))
    for card in cards:
        if card["camera"]["family"] not in FAMILIES:
            print(f"\n{card['camera']['name']}, baselines at equal landmark error: {equal_error(card)}")
    if arguments.plot is not None:
        plot(points, arguments.plot)
    if arguments.baselines is not None:
        chosen = [point for point in points if point["family"] in FAMILIES]
        with replace_atomically(arguments.baselines) as temporary:
            temporary.write_text(json.dumps(chosen, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
