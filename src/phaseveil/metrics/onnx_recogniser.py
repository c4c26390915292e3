"""Any face recogniser as an ONNX file, with a YAML file beside it that says how its faces are cut and normalised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from omegaconf import MISSING

from phaseveil.config import load_config
from phaseveil.data.align import similarity as fit_similarity
from phaseveil.data.align import warp
from phaseveil.data.image_io import ImageArray, resize
from phaseveil.engines.onnx_runtime import one_line, open_session, runtime_errors
from phaseveil.engines.packages import need
from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.metrics.identity import DlibRecogniser, Floats, Recogniser

ALIGNMENTS = ("arcface", "dlib", "crop")
"""How a face is cut: similarity to ArcFace's five points, dlib's chip, or the whole image."""

_ARCFACE_SIDE = 112
# Eyes (image left, right), nose, mouth corners of ArcFace's aligned faces (Deng et al., CVPR 2019), 112 px.
_ARCFACE_POINTS = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)

Cut = Callable[[ImageArray, Floats], ImageArray]


@dataclass(frozen=True)
class OnnxSettings:
    """How an ONNX recogniser wants its faces: the keys of the YAML file.

    Attributes:
        size: Width of its input, pixels.
        height: Height of its input, pixels, where it is not square.
        mean: Subtracted from each channel, on 0 to 255, in the order of ``channels``.
        std: Divided by afterwards.
        channels: ``RGB`` or ``BGR``.
        alignment: One of :data:`ALIGNMENTS`.
        normalise: Whether embeddings are brought to unit length.
    """

    size: int = MISSING
    mean: list[float] = MISSING
    std: list[float] = MISSING
    channels: str = MISSING
    alignment: str = MISSING
    height: int | None = None
    normalise: bool = True

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ConfigError(f"recogniser: size and height must be at least 1 pixel, got {self.shape}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(f"recogniser: mean and std need three values, std above 0, got {self.mean}, {self.std}")
        if self.channels not in ("RGB", "BGR"):
            raise ConfigError(f"recogniser: channels must be RGB or BGR, got {self.channels!r}")
        if self.alignment not in ALIGNMENTS:
            raise ConfigError(f"recogniser: alignment must be one of {', '.join(ALIGNMENTS)}, got {self.alignment!r}")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input, pixels."""
        return self.height or self.size, self.size


class OnnxRecogniser:
    """A recogniser run by ONNX Runtime; satisfies :class:`phaseveil.metrics.identity.Recogniser`.

    The network takes one tensor ``(B, 3, H, W)`` or ``(B, H, W, 3)``, float32, and its first output is ``(B, D)``. B
    may be fixed: the last batch is then filled up.

    Args:
        path: ``.onnx`` file; reports use its stem as the name.
        settings: How its faces are cut and normalised.
        batch_size: Faces at a time where the network leaves that open.

    Raises:
        ConfigError: The package ``onnxruntime`` is missing (or those of dlib, for its alignment).
        CheckpointError: The file is missing or damaged, or its input or output does not fit.
    """

    def __init__(self, path: str | Path, settings: OnnxSettings, batch_size: int = 32) -> None:
        need("onnxruntime", extra="eval")
        self.name = Path(path).stem
        self._path, self._settings = path, settings
        self._session = open_session(Path(path))
        self._fixed, self._channels_last = _layout(path, self._session.get_inputs(), settings)
        self._batch_size = self._fixed or batch_size
        self._cut = _cutter(settings)
        grey = np.full((self._fixed or 1, *settings.shape, 3), 127.5, np.float32)
        self._width = self._run(grey).shape[1]

    def embed(self, images: Sequence[ImageArray], landmarks: ArrayLike) -> Floats:
        """See :class:`phaseveil.metrics.identity.Recogniser`."""
        points = np.asarray(landmarks, dtype=np.float64)
        embeddings = [np.empty((0, self._width))]
        for start in range(0, len(points), self._batch_size):
            stop = min(start + self._batch_size, len(points))
            faces = np.stack([self._cut(images[i], points[i]) for i in range(start, stop)]).astype(np.float32)
            missing = 0 if self._fixed is None else self._fixed - len(faces)
            filled = np.concatenate([faces, np.repeat(faces[-1:], missing, axis=0)])
            embeddings.append(self._run(filled)[: len(faces)])
        found = np.concatenate(embeddings)
        if not self._settings.normalise:
            return found
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    def _run(self, faces: NDArray[np.float32]) -> Floats:
        """Embeddings of a batch of faces ``(B, H, W, 3)``, RGB, 0 to 255, as the network gives them."""
        ordered = faces if self._settings.channels == "RGB" else faces[..., ::-1]
        values = ((ordered - np.array(self._settings.mean)) / np.array(self._settings.std)).astype(np.float32)
        if not self._channels_last:
            values = values.transpose(0, 3, 1, 2)
        try:
            output = self._session.run(None, {self._session.get_inputs()[0].name: np.ascontiguousarray(values)})[0]
        except runtime_errors() as error:
            raise CheckpointError(f"{self._path}: the network fails ({one_line(error)}); export it again") from error
        if np.ndim(output) != 2 or len(output) != len(faces) or not np.isfinite(output).all():
            raise CheckpointError(
                f"{self._path}: its first output is {np.shape(output)} for {len(faces)} faces, or not finite; "
                "it must be one embedding a face, (B, D)"
            )
        return np.asarray(output, dtype=np.float64)


