"""Masks as solids and layouts: STL of the plate (trimesh), GDSII of a stepped relief (gdstk); written and read back."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseveil.apps.fabrication_files import MOST_BYTES, Header, read_bytes
from phaseveil.data.image_io import write_atomically
from phaseveil.engines.packages import need
from phaseveil.errors import InputError
from phaseveil.optics.fabrication import Relief, plate
from phaseveil.optics.height_map import MOST_SAMPLES

CELL = "PHASEVEIL_MASK"
ABOUT_LAYER = 255
"""Of the text that says what the layers mean; levels lie on the layers 1 to 254 and, of 256 levels, on 255 too."""
MOST_LEVELS = 256
MOST_MILLIMETRES = 1e4
_MILLIMETRE = 1e-3
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def write_stl(path: Path, height: Tensor, half_side: float, thickness: float) -> dict[str, Any]:
    """Write a square plate with the relief on top as binary STL in millimetres.

    Args:
        path: Where to.
        height: At the vertices of an even grid over the plate, metres. Shape ``(V, V)``.
        half_side: Of the plate, metres.
        thickness: Under the relief's lowest point, metres.

    Returns:
        What trimesh says of the mesh: ``watertight``, ``triangles``, ``volume_mm3``.

    Raises:
        ConfigError: trimesh is missing.
        InputError: The mesh is not closed, or the file cannot be written.
    """
    need("trimesh", extra="fabrication")
    import trimesh

    vertices, faces = plate(height, half_side, thickness)
    mesh = trimesh.Trimesh(vertices / _MILLIMETRE, faces, process=False)
    if not mesh.is_watertight or not mesh.is_winding_consistent or mesh.volume <= 0:
        raise InputError(f"{path}: the plate is no closed solid; choose a larger thickness or fewer samples")
    from trimesh.exchange.stl import export_stl

    write_atomically(path, lambda temporary: temporary.write_bytes(export_stl(mesh)))
    return {"watertight": True, "triangles": len(faces), "volume_mm3": float(mesh.volume)}


def read_stl(path: Path, radius: float, samples: int) -> tuple[Relief, bool]:
    """Upper surface of a plate, and whether the mesh is a closed solid.

    Args:
        path: Binary STL in millimetres, its relief upwards, its middle at x = y = 0.
        radius: Of the pupil, metres.
        samples: Cells across the pupil that the surface is sampled on.

    Raises:
        ConfigError: trimesh is missing.
        InputError: Not such a file, or it does not cover the pupil.
    """
    need("trimesh", extra="fabrication")
    import trimesh
    from matplotlib.tri import LinearTriInterpolator, Triangulation

    data = read_bytes(path)
    count = int.from_bytes(data[80:84], "little")
    if len(data) != 84 + count * _FACET.itemsize or not 12 <= count <= MOST_BYTES // _FACET.itemsize:
        raise InputError(f"{path}: damaged or no binary STL; export it again")
    corners = np.frombuffer(data, _FACET, count, 84)["corners"].astype(np.float64)
    if not (np.abs(corners) < MOST_MILLIMETRES).all():
        raise InputError(f"{path}: holds vertices beyond {MOST_MILLIMETRES:g} mm, or that are no numbers")
    points, index = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    closed = trimesh.Trimesh(points, faces, process=False)
    upwards = faces[_rise(points, faces) > 1e-12]
    axis = (np.arange(samples) - (samples - 1) / 2) * (2 * radius / samples) / _MILLIMETRE
    x, y = np.meshgrid(axis, axis)
    try:
        height = LinearTriInterpolator(Triangulation(points[:, 0], points[:, 1], upwards), points[:, 2])(x, y)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path}: its upper side is no single surface") from error
    if np.ma.is_masked(height):
        raise InputError(f"{path}: does not cover a pupil of {radius * 1e3:g} mm radius about x = y = 0 (millimetres)")
    surface = torch.from_numpy(np.asarray(height) * _MILLIMETRE)
    return Relief(surface - surface.mean(), smooth=True), bool(closed.is_watertight and closed.is_winding_consistent)


def write_gdsii(path: Path, level: Tensor, feature: float, step: float, facts: Header) -> dict[str, Any]:
    """Write a stepped relief: cells of level n as rectangles on layer n, level 0 left out, in micrometres.

    Args:
        path: Where to.
        level: Of each cell. Shape ``(N, N)``, int64, below :data:`MOST_LEVELS`.
        feature: Side of a cell, metres.
        step: Height of a level, metres.
        facts: For the text on layer 255.

    Returns:
        ``polygons`` and ``smallest_feature_m``.

    Raises:
        ConfigError: gdstk is missing.
        InputError: The file cannot be written.
    """
    need("gdstk", extra="fabrication")
    import gdstk

    cells, side = len(level), feature * 1e6
    library = gdstk.Library(unit=1e-6, precision=1e-9)
    cell = library.new_cell(CELL)
    levels = level.numpy()
    count = 0
    for number in np.unique(levels[levels > 0]).tolist():
        for top, bottom, left, right in rectangles(levels == number):
            low, high = (left - cells / 2) * side, (right - cells / 2) * side
            cell.add(gdstk.rectangle((low, (top - cells / 2) * side), (high, (bottom - cells / 2) * side), number))
            count += 1
    about = {"cells": cells, "cell_m": feature, "step_m": step, **facts}
    cell.add(gdstk.Label(json.dumps(about, sort_keys=True), (0, 0), layer=ABOUT_LAYER))
    write_atomically(path, lambda temporary: library.write_gds(temporary))
    return {"polygons": count, "smallest_feature_m": feature}


def read_gdsii(path: Path) -> tuple[Relief, dict[str, Any]]:
    """Relief of a layout that :func:`write_gdsii` wrote, its levels as facets; and how many polygons and levels it has.

    gdstk crashes on damaged files, so only its own kind of record is read here, and each is checked.

    Raises:
        InputError: Not such a file.
    """
    try:
        unit, boxes, about = _read_layout(read_bytes(path))
        cells, side, step = int(about["cells"]), float(about["cell_m"]), float(about["step_m"])
    except (struct.error, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: no layout of a mask, or damaged ({error}); export it again") from error
    if not 8 <= cells <= MOST_SAMPLES or not 1e-9 < side < 1e-2 or not 0 < step < 1e-3 or not len(boxes):
        raise InputError(f"{path}: {len(boxes)} polygons on {cells} cells of {side:g} m are no phase mask")
    edges = boxes[:, 1:] * (unit / side) + cells / 2
    if not (np.abs(edges) < 1e6).all() or np.abs(edges - edges.round()).max() > 0.01:
        raise InputError(f"{path}: holds polygons off the grid of {side:g} m")
    level = np.zeros((cells, cells), dtype=np.int64)
    for layer, (left, low, right, high) in zip(
        boxes[:, 0].tolist(), edges.round().astype(np.int64).clip(0, cells).tolist(), strict=True
    ):
        level[low:high, left:right] = layer
    figures = {"polygons": len(boxes), "levels": len(np.unique(level)), "cells": cells}
    return Relief(torch.from_numpy(level * step), smooth=False), figures


def _read_layout(data: bytes) -> tuple[float, NDArray[np.int64], Header]:
    """Database unit (metres), rectangles (layer, left, low, right, high; database units) and text of the mask's cell.

    Raises:
        ValueError: A record that such a layout does not have.
    """
    unit, cell, layer, boxes, about = 0.0, "", 0, [], ""
    for kind, content in _records(data):
        if kind == _UNITS:
            unit = _real(content[8:16])
        elif kind == _NAME:
            cell = content.rstrip(b"\0").decode("ascii")
        elif kind == _LAYER:
            (layer,) = struct.unpack(">h", content)
        elif kind == _PLACES and cell == CELL and len(content) == 40:  # a closed rectangle
            points = struct.unpack(">10i", content)
            left, right, low, high = min(points[::2]), max(points[::2]), min(points[1::2]), max(points[1::2])
            corners = {(left, low), (left, high), (right, low), (right, high)}
            if set(zip(points[::2], points[1::2], strict=True)) != corners or not 0 < layer < MOST_LEVELS:
                raise ValueError(f"layer {layer} holds a polygon that is no rectangle along the axes")
            boxes.append((layer, left, low, right, high))
        elif kind == _PLACES and cell == CELL and len(content) != 8:  # but for the text's
            raise ValueError(f"layer {layer} holds a polygon that is no rectangle along the axes")
        elif kind == _TEXT and cell == CELL and layer == ABOUT_LAYER:
            about = content.rstrip(b"\0").decode("ascii")
    header = json.loads(about) if about else None
    if not isinstance(header, dict) or not 1e-12 < unit < 1e-3:
        raise ValueError(f"no cell {CELL} whose text says cells, cell_m and step_m")
    return unit, np.array(boxes, dtype=np.int64).reshape(-1, 5), header


_UNITS, _NAME, _LAYER, _PLACES, _TEXT, _END = 0x0305, 0x0606, 0x0D02, 0x1003, 0x1906, 0x0400


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each GDSII record up to the library's end."""
    place = 0
    while place + 4 <= len(data):
        length, kind = struct.unpack_from(">HH", data, place)
        if length < 4 or place + length > len(data) or (place == 0 and kind != 0x0002):
            raise ValueError("its records do not follow each other")
        if kind == _END:
            return
        yield kind, data[place + 4 : place + length]
        place += length
    raise ValueError("it ends too early")


