"""What the web page answers to each control, as HTML; an error becomes a line in the page."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from phaseveil.apps import web_view
from phaseveil.apps.web_studio import Controls, Studio, Visits
from phaseveil.data.image_io import encode_png
from phaseveil.errors import PhaseVeilError

PREVIEW_SECONDS = 1.0
WAITING = "Choose a photograph with a face, or take one with the webcam."


class Shown(NamedTuple):
    """What the page shows of a photograph.

    Attributes:
        message: A line about it, HTML.
        pictures: Source, acquisition, heatmap, new face, HTML.
        photographs: Before and after, HTML; empty where there is no face.
        ready: Whether there is something to download or attack.
    """

    message: str
    pictures: str
    photographs: str
    ready: bool


class Desk:
    """Answers of the page.

    Args:
        studio: Does the work.
        visits: Photographs of the open pages.
    """

    def __init__(self, studio: Studio, visits: Visits) -> None:
        self.studio, self._visits = studio, visits

    def take(self, path: Path, page: str, controls: Controls) -> Shown:
        """Read an uploaded photograph, delete its file, and draw new faces.

        Args:
            path: The uploaded file. It stays for :data:`PREVIEW_SECONDS`, while the browser fetches its preview.
            page: Whose photograph it becomes.
            controls: Of the page.
        """
        self._visits.drop(page)
        try:
            self._visits.put(page, self.studio.take(path))
        except PhaseVeilError as error:
            return _refused(error)
        finally:
            _later(discard, path)
        return self.draw(page, controls)

    def draw(self, page: str, controls: Controls) -> Shown:
        """New faces for the page's photograph."""
        visit = self._visits.get(page)
        if visit is None:
            return Shown(web_view.message(WAITING), web_view.empty(), "", False)
        try:
            drawn = self.studio.draw(visit, controls)
        except PhaseVeilError as error:
            return _refused(error)
        height, width = visit.photograph.shape[:2]
        count = "one face" if drawn.faces == 1 else f"{drawn.faces} faces, the largest below"
        text = web_view.message(f"{width}×{height} px, {count}, seed {controls.seed}")
        return Shown(text, web_view.drawing(drawn), web_view.photographs(visit.photograph, drawn.photograph), True)

    def attack(self, page: str, controls: Controls) -> str:
        """What an attacker recovers from the acquisition on the page, HTML."""
        visit = self._visits.get(page)
        if visit is None:
            return web_view.message(WAITING)
        try:
            attacked = self.studio.attack(visit, controls)
        except PhaseVeilError as error:
            return web_view.message(str(error), "error")
        told = (
            f"Wiener's estimate with the exact PSF, noise-to-signal ratio {attacked.parameter:.1e}, chosen with the "
            "source at hand: no attacker gets closer with this filter. Trained attackers do; see the privacy card."
        )
        return web_view.attack(attacked) + web_view.message(told)

    def optics(self, controls: Controls) -> str:
        """The chosen camera's plots and figures, HTML."""
        try:
            return web_view.optics(self.studio.camera(controls), self.studio.size)
        except PhaseVeilError as error:
            return web_view.message(str(error), "error")

    def new_face(self, page: str, controls: Controls) -> str:
        """The largest new face as the address of a PNG; empty where there is no photograph."""
        visit = self._visits.get(page)
        return "" if visit is None else web_view.data_uri(encode_png(self.studio.draw(visit, controls).face))

    def new_photograph(self, page: str, controls: Controls) -> str:
        """The photograph with every face replaced as the address of a PNG; empty where there is none."""
        visit = self._visits.get(page)
        return "" if visit is None else web_view.data_uri(encode_png(self.studio.draw(visit, controls).photograph))

    def leave(self, page: str) -> None:
        """Forget a page that was closed."""
        self._visits.drop(page)


def discard(path: Path) -> None:
    """Delete an uploaded file and the folder that it had for itself."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # another upload of the same bytes has come into it meanwhile
        path.parent.rmdir()


def _later(function: Callable[[Path], None], path: Path) -> None:
    timer = threading.Timer(PREVIEW_SECONDS, function, [path])
    timer.daemon = True
    timer.start()


def _refused(error: PhaseVeilError) -> Shown:
    return Shown(web_view.message(str(error), "error"), web_view.empty(), "", False)
