"""Masks as tables and pictures: Zernike coefficients, height maps, SLM bitmaps, mirror commands; written and read back.

Readers take nothing on trust: sizes are checked before anything is unpacked, numbers must be finite, no code is run.
"""

import csv
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from phaseveil.data.image_io import write_atomically
from phaseveil.errors import InputError
from phaseveil.optics.fabrication import (
    ORDERINGS,
    Relief,
    mode_index,
    peak_of_unit_rms,
    sum_of_modes,
)
from phaseveil.optics.height_map import MOST_SAMPLES
from phaseveil.optics.zernike import noll_to_radial_azimuthal

Header = dict[str, Any]

MOST_BYTES = 256 * 2**20
"""Of a file or of what it unpacks to."""
MOST_TEXT = 2**20
MOST_ORDER = 40
"""Radial degree of a Zernike mode."""

SIGN = "positive height adds material; it delays the wave by (n_material - n_air) * height"
AXES = "x along columns, y along rows; on the part, seen from the scene, x runs to the right and y upwards"
_UNITS = {"metre": 1.0, "micrometre": 1e-6, "nanometre": 1e-9}
_NORMALISATION = {
    "noll": "rms (each polynomial has unit RMS over the pupil)",
    "ansi": "rms (each polynomial has unit RMS over the pupil)",
    "fringe": "peak (each radial polynomial is 1 at the rim)",
}
_KEY = "phaseveil"  # of the text chunk in a PNG, of the header in an npz


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """A file's content.

    Raises:
        InputError: Missing, unreadable, or longer than ``most`` bytes.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise InputError(f"{path}: {size:,} bytes are more than the {most:,} that such a file may have")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing file") from error


def check_table(path: Path, table: NDArray[Any], most: int = MOST_SAMPLES) -> Tensor:
    """A square table of finite numbers as float64 ``(N, N)``.

    Raises:
        InputError: It is none.
    """
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not 8 <= len(table) <= most:
        raise InputError(f"{path}: needs a square table of 8 to {most} cells a side, got {table.shape}")
    if table.dtype.kind not in "fiu" or not np.isfinite(table).all():
        raise InputError(f"{path}: holds values that are no finite numbers; fill the holes first")
    return torch.from_numpy(table.astype(np.float64))


def write_zernike(path: Path, coefficients: Tensor, first: int, radius: float, ordering: str, facts: Header) -> Path:
    """Write coefficients as CSV in micrometres, with a header that says all that their numbers mean.

    Args:
        path: Where to.
        coefficients: Metres RMS, Noll order. Shape ``(M,)``.
        first: Noll index of the first.
        radius: Of the pupil, metres.
        ordering: One of :data:`phaseveil.optics.fabrication.ORDERINGS`.
        facts: Anything else for the header.
    """
    header = {
        "quantity": f"surface height of the phase mask; {SIGN}",
        "unit": "micrometre",
        "ordering": ordering,
        "normalisation": _NORMALISATION[ordering],
        "radius_m": repr(radius),
        "axes": f"{AXES}; theta from +x towards +y; cosine for m >= 0, sine for m < 0",
        **facts,
    }
    rows = []
    for place, value in enumerate(coefficients.double().tolist()):
        n, m = noll_to_radial_azimuthal(first + place)
        factor = peak_of_unit_rms(n, m) if ordering == "fringe" else 1.0
        rows.append((mode_index(ordering, n, m), n, m, repr(value * factor * 1e6)))
    text = io.StringIO()
    text.write("# Zernike coefficients, written by PhaseVeil\n")
    text.writelines(f"# {name}: {value}\n" for name, value in header.items())
    csv.writer(text, lineterminator="\n").writerows([("index", "n", "m", "coefficient"), *sorted(rows)])
    return write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), "utf-8"))


def read_zernike(path: Path, samples: int) -> tuple[Relief, float]:
    """Surface of a coefficient file, and the radius of its pupil, metres.

    Args:
        path: CSV with the header lines ``unit``, ``ordering``, ``radius_m`` and the columns index, n, m, coefficient.
        samples: Cells across the pupil.

    Raises:
        InputError: Not such a file.
    """
    try:
        lines = read_bytes(path, MOST_TEXT).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text; give a CSV of Zernike coefficients") from error
    parts = (line[1:].partition(":") for line in lines if line.startswith("#"))
    header = {name.strip(): value.strip() for name, _, value in parts}
    unit, ordering = _UNITS.get(header.get("unit", "")), header.get("ordering", "")
    if unit is None or ordering not in ORDERINGS:
        raise InputError(
            f"{path}: its header must name a unit ({', '.join(_UNITS)}) and an ordering ({', '.join(ORDERINGS)})"
        )
    modes: dict[int, float] = {}
    try:
        radius = float(header["radius_m"])
        for row in csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")):
            n, m = int(row["n"]), int(row["m"])
            if not 0 <= abs(m) <= n <= MOST_ORDER or (n - m) % 2 or mode_index(ordering, n, m) != int(row["index"]):
                raise ValueError(f"index {row['index']}, n {row['n']}, m {row['m']} is no mode in the order {ordering}")
            noll = mode_index("noll", n, m)
            factor = peak_of_unit_rms(n, m) if ordering == "fringe" else 1.0
            value = float(row["coefficient"]) * unit / factor
            if noll in modes or not math.isfinite(value):
                raise ValueError(f"index {row['index']} is there twice, or its coefficient is no finite number")
            modes[noll] = value
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: no table of Zernike coefficients ({_brief(error)})") from error
    if not modes or not 0 < radius < 1:
        raise InputError(f"{path}: needs at least one coefficient and a radius in metres")
    return Relief(sum_of_modes(modes, samples), smooth=True), radius


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Header) -> Path:
    """Write arrays with a header of JSON beside them."""
    stored = {**arrays, _KEY: np.array(json.dumps(facts, sort_keys=True))}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **stored)  # type: ignore[arg-type]

    return write_atomically(path, write)


def read_npz(path: Path, *names: str) -> tuple[list[NDArray[Any]], Header]:
    """Named arrays of an npz and its header, empty where it has none; nothing is unpickled.

    Raises:
        InputError: Not such a file, an array is missing, or they unpack to more than :data:`MOST_BYTES`.
    """
    try:
        data = io.BytesIO(read_bytes(path))
        with zipfile.ZipFile(data) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise InputError(f"{path}: unpacks to more than {MOST_BYTES:,} bytes; reduce it")
        with np.load(data, allow_pickle=False) as stored:
            header = _header(path, str(stored[_KEY])) if _KEY in stored else {}
            return [stored[name] for name in names], header
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError, MemoryError) as error:
        raise InputError(f"{path}: no npz with {', '.join(names)} ({_brief(error)})") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, SyntaxError) as error:
        raise InputError(f"{path}: damaged or no npz ({_brief(error)})") from error


def write_height_map(path: Path, height: Tensor, radius: float, facts: Header) -> Path:
    """Write heights in metres ``(N, N)`` over the square that bounds the pupil, float64, as npz."""
    about = {"unit": "metre", "radius_m": radius, "sign": SIGN, "axes": AXES, **facts}
    return write_npz(path, {"height": height.double().numpy()}, about)


def read_height_map(path: Path) -> tuple[Relief, float | None]:
    """Surface of an npz or 16-bit PNG, and the radius of its pupil where the file says it, metres.

    Raises:
        InputError: Not such a file.
    """
    if path.suffix.lower() == ".png":
        values, header = read_png(path)
        try:
            scale, offset = float(header["metres_per_count"]), float(header["metres_at_0"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: has no scale; it must say metres_per_count and metres_at_0") from error
        height = check_table(path, values * scale + offset)
    else:
        (table,), header = read_npz(path, "height")
        height = check_table(path, table)
        if header.get("unit", "metre") != "metre":
            raise InputError(f"{path}: heights must be in metres, it says {header['unit']!r}")
    if height.abs().max() > 0.01:
        raise InputError(f"{path}: heights of more than 10 mm are no phase mask; are they in metres?")
    return Relief(height, smooth=True), _radius(path, header)


def write_height_png(path: Path, height: Tensor, radius: float, facts: Header) -> Path:
    """Write heights in metres ``(N, N)`` as a 16-bit greyscale PNG, its scale in a text chunk."""
    low, high = height.min().item(), height.max().item()
    step = max((high - low) / 65_535, 1e-15)
    counts = ((height - low) / step).round().clamp(0, 65_535).numpy().astype(np.uint16)
    scale = {"metres_per_count": step, "metres_at_0": low, "radius_m": radius, "sign": SIGN, "axes": AXES}
    return write_png_counts(path, counts, scale | facts)


def write_png_counts(path: Path, counts: NDArray[np.uint16], facts: Header, bits: int = 16) -> Path:
    """Write counts ``(N, N)`` as a greyscale PNG of 8 or 16 bits with a header of JSON in a text chunk."""
    about = PngImagePlugin.PngInfo()
    about.add_text(_KEY, json.dumps(facts, sort_keys=True))
    image = Image.fromarray(counts.astype(np.uint8) if bits <= 8 else counts)
    return write_atomically(path, lambda temporary: image.save(temporary, format="PNG", pnginfo=about))


def read_png(path: Path) -> tuple[NDArray[np.uint16], Header]:
    """Counts and header of a greyscale PNG of 8 or 16 bits; the header may also lie in a ``.json`` beside it.

    Raises:
        InputError: Not such a file.
    """
    try:
        with Image.open(io.BytesIO(read_bytes(path)), formats=["PNG"]) as image:
            width, height = image.size
            if max(width, height) > 2 * MOST_SAMPLES or image.mode not in ("L", "I;16", "I"):
                raise InputError(
                    f"{path}: {width}×{height} pixels of mode {image.mode}; needs greyscale, "
                    f"at most {2 * MOST_SAMPLES} pixels a side"
                )
            counts = np.asarray(image)
            text = image.info.get(_KEY)  # chunks behind the pixels are not looked for
    except InputError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise InputError(f"{path}: damaged or no PNG ({_brief(error)})") from error
    if counts.min() < 0 or counts.max() > 65_535:
        raise InputError(f"{path}: counts must lie between 0 and 65535")
    beside = path.with_suffix(".json")
    if not isinstance(text, str):
        text = read_bytes(beside, MOST_TEXT).decode("utf-8", "replace") if beside.is_file() else "{}"
    return counts.astype(np.uint16), _header(path, text)


def write_slm(path: Path, phase: Tensor, wavelength: float, bits: int, radius: float, facts: Header) -> Path:
    """Write a phase ``(N, N)``, radians, wrapped at 2π, as a bitmap whose count ``2**bits`` would be 2π."""
    counts = torch.round(phase / (2 * math.pi) * 2**bits).long() % 2**bits
    about = {"bits": bits, "wavelength_m": wavelength, "radius_m": radius, "axes": AXES, **facts}
    return write_png_counts(path, counts.numpy().astype(np.uint16), about, bits)


def read_slm(path: Path) -> Relief:
    """Optical path of an SLM bitmap, pixels as facets; the liquid crystal's own dispersion is left out.

    Raises:
        InputError: Not such a file.
    """
    counts, header = read_png(path)
    try:
        bits, wavelength = int(header["bits"]), float(header["wavelength_m"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: says neither bits nor wavelength_m; it is no phase bitmap") from error
    if not 1 <= bits <= 16 or not 100e-9 < wavelength < 20e-6:
        raise InputError(f"{path}: bits must lie between 1 and 16, wavelength_m in metres (such as 550e-9)")
    path_length = check_table(path, counts.astype(np.float64) * (wavelength / 2**bits))
    return Relief(path_length, smooth=False, contrast=torch.ones(3))


def read_influence(path: Path) -> Tensor:
    """Influence functions ``influence_functions`` of an npz, ``(A, M, M)`` over the square that bounds the pupil.

    Raises:
        InputError: Not such a file.
    """
    (table,), _ = read_npz(path, "influence_functions")
    if table.ndim != 3 or not 1 <= len(table) <= 4096 or table.dtype.kind not in "fiu":
        raise InputError(f"{path}: influence_functions must have the shape (A, M, M), got {table.shape}")
    return torch.stack([check_table(path, one, 512) for one in table])


def read_mirror(path: Path, influence: Tensor | None, samples: int) -> Relief:
    """Surface of a mirror from its commands, or from its modes; phase by reflection is twice the displacement.

    Args:
        path: An npz with ``commands`` (of the actuators), or with ``modes`` (Noll) and ``coefficients``.
        influence: Of the actuators, needed for commands. Shape ``(A, M, M)``.
        samples: Cells across the pupil, of modes.

    Raises:
        InputError: Not such a file, or the influence functions are not those of this mirror.
    """
    if influence is None:
        (modes, amounts), _ = read_npz(path, "modes", "coefficients")
        ordinary = modes.ndim == 1 and modes.shape == amounts.shape and modes.dtype.kind in "iu"
        if not ordinary or not len(modes) or not 1 <= modes.min() <= modes.max() <= MOST_ORDER**2 // 2:
            raise InputError(f"{path}: modes and coefficients must be equally many Noll indices and metres")
        _check_numbers(path, amounts)
        height = sum_of_modes(dict(zip(modes.tolist(), amounts.tolist(), strict=True)), samples)
    else:
        (commands,), _ = read_npz(path, "commands")
        _check_numbers(path, commands)
        if commands.shape != (len(influence),):
            raise InputError(f"{path}: {commands.shape} commands for {len(influence)} influence functions")
        height = torch.einsum("a,ahw->hw", torch.from_numpy(commands).double(), influence)
    return Relief(height, smooth=True, contrast=torch.full((3,), -2.0))


def _check_numbers(path: Path, values: NDArray[Any]) -> None:
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise InputError(f"{path}: holds values that are no finite numbers")


def _radius(path: Path, header: Header) -> float | None:
    radius = header.get("radius_m")
    if radius is not None and (not isinstance(radius, float | int) or not 0 < radius < 1):
        raise InputError(f"{path}: radius_m must be a length in metres, got {radius!r}")
    return radius


def _header(path: Path, text: str) -> Header:
    try:
        header = json.loads(text) if len(text) <= MOST_TEXT else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its header is no JSON ({_brief(error)})") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: its header is no JSON object of at most {MOST_TEXT:,} characters")
    return header


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
