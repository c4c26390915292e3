"""Captures of point sources on disk: linear PNG, TIFF or NumPy files, and a table of their exposures."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from phaseveil.data.image_io import MAX_SIDE, list_files, write_atomically
from phaseveil.errors import InputError
from phaseveil.optics.calibration_captures import Capture

SUFFIXES = frozenset({".npy", ".png", ".tif", ".tiff"})
COLUMNS = ("file", "seconds", "distance", "position")


@dataclass(frozen=True)
class Exposure:
    """A row of the table: exposure time (seconds), the point's distance (metres; ``None`` where empty), position."""

    seconds: float
    distance: float | None
    position: str


def read_captures(inputs: Sequence[str | Path], exposures: Path | None, white: float | None) -> list[Capture]:
    """Read captures or dark frames.

    Args:
        inputs: Files, folders, glob patterns.
        exposures: The table, see :func:`read_exposures`; without it all captures are of one exposure time.
        white: Value at which the sensor saturates; the largest of the file's type where ``None`` (1 for fractions).

    Raises:
        InputError: Nothing to read, unreadable, not of three colours, or not in the table.
    """
    table = read_exposures(exposures) if exposures is not None else None
    captures = []
    for path in list_files(inputs, SUFFIXES, "captures"):
        values = read_linear(path, white)
        if table is None:
            captures.append(Capture(str(path), values))
            continue
        if path.name not in table:
            raise InputError(f"{path}: its exposure time is missing; add a row for {path.name} to {exposures}")
        captures.append(Capture(str(path), values, **vars(table[path.name])))
    return captures


def read_exposures(path: Path) -> dict[str, Exposure]:
    """A CSV table with the columns ``file``, ``seconds`` and, where they apply, ``distance`` and ``position``.

    Returns:
        By file name, without folders.

    Raises:
        InputError: Unreadable, a column is missing or unknown, or a number is none above 0.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV table ({error})") from error
    if not {"file", "seconds"} <= set(columns) <= set(COLUMNS):
        raise InputError(f"{path}: needs the columns file,seconds and may have distance,position; got {list(columns)}")
    table = {}
    for number, row in enumerate(rows, start=2):
        distance = row.get("distance") or None
        seconds = _above_zero(path, number, row["seconds"])
        place = None if distance is None else _above_zero(path, number, distance)
        table[Path(row["file"] or "").name] = Exposure(seconds, place, row.get("position") or "")
    return table


def read_linear(path: Path, white: float | None) -> Tensor:
    """A file of linear sensor values as shares of white.

    Args:
        path: PNG or TIFF of 8 or 16 bits, or ``.npy`` of 8 or 16 bits or fractions, ``(H, W, 3)``, R, G, B.
        white: See :func:`read_captures`.

    Returns:
        At least 0, float32. Shape ``(3, H, W)``.

    Raises:
        InputError: Unreadable, too large, or not of such a shape and type.
    """
    pixels = _read_array(path) if path.suffix.lower() == ".npy" else _read_picture(path)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 16:
        raise InputError(f"{path}: needs three colours, at least 16×16 pixels, (H, W, 3), got {pixels.shape}")
    if pixels.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise InputError(f"{path}: needs 8 or 16 bits without sign, or fractions of white, got {pixels.dtype}")
    if max(pixels.shape) > MAX_SIDE:
        raise InputError(f"{path}: more than {MAX_SIDE} pixels a side; cut the frame out about the point")
    largest = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
    values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)) / (white or largest)
    if not values.isfinite().all() or values.min() < 0 or (white is None and values.max() > 1):
        raise InputError(f"{path}: values must lie between 0 and white; give the saturation value by --white")
    return values


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not an array that can be read ({str(error).splitlines()[0]})") from error


def _read_picture(path: Path) -> np.ndarray:
    """Pixels of a PNG or TIFF as they are stored; Pillow looks at the header, OpenCV keeps 16 bits a colour."""
    try:
        with Image.open(path) as header:
            if max(header.size) > MAX_SIDE or header.format not in ("PNG", "TIFF"):
                raise InputError(f"{path}: need a PNG or TIFF of at most {MAX_SIDE} pixels a side, got {header.format}")
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image that can be read; give a linear PNG or TIFF, or .npy") from error
    except (OSError, SyntaxError, Image.DecompressionBombError, cv2.error) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if pixels is None:
        raise InputError(f"{path}: damaged image; export it again")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels


def _above_zero(path: Path, number: int, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"{path}, line {number}: needs a number above 0 (seconds, metres), got {text!r}")
    return value


def write_linear(path: Path, values: Tensor) -> Path:
    """Write shares of white ``(3, H, W)``, 0 to 1, as a linear PNG of 16 bits a colour, atomically.

    Raises:
        InputError: The place cannot be written.
    """
    pixels = (values * 65_535).round().to(torch.int32).permute(1, 2, 0).numpy().astype(np.uint16)
    data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return write_atomically(path, lambda temporary: temporary.write_bytes(data))
