"""Identity: recognisers with oracle alignment, and how well similarity tells the same person from another.

The attacker is given the clear image's landmarks (*oracle alignment*), so that a detector's failure on an acquisition
or a generated face is never counted as privacy. Scores are similarities: larger means more alike.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from phaseveil.data.image_io import ImageArray, to_tensor
from phaseveil.errors import ConfigError
from phaseveil.metrics.dlib_resnet import CHIP_PADDING, CHIP_SIZE, DlibResNet

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Recogniser(Protocol):
    """Turns faces into vectors that are near for the same person.

    Attributes:
        name: What reports call it.
    """

    name: str

    def embed(self, images: Sequence[ImageArray], landmarks: ArrayLike) -> Floats:
        """Embeddings of faces whose landmarks are known.

        Args:
            images: N images ``(H, W, 3)``, uint8, RGB; what is scored: acquisition, recovered image, generated face.
            landmarks: Of the *clear* images, in pixels of ``images``. Shape ``(N, 68, 2)``.

        Returns:
            Shape ``(N, D)``.
        """
        ...


class DlibRecogniser:
    """dlib's 128-D recogniser on chips that dlib cuts (150 px, padding 0.25); distance 0.6 is its usual threshold.

    Args:
        device: Where the network runs.
        batch_size: Chips at a time.
        network: The network, such as one that an attacker trained further; dlib's own where ``None``.

    Raises:
        ConfigError: The packages ``dlib-bin`` or ``face_recognition_models`` are missing.
    """

    name = "dlib"

    def __init__(
        self, device: str | torch.device = "cpu", batch_size: int = 64, network: DlibResNet | None = None
    ) -> None:
        if importlib.util.find_spec("dlib") is None:
            raise ConfigError("this needs the package dlib-bin; install 'phaseveil[eval]'")
        import dlib

        self._dlib = dlib
        self._batch_size = batch_size
        self._device = device
        self._network = (network or DlibResNet()).to(device).eval()

    @torch.inference_mode()
    def embed(self, images: Sequence[ImageArray], landmarks: ArrayLike) -> Floats:
        """See :class:`Recogniser`; ``D`` is 128."""
        points = np.rint(np.asarray(landmarks, dtype=np.float64)).astype(int)
        embeddings = [np.empty((0, 128))]
        for start in range(0, len(points), self._batch_size):
            stop = min(start + self._batch_size, len(points))
            chips = torch.stack([to_tensor(self.chip(images[i], points[i])) for i in range(start, stop)])
            embeddings.append(self._network(chips.to(self._device)).double().cpu().numpy())
        return np.concatenate(embeddings)

    def chip(self, image: ImageArray, points: Integers) -> ImageArray:
        """The aligned face that the network is given. Shape ``(150, 150, 3)``, uint8."""
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        parts = self._dlib.points([self._dlib.point(x, y) for x, y in points.tolist()])
        shape = self._dlib.full_object_detection(self._dlib.rectangle(left, top, right, bottom), parts)
        chip: ImageArray = self._dlib.get_face_chip(np.ascontiguousarray(image), shape, CHIP_SIZE, CHIP_PADDING)
        return chip


def similarity(first: ArrayLike, second: ArrayLike) -> Floats:
    """Minus the Euclidean distance of embeddings along the last axis. Broadcasts; 0 is most alike."""
    return -np.linalg.norm(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), axis=-1)


class Interval(NamedTuple):
    """A figure with the bounds of its bootstrap confidence interval."""

    value: float
    low: float
    high: float


class Pairs(NamedTuple):
    """Scored comparisons.

    Attributes:
        scores: Similarities. Shape ``(P,)``.
        same: Whether both are the same person. Shape ``(P,)``, bool.
        identities: Numbers of the two persons. Shape ``(P, 2)``.
    """

    scores: Floats
    same: NDArray[np.bool_]
    identities: Integers

    @property
    def genuine(self) -> Floats:
        """Scores of the same person."""
        return self.scores[self.same]

    @property
    def impostor(self) -> Floats:
        """Scores of different persons."""
        return self.scores[~self.same]


class Thresholds(NamedTuple):
    """Similarities from which a pair is accepted, fixed beforehand on clean impostor pairs.

    Attributes:
        fmr_1e3: At a false-match rate of 1e-3.
        fmr_1e4: At 1e-4; ``None`` where there were too few pairs (fewer than 10,000) to tell.
    """

    fmr_1e3: float
    fmr_1e4: float | None


def thresholds_on(impostor: ArrayLike) -> Thresholds:
    """Thresholds from the similarities of impostor pairs.

    Raises:
        ConfigError: Fewer than 1,000 pairs.
    """
    scores = np.asarray(impostor, dtype=np.float64)
    return Thresholds(threshold_at(scores, 1e-3), threshold_at(scores, 1e-4) if len(scores) >= 10_000 else None)


@dataclass(frozen=True)
class Verification:
    """How well scores link two images of a person.

    Attributes:
        thresholds: As they were fixed beforehand.
        tar: True-accept rate at the threshold of FMR 1e-3, 0 to 1, with its interval over identities.
        tar_1e4: The same at FMR 1e-4; ``None`` where that threshold could not be told.
        fmr: False-match rate that the threshold of FMR 1e-3 has on these pairs.
        tar_refitted: True-accept rate at FMR 1e-3 when the attacker fits the threshold to these very impostors; never
            flattering where everything moves away from the clean embeddings. ``None`` for fewer than 1,000 of them.
        auc: Area under the ROC curve, 0.5 for chance, with its interval.
        eer: Equal error rate, 0.5 for chance, with its interval.
        mean_genuine: Mean similarity of genuine pairs.
        mean_impostor: Mean similarity of impostor pairs.
        genuine_pairs: How many.
        impostor_pairs: How many.
    """

    thresholds: Thresholds
    tar: Interval
    tar_1e4: Interval | None
    fmr: float
    tar_refitted: Interval | None
    auc: Interval
    eer: Interval
    mean_genuine: float
    mean_impostor: float
    genuine_pairs: int
    impostor_pairs: int


def verify(pairs: Pairs, thresholds: Thresholds, replicates: int = 200, seed: int = 0) -> Verification:
    """Score verification at thresholds that were fixed on clean impostor pairs.

    Args:
        pairs: Comparisons, at least one genuine and one impostor.
        thresholds: From :func:`thresholds_on`.
        replicates: Bootstrap replicates.
        seed: Of the bootstrap.

    Raises:
        ConfigError: No genuine or no impostor pair.
    """
    if not pairs.same.any() or pairs.same.all():
        raise ConfigError("verification needs genuine and impostor pairs; give more identities")
    enough = len(pairs.impostor) >= 1000
    levels = {
        "tar": thresholds.fmr_1e3,
        "tar_1e4": thresholds.fmr_1e4,
        "tar_refitted": threshold_at(pairs.impostor, 1e-3) if enough else None,
    }
    curve = _curve_of(pairs.scores, pairs.same)
    fixed = {name: level for name, level in levels.items() if level is not None}

    def statistics(weights: Floats) -> Floats:
        shares = [_weighted_share(pairs, level, weights) for level in fixed.values()]
        rates = curve(weights)
        return np.array([*shares, _area(*rates), _crossing(*rates)])

    *shares, auc, eer = bootstrap_over_identities(statistics, pairs, replicates, seed)
    tars: dict[str, Interval | None] = dict.fromkeys(levels)
    tars |= dict(zip(fixed, shares, strict=True))
    assert tars["tar"] is not None
    return Verification(
        thresholds=thresholds,
        tar=tars["tar"],
        tar_1e4=tars["tar_1e4"],
        fmr=float((pairs.impostor >= thresholds.fmr_1e3).mean()),
        tar_refitted=tars["tar_refitted"],
        auc=auc,
        eer=eer,
        mean_genuine=float(pairs.genuine.mean()),
        mean_impostor=float(pairs.impostor.mean()),
        genuine_pairs=len(pairs.genuine),
        impostor_pairs=len(pairs.impostor),
    )


def threshold_at(impostor: ArrayLike, fmr: float) -> float:
    """Smallest similarity threshold whose false-match rate on these impostor pairs is at most ``fmr``.

    A pair is accepted when its score is at least the threshold.

    Raises:
        ConfigError: Too few pairs to tell such a rate (fewer than 1/fmr).
    """
    scores = np.sort(np.asarray(impostor, dtype=np.float64))[::-1]
    allowed = int(np.floor(fmr * len(scores) * (1 + 1e-12)))
    if allowed < 1:
        raise ConfigError(
            f"a false-match rate of {fmr:g} needs at least {int(np.ceil(1 / fmr))} impostor pairs, got {len(scores)}"
        )
    return float(np.nextafter(scores[allowed], np.inf)) if allowed < len(scores) else float(scores[-1])


def area_under_curve(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Probability that a genuine pair scores above an impostor pair, ties counting half (Mann-Whitney)."""
    return _area(*roc_curve(genuine, impostor))


