"""The tutorial's commands, run literally from the page, with its own small numbers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phaseveil.optics.camera import PhaseMaskCamera, load_camera

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
SMALL = {"LOOKS": "1", "STEPS": "2", "BATCH": "2"}
# Read by every Python process of the tutorial before anything else: whoever reaches for the network dies of it.
OFFLINE = """
import socket

def refuse(*arguments, **_):
    raise SystemExit(f"the tutorial reached for the network: {arguments[1:]}")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
"""


def blocks() -> list[str]:
    """Shell blocks of the page that the reader is to run, in order; ``console`` blocks are only shown."""
    return re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_page_documents_the_numbers_that_the_test_makes_small() -> None:
    text, commands = PAGE.read_text("utf-8"), "".join(blocks())
    for name in SMALL:
        assert f"`{name}`" in text
        assert re.search(rf'\$\{{{name}:-\d+\}}|environ.get\("{name}", "\d+"\)', commands)
    assert len(blocks()) >= 6


@pytest.mark.slow
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    pytest.importorskip("dlib", reason="needs the extra 'train'")
    place, guard = tmp_path / "mask", tmp_path / "guard"
    for folder in (place, guard):
        folder.mkdir()
    (guard / "sitecustomize.py").write_text(OFFLINE)
    environment = {
        **os.environ,
        **SMALL,
        "PHASEVEIL": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(guard),
        "HOME": str(tmp_path),
    }
    bash = shutil.which("bash")
    assert bash is not None
    script = "\n".join(["set -euo pipefail", *blocks()])
    ran = subprocess.run([bash, "-c", script], cwd=place, env=environment, capture_output=True, text=True, timeout=1800)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "mask height range" in ran.stdout
    assert "replicates the image          no" in ran.stdout

    learned = load_camera(place / "mine" / "camera.safetensors")
    assert isinstance(learned, PhaseMaskCamera)
    assert learned.coefficients[0].item() == pytest.approx(6e-6, abs=2e-7)
    assert learned.coefficients[1:].abs().min() > 0  # every mode was moved
    assert picture(place / "optics.png").std() > 10
    for name in ("astronaut.png", "acquisition/astronaut.png", "heatmap/astronaut.png", "sheet/page-1.png"):
        assert picture(place / "new" / name).std() > 5, name
    source, new = picture(place / "crops" / "astronaut.png"), picture(place / "new" / "astronaut.png")
    assert np.abs(source.astype(float) - new).mean() > 10
    attack = picture(place / "attack.png").astype(float)
    assert attack.shape == (128, 5 * 128, 3)
    scene, acquisition, best = (attack[:, 128 * place : 128 * (place + 1)] for place in (0, 1, 3))
    assert np.square(best - scene).mean() < np.square(acquisition - scene).mean()  # the attack gains something
