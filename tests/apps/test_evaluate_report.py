import io
from typing import Any

import pytest
from rich.console import Console

from phaseveil.apps import evaluate_report
from phaseveil.apps.evaluate_report import NOTHING

SCORE = {"fd": 0.9875, "bb": 3.3, "lm": 2.25, "generated_undetected": 3, "pairs": 240}
RATE = {"value": 0.4, "low": 0.351, "high": 0.449}


def mode(fd: float) -> dict[str, Any]:
    return {
        "FD-AlexNet": {"mean": {"value": fd, "corrected": fd - 1}},
        "KID-AlexNet": {"mean": {"value": 0.0123}},
        "FID": None,
        "KID": None,
        "LPIPS": {"mean": 0.4512},
        "detection": {"MTCNN": SCORE, "dlib": SCORE | {"bb": None, "lm": None, "fd": 0.0}},
        "expression": {"agreement": 0.815},
    }


def row(tar_1e4: dict[str, float] | None = RATE) -> dict[str, Any]:
    scores = {"tar": RATE, "tar_1e4": tar_1e4, "eer": RATE, "auc": RATE, "genuine_pairs": 100, "impostor_pairs": 2000}
    return {"verification": scores, "rank_one": RATE, "gallery": 24, "chance": 1 / 24}


@pytest.fixture
def record() -> dict[str, Any]:
    """A made-up record with everything that the tables read."""
    identity = {"recogniser": "dlib", "clean_impostor_pairs": 1225, "gallery": 24, "chance": 1 / 24}
    return {
        "version": "1.2.3",
        "machine": {"cores": 2, "device": "cpu", "precision": "bfloat16"},
        "settings": {"camera": "learned", "seed": 0, "outputs": 10, "detectors": ["MTCNN", "dlib"]},
        "samples": {"sources": {"female": 14, "male": 10}, "references": {"female": 30, "male": 31}},
        "geometry": {
            "error_over_eye_centres": 0.051,
            "percentile_90": 0.08,
            "median": 0.045,
            "trusted": {"error_over_eye_centres": 0.048, "faces": 23},
            "mean_face_error": 0.12,
            "heatmap_variance_over_teacher": {"jaw": 0.7, "mouth": 0.6},
            "faces": 24,
        },
        "modes": {"reference": mode(12.34), "latent": mode(23.45)},
        "expression_ceiling": {"agreement": 0.968},
        "identity": {
            "sources": identity | {"rows": {"clear": None, "acquisition": row(None)}},
            "pairs": identity
            | {"probes": 24, "another": {"clear": row()}, "itself": {"clear": None, "heatmap": row()}},
        },
        "missing": {"modes.latent.FID": "give --inception", "modes.latent.KID": "give --inception"},
        "seconds": {"sources": 100.0, "figures": 23.4},
    }


def test_markdown_tables_are_whole_and_hold_the_figures(record: dict[str, Any]) -> None:
    text = evaluate_report.markdown(record)
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert "| FD-AlexNet | 12.34 | 23.45 |" in text
    assert "| FD-AlexNet, corrected | 11.34 | 22.45 |" in text
    assert "| KID-AlexNet | 0.0123 | 0.0123 |" in text
    assert f"| FID | {NOTHING} | {NOTHING} |" in text
    assert "| undetected (MTCNN) | 3 of 240 | 3 of 240 |" in text
    assert f"| BB (dlib), px | {NOTHING} | {NOTHING} |" in text
    assert "| expression agreement | 81.5 % | 81.5 % |" in text
    assert "| landmark error over eye centres | 5.10 % |" in text
    rate = "40.0 % [35.1, 44.9]"
    assert f"| acquisition | {rate} | {NOTHING} | {rate} | 0.400 [0.351, 0.449] | {rate} |" in text
    assert "gallery 24, chance 4.2 %" in text
    assert f"- {NOTHING} modes.latent.FID, modes.latent.KID: give --inception" in text
    assert "24 sources, 61 references, seed 0; 2 cores, cpu, bfloat16, 123 s" in text


def test_a_markdown_table_leans_its_figures_to_the_right() -> None:
    table = evaluate_report.markdown_table(("name", "figure"), [("a", "1")])
    assert table == "| name | figure |\n| --- | ---: |\n| a | 1 |"


def test_the_terminal_shows_the_same_tables(record: dict[str, Any]) -> None:
    screen = io.StringIO()
    evaluate_report.show(Console(file=screen, width=160), record)
    text = screen.getvalue()
    for table in evaluate_report.tables(record):
        assert table.title in text
        assert all(cell in text for cells in table.rows for cell in cells)
    assert "modes.latent.FID, modes.latent.KID: give --inception" in text


def test_without_pairs_there_is_one_identity_table(record: dict[str, Any]) -> None:
    titles = [table.title for table in evaluate_report.tables(record)]
    assert len(titles) == 5
    record["identity"]["pairs"] = None
    assert [table.title for table in evaluate_report.tables(record)] == titles[:3]


def test_bounds_that_are_not_numbers_are_a_dash() -> None:
    assert evaluate_report.share({"value": 0.5, "low": None, "high": None}) == NOTHING
    assert evaluate_report.interval(None) == NOTHING