def equal_error_rate(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Error rate where false matches and false non-matches are equally frequent, interpolated on the ROC curve."""
    return _crossing(*roc_curve(genuine, impostor))


def roc_curve(genuine: ArrayLike, impostor: ArrayLike) -> tuple[Floats, Floats]:
    """False-match and true-accept rates over all thresholds, from (0, 0) to (1, 1)."""
    ours, theirs = np.asarray(genuine, dtype=np.float64), np.asarray(impostor, dtype=np.float64)
    scores, same = np.concatenate([ours, theirs]), np.repeat([True, False], [len(ours), len(theirs)])
    return _curve_of(scores, same)(np.ones(len(scores)))


def _curve_of(scores: Floats, same: NDArray[np.bool_]) -> Callable[[Floats], tuple[Floats, Floats]]:
    """ROC curve of scores as a function of the pairs' weights; the sorting is done once."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each group of equal scores
    ours = same[order]

    def rates(weights: Floats) -> tuple[Floats, Floats]:
        sorted_weights = weights[order]
        accepted = [np.append(0.0, np.cumsum(sorted_weights * side)[last]) for side in (~ours, ours)]
        with np.errstate(invalid="ignore"):  # no pair of a kind was drawn: NaN
            return accepted[0] / accepted[0][-1], accepted[1] / accepted[1][-1]

    return rates


def _area(false_match: Floats, true_accept: Floats) -> float:
    return float(np.diff(false_match) @ (true_accept[1:] + true_accept[:-1]) / 2)


def _crossing(false_match: Floats, true_accept: Floats) -> float:
    """Where the curve meets the line from (0, 1) to (1, 0)."""
    gap = false_match - (1 - true_accept)  # rises from -1 to 1
    if np.isnan(gap).any():
        return float("nan")
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(false_match[after - 1] + share * (false_match[after] - false_match[after - 1]))


def rank_one(
    probes: Floats,
    gallery: Floats,
    probe_identities: ArrayLike,
    gallery_identities: ArrayLike,
    replicates: int = 200,
    seed: int = 0,
) -> Interval:
    """Share of probes whose most similar gallery entry is the same person, with its interval over persons.

    Args:
        probes: Embeddings ``(P, D)``.
        gallery: Embeddings ``(G, D)``.
        probe_identities: Shape ``(P,)``.
        gallery_identities: Shape ``(G,)``.
        replicates: Bootstrap replicates; the gallery stays as it is.
        seed: Of the bootstrap.
    """
    # |p - g|² = |p|² + |g|² - 2 p·g, the first term being the same for the whole row.
    distance = (gallery**2).sum(axis=1)[None, :] - 2 * probes @ gallery.T
    persons = np.asarray(probe_identities)
    hits = (np.asarray(gallery_identities)[distance.argmin(axis=1)] == persons).astype(np.float64)
    _, index = np.unique(persons, return_inverse=True)
    generator, count = np.random.default_rng(seed), int(index.max()) + 1
    drawn = []
    for _ in range(replicates):
        weights = np.bincount(generator.integers(count, size=count), minlength=count)[index]
        drawn.append((hits * weights).sum() / weights.sum())
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (hits.mean(), hits.mean())
    return Interval(float(hits.mean()), float(low), float(high))


def rank_one_by_chance(probe_identities: ArrayLike, gallery_identities: ArrayLike) -> float:
    """What guessing a gallery entry at random would score in :func:`rank_one`."""
    gallery = np.asarray(gallery_identities)
    return float(np.mean([(gallery == identity).mean() for identity in np.asarray(probe_identities)]))


def bootstrap_over_identities(
    statistics: Callable[[Floats], Floats], pairs: Pairs, replicates: int, seed: int
) -> list[Interval]:
    """95 % percentile intervals, identities being drawn with replacement (Efron 1979; pairs of a person hang together).

    An identity drawn k times gives its genuine pairs weight k, and a pair of identities drawn k and m times weight k·m
    (Poh and Bengio 2007). Thresholds stay fixed.

    Args:
        statistics: Takes a weight for each pair, shape ``(P,)``, and returns S figures.
        pairs: Comparisons.
        replicates: How many draws.
        seed: Of the draws.

    Returns:
        S figures at unit weights, with their intervals.
    """
    generator = np.random.default_rng(seed)
    _, index = np.unique(pairs.identities, return_inverse=True)
    index = index.reshape(pairs.identities.shape)
    count = int(index.max()) + 1
    value = statistics(np.ones(len(pairs.scores)))
    drawn = []
    for _ in range(replicates):
        times = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
        weights = np.where(pairs.same, times[index[:, 0]], times[index[:, 0]] * times[index[:, 1]])
        drawn.append(statistics(weights))
    low, high = np.nanpercentile(np.array(drawn), [2.5, 97.5], axis=0) if drawn else (value, value)
    return [Interval(*map(float, figures)) for figures in zip(value, low, high, strict=True)]


def _weighted_share(pairs: Pairs, threshold: float, weights: Floats) -> float:
    """Share of genuine pairs at or above a threshold."""
    genuine = weights[pairs.same]
    return float(genuine[pairs.genuine >= threshold].sum() / genuine.sum()) if genuine.any() else float("nan")
