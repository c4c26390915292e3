"""Perceptual distance (LPIPS) on AlexNet or VGG16 features, with frozen weights that come in from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from phaseveil.checkpoint import load_into
from phaseveil.errors import CheckpointError

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


@dataclass(frozen=True)
class _Convolution:
    """A convolution of the trunk, at its index in torchvision's ``features``, followed by a ReLU."""

    index: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class _Trunk:
    """Stages of convolutions, each one's last activation compared; a max-pool (kernel, stride) precedes some."""

    stages: tuple[tuple[_Convolution, ...], ...]
    pooled: tuple[bool, ...]
    pool: tuple[int, int]


# Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014), as torchvision numbers it.
_ALEXNET = _Trunk(
    stages=(
        (_Convolution(0, 64, kernel=11, stride=4, padding=2),),
        (_Convolution(3, 192, kernel=5, padding=2),),
        (_Convolution(6, 384),),
        (_Convolution(8, 256),),
        (_Convolution(10, 256),),
    ),
    pooled=(False, True, True, False, False),
    pool=(3, 2),
)
# Simonyan & Zisserman, configuration D (2015), as torchvision numbers it.
_VGG16 = _Trunk(
    stages=(
        (_Convolution(0, 64), _Convolution(2, 64)),
        (_Convolution(5, 128), _Convolution(7, 128)),
        (_Convolution(10, 256), _Convolution(12, 256), _Convolution(14, 256)),
        (_Convolution(17, 512), _Convolution(19, 512), _Convolution(21, 512)),
        (_Convolution(24, 512), _Convolution(26, 512), _Convolution(28, 512)),
    ),
    pooled=(False, True, True, True, True),
    pool=(2, 2),
)


class LPIPS(nn.Module):
    r"""Learned perceptual image patch similarity, version 0.1.

    .. math::
        d(a, b) = \sum_l \frac{1}{H_l W_l} \sum_{h,w}
        \lVert w_l \odot (\hat y^l_{hw}(a) - \hat y^l_{hw}(b)) \rVert_2^2

    Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), equation 1;
    :math:`\hat y^l` are unit-normalised activations, the heads hold :math:`w_l^2`. All weights are frozen, gradients
    reach the images only. Runs under autocast and in channels-last; norms and sums are always taken in float32.

    Args:
        weights: A safetensors file, or its tensors: ``features.N.weight`` and ``features.N.bias`` at torchvision's
            indices of AlexNet or VGG16 (which one is read from the shapes), ``lin0.weight`` … ``lin4.weight``.

    Raises:
        CheckpointError: The file is missing or damaged, or the tensors are of neither network.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: str | Path | Mapping[str, Tensor]) -> None:
        super().__init__()
        source = weights if isinstance(weights, str | Path) else "the given tensors"
        state = _read(weights) if isinstance(weights, str | Path) else weights
        self._trunk = _trunk_of(state, source)
        self.features = nn.ModuleDict()
        channels = 3
        for stage in self._trunk.stages:
            for layer in stage:
                convolution = nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding)
                self.features[str(layer.index)] = convolution
                channels = layer.channels
        for level, stage in enumerate(self._trunk.stages):
            self.register_module(f"lin{level}", nn.Conv2d(stage[-1].channels, 1, 1, bias=False))
        self.register_buffer("shift", torch.tensor(_SHIFT)[None, :, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[None, :, None, None], persistent=False)
        load_into(self, state, source)
        self.requires_grad_(False).eval()

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the five stages' activations; the last one has 256 in AlexNet, 512 in VGG16."""
        return tuple(stage[-1].channels for stage in self._trunk.stages)

    def activations(self, image: Tensor) -> tuple[Tensor, ...]:
        """Activations of the five stages after their ReLU, as they are.

        Args:
            image: sRGB in [0, 1]. Shape ``(B, 3, H, W)``, sides of at least 32 pixels.

        Returns:
            Five float32 tensors ``(B, C_l, H_l, W_l)``.
        """
        activation = (2 * image - 1 - self.shift) / self.scale
        kept = []
        for stage, pooled in zip(self._trunk.stages, self._trunk.pooled, strict=True):
            if pooled:
                activation = functional.max_pool2d(activation, *self._trunk.pool)
            for layer in stage:
                activation = functional.relu(self.features[str(layer.index)](activation))
            kept.append(activation.float())
        return tuple(kept)

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """Unit-normalised :meth:`activations`; compute them once for an image that is compared often."""
        return normalise(self.activations(image))

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Distance of two embeddings that :meth:`embed` gave. Shape ``(B,)``, 0 for equal images."""
        total = first[0].new_zeros(first[0].shape[0])
        for level, (one, other) in enumerate(zip(first, second, strict=True)):
            head = self.get_submodule(f"lin{level}").get_parameter("weight").float()
            total = total + ((one - other).square() * head).sum(dim=1).mean(dim=(1, 2))
        return total

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance of two batches of sRGB images in [0, 1], each ``(B, 3, H, W)``. Shape ``(B,)``, float32."""
        return self.distance(self.embed(first), self.embed(second))


def normalise(activations: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Unit length over the channels of each ``(B, C, H, W)``; the constant keeps the gradient finite at 0."""
    return tuple(a * torch.rsqrt(a.square().sum(dim=1, keepdim=True) + _EPSILON) for a in activations)


def _read(path: str | Path) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such LPIPS weights; fetch them with 'phaseveil download perceptual'")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); fetch it again") from error


def _trunk_of(state: Mapping[str, Tensor], source: str | Path) -> _Trunk:
    first = state.get("features.0.weight")
    for trunk in (_ALEXNET, _VGG16):
        if first is not None and first.shape[-1] == trunk.stages[0][0].kernel:
            return trunk
    raise CheckpointError(f"{source}: not LPIPS weights of AlexNet or VGG16; give lpips_alex or lpips_vgg16")
