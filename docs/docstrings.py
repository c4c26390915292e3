"""Griffe extension: what our docstrings borrow from reStructuredText, as Markdown, with formulas as pictures.

``:func:`name``` becomes a link where the site documents the name, ``.. math::`` and ``:math:`` become SVG (drawn by
matplotlib, so that no page needs a script from elsewhere), and a leading ``>>>`` example becomes a code block.
"""

import re
from functools import lru_cache
from html import escape
from typing import Any

import griffe
import numpy as np
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

BODY = 12.0  # size that formulas are drawn at, points
ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`(~?)([^`]+)`")
INLINE = re.compile(r":math:`([^`]+)`")
DISPLAY = re.compile(r"^( *)\.\. math::[ ]*(.*(?:\n\1 +\S.*)*)", re.M)
EXAMPLE = re.compile(r"^((?:>>> .*\n?)+)", re.M)
# What matplotlib calls otherwise, or does not know.
SPELLING = (
    (r"\\tfrac", r"\\frac"),
    (r"\\frac(\w)", r"\\frac{\1}"),
    (r"(\\frac\{[^{}]*\})(\w)", r"\1{\2}"),
    (r"\\[lr]Vert(?![a-zA-Z])", r"\\Vert "),
    (r"\\ge(?![a-zA-Z])", r"\\geq "),
    (r"\\[bB]ig(?![a-zA-Z])", ""),
    (r"\\(sum|min)_(\w)", r"\\\1_{\2}"),
)


class Docstrings(griffe.Extension):
    """Rewrites all docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self._rewrite(pkg)

    def _rewrite(self, item: griffe.Object) -> None:
        if item.docstring:
            item.docstring.value = to_markdown(item.docstring.value, item)
        for member in item.members.values():
            if not member.is_alias:
                self._rewrite(member)  # type: ignore[arg-type]  # aliases are left out


def to_markdown(text: str, item: griffe.Object) -> str:
    """A docstring as Markdown; names are resolved where ``item`` stands."""
    text = DISPLAY.sub(lambda found: f"{found[1]}{picture(found[2], display=True)}", text)
    text = INLINE.sub(lambda found: picture(found[1], display=False), text)
    text = EXAMPLE.sub(lambda found: f"```python\n{found[1].replace('>>> ', '').rstrip()}\n```\n", text)
    return ROLE.sub(lambda found: link(found[2], item, short=bool(found[1])), text)


def link(name: str, item: griffe.Object, *, short: bool) -> str:
    """A name as code, linked where some page documents it."""
    target = name if name.startswith("phaseveil.") else resolve(name, item)
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{escape(target)}" optional><code>{escape(shown)}</code></autoref>'


def resolve(name: str, item: griffe.Object) -> str:
    """Full name of what a docstring calls by a short one; members of the same class come first."""
    first, _, rest = name.partition(".")
    here: griffe.Object | None = item
    while here is not None:
        if first in here.members:
            found = here.members[first]
            path = found.target_path if isinstance(found, griffe.Alias) else found.path
            return f"{path}{'.' if rest else ''}{rest}"
        here = here.parent  # type: ignore[assignment]  # modules and classes are objects
    return name


@lru_cache
def picture(tex: str, *, display: bool) -> str:
    """A formula as inline SVG in the text's colour.

    Raises:
        ValueError: matplotlib cannot draw it.
    """
    source = " ".join(tex.split())
    drawn = source
    for pattern, replacement in SPELLING:
        drawn = re.sub(pattern, replacement, drawn)
    if display:
        drawn = drawn.replace(r"\frac", r"\dfrac")
    outline = TextPath((0, 0), f"${drawn}$", size=BODY)
    box = outline.get_extents()
    em = 1 / BODY
    svg = (
        f'<svg class="formula" role="img" aria-label="{escape(source)}" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="{box.x0:.2f} {-box.y1:.2f} {box.width:.2f} {box.height:.2f}" '
        f'style="width:{box.width * em:.3f}em;height:{box.height * em:.3f}em;vertical-align:{box.y0 * em:.3f}em">'
        f'<path d="{_svg_path(outline)}"/></svg>'
    )
    return f'<span class="display">{svg}</span>' if display else svg


def _svg_path(outline: Outline) -> str:
    letters = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}
    parts = []
    for points, code in outline.iter_segments(simplify=False, curves=True):
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
            continue
        flipped = np.asarray(points).reshape(-1, 2) * (1, -1)
        parts.append(letters[code] + " ".join(f"{x:.2f} {y:.2f}" for x, y in flipped))
    return "".join(parts)