def _real(content: bytes) -> float:
    """GDSII's eight-byte number: sign, exponent of 16 in excess of 64, 56 bits of mantissa."""
    (bits,) = struct.unpack(">Q", content)
    value = (bits & (2**56 - 1)) / 2**56 * 16.0 ** ((bits >> 56 & 0x7F) - 64)
    return -value if bits >> 63 else value


def rectangles(mask: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Rectangles (top, bottom, left, right; ends excluded) that cover a mask ``(N, N)`` without overlap: runs of a row,
    joined with equal runs of the rows below."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, left = np.nonzero(edges == 1)
    right = np.nonzero(edges == -1)[1]
    done: list[tuple[int, int, int, int]] = []
    open_runs: dict[tuple[int, int], tuple[int, int]] = {}  # (left, right) → (top, last row)
    for row, start, stop in zip(rows.tolist(), left.tolist(), right.tolist(), strict=True):
        run = open_runs.get((start, stop))
        if run is not None and run[1] == row - 1:
            open_runs[start, stop] = run[0], row
            continue
        if run is not None:
            done.append((run[0], run[1] + 1, start, stop))
        open_runs[start, stop] = row, row
    return done + [(top, last + 1, start, stop) for (start, stop), (top, last) in open_runs.items()]


def _rise(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Twice the area that each triangle shows from above; negative from below."""
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
