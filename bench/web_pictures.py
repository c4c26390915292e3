"""The pictures of docs/web.md: the page in a real browser, with the bundled photograph.

    python -m bench.web_pictures [--out docs/images]

Needs Chromium and the extras 'web' and 'dev'.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PHOTOGRAPH = Path(__file__).parent.parent / "examples" / "photographs" / "astronaut.jpg"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def take(page: Page, address: str, out: Path) -> None:
    """Write web-page.png, web-attack.png and web-optics.png."""
    page.goto(address)
    page.wait_for_selector("#upload input[type=file]", state="attached")
    page.set_input_files("#upload input[type=file]", PHOTOGRAPH)
    page.wait_for_selector("#pictures figure:nth-child(4) img")
    page.wait_for_selector("#save-face:enabled")
    page.screenshot(path=out / "web-page.png", full_page=True)
    page.get_by_role("tab", name="Attack").click()
    page.click("#attack")
    page.wait_for_selector("#attacked img:visible")
    page.screenshot(path=out / "web-attack.png", full_page=True)
    page.get_by_role("tab", name="Optics").click()
    page.wait_for_selector("#optics img:visible")
    page.screenshot(path=out / "web-optics.png", full_page=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("error: no Chromium found; install one")
    command = [sys.executable, "-m", "phaseveil", "web", "--port", "0", "--no-open"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as server, sync_playwright() as playwright:
        try:
            line = server.stdout.readline() if server.stdout else ""
            address = re.search(r"http://\S+", line)
            if address is None:
                sys.exit("error: the page did not start; see above")
            opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = opened.new_page(viewport={"width": 1280, "height": 900})
            take(page, address[0], arguments.out)
            opened.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
