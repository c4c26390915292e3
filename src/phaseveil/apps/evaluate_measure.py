"""All numbers of one source: its acquisition and heatmap once, its new faces, and what the metrics need to know.

Networks run in the calling thread; the detectors, whose libraries let go of the interpreter, in a pool beside it.
"""

import math
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseveil.apps.batch import ahead
from phaseveil.apps.evaluate_inputs import MODES, Options, Subject, read_crop
from phaseveil.apps.evaluate_shards import Row
from phaseveil.data.datasets import DOMAINS
from phaseveil.data.heatmaps import interocular_distance
from phaseveil.data.image_io import ImageArray, resize, to_array, to_tensor
from phaseveil.data.landmarks import DlibDetector, LandmarkPredictor, MTCNNDetector
from phaseveil.errors import ConfigError
from phaseveil.figures import colour_heatmap
from phaseveil.losses.perceptual import LPIPS, normalise
from phaseveil.metrics.detection import FRAME, FaceReader, FoundFace, from_afar, read_by_points, read_by_predictor
from phaseveil.metrics.expression import PERTURBED, ExpressionReader
from phaseveil.metrics.fid import AlexNetFeatures, Features
from phaseveil.metrics.identity import Floats, Recogniser
from phaseveil.models.pair import Drawable
from phaseveil.pipeline import PhaseVeil

ARTEFACTS = ("clear", "acquisition", "heatmap", "generated (reference)", "generated (latent)")
"""Images of a source that the recogniser sees, in the order of ``embeddings``."""

WORKERS = 2
AHEAD = 4  # sources drawn whose faces are still being looked for
BATCH = 16  # faces that go through the generator at once


def mtcnn_reader() -> FaceReader:
    """MTCNN with its five points."""
    return read_by_points(MTCNNDetector())


def dlib_reader() -> FaceReader:
    """dlib's frontal detector with its 68 landmarks."""
    return read_by_predictor(DlibDetector(), LandmarkPredictor().predict)


DETECTORS: dict[str, tuple[int, Callable[[], FaceReader]]] = {"MTCNN": (5, mtcnn_reader), "dlib": (68, dlib_reader)}
"""Detectors by name, with the number of their landmarks."""

LEAST_SHARE = 0.4  # of the frame to which pictures shrink: their mirrored borders must reach, with some to spare


def detector_names(options: Options) -> list[str]:
    """What the detectors' figures are called: by the detectors, and by how large faces were where they looked again."""
    if options.eye_distance is None:
        return list(DETECTORS)
    return [*DETECTORS, *(f"{name}, eyes {options.eye_distance:g} px apart" for name in DETECTORS)]


def share_of_frame(options: Options, landmarks: Floats) -> float:
    """Share of the frame to which pictures shrink for the detectors' second look.

    Args:
        options: Their ``eye_distance`` is asked.
        landmarks: Of the sources, pixels of the 256-px frame. Shape ``(N, 68, 2)``.

    Raises:
        ConfigError: The eyes lie nearer together already, or so far apart that a face would become tiny.
    """
    if options.eye_distance is None:
        return 1.0
    usual = float(interocular_distance(torch.from_numpy(landmarks)).median())
    if not LEAST_SHARE * usual <= options.eye_distance <= usual:
        raise ConfigError(
            f"--eye-distance {options.eye_distance:g}: these sources' eyes are {usual:.1f} px apart; "
            f"give a number from {math.ceil(LEAST_SHARE * usual)} to {math.floor(usual)}"
        )
    return options.eye_distance / usual


@dataclass(frozen=True)
class Instruments:
    """What an evaluation measures with.

    Attributes:
        recogniser: Of faces.
        perceptual: For diversity; ``None`` where its weights are not at hand.
        features: Networks whose features make distances of sets.
        expression: Reader of expressions; ``None`` where its file is not at hand.
    """

    recogniser: Recogniser
    perceptual: LPIPS | None = None
    features: Sequence[Features] = ()
    expression: ExpressionReader | None = None


@dataclass(frozen=True)
class Drawn:
    """A source after the networks.

    Attributes:
        shown: Images for the detectors: the source, then the outputs.
        row: Its numbers so far.
    """

    shown: list[ImageArray]
    row: Row


