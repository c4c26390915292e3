"""What the page answers, as HTML, and what it leaves behind: nothing."""

import io
import re
import shutil
import struct
import time
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phaseveil import PhaseVeil
from phaseveil.apps import web_desk, web_view
from phaseveil.apps.web_desk import Desk, discard
from phaseveil.apps.web_studio import Controls, Studio, Visits
from phaseveil.data.image_io import write_png
from phaseveil.optics.camera import load_camera

PICTURE = re.compile(r'src="data:image/png;base64,([^"]+)"')


@pytest.fixture(scope="module")
def studio(tiny_weights: Path) -> Studio:
    return Studio(PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32))


@pytest.fixture
def desk(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(web_desk, "PREVIEW_SECONDS", 0.0)
    return Desk(studio, Visits())


@pytest.fixture
def upload(face_crop: np.ndarray, tmp_path: Path) -> Path:
    """An upload as Gradio keeps it: in a folder of its own."""
    photograph = np.pad(face_crop, ((80, 80), (80, 80), (0, 0)), mode="edge")
    return write_png(tmp_path / "digest" / "<b>me</b>.png", photograph)


def pictures(page: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(b64decode(match))) for match in PICTURE.findall(page)]


def chunks(file: bytes) -> list[bytes]:
    """Types of a PNG's chunks."""
    found, place = [], 8
    while place < len(file):
        length, kind = struct.unpack(">I4s", file[place : place + 8])
        found.append(kind)
        place += 12 + length
    return found


def gone(path: Path) -> bool:
    """Whether a file goes away soon."""
    for _ in range(100):
        if not path.exists():
            return True
        time.sleep(0.02)
    return False


def test_an_upload_becomes_pictures_and_its_file_goes(desk: Desk, upload: Path) -> None:
    shown = desk.take(upload, "page", Controls(seed=5))
    assert shown.ready
    assert "one face, seed 5" in shown.message
    assert [picture.size for picture in pictures(shown.pictures)] == [(32, 32), (32, 32), (16, 16), (32, 32)]
    assert [picture.size for picture in pictures(shown.photographs)] == [(256, 256)] * 2
    assert gone(upload.parent)
    assert desk.draw("page", Controls(seed=5)) == shown


def test_an_unusable_upload_is_a_line_and_its_file_goes_too(desk: Desk, upload: Path, tmp_path: Path) -> None:
    desk.take(upload, "page", Controls())
    text = tmp_path / "other" / "<i>.png"
    text.parent.mkdir()
    text.write_text("no picture")
    shown = desk.take(text, "page", Controls())
    assert not shown.ready
    assert shown.message.startswith('<div class="pv-message pv-error" role="alert">not an image that can be read')
    assert pictures(shown.pictures + shown.photographs) == []
    assert gone(text.parent)
    assert not desk.draw("page", Controls()).ready  # nor does the former photograph stay


def test_pages_do_not_see_each_others_photographs(desk: Desk, upload: Path) -> None:
    desk.take(upload, "mine", Controls())
    assert not desk.draw("yours", Controls()).ready
    assert desk.new_face("yours", Controls()) == ""
    assert web_desk.WAITING in desk.attack("yours", Controls())
    desk.leave("mine")
    assert not desk.draw("mine", Controls()).ready


def test_the_downloads_are_pngs_of_pixels_alone(desk: Desk, upload: Path) -> None:
    shown = desk.take(upload, "page", Controls(seed=2))
    small, large = desk.new_face("page", Controls(seed=2)), desk.new_photograph("page", Controls())
    for address, size in ((small, 32), (large, 256)):
        file = b64decode(address.removeprefix("data:image/png;base64,"))
        assert set(chunks(file)) == {b"IHDR", b"IDAT", b"IEND"}
        assert Image.open(io.BytesIO(file)).size == (size, size)
    face = b64decode(desk.new_face("page", Controls(seed=2)).removeprefix("data:image/png;base64,"))
    assert np.array_equal(Image.open(io.BytesIO(face)), pictures(shown.pictures)[3])


def test_an_attack_shows_three_pictures_and_their_likeness(desk: Desk, upload: Path) -> None:
    desk.take(upload, "page", Controls())
    page = desk.attack("page", Controls())
    assert len(pictures(page)) == 3
    values = [float(value) for value in re.findall(r"PSNR ([\d.]+) dB", page)]
    assert values[1] > values[0]


def test_errors_are_told_in_the_page(desk: Desk, upload: Path) -> None:
    desk.take(upload, "page", Controls())
    wrong = Controls(camera="telescope")
    for page in (desk.optics(wrong), desk.attack("page", wrong), desk.draw("page", wrong).message):
        assert 'role="alert"' in page
        assert "telescope" in page


def test_optics_are_plots_and_figures(desk: Desk) -> None:
    page = desk.optics(Controls())  # a Gaussian blur: no mask
    assert len(pictures(page)) == 2
    assert "MTF50" in page
    assert "F-number" in page


def test_a_mask_has_its_height_map_too(small_camera: Path) -> None:
    page = web_view.optics(load_camera(small_camera), 32)
    assert len(pictures(page)) == 3
    assert "height map" in page
    assert "mask height range" in page
    assert pictures(page)[0].mode == "RGBA"  # lies on light and on dark paper


def test_texts_are_escaped() -> None:
    assert "&lt;script&gt;" in web_view.message("<script>\nx")
    assert "<script>" not in web_view.tile("<script>", b"", "<script>")


def test_large_photographs_are_shown_smaller() -> None:
    tall = np.zeros((3000, 1500, 3), np.uint8)
    assert web_view.preview(tall).shape == (1000, 500, 3)
    small = np.zeros((30, 15, 3), np.uint8)
    assert web_view.preview(small) is small


def test_the_promise_names_whose_computer_it_is() -> None:
    assert "Nothing is stored or sent" in web_view.promise(local=True)
    assert "on this computer" in web_view.promise(local=True)
    assert "which you have to trust" in web_view.promise(local=False)


def test_a_folder_that_another_upload_shares_stays(tmp_path: Path) -> None:
    first, second = tmp_path / "digest" / "a.png", tmp_path / "digest" / "b.png"
    first.parent.mkdir()
    first.touch()
    shutil.copy(first, second)
    discard(first)
    assert second.is_file()
    discard(second)
    discard(second)
    assert not first.parent.exists()
