"""Stage I's adversaries: networks that learn in the same loop to undo the camera, and whose success repels the mask.

Each descends on its own loss with its own optimiser; the optics see the same loss with the gradient reversed [Ganin et
al. 2016, JMLR 17(59), Domain-adversarial training]. One backward pass serves both.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseveil.attacks.attacker import embed, to_layout
from phaseveil.attacks.inversion import InversionNet, gradient_distance
from phaseveil.attacks.recognition import squared_distances
from phaseveil.data.datasets import FaceBatch
from phaseveil.errors import ConfigError
from phaseveil.losses.optics import scale_gradient
from phaseveil.metrics.dlib_resnet import DlibResNet
from phaseveil.models.blocks import to_channels_last
from phaseveil.training.parallel import mixed_precision


@dataclass
class AdversaryConfig:
    """Adversaries of stage I; each takes part where its weight (``inversion``, ``identity``) is above 0.

    Attributes:
        inversion_width: Channels of the inversion network at half resolution.
        inversion_rate: Learning rate of the inversion network.
        identity_rate: Learning rate of the recogniser, which starts from dlib's.
        faces: Faces of a batch that the recogniser looks at.
        naming_weight: Of telling a batch's faces apart, against 1 for the distance to the clear embedding.
        temperature: Squared distance that counts as one nat there.
        head_start: Steps in which the adversaries learn and the mask does not yet feel them; as many again raise their
            weight to full.
    """

    inversion_width: int = 16
    inversion_rate: float = 2e-3
    identity_rate: float = 2e-4
    faces: int = 16
    naming_weight: float = 0.1
    temperature: float = 0.05
    head_start: int = 100

    def __post_init__(self) -> None:
        if self.inversion_width < 1 or self.faces < 2 or self.head_start < 0:
            raise ConfigError("adversaries: inversion_width must be at least 1, faces 2, head_start 0")
        if not 0 < self.inversion_rate < 1 or not 0 < self.identity_rate < 1 or self.temperature <= 0:
            raise ConfigError("adversaries: rates must lie in (0, 1), temperature above 0")

    def share(self, step: int) -> float:
        """Share of the adversaries' weight that the mask feels at a step."""
        if not self.head_start:
            return 1.0
        return min(1.0, max(0.0, step / self.head_start - 1))


class Adversary(Protocol):
    """What stage I needs of an adversary."""

    @property
    def network(self) -> nn.Module:
        """What learns."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What it learns with."""

    def loss(self, acquisition: Tensor, batch: FaceBatch) -> Tensor:
        """How far the adversary is from its aim, scalar; 0 where it undoes the camera wholly."""


class InversionAdversary:
    """Restores the scene: L1 between images and between their gradients, as attack A3 does.

    Args:
        config: Width and learning rate.
        device: Where it learns.
    """

    def __init__(self, config: AdversaryConfig, device: str | torch.device) -> None:
        self.network: nn.Module = to_channels_last(InversionNet(config.inversion_width), device).train()
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.inversion_rate)

    def loss(self, acquisition: Tensor, batch: FaceBatch) -> Tensor:
        """Distance of restored scenes to the scenes.

        Args:
            acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``, S a multiple of 32.
            batch: The scenes.
        """
        with mixed_precision(acquisition.device.type):
            restored = self.network(to_layout(acquisition, acquisition.device))
        return functional.l1_loss(restored, batch.image) + gradient_distance(restored, batch.image)


class IdentityAdversary:
    """Recognises faces in acquisitions: dlib's network trained further towards its own embedding of the clear face.

    Like attack A4, but without names: each face of the batch must be nearer to its own clear embedding than to the
    others' (InfoNCE, van den Oord et al. 2018, arXiv 1807.03748). It gets the true landmarks.

    Args:
        config: Weights and learning rate.
        device: Where it learns.
    """

    def __init__(self, config: AdversaryConfig, device: str | torch.device) -> None:
        self.config = config
        self.network = to_channels_last(DlibResNet().requires_grad_(), device).train()
        self.teacher = to_channels_last(DlibResNet(), device)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.identity_rate)

    def loss(self, acquisition: Tensor, batch: FaceBatch) -> Tensor:
        """Squared distance to the clear embeddings, and the cross-entropy of telling the faces apart.

        Args:
            acquisition: sRGB, 0 to 1. Shape ``(B, 3, S, S)``.
            batch: The scenes and their landmarks.
        """
        count = min(self.config.faces, len(acquisition))
        landmarks = batch.landmarks[:count]
        with torch.no_grad():
            clear = embed(self.teacher, batch.image[:count], landmarks)
        seen = embed(self.network, acquisition[:count], landmarks)
        logits = -squared_distances(seen, clear) / self.config.temperature
        naming = functional.cross_entropy(logits, torch.arange(count, device=logits.device))
        distance = (seen - clear).square().sum(dim=1).mean()
        return distance + self.config.naming_weight * naming


def build_adversaries(
    weights: dict[str, float], config: AdversaryConfig, device: str | torch.device
) -> dict[str, Adversary]:
    """The adversaries whose weight is above 0, by the name of their loss.

    Raises:
        ConfigError: dlib's recogniser is wanted but not installed.
    """
    kinds: dict[str, type[InversionAdversary] | type[IdentityAdversary]] = {
        "inversion": InversionAdversary,
        "identity": IdentityAdversary,
    }
    return {name: kind(config, device) for name, kind in kinds.items() if weights[name] > 0}


def adversarial_losses(
    adversaries: dict[str, Adversary], acquisition: Tensor, batch: FaceBatch, weights: dict[str, float]
) -> dict[str, Tensor]:
    """Losses that the adversaries descend on, by name, while the acquisition gets their gradients reversed.

    Args:
        adversaries: By name.
        acquisition: With a gradient to the optics. Shape ``(B, 3, S, S)``.
        batch: The scenes.
        weights: What the optics weigh each reversed loss with, by name; 0 lets the optics feel nothing.
    """
    return {
        name: adversary.loss(scale_gradient(acquisition, -weights[name]), batch)
        for name, adversary in adversaries.items()
    }