def load_recogniser(path: str | Path | None) -> Recogniser:
    """The recogniser of ``FILE.onnx`` with ``FILE.yaml`` beside it; dlib's where ``None``.

    Raises:
        ConfigError: The YAML file is missing or wrong, or a package is missing.
        CheckpointError: The ONNX file is missing or damaged, or does not fit the YAML file.
    """
    if path is None:
        return DlibRecogniser()
    settings = Path(path).with_suffix(".yaml")
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such recogniser; give an .onnx file")
    if not settings.is_file():
        raise ConfigError(
            f"{settings}: no such file; write size, mean, std, channels (RGB or BGR) and alignment "
            f"({', '.join(ALIGNMENTS)}) of {path} there"
        )
    return OnnxRecogniser(path, load_config(OnnxSettings, settings))


def arcface_face(image: ImageArray, landmarks: Floats, shape: tuple[int, int]) -> ImageArray:
    """Cut a face by ArcFace's five points, which are taken from the 68; a narrow frame keeps its middle.

    Args:
        image: Shape ``(H, W, 3)``, uint8.
        landmarks: Shape ``(68, 2)``, pixels.
        shape: Height and width of the output, pixels.

    Returns:
        Shape ``(height, width, 3)``, uint8.

    Raises:
        InputError: The points coincide or are not finite.
    """
    five = np.stack([landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0), *landmarks[[30, 48, 54]]])
    height, width = shape
    template = (_ARCFACE_POINTS + 0.5) * (height / _ARCFACE_SIDE) - 0.5
    template[:, 0] += (width - height) / 2
    return warp(image, fit_similarity(five, template), shape)


def _cutter(settings: OnnxSettings) -> Cut:
    shape = settings.shape
    if settings.alignment == "arcface":
        return lambda image, landmarks: arcface_face(image, landmarks, shape)
    if settings.alignment == "dlib":
        chip = DlibRecogniser().chip
        return lambda image, landmarks: resize(chip(image, np.rint(landmarks).astype(int)), shape)
    return lambda image, landmarks: resize(image, shape)


def _layout(path: str | Path, inputs: Sequence[Any], settings: OnnxSettings) -> tuple[int | None, bool]:
    """The network's batch size, ``None`` where it is open, and whether channels come last."""
    shape = list(inputs[0].shape)
    for channels_last, wanted in ((False, [3, *settings.shape]), (True, [*settings.shape, 3])):
        fits = len(shape) == 4 and all(not isinstance(a, int) or a == b for a, b in zip(shape[1:], wanted, strict=True))
        if fits and len(inputs) == 1 and inputs[0].type == "tensor(float)":
            return shape[0] if isinstance(shape[0], int) else None, channels_last
    taken = ", ".join(f"{item.type} {item.shape}" for item in inputs)
    height, width = settings.shape
    raise CheckpointError(
        f"{path}: takes {taken}, not float32 faces of {height}×{width} pixels; correct size and height in the YAML file"
    )
