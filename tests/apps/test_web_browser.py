"""The whole page: its server as a process of its own, and a real browser before it."""

import importlib.util
import io
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from phaseveil.apps.web import FOLDER_PREFIX

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra 'web'")
needs_chromium = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

# Runs the command and notes every attempt to speak to somebody else than this computer.
SERVER = """
import sys
own = {None, "", "127.0.0.1", "localhost", "::1", b"127.0.0.1", "0.0.0.0"}
def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in own:
        print("OUTSIDE", host, file=sys.stderr, flush=True)
sys.addaudithook(watch)
from phaseveil.cli import main
main(sys.argv[1:])
"""


@dataclass
class Served:
    """A running page and the places that it could write to."""

    process: subprocess.Popen[str]
    address: str
    temporary: Path
    home: Path

    def uploads(self) -> list[Path]:
        """Files that it keeps."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def served(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home, temporary = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("temporary")
    places = {name: str(home) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA")}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GRADIO", "HF_"))} | places
    environment |= {"TMPDIR": str(temporary), "MPLCONFIGDIR": matplotlib.get_configdir(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVER, "web", "--weights", str(tiny_weights), "--port", "0", "--no-open"]
    with subprocess.Popen(
        command, env=environment, cwd=home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert found, process.stderr.read() if process.stderr else line
            yield Served(process, found[0], temporary, home)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def portrait(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG that says where and with what it was taken."""
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    exif.get_ifd(0x8825)[1] = "N"
    path = tmp_path_factory.mktemp("portrait") / "portrait.jpg"
    Image.fromarray(astronaut).save(path, exif=exif)
    return path


def fetch(served: Served, path: str, **more: Any) -> tuple[int, bytes]:
    """Status and body of an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(served.address + path, **more), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def chunks(file: bytes) -> set[bytes]:
    """Types of a PNG's chunks."""
    found, place = set(), 8
    while place < len(file):
        length, kind = struct.unpack(">I4s", file[place : place + 8])
        found.add(kind)
        place += 12 + length
    return found


def until(wanted: Any, seconds: float = 20) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if wanted():
            return True
        time.sleep(0.05)
    return False


@needs_gradio
def test_only_its_own_names_are_answered(served: Served) -> None:
    assert fetch(served, "")[0] == 200
    assert fetch(served, "", headers={"Host": "evil.example"})[0] == 400
    for path in ("docs", "openapi.json", "gradio_api/runs"):
        assert b"cdn.jsdelivr" not in fetch(served, path)[1]
    assert fetch(served, "gradio_api/file=/etc/passwd")[0] in (403, 404)


@needs_gradio
def test_no_page_refers_to_outside_addresses_that_browsers_fetch(served: Served) -> None:
    html = fetch(served, "")[1].decode()
    links = re.findall(r'<(?:link|script|img)[^>]+(?:href|src)="(https?:)?//[^"]+"', html)
    assert links == []
    assert "fonts.googleapis" not in fetch(served, "theme.css")[1].decode()


@needs_gradio
def test_an_upload_over_the_limit_is_refused_and_leaves_no_file(served: Served) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + bytes(21 * 2**20) + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert fetch(served, "gradio_api/upload", data=body, headers=headers)[0] == 413
    assert until(lambda: served.uploads() == [], 5)


@needs_gradio
@needs_chromium
def test_a_visit(served: Served, portrait: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    complaints: list[str] = []
    requests: list[str] = []
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(served.address)
        page.wait_for_selector("#upload input[type=file]", state="attached")
        assert "Nothing is stored or sent" in page.inner_text(".pv-promise")
        assert page.is_disabled("#save-face")

        see_no_face(page, tmp_path)
        page.set_input_files("#upload input[type=file]", portrait)
        wait_for(page, "512×512 px, one face, seed 0")
        first = new_face(page)
        assert until(lambda: served.uploads() == [], 10)
        change_seed(page, 7)
        assert new_face(page) != first
        change_seed(page, 0)
        assert new_face(page) == first
        look_at_downloads(page)
        attack_and_optics(page)
        page.set_viewport_size({"width": 390, "height": 800})
        assert not page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        browser.close()
    assert complaints == []
    assert len(requests) > 5
    assert [url for url in requests if not url.startswith((served.address, "data:", "blob:"))] == []


def see_no_face(page: Any, folder: Path) -> None:
    """A picture without a face is one line."""
    Image.new("RGB", (200, 160), "grey").save(folder / "grey.png")
    page.set_input_files("#upload input[type=file]", folder / "grey.png")
    page.wait_for_selector("#message .pv-error")
    assert page.inner_text("#message").strip() == "no face found; give a larger or clearer photograph"
    assert page.is_disabled("#save-face")
    page.wait_for_selector("#upload input[type=file]", state="attached")


def wait_for(page: Any, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#message').innerText.includes(text)", arg=text)


def new_face(page: Any) -> str:
    """The fourth picture."""
    return page.get_attribute("#pictures figure:nth-child(4) img", "src")


def change_seed(page: Any, seed: int) -> None:
    page.fill("#seed input[type=number]", str(seed))
    page.press("#seed input[type=number]", "Enter")
    wait_for(page, f"seed {seed}")


def look_at_downloads(page: Any) -> None:
    """Both are PNGs of pixels alone."""
    for what, size in (("face", (32, 32)), ("photograph", (512, 512))):
        with page.expect_download() as download:
            page.click(f"#save-{what}")
        file = Path(download.value.path()).read_bytes()
        assert download.value.suggested_filename == f"new-{what}.png"
        assert chunks(file) == {b"IHDR", b"IDAT", b"IEND"}
        picture = Image.open(io.BytesIO(file))
        assert picture.size == size
        assert not picture.getexif()


def attack_and_optics(page: Any) -> None:
    """The other tabs show their pictures, and a baseline without a mask has no height to set."""
    page.get_by_role("tab", name="Attack").click()
    page.click("#attack")
    page.wait_for_selector("#attacked img:visible")
    assert page.locator("#attacked img").count() == 3
    page.get_by_role("tab", name="Optics").click()
    before = page.inner_html("#optics")
    page.click("#camera label:has-text('low resolution')")
    page.wait_for_function("before => document.querySelector('#optics').innerHTML !== before", arg=before)
    assert page.is_disabled("#mask-height input[type=range]")
    assert page.locator("#attacked img").count() == 0  # of another camera


@needs_gradio
def test_nothing_stays_behind(served: Served) -> None:
    """Runs last: ends the server."""
    assert len(list(served.temporary.glob(f"{FOLDER_PREFIX}*"))) == 1
    served.process.send_signal(signal.SIGTERM)
    _, messages = served.process.communicate(timeout=60)
    assert served.process.returncode == 0
    assert messages == ""  # nobody outside was spoken to, and nothing went wrong
    assert served.uploads() == []
    assert list(served.temporary.glob(f"{FOLDER_PREFIX}*")) == []
    assert [path for path in served.home.rglob("*") if path.is_file()] == []
