"""Who attacks whom: persons split between attacker and test, the pairs that are scored, and their thresholds."""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseveil.attacks import inversion, recognition
from phaseveil.attacks.inversion import InversionConfig
from phaseveil.attacks.recognition import RecogniserConfig
from phaseveil.data.image_io import ImageArray, resize, to_array, to_tensor
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import Floats, Integers, Recogniser, Thresholds, thresholds_on
from phaseveil.metrics.photographs import PairSet, cached, states
from phaseveil.progress import Report

FEWEST_IMPOSTORS = 1000  # to tell a false-match rate of 1e-3
BATCH = 32


@dataclass(frozen=True)
class Budget:
    """How much work the attacks may do.

    Attributes:
        name: What the card calls it.
        probes: Genuine pairs scored, one probe each, distinct persons first; all where ``None``.
        impostors: Impostor pairs scored, drawn among all probes and gallery photographs of different persons.
        tuning: Own photographs, of different people, on which the attacker tunes deconvolution.
        captures: Exposures of point sources from which the attacker estimates the PSF.
        members: Masks of a dynamic camera's family among which the attacker looks for that of each exposure.
        sweep: Deconvolution methods that are tried over noise and bit depth.
        trained_on: Artefacts that a recogniser is trained on (A4), some of ``acquisition``, ``heatmap``, ``generated``.
        inversion: Training of the inversion network (A3).
        recogniser: Training of the recognisers (A4).
        pictures: Test persons shown in the card.
    """

    name: str
    probes: int | None
    impostors: int
    tuning: int
    captures: int
    sweep: tuple[str, ...]
    trained_on: tuple[str, ...]
    inversion: InversionConfig = field(default_factory=InversionConfig)
    recogniser: RecogniserConfig = field(default_factory=RecogniserConfig)
    pictures: int = 6
    members: int = 16

    def __post_init__(self) -> None:
        if (self.probes is not None and self.probes < 2) or self.impostors < FEWEST_IMPOSTORS:
            raise ConfigError(f"budget: needs at least 2 probes and {FEWEST_IMPOSTORS} impostor pairs")
        if self.tuning < 2 or min(self.captures, self.members) < 1 or self.pictures < 0:
            raise ConfigError("budget: tuning must be at least 2, captures and members at least 1, pictures at least 0")


BUDGETS = {
    "quick": Budget(
        "quick",
        probes=300,
        impostors=20_000,
        tuning=12,
        captures=16,
        sweep=("wiener",),
        trained_on=("acquisition", "heatmap", "generated"),
        inversion=inversion.QUICK,
        recogniser=recognition.QUICK,
    ),
    "full": Budget(
        "full",
        probes=None,
        impostors=60_000,
        tuning=64,
        captures=16,
        sweep=("wiener", "richardson-lucy", "tv"),
        trained_on=("acquisition", "heatmap", "generated"),
        inversion=inversion.FULL,
        recogniser=recognition.FULL,
        members=256,
    ),
}


