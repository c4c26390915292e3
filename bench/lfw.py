"""Photographs of LFW as aligned crops, with landmarks, clean embeddings and pairs; what is slow is cached."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from phaseveil.checkpoint import replace_atomically
from phaseveil.data.align import Matrix, template_points, transform, warp
from phaseveil.data.align import similarity as fit_similarity
from phaseveil.data.image_io import ImageArray, read_image
from phaseveil.data.landmarks import DlibDetector, FirstThatFinds, LandmarkPredictor, Points
from phaseveil.errors import InputError
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import DlibRecogniser, Floats, Integers, Pairs, similarity, threshold_at
from phaseveil.progress import progress

FMR = 1e-3
BATCH = 32
_EYES_AND_MOUTH = (0, 1, 3, 4)  # of the five points; the nose moves with the yaw
_FALLBACK_BOX = (70.0, 70.0, 180.0, 180.0)  # where a 250-px photograph holds its face, should every detector fail


@dataclass(frozen=True)
class Photographs:
    """Aligned photographs and the pairs to compare.

    Attributes:
        files: Sorted. N of them.
        matrices: Photograph to 256-px crop. Shape ``(N, 2, 3)``.
        landmarks: In the crops, pixels. Shape ``(N, 68, 2)``.
        embeddings: Of the clear crops. Shape ``(N, 128)``.
        persons: Shape ``(N,)``.
        pairs: Places of both photographs. Shape ``(P, 2)``.
        same: Whether both show one person. Shape ``(P,)``.
    """

    files: list[Path]
    matrices: Floats
    landmarks: Floats
    embeddings: Floats
    persons: Integers
    pairs: Integers
    same: np.ndarray

    def crop(self, place: int) -> ImageArray:
        """One photograph's crop. Shape ``(256, 256, 3)``, uint8."""
        return warp(read_image(self.files[place]), self.matrices[place], FRAME)

    def score(self, probes: Floats, chosen: Integers) -> Pairs:
        """Compare the pairs' first photographs, as ``probes`` ``(N, 128)`` has them, with the second ones, clear."""
        first, second = self.pairs[chosen].T
        scores = similarity(probes[first], self.embeddings[second])
        return Pairs(scores, self.same[chosen], self.persons[self.pairs[chosen]])

    @property
    def threshold(self) -> float:
        """Similarity at which one in a thousand clean impostor pairs passes for one person."""
        return threshold_at(self.score(self.embeddings, np.arange(len(self.pairs))).impostor, FMR)


def load_photographs(root: Path, folder: Path) -> Photographs:
    """Find, align and embed every photograph under ``root``; from ``folder``, the cache, where that was done before.

    Raises:
        InputError: ``root`` is not the unpacked LFW pack.
    """
    files = sorted(root.glob("*/*.jpg"))
    if not files or not (root / "pairs.csv").is_file():
        raise InputError(f"{root}: no photographs by identity with a pairs.csv; give the unpacked LFW pack")
    names = [file.relative_to(root).as_posix() for file in files]
    points = cached(folder / "lfw_landmarks.json", names, lambda place: _find_landmarks(read_image(files[place])))
    matrices = np.stack([_to_crop(face) for face in points])
    landmarks = np.stack([transform(face, matrix) for face, matrix in zip(points, matrices, strict=True)])

    def embed(place: int) -> Floats:
        crop = warp(read_image(files[place]), matrices[place], FRAME)
        return recogniser().embed([crop], landmarks[place][None])[0]

    embeddings = cached(folder / "lfw_embeddings.json", names, embed)
    rows = list(csv.DictReader((root / "pairs.csv").read_text().splitlines()))
    place = {name: number for number, name in enumerate(names)}
    pairs = np.array([(place[row["first"]], place[row["second"]]) for row in rows])
    _, persons = np.unique([file.parent.name for file in files], return_inverse=True)
    same = np.array([row["same"] == "1" for row in rows])
    return Photographs(files, matrices, landmarks, embeddings, persons, pairs, same)


@cache
def recogniser() -> DlibRecogniser:
    """dlib's recogniser, loaded once."""
    return DlibRecogniser()


def cached(file: Path, names: list[str], compute: Callable[[int], np.ndarray]) -> Floats:
    """An array for each name, computed once and kept in a JSON file that is used only for the very same names.

    Args:
        file: The cache.
        names: N names.
        compute: Gives an array for a place, 0 to N - 1; all of one shape.
    """
    if file.is_file():
        stored: dict[str, Any] = json.loads(file.read_text())
        if stored["names"] == names:
            return np.array(stored["values"], dtype=np.float64)
    values = []
    with progress(file.stem) as report:
        for place in range(len(names)):
            values.append(np.asarray(compute(place)).tolist())
            report(place + 1, len(names))
    with replace_atomically(file) as temporary:
        temporary.write_text(json.dumps({"names": names, "values": values}))
    return np.array(values, dtype=np.float64)


def batches(places: Integers) -> Iterator[Integers]:
    """Places in order, :data:`BATCH` at a time."""
    for start in range(0, len(places), BATCH):
        yield places[start : start + BATCH]


@cache
def _detector() -> FirstThatFinds:
    return FirstThatFinds(
        [DlibDetector(), DlibDetector(min_score=-0.2, upsample=1), DlibDetector(min_score=-0.7, upsample=1)]
    )


@cache
def _predictor() -> LandmarkPredictor:
    return LandmarkPredictor()


def _find_landmarks(image: ImageArray) -> Points:
    """Landmarks of the face nearest to the middle: LFW's photographs are centred on their subject."""
    middle = image.shape[0] / 2
    found = _detector().detect(image)
    nearest = min(found, key=lambda face: np.hypot(face.centre[0] - middle, face.centre[1] - middle), default=None)
    return _predictor().predict(image, nearest.box if nearest is not None else _FALLBACK_BOX)


def _to_crop(landmarks: Points) -> Matrix:
    """Similarity that takes a face's eyes and mouth corners to where CelebA's aligned crops have them."""
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    points = np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])
    index = list(_EYES_AND_MOUTH)
    return fit_similarity(points[index], template_points(FRAME)[index])
