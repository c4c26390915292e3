"""Attack A3: a network that the attacker trains to restore the scene, on photographs of people outside the test.

The attacker owns the camera: it captures its own photographs with it, each time with fresh sensor noise, and learns the
way back. What is restored then goes to an off-the-shelf recogniser.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from phaseveil.attacks.attacker import (
    Acquire,
    attacker_faces,
    descend,
    digest,
    embed,
    learning_rate_share,
    resume,
    to_layout,
)
from phaseveil.config import to_mapping
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics.dlib_resnet import DlibResNet
from phaseveil.models.blocks import NormalisedBlock, conv3, double, to_channels_last
from phaseveil.precision import mixed_precision
from phaseveil.progress import Report
from phaseveil.run_state import require_finite, save_state, seeded

NUM_SCALES = 5
SIZE_MULTIPLE = 2**NUM_SCALES


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
        with mixed_precision(device):
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
    with mixed_precision(seen.device):
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
