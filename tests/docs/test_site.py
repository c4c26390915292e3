"""The documentation site: builds without a warning, loses no page, and leads nowhere that does not exist."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CARDS = {Path("results/privacy_card.html")}  # shown as 'phaseveil attack' wrote them
pytest.importorskip("mkdocs", reason="needs the extra 'docs'")


class Page(HTMLParser):
    """Anchors, links and fetched addresses of a built page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.fetched.append(given["href"])
        elif "src" in given:
            self.fetched.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning is an error."""
    pytest.importorskip("mkdocstrings", reason="needs the extra 'docs'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(ROOT / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [*command, "-d", str(out)], cwd=out, env=environment, capture_output=True, text=True, timeout=1200
    )
    assert built.returncode == 0, built.stderr[-3000:]
    assert built.stderr == ""
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {path.resolve(): Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    return {path: page for path, page in found.items() if path.name != "404.html"}


def test_every_page_of_docs_is_built_and_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    sources = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")} | {Path("security.html")}
    assert {path.relative_to(site.resolve()) for path in pages} == sources | CARDS
    navigation = re.search(
        r'<nav class="md-nav md-nav--primary.*?</nav>\s*</div>', (site / "index.html").read_text(), re.S
    )
    assert navigation is not None
    linked = {unquote(urlsplit(link).path) for link in Page(navigation[0]).links}
    assert {str(source) for source in sources} - {"index.html"} <= linked


def test_every_internal_link_and_anchor_exists(site: Path, pages: dict[Path, Page]) -> None:
    broken, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            checked += 1
            known = pages[target].anchors if target in pages else set()
            if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in known):
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    assert broken == []
    assert checked > 1000


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    fetched = [(path, address) for path, page in pages.items() for address in page.fetched]
    assert fetched
    for path, address in fetched:
        parts = urlsplit(address)
        assert parts.scheme == "data" or not (parts.scheme or parts.netloc), address
        assert parts.scheme == "data" or (path.parent / unquote(parts.path)).is_file(), address
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", styles)


def test_the_reference_holds_signatures_units_and_drawn_formulas(site: Path) -> None:
    text = (site / "api" / "optics.html").read_text("utf-8")
    page = Page(text)
    for name in ("propagation.phase_delay", "camera.CameraConfig", "zernike.zernike", "psf.pixel_integrated_psf"):
        assert f"phaseveil.optics.{name}" in page.anchors
    assert text.count('class="formula"') > 10
    assert "Surface height, metres" in text
    assert not re.search(r"::? ?math::?|:(?:func|class|meth|data):`", text)
    cards = (site / "cards.html").read_text("utf-8")
    assert "33 Zernike heights" in cards  # from the file beside the weights


def test_every_figure_of_the_physics_page_has_its_command() -> None:
    from bench.physics_figures import FIGURES

    text = (DOCS / "physics.md").read_text("utf-8")
    assert {Path(name).stem for name in re.findall(r"\(images/(physics-[\w-]+\.png)\)", text)} == {
        f"physics-{name}" for name in FIGURES
    }
    assert all(f"bench.physics_figures --only {name}`" in text for name in FIGURES)


def test_the_figures_are_drawn(tmp_path: Path) -> None:
    from bench.physics_figures import main
    from PIL import Image

    assert main(["--out", str(tmp_path), "--only", "zernike"]) == 0
    with (
        Image.open(tmp_path / "physics-zernike.png") as drawn,
        Image.open(DOCS / "images/physics-zernike.png") as shown,
    ):
        assert drawn.size == shown.size
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path), "--only", "airy"])


@pytest.fixture(scope="module")
def extension() -> ModuleType:
    """The module that turns docstrings into Markdown."""
    pytest.importorskip("griffe", reason="needs the extra 'docs'")
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_formulas_become_pictures_and_names_links(extension: ModuleType) -> None:
    import griffe

    module = griffe.Module("phaseveil")
    module.set_member("square", griffe.Function("square"))
    made = extension.to_markdown(
        "See :func:`square` and :class:`~a.B`, :math:`\\tfrac12 x`.\n\n>>> f()\n>>> g()", module
    )
    assert '<autoref identifier="phaseveil.square" optional><code>square</code></autoref>' in made
    assert "<code>B</code>" in made
    assert r'aria-label="\tfrac12 x"' in made
    assert "```python\nf()\ng()\n```" in made
    display = extension.to_markdown("A.\n\n.. math:: a\n          = b\n\nC.", module)
    assert re.fullmatch(r'A\.\n\n<span class="display"><svg .*aria-label="a = b".*</svg></span>\n\nC\.', display)
    with pytest.raises(ValueError, match="nosuchsymbol"):
        extension.picture(r"\nosuchsymbol", display=False)
