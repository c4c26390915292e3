"""The HTML card: complete, escaped, self-contained, and clean in a real browser."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseveil.apps.attack_card import SCHEMA, bounds, equal_error, headline, percent, summary
from phaseveil.apps.attack_front import front_point, trade_off
from phaseveil.apps.attack_results import plain
from phaseveil.apps.privacy_card import Column, meaning, render, write_html
from phaseveil.attacks import inversion
from phaseveil.config import to_mapping
from phaseveil.errors import InputError
from phaseveil.optics.camera import CameraConfig

NASTY = '<script>alert("x")</script>&'


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.01}


def link(auc: float) -> dict[str, Any]:
    chosen = {"auc": figure(auc), "tar": figure(auc / 4), "tar_1e4": figure(auc / 8), "eer": figure(1 - auc)}
    return {**chosen, "rank_one": figure(auc / 3), "chance": 1 / 300, "gallery_size": 300}


def record(key: str, artefact: str, auc: float, gallery: str = "clear", **changed: Any) -> dict[str, Any]:
    return {
        "key": key,
        "code": key[:2],
        "title": f"title of {key}",
        "artefact": artefact,
        "knowledge": "what it knows",
        "gallery": gallery,
        "nominal": True,
        "settings": {},
        "thresholds_refitted": key.startswith("A4"),
        "another": link(auc),
        "itself": link(auc) if gallery == "clear" else None,
        "itself_reason": None if gallery == "clear" else "alike",
        "quality": {"psnr": 20.0, "ssim": 0.5, "lpips": None, "lpips_reason": "no weights", "images": 300},
        "quality_reason": None,
        "step": key,
        "seconds": 12.0,
    } | changed


def deconvolved(noise: int, bits: int, auc: float) -> dict[str, Any]:
    settings = {"method": "wiener", "parameter": 0.1, "noise": noise, "bits": bits}
    nominal = (noise, bits) == (1, 10)
    return record(f"A1-wiener-{noise}-{bits}", "recovered", auc, settings=settings, nominal=nominal)


RECORDS = [
    record("A0-acquisition", "acquisition", 0.60),
    record("A0-heatmap", "heatmap", 0.55, quality=None, quality_reason="recovers no image"),
    record("A0-generated", "generated", 0.53, quality=None, quality_reason="a new face"),
    deconvolved(1, 10, 0.80),
    deconvolved(0, 10, 0.99),
    deconvolved(4, 10, 0.65),
    record("A2-captured", "recovered", 0.75),
    record("A3-inversion", "recovered", 0.85),
    record("A4-acquisition-acquired", "acquisition", 0.90, gallery="acquired", quality=None),
    record("A4-heatmap-clear", "heatmap", 0.58, quality=None),
]


def point(family: str, error: float, auc: float, **changed: Any) -> dict[str, Any]:
    alike = {"budget": "quick", "seed": 0, "pairs": "abc", "recogniser": "dlib"}
    figures = {"landmark_error": figure(error), "auc": figure(auc), "tar": figure(auc / 2)}
    named = {"camera": f"{family}-{auc}", "family": family, "strength": 1.0, "strongest": "A3", "attacks": {}}
    return figures | named | alike | changed


POINTS = [
    point("gaussian", 0.05, 0.97),
    point("gaussian", 0.07, 0.91),
    point("defocus", 0.04, 0.99),
    point("low-resolution", 0.06, 0.95, budget="full"),
]


def card(records: list[dict[str, Any]] = RECORDS, **changed: Any) -> dict[str, Any]:
    """A card as `phaseveil attack` writes it."""
    error = figure(0.057)
    made: dict[str, Any] = {
        "schema": SCHEMA,
        "phaseveil": "0.1.0",
        "contains_photographs": True,
        "machine": dict.fromkeys(("processor", "cores", "threads", "system", "python", "torch", "numpy"), "x"),
        "camera": {
            "name": "learned",
            "family": "mask",
            "strength": None,
            "frame": 128,
            "config": to_mapping(CameraConfig()),
            "digest": "0123456789abcdef0123",
            "landmark_error": error,
            "landmark_error_reason": None,
        },
        "settings": {
            "budget": {"name": "quick", "inversion": {"steps": 400}, "recogniser": {"steps": 400}},
            "seed": 0,
            "pairs": {"file": "pairs.csv", "digest": "abc"},
            "recogniser": {"name": "dlib", "digest": "dlib"},
        },
        "sample": {
            **{"photographs": 3621, "persons": 1226, "attacker_persons": 613, "attacker_photographs": 1800},
            **{"probes": 300, "probe_persons": 300, "gallery": 300, "genuine_pairs": 300, "impostor_pairs": 20000},
        },
        "thresholds": {"fmr_1e3": -0.55, "fmr_1e4": -0.5, "on": "17140 clean impostor pairs of the list"},
        "upper_bound": {"another": link(0.999), "itself": None, "itself_reason": "trivial"},
        "attacks": records,
        "headline": headline(records),
        "not_measured": [
            {"what": "LPIPS", "why": "no weights"},
            {"what": "landmark error, heatmap", "why": "give --weights"},
            {"what": "generated face", "why": "give --weights"},
        ],
        "seconds": {entry["step"]: entry["seconds"] for entry in records},
    } | changed
    made["front"] = trade_off(front_point(made), POINTS)
    plain_card: dict[str, Any] = plain(made)
    return plain_card


def columns() -> list[Column]:
    random = np.random.default_rng(0)
    captions = (("source", "clear photograph"), ("acquisition", "A0"), ("recovered", "A3"), ("generated", "A0"))
    return [Column(*named, [random.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(3)]) for named in captions]


class Reader(HTMLParser):
    """Collects tags, their addresses and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_the_headline_is_the_strongest_attack_on_what_the_camera_lets_out() -> None:
    found = headline(RECORDS)
    assert found["strongest"]["key"] == "A4-acquisition-acquired"
    assert {name: best["key"] for name, best in found["per_artefact"].items()} == {
        "acquisition": "A4-acquisition-acquired",
        "recovered": "A3-inversion",  # 0.99 without noise is not the real sensor's
        "heatmap": "A4-heatmap-clear",
        "generated": "A0-generated",
    }
    assert headline(RECORDS[:1])["per_artefact"]["generated"] is None


