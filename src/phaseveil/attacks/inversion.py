"""Attack A3: a network that the attacker trains to restore the scene, on photographs of people outside the test.

The attacker owns the camera: it captures its own photographs with it, each time with fresh sensor noise, and learns the
way back. What is restored then goes to an off-the-shelf recogniser.
"""

import itertools
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from phaseveil import checkpoint
from phaseveil.config import to_mapping
from phaseveil.data.transforms import JitterConfig, random_colour, random_mirror
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.metrics.dlib_resnet import DlibResNet, aligned_chips
from phaseveil.models.blocks import NormalisedBlock, conv3, double, to_channels_last
from phaseveil.progress import Report
from phaseveil.run_state import load_state, require_finite, save_state, seeded

Acquire = Callable[[Tensor, torch.Generator], Tensor]
"""Scenes ``(B, 3, S, S)``, sRGB 0 to 1, and a source of noise → what the attacker sees of them, of the same shape."""

NUM_SCALES = 5
SIZE_MULTIPLE = 2**NUM_SCALES
COLOUR = JitterConfig(brightness=0.1, contrast=0.1)


@dataclass
class InversionConfig:
    """Training of the inversion network.

    Attributes:
        camera: What it is trained on, a name or digest; a state of another one is refused.
        steps: Optimiser steps.
        batch_size: Scenes a step.
        width: Channels at half resolution; the scales below have 2, 4, 8 and 8 times as many.
        learning_rate: Of AdamW at its peak; linear warm-up, then half a cosine.
        gradient_weight: Of the L1 distance between image gradients, against 1 for that between images.
        identity_weight: Of the squared distance between dlib embeddings of the restored and the clear face. Off, for it
            costs 1 dB and links no more faces (learned mask, 370 steps, AUC 0.793 against 0.789 with as much time).
        identity_faces: Faces of each batch that the identity term looks at.
        identity_from: Share of the steps after which it joins; before there is a face to look at, it only disturbs.
        seed: Of weights, batches and noise.
        save_every: Steps between two saved states.
    """

    camera: str = ""
    steps: int = 600
    batch_size: int = 16
    width: int = 24
    learning_rate: float = 2e-3
    gradient_weight: float = 1.0
    identity_weight: float = 0.0
    identity_faces: int = 8
    identity_from: float = 0.6
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        if min(self.steps, self.width, self.save_every) < 1 or self.batch_size < 2:
            raise ConfigError("inversion: steps, width and save_every must be at least 1, batch_size at least 2")
        if min(self.gradient_weight, self.identity_weight) < 0 or not 0 < self.learning_rate < 1:
            raise ConfigError("inversion: weights must be at least 0, learning_rate in (0, 1)")
        if not 0 <= self.identity_faces <= self.batch_size or not 0 <= self.identity_from <= 1:
            raise ConfigError("inversion: identity_faces must lie in 0 … batch_size, identity_from in [0, 1]")

    def looks_at_identity(self, step: int) -> bool:
        """Whether the identity term takes part in a step."""
        return min(self.identity_weight, self.identity_faces) > 0 and step >= self.identity_from * self.steps


QUICK = InversionConfig(steps=400, width=32, identity_weight=0.1)
FULL = replace(QUICK, steps=3200)


