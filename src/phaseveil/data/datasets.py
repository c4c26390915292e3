"""Prepared faces in memory: images, landmarks and domains, drawn in batches that depend only on seed and step."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phaseveil.checkpoint import replace_atomically
from phaseveil.data.heatmaps import NUM_LANDMARKS, misplaced_eyes
from phaseveil.data.image_io import MAX_SIDE, read_image
from phaseveil.errors import InputError

DOMAINS = ("female", "male")


class FaceBatch(NamedTuple):
    """Faces of one step.

    Attributes:
        image: sRGB, 0 to 1. Shape ``(B, 3, H, W)``.
        landmarks: Points (x, y), normalised to [0, 1]. Shape ``(B, 68, 2)``.
        domain: Index into :data:`DOMAINS`. Shape ``(B,)``, int64.
    """

    image: Tensor
    landmarks: Tensor
    domain: Tensor


@dataclass(frozen=True)
class FaceDataset:
    """Faces of one split at one size.

    Attributes:
        images: uint8, possibly mapped from disk. Shape ``(N, size, size, 3)``.
        landmarks: Normalised to [0, 1]. Shape ``(N, 68, 2)``.
        domains: Index into :data:`DOMAINS`. Shape ``(N,)``.
        names: File names, relative to the prepared folder.
        left_out: Which faces no draw gives. Shape ``(N,)``, bool; none where ``None``.
    """

    images: np.ndarray
    landmarks: Tensor
    domains: Tensor
    names: list[str]
    left_out: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Tensor | Iterable[int]) -> FaceBatch:
        """Faces at these places, on the CPU."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        pixels = torch.from_numpy(self.images[index.numpy()])
        return FaceBatch(pixels.permute(0, 3, 1, 2).float() / 255, self.landmarks[index], self.domains[index])

    def eyes_within(self, limit: float) -> "FaceDataset":
        """The same faces, of which draws give those alone whose eyes lie near where most faces have them.

        Args:
            limit: Farthest of either eye, median eye distances; 0 leaves none out.

        Raises:
            InputError: None of a domain is left.
        """
        if limit <= 0:
            return self
        left_out = misplaced_eyes(self.landmarks).amax(dim=1) > limit
        if len(self.domains[~left_out].unique()) < len(DOMAINS):
            raise InputError(
                f"no face of a domain has both eyes within {limit:g} eye distances of most; set eyes_within=0"
            )
        return replace(self, left_out=left_out)

    @property
    def drawable(self) -> Tensor:
        """Places of the faces that draws may give. Shape ``(M,)``, int64."""
        return torch.arange(len(self)) if self.left_out is None else torch.nonzero(~self.left_out)[:, 0]

    def draw(self, size: int, generator: torch.Generator) -> FaceBatch:
        """``size`` faces at random, with replacement; the two domains equally often."""
        wanted = torch.randint(len(DOMAINS), (size,), generator=generator)
        return self.draw_of(wanted, generator)

    def draw_of(self, domains: Tensor, generator: torch.Generator) -> FaceBatch:
        """One face at random of each wanted domain. Shape ``(B,)`` of domain indices."""
        places = self.drawable
        pools = [places[self.domains[places] == d] for d in range(len(DOMAINS))]
        share = torch.rand(len(domains), generator=generator)
        index = [pools[d][int(s * len(pools[d]))] for d, s in zip(domains.tolist(), share.tolist(), strict=True)]
        return self.batch(torch.stack(index))


def load_faces(root: str | Path, split: str, size: int) -> FaceDataset:
    """Read one split of a folder that ``phaseveil prepare`` wrote.

    The decoded images are kept beside it (``cache/``) and mapped into memory, so that a second start is immediate.

    Args:
        root: Prepared folder, with ``index.jsonl``.
        split: ``train``, ``val`` or whatever the source had.
        size: Side of the images wanted, pixels.

    Raises:
        InputError: Not a prepared folder, no such split, a domain without a face, or unreadable files.
    """
    root = Path(root)
    index = root / "index.jsonl"
    if not index.is_file():
        raise InputError(f"{root}: no index.jsonl; run 'phaseveil prepare SOURCE {root}' first")
    try:
        found = [_record(line) for line in index.read_text("utf-8").splitlines()]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{index}: damaged ({error}); run 'phaseveil prepare' again, it goes on from here") from error
    records = [record for record in found if record["split"] == split and record["domain"] in DOMAINS]
    missing = [domain for domain in DOMAINS if not any(record["domain"] == domain for record in records)]
    if missing:
        raise InputError(
            f"{root}: split {split!r} has no face of domain {', '.join(missing)}; "
            f"prepare a source with folders {split}/female and {split}/male"
        )
    records.sort(key=lambda record: record["file"])
    points = np.stack([record["landmarks"] for record in records])
    sides = np.array([record["size"] for record in records], dtype=np.float32)
    try:
        images = _cached_images(root, [record["file"] for record in records], split, size)
    except OSError as error:
        raise InputError(f"{root}: cannot read the faces or write their cache ({error})") from error
    return FaceDataset(
        images=images,
        landmarks=torch.from_numpy((points + 0.5) / sides[:, None, None]),
        domains=torch.tensor([DOMAINS.index(record["domain"]) for record in records]),
        names=[record["file"] for record in records],
    )


def _record(line: str) -> dict[str, Any]:
    """A line of the index; ``landmarks`` become an array ``(68, 2)``, float32.

    Raises:
        ValueError: Not JSON, or not what the index of a prepared folder holds.
    """
    record = json.loads(line)
    texts = ("file", "split", "domain")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in texts):
        raise ValueError("a line without file, split and domain")
    place = PurePosixPath(record["file"])
    if place.is_absolute() or ".." in place.parts or "\0" in record["file"]:
        raise ValueError(f"{record['file']} lies outside the prepared folder")
    size = record.setdefault("size", 256)
    if not isinstance(size, int | float) or not 1 <= size <= MAX_SIDE:
        raise ValueError(f"a crop of {size!r} pixels")
    try:
        points = np.array(record.get("landmarks"), dtype=np.float64)
    except (TypeError, OverflowError) as error:
        raise ValueError("landmarks that are no numbers") from error
    if points.shape != (NUM_LANDMARKS, 2) or not (np.abs(points) < 100 * MAX_SIDE).all():
        raise ValueError(f"not {NUM_LANDMARKS} landmarks in or near the crop")
    record["landmarks"] = points.astype(np.float32)
    return record


def _cached_images(root: Path, files: list[str], split: str, size: int) -> np.ndarray:
    """Decoded images, from the cache when it has as many as the index."""
    cache = root / "cache" / f"{split}-{size}.npy"
    if cache.is_file() and cache.stat().st_mtime >= (root / "index.jsonl").stat().st_mtime:
        images = _read_cache(cache)
        if images is not None and images.shape == (len(files), size, size, 3):
            return images
    with replace_atomically(cache) as temporary:
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(files), size, size, 3))
        for place, name in enumerate(files):
            face = Image.fromarray(read_image(root / name))
            images[place] = face.resize((size, size), Image.Resampling.LANCZOS) if face.size != (size, size) else face
        images.flush()
    return np.load(cache, mmap_mode="r")


def _read_cache(cache: Path) -> np.ndarray | None:
    """Images of a cache, mapped from disk; ``None`` where it is damaged, so that it is made anew."""
    try:
        images = np.load(cache, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        return None
    return images if isinstance(images, np.ndarray) and images.dtype == np.uint8 else None
