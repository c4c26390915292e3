"""Attack A4: a recogniser that the attacker fine-tunes on what the camera shows of people outside the test.

dlib's network learns to give a blurred face the embedding of the clear one. Afterwards it can compare an acquisition
with other acquisitions, or, because the embedding space stays dlib's own, with a clear gallery.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from phaseveil.attacks.attacker import (
    Acquire,
    AttackerFaces,
    attacker_faces,
    descend,
    digest,
    embed,
    learning_rate_share,
    resume,
)
from phaseveil.config import to_mapping
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics.dlib_resnet import DlibResNet
from phaseveil.models.blocks import to_channels_last
from phaseveil.progress import Report
from phaseveil.run_state import require_finite, save_state, seeded


@dataclass
class RecogniserConfig:
    """Fine-tuning of the recogniser.

    Attributes:
        view: What it is trained on, a name or digest; a state of another one is refused.
        steps: Optimiser steps.
        persons: People in a batch.
        photographs: Of each of them.
        learning_rate: Of AdamW at its peak; linear warm-up, then half a cosine.
        weight_decay: Of AdamW.
        centre_share: How far the target of a photograph lies from its own clear embedding (0) towards the mean of its
            person's (1).
        naming_weight: Of the cross-entropy of naming the person among all of the attacker's, by distance to their
            clear means and to the batch's other views. Without it the network learns next to nothing (learned mask,
            200 steps: AUC 0.61 at 0, 0.86 at 0.1, 0.85 at 0.3).
        temperature: Squared distance that counts as one nat there.
        seed: Of batches and noise.
        save_every: Steps between two saved states.
    """

    view: str = ""
    steps: int = 600
    persons: int = 16
    photographs: int = 2
    learning_rate: float = 2e-4
    weight_decay: float = 1e-2
    centre_share: float = 0.5
    naming_weight: float = 0.1
    temperature: float = 0.05
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        if min(self.steps, self.persons, self.photographs, self.save_every) < 1:
            raise ConfigError("recogniser: steps, persons, photographs and save_every must be at least 1")
        if not 0 < self.learning_rate < 1 or self.temperature <= 0:
            raise ConfigError("recogniser: learning_rate must lie in (0, 1), temperature above 0")
        if min(self.weight_decay, self.naming_weight) < 0 or not 0 <= self.centre_share <= 1:
            raise ConfigError("recogniser: weights must be at least 0, centre_share in [0, 1]")


QUICK = RecogniserConfig(steps=400)
FULL = replace(QUICK, steps=800)  # 1600 and 3200 link worse: AUC 0.896 and 0.863 instead of 0.910 (learned mask)


def train_recogniser(
    scenes: NDArray[np.uint8],
    landmarks: Tensor,
    persons: NDArray[np.int64],
    view: Acquire,
    config: RecogniserConfig,
    state: Path,
    report: Report,
    device: str | torch.device = "cpu",
) -> DlibResNet:
    """Fine-tune dlib's network on views of faces; goes on from ``state`` where that exists, exactly as if it had never
    stopped.

    Args:
        scenes: Clear aligned photographs of the attacker's own people, RGB. Shape ``(N, S, S, 3)``.
        landmarks: Normalised to [0, 1]. Shape ``(N, 68, 2)``.
        persons: Who is in them, any numbers. Shape ``(N,)``.
        view: What the recogniser sees of scenes: acquisitions with fresh noise, drawn heatmaps. Same frame as the
            scene's, any resolution; called without a gradient.
        config: How to train.
        state: File that holds the run; kept when it is done, so that a second call returns at once.
        report: Told the steps done.
        device: Where to train; ``view`` gets its images and its generator there.

    Returns:
        In evaluation mode, its weights frozen again.

    Raises:
        InputError: Scenes, landmarks or persons of a wrong shape.
        CheckpointError: ``state`` is damaged, of another configuration or of other photographs.
        TrainingError: A loss is not finite.
    """
    faces = attacker_faces(scenes, landmarks)
    if persons.shape != (len(scenes),):
        raise InputError(f"{len(scenes)} photographs need as many persons, got {persons.shape}")
    named = torch.from_numpy(np.unique(persons, return_inverse=True)[1]).reshape(-1)
    network = to_channels_last(DlibResNet().requires_grad_(), device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    photographs = digest(scenes, faces.landmarks.numpy(), named.numpy())
    run = {"attack": "recogniser", **to_mapping(config), "photographs": photographs}
    step = resume(state, run, network, optimizer)
    report(step, config.steps)
    if step < config.steps:
        clear = clear_embeddings(faces, device)
        centres = means_by(clear, named.to(device))
    while step < config.steps:
        drawn = seeded(config.seed, step, 0)
        places = draw_places(named, config, drawn)
        who = named[places].to(device)
        images, points = faces.augmented(places, drawn, device)
        with torch.no_grad():
            seen = view(images, seeded(config.seed, step, 1, device))
        target = torch.lerp(clear[places.to(device)], centres[who], config.centre_share)
        loss = recognition_loss(embed(network, seen, points), target, centres, who, config)
        require_finite({"loss": loss.item()}, step)
        descend(loss, config.learning_rate * learning_rate_share(step, config.steps), network, optimizer)
        step += 1
        if step % config.save_every == 0 or step == config.steps:
            save_state(state, run, step, {"network": network}, {"network": optimizer})
        report(step, config.steps)
    return network.requires_grad_(False).eval()


def recognition_loss(
    embedding: Tensor, target: Tensor, centres: Tensor, persons: Tensor, config: RecogniserConfig
) -> Tensor:
    """Distillation [Hinton et al. 2015, arXiv 1503.02531] by squared distance, and naming.

    Naming is a softmax over minus the squared distances to what carries a name: each person's clear mean (prototypes,
    Snell et al. 2017, arXiv 1703.05175), and the batch's other views (Khosla et al. 2020, arXiv 2004.11362).

    Args:
        embedding: Of the views. Shape ``(B, D)``.
        target: What they should be. Shape ``(B, D)``.
        centres: Clear mean of each person. Shape ``(P, D)``.
        persons: Whose views they are, rows of ``centres``. Shape ``(B,)``.
        config: Weights.

    Returns:
        Scalar.
    """
    distance = (embedding - target).square().sum(dim=1).mean()
    clear = functional.cross_entropy(-squared_distances(embedding, centres) / config.temperature, persons)
    return distance + config.naming_weight * (clear + others_loss(embedding, persons, config.temperature))


def others_loss(embedding: Tensor, persons: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss among the views of a batch; 0 where no person has two. Scalar."""
    itself = torch.eye(len(embedding), dtype=torch.bool, device=embedding.device)
    logits = (-squared_distances(embedding, embedding) / temperature).masked_fill(itself, -torch.inf)
    mates = (persons[:, None] == persons) & ~itself
    share = logits.log_softmax(dim=1).masked_fill(~mates, 0.0).sum(dim=1) / mates.sum(dim=1).clamp_min(1)
    return -share.mean()


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs: ``(A, D)`` and ``(B, D)`` → ``(A, B)``."""
    return first.square().sum(dim=1)[:, None] + second.square().sum(dim=1) - 2 * first @ second.T


@torch.no_grad()
def clear_embeddings(faces: AttackerFaces, device: str | torch.device, batch_size: int = 64) -> Tensor:
    """Embeddings of all clear photographs by dlib's network as it is. Shape ``(N, 128)``."""
    recogniser = to_channels_last(DlibResNet(), device)
    batches = torch.arange(len(faces.scenes)).split(batch_size)
    return torch.cat([embed(recogniser, *faces.batch(places, device)) for places in batches])


def means_by(values: Tensor, groups: Tensor) -> Tensor:
    """Mean of each group's rows: ``(N, D)`` and ``(N,)`` of 0 … G - 1 → ``(G, D)``."""
    count = groups.bincount().to(values.dtype)
    return values.new_zeros(len(count), values.shape[1]).index_add_(0, groups, values) / count[:, None]


def draw_places(persons: Tensor, config: RecogniserConfig, generator: torch.Generator) -> Tensor:
    """Places of a batch: different persons where there are enough, and different photographs of each likewise."""
    present = torch.randperm(int(persons.max()) + 1, generator=generator)
    chosen = []
    for number in range(config.persons):
        own = (persons == present[number % len(present)]).nonzero()[:, 0]
        order = own[torch.randperm(len(own), generator=generator)]
        chosen.append(order.repeat(-(-config.photographs // len(own)))[: config.photographs])
    return torch.cat(chosen)
