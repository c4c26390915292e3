"""Photographs of known people, cut into aligned crops with oracle landmarks, and the pairs to compare.

What is slow (landmarks, embeddings) is kept in a cache folder and is resumed where it stopped.
"""

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from phaseveil.data.align import Matrix, template_points, transform, warp
from phaseveil.data.align import similarity as fit_similarity
from phaseveil.data.image_io import ImageArray, list_images, read_image, write_atomically
from phaseveil.data.landmarks import DlibDetector, FirstThatFinds, LandmarkPredictor, Points
from phaseveil.errors import InputError
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import (
    Floats,
    Integers,
    Interval,
    Pairs,
    Thresholds,
    Verification,
    rank_one,
    similarity,
    verify,
)
from phaseveil.progress import Report

COLUMNS = ("first", "second", "same")
SAVE_EVERY = 256  # items between two writes of a cache
_EYES_AND_MOUTH = (0, 1, 3, 4)  # of the five points; the nose moves with the yaw


@dataclass(frozen=True)
class PairSet:
    """Photographs and the pairs of them to compare.

    Attributes:
        files: N photographs, sorted: those of the pairs and every other one in the list's folder.
        matrices: From photograph to 256-px crop. Shape ``(N, 2, 3)``.
        landmarks: Of the clear photographs, pixels of the crop. Shape ``(N, 68, 2)``.
        persons: Number of the person. Shape ``(N,)``.
        pairs: Places of both photographs. Shape ``(P, 2)``.
        same: Whether both show one person. Shape ``(P,)``.
    """

    files: list[Path]
    matrices: Floats
    landmarks: Floats
    persons: Integers
    pairs: Integers
    same: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.files)

    def crop(self, place: int) -> ImageArray:
        """One photograph's aligned crop. Shape ``(256, 256, 3)``, uint8, RGB."""
        return warp(read_image(self.files[place]), self.matrices[place], FRAME)

    def score(self, probes: Floats, gallery: Floats, chosen: Integers) -> Pairs:
        """Compare the first photograph of each chosen pair, among ``probes``, with the second, among ``gallery``.

        Args:
            probes: Embeddings by place; rows that no chosen pair needs are not read. Shape ``(N, D)``.
            gallery: The same for the second photographs.
            chosen: Numbers of pairs. Shape ``(C,)``.
        """
        first, second = self.pairs[chosen].T
        return Pairs(similarity(probes[first], gallery[second]), self.same[chosen], self.persons[self.pairs[chosen]])

    def among(self, persons: Integers) -> Integers:
        """Numbers of the pairs whose two persons are both among these."""
        return np.flatnonzero(np.isin(self.persons[self.pairs], persons).all(axis=1))


@dataclass(frozen=True)
class Linkage:
    """How well probes are linked to the gallery's photographs.

    Attributes:
        verification: Of the pairs.
        rank_one: Share of persons whose probe is most similar to their own gallery photograph, with its interval; each
            person has one probe and one gallery photograph.
        chance: What guessing would score in ``rank_one``.
        gallery: Photographs in that gallery.
    """

    verification: Verification
    rank_one: Interval
    chance: float
    gallery: int


def link_another(
    photographs: PairSet, probes: Floats, gallery: Floats, chosen: Integers, thresholds: Thresholds
) -> Linkage:
    """Link each probe to *another* photograph of the person: the real risk.

    Args:
        photographs: What the embeddings are of.
        probes: Embeddings of what an attacker has, by place. Shape ``(N, D)``.
        gallery: Embeddings of what the attacker knows, by place. Shape ``(N, D)``.
        chosen: Numbers of pairs. Shape ``(C,)``.
        thresholds: Fixed on clean impostor pairs.

    Raises:
        ConfigError: No genuine or no impostor pair among the chosen.
    """
    verification = verify(photographs.score(probes, gallery, chosen), thresholds)
    first, second = photographs.pairs[chosen[photographs.same[chosen]]].T
    persons, one = np.unique(photographs.persons[first], return_index=True)
    hits = rank_one(probes[first[one]], gallery[second[one]], persons, persons)
    return Linkage(verification, hits, 1 / len(persons), len(persons))


def link_itself(
    photographs: PairSet, probes: Floats, gallery: Floats, chosen: Integers, thresholds: Thresholds
) -> Linkage:
    """Link each probe to the *very same* photograph: the worst case; arguments as in :func:`link_another`.

    The impostor pairs are the chosen ones.
    """
    impostor = chosen[~photographs.same[chosen]]
    other = photographs.score(probes, gallery, impostor)
    places = np.unique(photographs.pairs[chosen, 0])
    owners = photographs.persons[places]
    pairs = Pairs(
        np.concatenate([similarity(probes[places], gallery[places]), other.scores]),
        np.repeat([True, False], [len(places), len(impostor)]),
        np.concatenate([np.stack([owners, owners], axis=1), other.identities]),
    )
    persons, one = np.unique(owners, return_index=True)
    hits = rank_one(probes[places[one]], gallery[places[one]], persons, persons)
    return Linkage(verify(pairs, thresholds), hits, 1 / len(persons), len(persons))


