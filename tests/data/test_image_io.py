"""Reading is strict and says why, writing is all or nothing."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phaseveil.data import image_io
from phaseveil.data.image_io import (
    decode_image,
    find_files,
    list_files,
    list_images,
    read_image,
    resize,
    to_array,
    to_tensor,
    unique_stems,
    write_png,
    write_problem,
    write_webp,
)
from phaseveil.errors import InputError


def gradient(height: int = 6, width: int = 9) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 20, y * 30, x + y], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    path = write_png(tmp_path / "new" / "image.png", gradient())
    assert np.array_equal(read_image(path), gradient())
    grey = write_png(tmp_path / "grey.png", gradient()[:, :, 0])
    assert np.array_equal(read_image(grey), np.repeat(gradient()[:, :, :1], 3, axis=2))


def test_webp_round_trip_is_close(tmp_path: Path) -> None:
    image = resize(gradient(), (60, 90))
    difference = read_image(write_webp(tmp_path / "image.webp", image)).astype(int) - image
    assert np.abs(difference).mean() < 3


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise
    assert decode_image(encoded(Image.fromarray(gradient(6, 9)), "JPEG", exif=exif), "a.jpg").shape == (9, 6, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = decode_image(encoded(Image.fromarray(gradient()).convert(mode), kind), "image")
    assert image.shape == (6, 9, 3)
    assert image.dtype == np.uint8


def test_transparency_is_laid_over_white() -> None:
    layer = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert (decode_image(encoded(layer), "layer.png") == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    assert decode_image(encoded(ramp), "ramp.png")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"hello, I am text", "not an image that can be read"),
        (encoded(Image.fromarray(gradient(200, 200)))[:300], "damaged image"),
        (encoded(Image.fromarray(gradient(200, 200)), "JPEG")[:700], "damaged image"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point images have no defined white"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: {message}")) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(20_000, 4), (10_001, 10_000), (16_000, 16_000)])
def test_too_large_images_are_refused_unread(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="too large"):
        decode_image(encoded(Image.new("1", size)), "huge.png")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)


def test_an_unreadable_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret.png").touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        read_image(tmp_path / "secret.png")


@pytest.mark.parametrize(
    ("number", "message"),
    [(28, "the disk is full"), (13, "no permission"), (30, "no permission"), (5, "cannot be written")],
)
def test_write_errors_say_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    finished = write_png(tmp_path / "image.png", gradient())

    def fail(*_: object) -> int:
        raise OSError(number, "reason")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match=message):
        write_png(finished, gradient(3, 3))
    assert read_image(finished).shape == (6, 9, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]
    assert message in write_problem(OSError(number, "reason"))


def test_a_file_in_the_way_of_the_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("I am a file")
    with pytest.raises(InputError, match="choose another output folder"):
        write_png(tmp_path / "out" / "image.png", gradient())


def test_inputs_are_files_folders_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp", "sub/notes.txt", ".hidden/d.png", "sub/.e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def names(*inputs: str | Path) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in list_images(inputs)]

    assert names(tmp_path) == ["a.JPG", "b.png", "sub/c.webp"]
    assert names(tmp_path / "sub", tmp_path / "b.png", tmp_path) == ["sub/c.webp", "b.png", "a.JPG"]
    assert names(tmp_path / "*.png", tmp_path / "sub" / "*") == ["b.png", "sub/c.webp"]
    assert names(tmp_path / "**" / "*.webp") == ["sub/c.webp"]
    assert names(tmp_path / "sub/notes.txt") == ["sub/notes.txt"]
    monkeypatch.chdir(tmp_path)
    assert list_images(["*.png"]) == [Path("b.png")]


def test_other_kinds_of_files_are_listed_alike(tmp_path: Path) -> None:
    for name in ("a.png", "b.MP4", "sub/c.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list_files([tmp_path, tmp_path / "a.png"], {".mp4", ".mov"}, "videos")
    assert [path.name for path in found] == ["b.MP4", "c.mov", "a.png"]
    assert find_files(tmp_path / "*.jpg", {".jpg"}) == []
    with pytest.raises(InputError, match="no films found"):
        list_files([tmp_path], {".avi"}, "films")


def test_inputs_that_name_nothing_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        list_images([tmp_path / "nothing.png"])
    for empty in ([tmp_path], [tmp_path / "*.png"], []):
        with pytest.raises(InputError, match="no images found"):
            list_images(empty)


def test_stems_are_made_unique() -> None:
    paths = [Path("a/1.jpg"), Path("b/1.png"), Path("c/b/1.png"), Path("a/2.jpg"), Path("x/B-1.png")]
    assert unique_stems(paths) == ["1", "b-1", "1-2", "2", "x-B-1"]


def test_tensors_and_arrays_convert_exactly() -> None:
    tensor = to_tensor(gradient())
    assert tensor.shape == (3, 6, 9)
    assert tensor.dtype == torch.float32
    assert 0 <= tensor.min() <= tensor.max() <= 1
    assert np.array_equal(to_array(tensor), gradient())
    assert to_array(torch.full((3, 1, 1), 1.7))[0, 0].tolist() == [255, 255, 255]


def test_shrinking_averages() -> None:
    checkerboard = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    small = resize(np.repeat(checkerboard[:, :, None], 3, axis=2).astype(np.uint8), 8)
    assert np.abs(small.astype(int) - 127.5).max() <= 1


@pytest.mark.parametrize("size", [(6, 9), (3, 20), (20, 3), (12, 18)])
def test_resize_gives_the_size_asked_for(size: tuple[int, int]) -> None:
    flat = np.full((6, 9, 3), 77, dtype=np.uint8)
    assert resize(flat, size).shape == (*size, 3)
    assert (resize(flat, size) == 77).all()
    assert image_io.resize(flat, 5).shape == (5, 5, 3)