@dataclass
class FaceFinder:
    """Both detectors, a pair of them for each thread: their networks keep state while they run.

    Attributes:
        names: See :func:`detector_names`.
        share: Of the frame, that pictures shrink to for the second look; see :func:`share_of_frame`.
    """

    names: Sequence[str] = tuple(DETECTORS)
    share: float = 1.0
    _local: threading.local = field(default_factory=threading.local)

    def __call__(self, drawn: Drawn) -> Row:
        """The row with a box and landmarks for each image; NaN where no face is found."""
        if not hasattr(self._local, "readers"):
            self._local.readers = {name: make() for name, (_, make) in DETECTORS.items()}
        views = [drawn.shown]
        if len(self.names) > len(DETECTORS):
            views.append([from_afar(image, self.share) for image in drawn.shown])
        looks = [(images, detector) for images in views for detector in DETECTORS]
        found = {name: self._find(*look) for name, look in zip(self.names, looks, strict=True)}
        return {**drawn.row, **found}

    def _find(self, images: Sequence[ImageArray], detector: str) -> NDArray:
        points, read = DETECTORS[detector][0], self._local.readers[detector]
        return np.stack([flatten(read(image), points) for image in images])


def measure(
    pipeline: PhaseVeil,
    instruments: Instruments,
    options: Options,
    subjects: Sequence[Subject],
    landmarks: Floats,
    finder: FaceFinder,
) -> Generator[Row, None, None]:
    """Numbers of each source, in order; a few sources are on their way at a time.

    Args:
        pipeline: Camera and networks.
        instruments: What to measure with.
        options: How many outputs and detections.
        subjects: N sources.
        landmarks: Of the sources, pixels of the 256-px frame. Shape ``(N, 68, 2)``.
        finder: Of faces.

    Yields:
        Rows: ``points`` (read from the acquisition, normalised, ``(68, 2)``), ``heatmap`` ``(5, S/2, S/2)``,
        ``embeddings`` ``(5, D)`` in the order of :data:`ARTEFACTS`, by each of the finder's names
        ``(1 + M + latent detections, 4 + 2 P)``, and as far as the instruments go ``diversity`` ``(2,)``, by the name
        of each network of features ``(2, M, D)``, ``expression`` ``(1 + 2 M, 7)`` and ``perturbed`` ``(5, 7)``.

    Raises:
        InputError: A source or reference is unreadable or not square.
    """
    drawn = (draw(pipeline, instruments, options, *one) for one in zip(subjects, landmarks, strict=True))
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="detect")
    try:
        yield from ahead(finder, drawn, pool, AHEAD)
    finally:
        pool.shutdown(cancel_futures=True)


def draw(
    pipeline: PhaseVeil, instruments: Instruments, options: Options, subject: Subject, landmarks: NDArray
) -> Drawn:
    """New faces of one source in both modes, and all numbers but the detectors'.

    Raises:
        InputError: The source or a reference is unreadable or not square.
    """
    source = read_crop(subject.path)
    acquired = Acquired.of(pipeline, source, subject.seed)
    faces = {
        "reference": acquired.draw(
            reference_styles(pipeline, [read_crop(p) for p in subject.references], subject.target)
        ),
        "latent": acquired.draw(
            pipeline.latent_styles(subject.latent_seeds(options.outputs), subject.target, options.strength)
        ),
    }
    shown = [source, *faces["reference"], *faces["latent"][: options.latent_detections]]
    artefacts = [source, *acquired.artefacts, *(faces[mode][0] for mode in MODES)]
    repeated = np.repeat(landmarks[None], len(artefacts), axis=0)
    row = {
        "points": acquired.landmarks,
        "heatmap": acquired.heatmap[0].cpu().numpy().astype(np.float16),
        "embeddings": instruments.recogniser.embed(artefacts, repeated),
        **_appearance(instruments, faces),
    }
    if instruments.expression is not None:
        row |= _expressions(instruments.expression, [source, *faces["reference"], *faces["latent"]], landmarks)
    return Drawn(shown, row)


