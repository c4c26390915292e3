import errno
from pathlib import Path

import numpy as np
import pytest

from phaseveil.apps import optics
from phaseveil.apps.optics import write_plot, write_psf
from phaseveil.data import image_io
from phaseveil.data.image_io import read_image
from phaseveil.errors import InputError
from phaseveil.optics.camera import Camera, load_camera


@pytest.fixture(scope="module")
def camera() -> Camera:
    return load_camera("gaussian")


def test_a_psf_is_written_as_values_and_as_a_picture(camera: Camera, tmp_path: Path) -> None:
    values = np.load(write_psf(tmp_path / "psf.npy", camera, 64))
    picture = read_image(write_psf(tmp_path / "psf.png", camera, 64))
    assert values.shape[0] == 3
    assert values.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-4)
    assert picture.shape[:2] == values.shape[1:]
    assert picture.max() == 255


def test_a_plot_is_written(camera: Camera, tmp_path: Path) -> None:
    assert read_image(write_plot(tmp_path / "plot.png", camera, 64)).ndim == 3


def test_other_suffixes_are_refused(camera: Camera, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.png or \.npy"):
        write_psf(tmp_path / "psf.tif", camera, 64)
    with pytest.raises(InputError, match=r"written as \.png"):
        write_plot(tmp_path / "plot.pdf", camera, 64)


def test_an_unwritable_place_is_told(camera: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(image_io, "replace_atomically", refuse)
    monkeypatch.setattr(optics, "save_optics_figure", refuse)
    with pytest.raises(InputError, match="no permission to write here"):
        write_psf(tmp_path / "psf.npy", camera, 64)
    with pytest.raises(InputError, match="no permission to write here"):
        write_plot(tmp_path / "plot.png", camera, 64)
