"""Images in and out: strict reading, atomic writing, antialiased resizing, and arrays to tensors and back.

Arrays are ``(H, W, 3)`` uint8, sRGB, in R, G, B order; tensors are ``(3, H, W)`` float32, sRGB-encoded, in [0, 1].
"""

import errno
import io
import logging
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from phaseveil.checkpoint import replace_atomically
from phaseveil.errors import InputError

ImageArray = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` after each item."""

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Pillow knows many more; some of those start programs (Ghostscript for EPS) or are hardly ever tried by anybody.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 100_000_000
MAX_SIDE = 16_384
MAX_FILE = 1 << 30  # bytes of an image file

# What Pillow logs about a damaged file is in our message; unless somebody listens, it shall not go to standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_MAGIC = frozenset("*?[")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def read_image(path: str | Path) -> ImageArray:
    """Read a photograph: EXIF orientation applied, transparency laid over white, greyscale made three channels.

    Returns:
        Shape ``(H, W, 3)``, uint8, RGB.

    Raises:
        InputError: Missing, empty, unreadable, not an image, or too large.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not an image")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: is a device or pipe, not a file")
        if found.st_size > MAX_FILE:
            raise InputError(f"{path}: the file is too large (over {MAX_FILE >> 30} GiB); reduce the image first")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> ImageArray:
    """Decode an image file held in memory, as strictly as :func:`read_image`.

    Args:
        data: The whole file.
        name: What error messages call it.

    Raises:
        InputError: Empty, damaged, not an image, or too large.
    """
    if not data:
        raise InputError(f"{name}: the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # Limits are ours, and stricter in the sides; flaws in metadata, which is not used, concern nobody.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image, name)
                return _to_rgb(ImageOps.exif_transpose(image), name)
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image that can be read; give JPEG, PNG, WebP, TIFF or BMP") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: the image is too large (over {MAX_PIXELS:,} pixels); reduce it first") from error
    except _UNREADABLE as error:
        raise InputError(f"{name}: damaged image ({_first_line(error)}); export it again") from error


def write_png(path: str | Path, image: ImageArray) -> Path:
    """Write a lossless PNG, atomically.

    Args:
        path: Where to; missing folders are made.
        image: Shape ``(H, W, 3)``, uint8, RGB; ``(H, W)`` for greyscale.

    Raises:
        InputError: The place is not writable, or the disk is full.
    """
    return _write(path, encode_png(image))


def encode_png(image: ImageArray) -> bytes:
    """Content of a PNG file: nothing but the pixels. ``(H, W, 3)`` uint8, RGB, or ``(H, W)`` → bytes."""
    return _encode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])


def write_webp(path: str | Path, image: ImageArray, quality: int = 95) -> Path:
    """Write a lossy WebP, atomically.

    Args:
        path: Where to; missing folders are made.
        image: Shape ``(H, W, 3)``, uint8, RGB.
        quality: 1 to 100.

    Raises:
        InputError: The place is not writable, or the disk is full.
    """
    return _write(path, _encode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality]))


def list_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Image files that files, folders (searched recursively) and glob patterns name, see :func:`list_files`."""
    return list_files(inputs, IMAGE_SUFFIXES, "images")


def list_files(inputs: Sequence[str | Path], suffixes: Collection[str], kind: str) -> list[Path]:
    """Files that files, folders (searched recursively) and glob patterns name, without repetition.

    A file named outright is kept whatever its suffix, so that a wrong one is reported and not lost; folders and
    patterns give only files with one of the suffixes, sorted, hidden ones left out.

    Args:
        inputs: Files, folders, glob patterns.
        suffixes: In small letters, with their dots.
        kind: What error messages call such files, such as ``images``.

    Raises:
        InputError: An input does not exist, or nothing at all was found.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        found.update(dict.fromkeys(find_files(given, suffixes)))
    if not found:
        raise InputError(f"no {kind} found in {', '.join(map(str, inputs)) or 'an empty list of inputs'}")
    return list(found)


def find_files(given: str | Path, suffixes: Collection[str]) -> list[Path]:
    """Files that one input names, none where a folder or pattern holds none; see :func:`list_files`.

    Raises:
        InputError: The input does not exist.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if _is_visible(p, path, suffixes))
    if path.exists():
        return [path]
    if _MAGIC & set(str(path)):
        return _expand(path, suffixes)
    raise InputError(f"{given}: no such file or folder")


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """One output name per input: its stem, with the folder's name (then a number) in front where stems clash.

    What is no printable character becomes ``_``, so do a dash in front and a name of dots alone: an output's name must
    neither move a terminal's cursor, nor look like an option, nor lead to another folder.

    >>> unique_stems([Path("a/1.jpg"), Path("b/1.jpg")])
    ['1', 'b-1']
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem, folder = _harmless(path.stem), _harmless(path.parent.name)
        candidates = [stem, f"{folder}-{stem}"]
        candidates += [f"{stem}-{number}" for number in range(2, len(paths) + 2)]
        name = next(candidate for candidate in candidates if candidate.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _harmless(name: str) -> str:
    """A file name with ``_`` for what could be taken for something else."""
    plain = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)
    return re.sub(r"^-|^\.+$", "_", plain)


def to_tensor(image: ImageArray) -> Tensor:
    """Turn ``(H, W, 3)`` uint8 into ``(3, H, W)`` float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)


def to_array(image: Tensor) -> ImageArray:
    """Turn ``(3, H, W)`` floats (clamped to [0, 1]) into ``(H, W, 3)`` uint8, rounded to nearest."""
    scaled = image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.cpu().permute(1, 2, 0).numpy())


def resize(image: ImageArray, size: int | tuple[int, int]) -> ImageArray:
    """Resize without aliasing: area averaging where a side shrinks, cubic where it grows.

    Args:
        image: Shape ``(H, W, 3)`` or ``(H, W)``.
        size: Side of a square, or ``(height, width)``, pixels.

    Returns:
        Shape ``(height, width, 3)``, uint8.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[:2] == (height, width):
        return image.copy()
    reduced = (min(width, image.shape[1]), min(height, image.shape[0]))
    shrunk = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(
            f"{name}: {width}×{height} px is too large (at most {MAX_SIDE} px a side and {MAX_PIXELS:,} pixels); "
            "reduce it first"
        )


def _to_rgb(image: Image.Image, name: str) -> ImageArray:
    """Eight-bit RGB of any Pillow mode."""
    if image.mode == "F":
        raise InputError(f"{name}: floating-point images have no defined white; export it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion would clip at 255.
        grey = (np.asarray(image).astype(np.int64).clip(0, 65_535) * 255 + 32_767) // 65_535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def _encode(suffix: str, image: ImageArray, options: list[int]) -> bytes:
    pixels = image if image.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def _write(path: str | Path, data: bytes) -> Path:
    return write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` make a file beside ``path``, which then takes its place; missing folders are made.

    Raises:
        InputError: The place is not writable, or the disk is full.
    """
    try:
        with replace_atomically(path) as temporary:
            write(temporary)
    except OSError as error:
        raise InputError(f"{path}: {write_problem(error)}") from error
    return Path(path)


def write_problem(error: OSError) -> str:
    """Why a file could not be written, with the way out, for the end of a one-line message."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space, finished outputs are intact"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write here; choose another output folder"
    return f"cannot be written ({error.strerror or error}); choose another output folder"


def _is_visible(path: Path, root: Path, suffixes: Collection[str]) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in suffixes and not hidden and path.is_file()


def _expand(pattern: Path, suffixes: Collection[str]) -> list[Path]:
    """Files with one of the suffixes that match a glob pattern, relative or absolute."""
    fixed = next(i for i, part in enumerate(pattern.parts) if _MAGIC & set(part))
    base = Path(*pattern.parts[:fixed])
    return sorted(p for p in base.glob(str(Path(*pattern.parts[fixed:]))) if _is_visible(p, base, suffixes))


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