@dataclass(frozen=True)
class Study:
    """What every attack works on.

    Attributes:
        photographs: The user's, their pairs replaced by those that are scored.
        size: Side of the camera's frame, pixels.
        seed: Of the split, the draws and the noise.
        attacker: Places of the attacker's own photographs, of people outside the test.
        probes: Places of the photographs that are attacked.
        gallery: Places of the photographs that probes are linked to.
        clear: Embeddings of the clear photographs by place; NaN where none is needed. Shape ``(N, D)``.
        thresholds: Fixed on all clean impostor pairs of the user's list.
        clean_impostors: How many those are.
    """

    photographs: PairSet
    size: int
    seed: int
    attacker: Integers
    probes: Integers
    gallery: Integers
    clear: Floats
    thresholds: Thresholds
    clean_impostors: int

    @property
    def all_pairs(self) -> Integers:
        """Numbers of the scored pairs."""
        return np.arange(len(self.photographs.pairs))

    def scene(self, place: int) -> ImageArray:
        """One photograph in the camera's frame. Shape ``(S, S, 3)``, uint8."""
        return resize(self.photographs.crop(place), self.size)

    def scenes(self, places: Integers) -> Tensor:
        """Photographs in the camera's frame, sRGB, 0 to 1. Shape ``(B, 3, S, S)``."""
        return torch.stack([to_tensor(self.scene(place)) for place in places])

    def landmarks(self, places: Integers) -> Tensor:
        """Landmarks of the clear photographs, normalised to [0, 1]. Shape ``(B, 68, 2)``, float32."""
        return torch.from_numpy((self.photographs.landmarks[places] + 0.5) / FRAME).float()

    @cached_property
    def attacker_scenes(self) -> NDArray[np.uint8]:
        """The attacker's own photographs in the camera's frame. Shape ``(A, S, S, 3)``."""
        return np.stack([self.scene(place) for place in self.attacker])

    def embed(self, recogniser: Recogniser, images: Tensor, places: Integers) -> Floats:
        """Embeddings of what an attacker has of photographs, shown at 256 px and aligned by the clear landmarks.

        Args:
            recogniser: The attacker's.
            images: sRGB, 0 to 1, of any size. Shape ``(B, 3, H, H)``.
            places: Of the photographs. Shape ``(B,)``.
        """
        parts = [
            recogniser.embed([resize(to_array(image), FRAME) for image in images[part]], self.photographs.landmarks[at])
            for part, at in _in_parts(places)
        ]
        return np.concatenate(parts)

    def embed_clear(self, recogniser: Recogniser, places: Integers) -> Floats:
        """Embeddings of the clear photographs themselves. Shape ``(B, D)``."""
        parts = [
            recogniser.embed([self.photographs.crop(place) for place in at], self.photographs.landmarks[at])
            for _, at in _in_parts(places)
        ]
        return np.concatenate(parts)

    def by_place(self, places: Integers, embeddings: Floats) -> Floats:
        """Embeddings ``(B, D)`` of some places as rows of an array over all, ``(N, D)``, NaN elsewhere."""
        rows = np.full((len(self.photographs), embeddings.shape[1]), np.nan)
        rows[places] = embeddings
        return rows


def prepare_study(photographs: PairSet, clear: Floats, size: int, budget: Budget, seed: int) -> Study:
    """Split persons, choose the pairs that are scored, and fix the thresholds.

    Args:
        photographs: The user's.
        clear: Embeddings of the clear photographs by place, see :func:`embed_photographs`. Shape ``(N, D)``.
        size: Side of the camera's frame, pixels.
        budget: How many pairs.
        seed: Of split and draws.

    Raises:
        InputError: Too few persons to split, or too few genuine pairs among the test half.
        ConfigError: Too few impostor pairs to fix a threshold.
    """
    attacker, test = split_persons(photographs.persons, seed)
    genuine = choose_genuine(photographs, test, budget.probes, seed)
    impostor = draw_impostors(photographs.persons, genuine, budget.impostors, seed)
    clean = photographs.score(clear, clear, np.flatnonzero(~photographs.same)).impostor
    pairs = np.concatenate([genuine, impostor])
    same = np.repeat([True, False], [len(genuine), len(impostor)])
    return Study(
        photographs=dataclasses.replace(photographs, pairs=pairs, same=same),
        size=size,
        seed=seed,
        attacker=np.flatnonzero(np.isin(photographs.persons, attacker)),
        probes=np.unique(genuine[:, 0]),
        gallery=np.unique(genuine[:, 1]),
        clear=clear,
        thresholds=thresholds_on(clean),
        clean_impostors=len(clean),
    )


