"""The table of new faces in README and results says what the published record of ``phaseveil evaluate`` holds."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def expected(record: dict[str, Any], mode: str) -> list[str]:
    """The cells of a mode, from the first row to the last."""
    figures, identity, artefact = record["modes"][mode], record["identity"], f"generated ({mode})"
    distance = figures["FD-AlexNet"]["mean"]
    by_both = [figures["detection"][name] for name in ("MTCNN", "dlib")]
    sources, pairs = identity["sources"]["rows"][artefact], identity["pairs"]["another"][artefact]
    linked = pairs["verification"]

    def share(figure: dict[str, float]) -> str:
        return f"{100 * figure['value']:.1f} %"

    return [
        f"{distance['value']:.2f}, {distance['corrected']:.2f}",
        f"{figures['KID-AlexNet']['mean']['value']:.4f}",
        " / ".join(f"{seen['fd']:.3f}" for seen in by_both),
        " / ".join(f"{seen['bb']:.2f}" for seen in by_both),
        " / ".join(f"{seen['lm']:.2f}" for seen in by_both),
        f"{figures['LPIPS']['mean']:.3f}",
        f"{100 * figures['expression']['agreement']:.1f} %",
        f"{share(sources['verification']['tar'])}, {share(sources['rank_one'])}",
        f"{share(linked['tar'])}, {linked['auc']['value']:.3f}, {share(pairs['rank_one'])}",
    ]


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_table_is_the_records(page: str) -> None:
    record = json.loads((ROOT / "docs" / "results" / "evaluate.json").read_text("utf-8"))
    lines = (ROOT / page).read_text("utf-8").splitlines()
    start = lines.index("| | reference styles | latent styles | published (256 px, GPU) |") + 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start : start + 9]]
    for column, mode in ((1, "reference"), (2, "latent")):
        assert [row[column] for row in rows] == expected(record, mode)