def load_pairs(pairs: Path, folder: Path, report: Report) -> PairSet:
    """Read a list of pairs, and find the face in every photograph of its folder.

    Args:
        pairs: CSV with columns ``first``, ``second`` (paths relative to it) and ``same`` (0 or 1). A person is a folder
            of photographs; photographs that lie beside the list belong together where genuine pairs say so.
        folder: Cache of the landmarks.
        report: Progress, photographs.

    Raises:
        InputError: Not such a list, or photographs are missing or unreadable.
    """
    rows = _read_rows(pairs)
    root = pairs.parent
    files = list_images([root])
    place = {file.relative_to(root).as_posix(): number for number, file in enumerate(files)}
    missing = [name for row in rows for name in row[:2] if name not in place]
    if missing:
        raise InputError(
            f"{pairs}: {missing[0]} is not in {root} ({len(missing)} such entries); unpack all photographs"
        )
    index = np.array([(place[first], place[second]) for first, second, _ in rows])
    same = np.array([row[2] for row in rows])
    points = cached(folder / "landmarks.npz", states(files), lambda number: _find_landmarks(files[number]), report)
    matrices = np.stack([_to_crop(face) for face in points])
    landmarks = np.stack([transform(face, matrix) for face, matrix in zip(points, matrices, strict=True)])
    return PairSet(files, matrices, landmarks, _persons(files, root, index[same]), index, same)


def cached(file: Path, names: Sequence[str], compute: Callable[[int], NDArray], report: Report) -> Floats:
    """An array for each name, computed once; an interrupted computation goes on where it was last saved.

    Args:
        file: The cache, ``.npz``; of other names it is replaced.
        names: N names, which must change when what they name does.
        compute: Gives the array of a place, 0 to N - 1; all of one shape.
        report: Progress, items.

    Raises:
        InputError: The cache cannot be written.
    """
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    values = _stored(file, digest)
    while len(values) < len(names):
        stop = min(len(values) + SAVE_EVERY, len(names))
        for place in range(len(values), stop):
            values.append(np.asarray(compute(place), dtype=np.float64))
            report(place + 1, len(names))
        write_atomically(file, partial(np.savez, digest=np.array(digest), values=np.stack(values)))
    return np.stack(values)


def states(files: Sequence[Path]) -> list[str]:
    """Names for :func:`cached` that change when a file does."""
    found = [file.stat() for file in files]
    return [f"{f.resolve()}|{s.st_size}|{s.st_mtime_ns}" for f, s in zip(files, found, strict=True)]


def _stored(file: Path, digest: str) -> list[NDArray]:
    """What a cache holds for these names, nothing where it is missing, damaged or of other names."""
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            return list(stored["values"]) if str(stored["digest"]) == digest else []
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return []


def _read_rows(pairs: Path) -> list[tuple[str, str, bool]]:
    try:
        reader = csv.DictReader(pairs.read_text("utf-8").splitlines())
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise InputError(f"{pairs}: needs the columns {', '.join(COLUMNS)} in its first line")
        rows = [(row["first"], row["second"], row["same"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{pairs}: cannot be read as CSV ({error}); give a list of pairs") from error
    for number, row in enumerate(rows, start=2):
        if row[2] not in ("0", "1"):
            raise InputError(f"{pairs}: line {number}: same must be 0 or 1, got {row[2]!r}")
    if len({row[2] for row in rows}) < 2:
        raise InputError(f"{pairs}: needs pairs of the same person and pairs of different persons")
    return [(first, second, same == "1") for first, second, same in rows]


def _persons(files: Sequence[Path], root: Path, genuine: Integers) -> Integers:
    """Number of the person in each photograph: one a folder; beside the list, one a group of genuine pairs."""
    persons = list(range(len(files)))  # the smallest place that is known to show the same person

    def first(place: int) -> int:
        while persons[place] != place:
            place = persons[place]
        return place

    folders: dict[Path, int] = {}
    inside = [(folders.setdefault(f.parent, n), n) for n, f in enumerate(files) if f.parent != root]
    for one, other in [*inside, *genuine.tolist()]:
        low, high = sorted((first(one), first(other)))
        persons[high] = low
    return np.unique([first(place) for place in range(len(files))], return_inverse=True)[1].astype(np.int64)


@cache
def _detector() -> FirstThatFinds:
    return FirstThatFinds(
        [DlibDetector(), DlibDetector(min_score=-0.2, upsample=1), DlibDetector(min_score=-0.7, upsample=1)]
    )


@cache
def _predictor() -> LandmarkPredictor:
    return LandmarkPredictor()


def oracle_landmarks(image: ImageArray) -> Points:
    """68 landmarks of the face nearest to the middle; the middle of the frame stands in where no detector finds one.

    Args:
        image: A photograph or crop centred on its subject. Shape ``(H, W, 3)``, uint8, RGB.

    Returns:
        Pixels. Shape ``(68, 2)``.
    """
    height, width = image.shape[:2]
    found = _detector().detect(image)
    nearest = min(
        found, key=lambda face: np.hypot(face.centre[0] - width / 2, face.centre[1] - height / 2), default=None
    )
    middle = (0.28 * width, 0.28 * height, 0.72 * width, 0.72 * height)
    return _predictor().predict(image, nearest.box if nearest is not None else middle)


def _find_landmarks(file: Path) -> Points:
    return oracle_landmarks(read_image(file))


def _to_crop(landmarks: Points) -> Matrix:
    """Similarity that takes a face's eyes and mouth corners to where CelebA's aligned crops have them."""
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    points = np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])
    index = list(_EYES_AND_MOUTH)
    return fit_similarity(points[index], template_points(FRAME)[index])
