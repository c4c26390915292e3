"""dlib's face recognition network in torch, read from dlib's own file: ten times faster, batched and differentiable.

Its aligned input ("chip") comes from dlib itself where scores are reported, or from :func:`aligned_chips` where a
gradient has to reach the image.
"""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseveil.errors import CheckpointError, ConfigError

CHIP_SIZE = 150
"""Side of the aligned face that the network takes, pixels."""

CHIP_PADDING = 0.25
"""Margin around the mean face in a chip, share of the face's width."""

_MEAN = (122.782, 117.001, 104.298)
_LEVELS = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))  # channels and residual blocks; the first of each halves the
_FIRST_LEVEL = 0  # frame, but at this level
_LAYER = re.compile(rb"\x01[\x04-\x07](con_\d|affine_)")


# dlib's mean face in the unit square (``dlib/image_transforms/interpolation.h``): nose, eyes and upper lip, the points
# that its alignment goes by.
_ALIGNED_POINTS = (*range(27, 55), *range(60, 65))
_MEAN_FACE_X = (
    *(0.490127, 0.490127, 0.490127, 0.490127, 0.36688, 0.426036, 0.490127, 0.554217, 0.613373),
    *(0.121737, 0.187122, 0.265825, 0.334606, 0.260918, 0.182743),
    *(0.645647, 0.714428, 0.793132, 0.858516, 0.79751, 0.719335),
    *(0.254149, 0.340985, 0.428858, 0.490127, 0.551395, 0.639268, 0.726104),
    *(0.290379, 0.428096, 0.490127, 0.552157, 0.689874),
)
_MEAN_FACE_Y = (
    *(0.203352, 0.307009, 0.409805, 0.515625, 0.587326, 0.609345, 0.628106, 0.609345, 0.587326),
    *(0.216423, 0.178758, 0.179852, 0.231733, 0.245099, 0.244077),
    *(0.231733, 0.179852, 0.178758, 0.216423, 0.244077, 0.245099),
    *(0.780233, 0.745405, 0.727388, 0.742578, 0.727388, 0.745405, 0.780233),
    *(0.784792, 0.778746, 0.785343, 0.778746, 0.784792),
)


class DlibResNet(nn.Module):
    """The 29-layer residual network of dlib's ``dnn_face_recognition_ex`` (King 2017; after He et al. 2016).

    Affine layers are folded into the convolutions. Weights are frozen; gradients reach the images.

    Args:
        path: ``dlib_face_recognition_resnet_model_v1.dat``; the installed ``face_recognition_models``' where ``None``.

    Raises:
        ConfigError: ``path`` is ``None`` and the package is missing.
        CheckpointError: The file is missing or of another network.
    """

    mean: Tensor

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        file = Path(path) if path is not None else installed_file()
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file; install face_recognition_models")
        self.register_buffer("mean", torch.tensor(_MEAN)[None, :, None, None], persistent=False)
        try:
            data = file.read_bytes()
            layers = _layers(data)
            self.stem = _convolution(layers, 3, _LEVELS[0][0], kernel=7, stride=2)
            self.blocks = nn.Sequential(*_blocks(layers))
            self.projection = nn.Parameter(_projection(data))
        except (ValueError, IndexError, RuntimeError, StopIteration) as error:
            raise CheckpointError(f"{file}: not dlib's face recognition network ({error}); fetch it again") from error
        self.requires_grad_(False).eval()

    def forward(self, chips: Tensor) -> Tensor:
        """Embed aligned faces.

        Args:
            chips: sRGB, 0 to 1, cut as ``dlib.get_face_chip`` does (150 px, padding 0.25). Shape ``(B, 3, 150, 150)``.

        Returns:
            Shape ``(B, 128)``; Euclidean distances below 0.6 usually mean the same person.
        """
        features = functional.relu(self.stem((chips * 255 - self.mean) / 256))
        features = self.blocks(functional.max_pool2d(features, 3, 2))
        embedding: Tensor = features.mean(dim=(2, 3)) @ self.projection
        return embedding