def test_the_card_tells_everything_and_fetches_nothing() -> None:
    page = render(card(), columns())
    reader = Reader(page)
    assert reader.addresses
    assert all(address.startswith("data:") for address in reader.addresses)
    assert not {"script", "iframe", "object", "video"} & set(reader.tags)
    assert not re.search(r"@import|url\(", page)
    text = " ".join(reader.text.split())
    assert all(entry["title"] in text for entry in RECORDS if entry["nominal"])
    assert "× 0 10 0.990" in text  # the sweep
    assert "AUC 0.999 [0.979, 1.009]" in text
    assert "0.900 [0.880, 0.910]" in text
    assert "Contains photographs from --pairs; do not publish" in text
    assert "At equal landmark error 5.7 %" in text
    assert "gaussian 0.949" in text
    assert "do not enclose this camera" in text
    assert "measured otherwise (budget)" in text
    assert "17140 clean impostor pairs" in text
    assert "LPIPS : no weights" in text
    assert page.count("data:image/png") == 12
    assert page.count("data:image/svg+xml;base64") == 3


def test_text_from_outside_is_escaped() -> None:
    nasty = card([record("A0-acquisition", "acquisition", 0.6, title=NASTY, knowledge=NASTY)])
    nasty["camera"] |= {"name": NASTY}
    nasty["settings"]["pairs"]["file"] = NASTY
    page = render(nasty, [Column("source", NASTY, columns()[0].pictures)])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    blind = card([RECORDS[0], RECORDS[3]], contains_photographs=False)
    blind["camera"] |= {"landmark_error": None, "landmark_error_reason": "give --weights"}
    blind["front"] = trade_off(front_point(blind), [])
    text = " ".join(Reader(render(blind, [])).text.split())
    assert "Not compared: give --weights" in text
    assert "do not publish" not in text
    assert text.count("Not measured: give --weights") == 2
    assert "landmark error: not measured" in text
    with pytest.raises(InputError, match="another output folder"):
        write_html(Path("/proc/none/privacy_card.html"), blind, [])
    assert "landmark error" not in "".join(summary(blind, tmp_path))


def test_plain_language_says_the_figures() -> None:
    first, second, third, last = meaning(card())
    assert "right one in 90 % of all cases" in first
    assert "22.5 %" in second
    assert "Among 300 people" in third
    assert "guessing gives 0.3 %" in third
    assert "a stronger one may exist" in last


def test_figures_for_the_terminal(tmp_path: Path) -> None:
    assert bounds(figure(0.9)) == "0.900 [0.880, 0.910]"
    assert percent(figure(0.123)) == "12.3 % [10.3, 13.3]"
    assert bounds(None) == percent(None) == "–"
    assert bounds({"value": 0.5, "low": None, "high": 0.6}) == "0.500 [–, 0.600]"  # type: ignore[dict-item]
    lines = summary(card(), tmp_path)
    assert lines[0] == "strongest attack: A4 title of A4-acquisition-acquired (acquisition)"
    assert lines[-1].endswith("privacy_card.html")
    assert any("a lower bound: the inversion network was trained for 400 steps" in line for line in lines)
    whole = card()
    whole["settings"]["budget"]["inversion"]["steps"] = inversion.FULL.steps
    assert not any("lower bound" in line for line in summary(whole, tmp_path))
    assert equal_error(card()).startswith("low-resolution unknown, gaussian 0.949 [")


def test_chromium_opens_it_without_a_complaint(tmp_path: Path) -> None:
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if browser_path is None:
        pytest.skip("needs Chromium")
    path = write_html(tmp_path / "privacy_card.html", card(), columns())
    complaints: list[str] = []
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        assert page.locator("#headline").is_visible()
        assert "0.900 [0.880, 0.910]" in page.locator("#headline").inner_text()
        assert page.locator("#equal-error").is_visible()
        widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        too_wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        browser.close()
    assert complaints == []
    assert len(widths) == 15
    assert min(widths) > 0
    assert not too_wide
    assert all(url.startswith(("file:", "data:")) for url in requests)