@dataclass(frozen=True)
class Acquired:
    """What the camera and the heatmap network make of one scene; shared by all its new faces.

    Attributes:
        pipeline: Camera and networks.
        acquisition: sRGB, 0 to 1. Shape ``(1, 3, S, S)``.
        heatmap: 0 to 1. Shape ``(1, 5, S/2, S/2)``.
        landmarks: Read from the acquisition, normalised to [0, 1]. Shape ``(68, 2)``.
        drawable: What the new faces are drawn from: acquisition and heatmap, or both without the identity in their
            shape.
    """

    pipeline: PhaseVeil
    acquisition: Tensor
    heatmap: Tensor
    landmarks: NDArray
    drawable: Drawable

    @classmethod
    @torch.inference_mode()
    def of(cls, pipeline: PhaseVeil, source: ImageArray, seed: int) -> "Acquired":
        """Photograph a crop with the noise of a seed and read its geometry."""
        acquisition = pipeline.acquire(to_tensor(resize(source, pipeline.size))[None], [seed])
        frames = acquisition.contiguous(memory_format=torch.channels_last)
        with _precision(pipeline):
            geometry = pipeline.heatmap_net(frames)
            drawable = pipeline.pair.drawable(frames, geometry)
        landmarks = geometry.landmarks[0].float().cpu().numpy()
        return cls(pipeline, frames, geometry.heatmap, landmarks, drawable)

    @property
    def artefacts(self) -> list[ImageArray]:
        """Acquisition and heatmap as pictures in the 256-px frame."""
        heatmap = colour_heatmap(self.heatmap[0].float().cpu().numpy())
        return [resize(picture, FRAME) for picture in (to_array(self.acquisition[0]), heatmap)]

    @torch.inference_mode()
    def draw(self, styles: Tensor) -> list[ImageArray]:
        """A new face for each style code ``(M, style_dim)``, in the 256-px frame."""
        faces = []
        for part in styles.split(BATCH):
            seen, heatmap = (maps.expand(len(part), -1, -1, -1) for maps in self.drawable[:2])
            with _precision(self.pipeline):
                drawn = self.pipeline.networks.generator(
                    seen.contiguous(memory_format=torch.channels_last), heatmap, part
                )
            faces += [resize(to_array(face), FRAME) for face in drawn]
        return faces


@torch.inference_mode()
def reference_styles(pipeline: PhaseVeil, references: Sequence[ImageArray], domain: str) -> Tensor:
    """Style codes of aligned crops of one domain. Shape ``(M, style_dim)``, float32."""
    frames = torch.stack([to_tensor(resize(crop, pipeline.size)) for crop in references]).to(pipeline.device)
    index = torch.full((len(frames),), DOMAINS.index(domain), device=pipeline.device)
    styles: Tensor = pipeline.networks.style_encoder(frames, index).float()
    return styles


def diversity(perceptual: LPIPS, levels: Sequence[Tensor]) -> float:
    """Mean LPIPS over all pairs of M images, which :meth:`LPIPS.embed` has embedded."""
    count = len(levels[0])
    distances = [
        perceptual.distance([level[:-step] for level in levels], [level[step:] for level in levels])
        for step in range(1, count)
    ]
    return float(torch.cat(distances).mean())


def flatten(face: FoundFace | None, points: int) -> NDArray[np.float64]:
    """A found face as numbers: box, then landmarks; NaN where there is none. Shape ``(4 + 2 points,)``."""
    if face is None:
        return np.full(4 + 2 * points, np.nan)
    return np.concatenate([face.box, np.ravel(face.landmarks)])


def unflatten(numbers: NDArray) -> FoundFace | None:
    """Inverse of :func:`flatten`."""
    if np.isnan(numbers[0]):
        return None
    left, top, right, bottom = numbers[:4].tolist()
    return FoundFace((left, top, right, bottom), numbers[4:].reshape(-1, 2))


@torch.inference_mode()
def _appearance(instruments: Instruments, faces: dict[str, list[ImageArray]]) -> Row:
    """Diversity of each mode, shape ``(2,)``, and features of all faces, ``(2, M, D)``."""
    row: Row = {}
    perceptual = instruments.perceptual
    device = "cpu" if perceptual is None else perceptual.shift.device
    images = [torch.stack([to_tensor(face) for face in faces[mode]]).to(device) for mode in MODES]
    activations = [] if perceptual is None else [perceptual.activations(part) for part in images]
    if perceptual is not None:
        row["diversity"] = np.array([diversity(perceptual, normalise(part)) for part in activations])
    for network in instruments.features:
        if activations and isinstance(network, AlexNetFeatures):  # its trunk has seen the images already
            seen = [network.pooled(part) for part in activations]
        else:
            seen = [network(part) for part in images]
        row[network.name] = np.stack([part.float().cpu().numpy() for part in seen])
    return row


def _expressions(reader: ExpressionReader, images: Sequence[ImageArray], landmarks: NDArray) -> Row:
    """Probabilities of the source and all its faces, ``(1 + 2 M, 7)``, and of the source in perturbed views."""
    return {
        "expression": reader.read(images, np.repeat(landmarks[None], len(images), axis=0)),
        "perturbed": np.concatenate([reader.read(images[:1], landmarks[None], view) for view in PERTURBED]),
    }


def _precision(pipeline: PhaseVeil) -> torch.autocast:
    return torch.autocast(pipeline.device.type, dtype=torch.bfloat16, enabled=pipeline.dtype == torch.bfloat16)
