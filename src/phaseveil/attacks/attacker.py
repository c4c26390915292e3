"""What attackers that train share: their photographs, what they see of them, and the steps of a run that resumes."""

import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phaseveil import checkpoint
from phaseveil.data.transforms import JitterConfig, random_colour, random_mirror
from phaseveil.errors import CheckpointError, InputError
from phaseveil.metrics.dlib_resnet import DlibResNet, aligned_chips
from phaseveil.precision import mixed_precision
from phaseveil.run_state import load_state

Acquire = Callable[[Tensor, torch.Generator], Tensor]
"""Scenes ``(B, 3, S, S)``, sRGB 0 to 1, and a source of noise → what the attacker sees of them, of the same shape."""


COLOUR = JitterConfig(brightness=0.1, contrast=0.1)


def embed(recogniser: DlibResNet, images: Tensor, landmarks: Tensor) -> Tensor:
    """Embeddings ``(B, 128)``, float32, of faces cut out at their landmarks, in mixed precision; differentiable.

    bfloat16 moves an embedding by about 0.01, a sixtieth of what tells two people apart.
    """
    chips = to_layout(aligned_chips(images, landmarks), images.device)
    with mixed_precision(images.device):
        embedding: Tensor = recogniser(chips)
    return embedding.float()


def to_layout(images: Tensor, device: str | torch.device) -> Tensor:
    """Images on a device in the layout that it convolves fastest."""
    return images.to(device).contiguous(memory_format=torch.channels_last)


class AttackerFaces(NamedTuple):
    """The attacker's photographs.

    Attributes:
        scenes: Shape ``(N, 3, S, S)``, uint8.
        landmarks: Normalised to [0, 1]. Shape ``(N, 68, 2)``, float32.
    """

    scenes: Tensor
    landmarks: Tensor

    def batch(self, places: Tensor, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
        """Chosen scenes ``(B, 3, S, S)``, 0 to 1, and their landmarks ``(B, 68, 2)``."""
        return self.scenes[places].to(device).float() / 255, self.landmarks[places].to(device)

    def augmented(
        self, places: Tensor, generator: torch.Generator, device: str | torch.device
    ) -> tuple[Tensor, Tensor]:
        """Like :meth:`batch`, half of them mirrored, with small changes of brightness and contrast."""
        images, points = random_mirror(*self.batch(places, device), generator)
        return random_colour(images, COLOUR, generator), points


def attacker_faces(scenes: NDArray[np.uint8], landmarks: Tensor) -> AttackerFaces:
    """Check and wrap an attacker's photographs ``(N, S, S, 3)`` with their landmarks ``(N, 68, 2)``.

    Raises:
        InputError: A shape, type or range is wrong, or there is no photograph.
    """
    square = scenes.ndim == 4 and scenes.shape[1] == scenes.shape[2] and scenes.shape[3] == 3
    if not square or scenes.dtype != np.uint8 or not len(scenes):
        raise InputError(f"attacker's photographs must be uint8 (N, S, S, 3), got {scenes.dtype} {scenes.shape}")
    if landmarks.shape != (len(scenes), 68, 2):
        raise InputError(f"{len(scenes)} photographs need landmarks (N, 68, 2), got {tuple(landmarks.shape)}")
    if not -1 < landmarks.mean() < 2:
        raise InputError("landmarks must be normalised to [0, 1]; divide by the side of the frame")
    return AttackerFaces(torch.from_numpy(scenes).permute(0, 3, 1, 2), landmarks.float())


def digest(*arrays: NDArray[Any]) -> int:
    """Checksum of arrays, to tell whether a state was trained on the same photographs."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(repr(array.shape).encode(), checksum))
    return checksum


def resume(state: Path, run: Mapping[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Step to go on with, network and optimiser being restored; 0 where there is no state yet.

    Raises:
        CheckpointError: The state is damaged, or was trained otherwise than ``run`` says.
    """
    if not state.is_file():
        return 0
    stored = checkpoint.load(state, kind="training").config
    wrong = [name for name in (*run, *stored) if name != "save_every" and run.get(name) != stored.get(name)]
    if wrong:
        was, now = stored.get(wrong[0]), run.get(wrong[0])
        raise CheckpointError(
            f"{state}: trained with {wrong[0]} {was!r}, but now it is {now!r}; delete the file or give another folder"
        )
    step, _ = load_state(state, {"network": network}, {"network": optimizer})
    return step


def descend(loss: Tensor, learning_rate: float, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One optimiser step at a learning rate, the gradient's norm being clipped at 5."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over a twentieth of the steps, then half a cosine down to 1 %."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