def split_persons(persons: Integers, seed: int) -> tuple[Integers, Integers]:
    """The attacker's persons and the test's, two random halves of all. Any integers in, two sorted arrays out.

    Raises:
        InputError: Fewer than four persons.
    """
    known = np.unique(persons)
    if len(known) < 4:
        raise InputError(
            f"the pairs show {len(known)} persons; an attack needs many more, half of them for the attacker"
        )
    shuffled = np.random.default_rng([seed, 0]).permutation(known)
    half = len(known) // 2
    return np.sort(shuffled[:half]), np.sort(shuffled[half:])


def choose_genuine(photographs: PairSet, test: Integers, count: int | None, seed: int) -> Integers:
    """Genuine pairs among persons of the test, at random, each person's first pair before anybody's second.

    Returns:
        Places. Shape ``(G, 2)``.

    Raises:
        InputError: Fewer than two persons have such a pair.
    """
    inside = photographs.among(test)
    inside = np.random.default_rng([seed, 1]).permutation(inside[photographs.same[inside]])
    owners = photographs.persons[photographs.pairs[inside, 0]]
    if len(np.unique(owners)) < 2:
        raise InputError("fewer than two persons of the test half have a pair of the same person; give a longer list")
    earlier = np.array([int((owners[:place] == owner).sum()) for place, owner in enumerate(owners)])
    chosen = inside[np.argsort(earlier, kind="stable")][:count]
    pairs: Integers = photographs.pairs[np.sort(chosen)]
    return pairs


def draw_impostors(persons: Integers, genuine: Integers, count: int, seed: int) -> Integers:
    """Pairs of each probe with gallery photographs of other people, drawn at random without repetition.

    Args:
        persons: By place.
        genuine: Places of probes and gallery photographs. Shape ``(G, 2)``.
        count: How many at most.
        seed: Of the draw.

    Returns:
        Places. Shape ``(I, 2)``.

    Raises:
        InputError: Fewer than :data:`FEWEST_IMPOSTORS` exist.
    """
    probes, gallery = np.unique(genuine[:, 0]), np.unique(genuine[:, 1])
    pairs = np.stack(np.meshgrid(probes, gallery, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = pairs[persons[pairs[:, 0]] != persons[pairs[:, 1]]]
    if len(pairs) < FEWEST_IMPOSTORS:
        raise InputError(
            f"the test half gives {len(pairs)} pairs of different persons, but a false-match rate of 1e-3 needs "
            f"{FEWEST_IMPOSTORS}; give a list with more persons"
        )
    if len(pairs) <= count:
        return pairs
    drawn = np.random.default_rng([seed, 2]).choice(len(pairs), count, replace=False)
    return pairs[np.sort(drawn)]


def embed_photographs(photographs: PairSet, recogniser: Recogniser, key: str, cache: Path, report: Report) -> Floats:
    """Embeddings of all clear photographs that the list names, by place; NaN for the others. Shape ``(N, D)``.

    Args:
        photographs: The user's.
        recogniser: Off the shelf.
        key: Changes when the recogniser does.
        cache: Folder that keeps them.
        report: Told the photographs embedded.
    """
    places = np.unique(photographs.pairs)
    names = [f"{key}|{state}" for state in states([photographs.files[place] for place in places])]
    block: dict[int, NDArray[np.float64]] = {}

    def embed(number: int) -> NDArray[np.float64]:
        if number not in block:
            block.clear()
            at = places[number : number + BATCH]
            rows = recogniser.embed([photographs.crop(place) for place in at], photographs.landmarks[at])
            block.update(enumerate(rows, start=number))
        return block[number]

    file = cache / f"embeddings-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    found = cached(file, names, embed, report)
    rows = np.full((len(photographs), found.shape[1]), np.nan)
    rows[places] = found
    return rows


def _in_parts(places: Integers) -> Iterator[tuple[slice, Integers]]:
    """Places in batches, so that few full-size pictures are held at a time."""
    for start in range(0, len(places), BATCH):
        yield slice(start, start + BATCH), places[start : start + BATCH]