class InversionNet(nn.Module):
    """U-Net [Ronneberger et al. 2015, arXiv 1505.04597] that adds to an acquisition what the camera took away.

    Works at half resolution and below, down to 1/32 with a path through the average of the whole frame, so that each
    output pixel sees all of the acquisition. The last layer starts at zero: untrained, it returns the acquisition.

    Args:
        width: Channels at half resolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * min(2**scale, 8) for scale in range(NUM_SCALES)]
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), conv3(12, width, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.down = nn.ModuleList(
            nn.Sequential(
                conv3(a, b, stride=2, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True), NormalisedBlock(b, b)
            )
            for a, b in itertools.pairwise(widths)
        )
        self.whole = nn.Linear(widths[-1], widths[-1])
        self.up = nn.ModuleList(NormalisedBlock(b + a, a) for a, b in itertools.pairwise(widths))
        self.head = nn.Sequential(conv3(width, 12), nn.PixelShuffle(2))
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, acquisition: Tensor) -> Tensor:
        """Restore scenes.

        Args:
            acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``, S a multiple of 32.

        Returns:
            sRGB, float32, not clamped (:func:`restore` does). Shape ``(B, 3, S, S)``.
        """
        scales = [self.stem(acquisition * 2 - 1)]
        for down in self.down:
            scales.append(down(scales[-1]))
        features = scales.pop()
        features = features + self.whole(features.mean(dim=(2, 3)))[:, :, None, None]
        for up in reversed(self.up):
            features = up(torch.cat([double(features), scales.pop()], dim=1))
        return acquisition.float() + self.head(features).float()


def train_inversion(
    scenes: NDArray[np.uint8],
    landmarks: Tensor,
    acquire: Acquire,
    config: InversionConfig,
    state: Path,
    report: Report,
    device: str | torch.device = "cpu",
) -> InversionNet:
    """Train a network to undo a camera; goes on from ``state`` where that exists, exactly as if it had never stopped.

    Args:
        scenes: Clear aligned photographs of the attacker's own people, RGB. Shape ``(N, S, S, 3)``, S a multiple of 32.
        landmarks: Normalised to [0, 1]. Shape ``(N, 68, 2)``.
        acquire: The camera with its sensor; called without a gradient.
        config: How to train.
        state: File that holds the run; kept when it is done, so that a second call returns at once.
        report: Told the steps done.
        device: Where to train; ``acquire`` gets its images and its generator there.

    Returns:
        In evaluation mode.

    Raises:
        InputError: Scenes or landmarks of a wrong shape.
        CheckpointError: ``state`` is damaged, of another configuration or of other scenes.
        TrainingError: A loss is not finite.
    """
    faces = attacker_faces(scenes, landmarks)
    if scenes.shape[1] % SIZE_MULTIPLE:
        raise InputError(f"inversion: frames must be a multiple of {SIZE_MULTIPLE} px wide, got {scenes.shape[1]}")
    torch.manual_seed(config.seed)
    network = to_channels_last(InversionNet(config.width), device)
    recogniser = to_channels_last(DlibResNet(), device) if config.looks_at_identity(config.steps) else None
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    run = {"attack": "inversion", **to_mapping(config), "photographs": digest(scenes, faces.landmarks.numpy())}
    step = resume(state, run, network, optimizer)
    network.train()
    report(step, config.steps)
    while step < config.steps:
        drawn = seeded(config.seed, step, 0)
        places = torch.randint(len(scenes), (config.batch_size,), generator=drawn)
        clear, points = faces.augmented(places, drawn, device)
        with torch.no_grad():
            seen = acquire(clear, seeded(config.seed, step, 1, device))
        judge = recogniser if config.looks_at_identity(step) else None
        loss = inversion_loss(network, judge, seen, clear, points, config)
        require_finite({"loss": loss.item()}, step)
        descend(loss, config.learning_rate * learning_rate_share(step, config.steps), network, optimizer)
        step += 1
        if step % config.save_every == 0 or step == config.steps:
            save_state(state, run, step, {"network": network}, {"network": optimizer})
        report(step, config.steps)
    return network.eval()


@torch.inference_mode()
def restore(network: InversionNet, acquisitions: Tensor, batch_size: int = 32) -> Tensor:
    """Restore scenes from what a camera saw.

    Args:
        network: In evaluation mode, as :func:`train_inversion` returns it.
        acquisitions: sRGB, 0 to 1. Shape ``(N, 3, S, S)``, S a multiple of 32.
        batch_size: Acquisitions at a time; changes no more than rounding.

    Returns:
        sRGB, 0 to 1, float32, on the CPU. Shape ``(N, 3, S, S)``.
    """
    device = next(network.parameters()).device
    restored = [torch.empty(0, *acquisitions.shape[1:])]
    for start in range(0, len(acquisitions), batch_size):
        with torch.autocast(device.type, torch.bfloat16):
            batch = network(to_layout(acquisitions[start : start + batch_size], device))
        restored.append(batch.clamp(0, 1).cpu())
    return torch.cat(restored)


def inversion_loss(
    network: InversionNet,
    recogniser: DlibResNet | None,
    seen: Tensor,
    clear: Tensor,
    landmarks: Tensor,
    config: InversionConfig,
) -> Tensor:
    """Weighted sum of what a batch of restored scenes lacks; see :class:`InversionConfig`. Scalar.

    Args:
        network: In training mode.
        recogniser: dlib's network; ``None`` leaves the identity term out.
        seen: Acquisitions. Shape ``(B, 3, S, S)``.
        clear: Their scenes. Shape ``(B, 3, S, S)``.
        landmarks: Normalised to [0, 1]. Shape ``(B, 68, 2)``.
        config: Weights.
    """
    with torch.autocast(seen.device.type, torch.bfloat16):
        restored = network(to_layout(seen, seen.device))
    loss = functional.l1_loss(restored, clear) + config.gradient_weight * gradient_distance(restored, clear)
    if recogniser is None:
        return loss
    few = slice(config.identity_faces)
    with torch.no_grad():
        target = embed(recogniser, clear[few], landmarks[few])
    distance = (embed(recogniser, restored[few], landmarks[few]) - target).square().sum(dim=1).mean()
    return loss + config.identity_weight * distance


def gradient_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of the images' horizontal and vertical differences. Shapes ``(B, 3, H, W)``."""
    error = first - second
    return (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2


def embed(recogniser: DlibResNet, images: Tensor, landmarks: Tensor) -> Tensor:
    """Embeddings ``(B, 128)``, float32, of faces cut out at their landmarks, in mixed precision; differentiable.

    bfloat16 moves an embedding by about 0.01, a sixtieth of what tells two people apart.
    """
    chips = to_layout(aligned_chips(images, landmarks), images.device)
    with torch.autocast(images.device.type, torch.bfloat16):
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