def aligned_chips(images: Tensor, landmarks: Tensor) -> Tensor:
    """Cut faces as ``dlib.get_face_chip`` does, differentiably: least-squares similarity to dlib's mean face, bilinear.

    Made for frames of about 128 px, whose faces are as large as the chip's; much larger ones alias (reduce them first).

    Args:
        images: sRGB, 0 to 1. Shape ``(B, 3, H, W)``.
        landmarks: 68 points (x, y), normalised to [0, 1]. Shape ``(B, 68, 2)``.

    Returns:
        Shape ``(B, 3, 150, 150)``.
    """
    mean_face = torch.tensor([_MEAN_FACE_X, _MEAN_FACE_Y], device=landmarks.device).T
    template = (mean_face + CHIP_PADDING) / (1 + 2 * CHIP_PADDING)  # normalised to [0, 1]
    points = landmarks.detach().float()[:, list(_ALIGNED_POINTS)]
    centre, goal = template.mean(dim=0), points.mean(dim=1)
    chip, face = template - centre, points - goal[:, None]
    # Complex regression face ≈ (a + ib) chip (Umeyama 1991 without reflection, in the plane).
    a = (chip * face).sum(dim=(1, 2)) / chip.square().sum()
    b = (chip[:, 0] * face[..., 1] - chip[:, 1] * face[..., 0]).sum(dim=1) / chip.square().sum()
    linear = torch.stack([torch.stack([a, -b], dim=-1), torch.stack([b, a], dim=-1)], dim=-2)
    shift = 2 * (goal - linear @ centre) - 1 + linear.sum(dim=-1)  # for coordinates in [-1, 1]
    theta = torch.cat([linear, shift[..., None]], dim=-1).to(images.dtype)
    grid = functional.affine_grid(theta, [len(images), 3, CHIP_SIZE, CHIP_SIZE], align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


class _Block(nn.Module):
    """Two convolutions and a shortcut; where shapes differ, the smaller is continued by zeros (dlib's ``add_prev``)."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, features: Tensor) -> Tensor:
        residual = self.second(functional.relu(self.first(features)))
        shortcut = functional.avg_pool2d(features, 2) if self.first.stride == (2, 2) else features
        shape = [max(pair) for pair in zip(residual.shape[1:], shortcut.shape[1:], strict=True)]
        return functional.relu(_extend(residual, shape) + _extend(shortcut, shape))


class _Layer(NamedTuple):
    """A convolution's flat parameters (filters, then biases), and its affine layer's (scales, then offsets)."""

    convolution: np.ndarray
    affine: np.ndarray


def _extend(features: Tensor, shape: list[int]) -> Tensor:
    missing = [want - have for want, have in zip(shape, features.shape[1:], strict=True)]
    return functional.pad(features, (0, missing[2], 0, missing[1], 0, missing[0]))


def _blocks(layers: Iterator[_Layer]) -> Iterator[_Block]:
    channels = _LEVELS[0][0]
    for level, (width, count) in enumerate(_LEVELS):
        for number in range(count):
            stride = 2 if number == 0 and level != _FIRST_LEVEL else 1
            first = _convolution(layers, channels, width, kernel=3, stride=stride)
            yield _Block(first, _convolution(layers, width, width, kernel=3, stride=1))
            channels = width


def _convolution(layers: Iterator[_Layer], inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    """Next convolution of the file with its affine layer folded in; padded only at stride 1, as dlib does."""
    layer = next(layers)
    filters, bias = np.split(layer.convolution, [outputs * inputs * kernel**2])
    scale, offset = np.split(layer.affine, [outputs])
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0)
    folded = filters.reshape(outputs, inputs, kernel, kernel) * scale[:, None, None, None]
    convolution.load_state_dict({"weight": torch.from_numpy(folded), "bias": torch.from_numpy(bias * scale + offset)})
    return convolution


def _layers(data: bytes) -> Iterator[_Layer]:
    """Convolutions and affine layers in the file's order, which runs from the input to the output."""
    found = [_tensor(data, match.end()) for match in _LAYER.finditer(data)]
    return (_Layer(*pair) for pair in zip(found[::2], found[1::2], strict=True))


def _projection(data: bytes) -> Tensor:
    """Weights of the last, fully connected layer. Shape ``(256, 128)``."""
    position = data.index(b"\x01\x04fc_2") + 6
    outputs, position = _integer(data, position)
    inputs, position = _integer(data, position)
    return torch.from_numpy(_tensor(data, position).reshape(inputs, outputs).copy())


def _tensor(data: bytes, position: int) -> np.ndarray:
    """Values of a serialised ``dlib::tensor``: version 2, four dimensions, little-endian floats. Flat."""
    header = []
    for _ in range(5):
        value, position = _integer(data, position)
        header.append(value)
    if header[0] != 2:
        raise ValueError(f"tensor of version {header[0]}")
    return np.frombuffer(data, "<f4", int(np.prod(header[1:])), position)


def _integer(data: bytes, position: int) -> tuple[int, int]:
    """Integer in dlib's variable-length code (a byte with the count of bytes, then those), and where it ends."""
    end = position + 1 + (data[position] & 0x0F)
    return int.from_bytes(data[position + 1 : end], "little"), end


def installed_file() -> Path:
    """dlib's network file in ``face_recognition_models``, which must not be imported (it needs ``pkg_resources``).

    Raises:
        ConfigError: The package is missing.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("this needs the package face_recognition_models; install 'phaseveil[eval]'")
    return Path(spec.submodule_search_locations[0]) / "models" / "dlib_face_recognition_resnet_model_v1.dat"
