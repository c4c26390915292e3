"""Stage II's networks and optimisers: as a configuration starts them, saved and restored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phaseveil.config import to_mapping
from phaseveil.data.datasets import DOMAINS
from phaseveil.data.mtcnn_networks import MTCNN_NETWORKS, MTCNNNetwork
from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.dlib_resnet import DlibResNet, aligned_chips
from phaseveil.models.blocks import to_channels_last
from phaseveil.models.discriminator import AnyDiscriminator, Discriminator, FeatureDiscriminator, load_discriminator
from phaseveil.models.face import FaceNetworks, load_face_networks
from phaseveil.models.heatmap import HeatmapNet, load_heatmap_net
from phaseveil.optics.camera import Camera, load_camera
from phaseveil.run_state import load_state, save_state
from phaseveil.training.ema import ModelEMA
from phaseveil.training.face_config import FaceTraining
from phaseveil.training.parallel import Processes
from phaseveil.training.style_bank import StyleBank


@dataclass
class Run:
    """Networks of a run; the first three learn, the rest is fixed."""

    networks: FaceNetworks
    discriminator: AnyDiscriminator
    bank: StyleBank
    ema: ModelEMA[FaceNetworks]
    optimizers: dict[str, torch.optim.Optimizer]
    camera: Camera
    heatmap_net: HeatmapNet
    judge: Callable[[Tensor], Any]
    perceptual: LPIPS
    recogniser: Callable[[Tensor, Tensor], Tensor] | None
    detector: nn.ModuleDict | None
    processes: Processes

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {
            "networks": self.networks,
            "discriminator": self.discriminator,
            "bank": self.bank,
            "ema": self.ema.module,
        }

    def save(self, path: Path, config: FaceTraining, step: int) -> None:
        """Write the state that :meth:`restore` reads."""
        save_state(path, to_mapping(config), step, self._modules, self.optimizers)

    def restore(self, path: Path) -> int:
        """Continue from a state; returns the step to go on with."""
        return load_state(path, self._modules, self.optimizers)[0]


def start_run(config: FaceTraining, processes: Processes) -> Run:
    """Networks and optimisers as the configuration starts them, in every process alike.

    Raises:
        CheckpointError: Weights are missing or do not fit.
        ConfigError: Sizes that do not fit each other, or no weights of a perceptual network.
    """
    device = processes.device
    if not config.perceptual:
        raise ConfigError(
            "stage II: set perceptual=FILE to LPIPS weights; 'phaseveil download perceptual' fetches them"
        )
    torch.manual_seed(config.seed)
    networks = _networks(config)
    bank = StyleBank(config.networks.style_dim).to(device)
    perceptual = LPIPS(config.perceptual).to(device)
    discriminator, heatmap_net = _discriminator(config, perceptual), _reader(config)
    camera = _frozen(config.camera, config.networks.size, device)
    for module in (networks, discriminator, heatmap_net):
        to_channels_last(module, device)
    return Run(
        networks=networks.train(),
        discriminator=discriminator,
        bank=bank,
        ema=ModelEMA(networks, config.ema, ramp=config.ema_ramp),
        optimizers=_optimizers(networks, discriminator, config),
        camera=camera,
        heatmap_net=heatmap_net,
        judge=_judge(config, camera, heatmap_net),
        perceptual=perceptual,
        recogniser=_recogniser(config, device) if config.weights.identity > 0 else None,
        detector=_detector(device) if config.weights.detector > 0 else None,
        processes=processes,
    )


def _networks(config: FaceTraining) -> FaceNetworks:
    networks = load_face_networks(config.start) if config.start else FaceNetworks(config.networks)
    if networks.config != config.networks:
        raise CheckpointError(
            f"{config.start}: face networks of {networks.config}, but the configuration says {config.networks}"
        )
    return networks


def _discriminator(config: FaceTraining, perceptual: LPIPS) -> AnyDiscriminator:
    width, domains = config.discriminator_width, len(DOMAINS)
    discriminator: AnyDiscriminator
    if config.judged_by == "features":
        discriminator = FeatureDiscriminator(perceptual.channels, width, 5, domains)
    else:
        discriminator = Discriminator(config.networks.size, width, 5, domains)
    if config.discriminator:
        load_discriminator(config.discriminator, discriminator)
    return discriminator


def _reader(config: FaceTraining) -> HeatmapNet:
    """The heatmap network that reads acquisitions; it does not learn."""
    heatmap_net = load_heatmap_net(config.heatmap or None).requires_grad_(False)
    if heatmap_net.config.size != config.networks.size:
        raise ConfigError(
            f"the heatmap network is for {heatmap_net.config.size}-pixel faces, the face networks for "
            f"{config.networks.size}"
        )
    return heatmap_net


def _optimizers(
    networks: FaceNetworks, discriminator: AnyDiscriminator, config: FaceTraining
) -> dict[str, torch.optim.Optimizer]:
    rest = [*networks.generator.parameters(), *networks.style_encoder.parameters()]
    mapping = list(networks.mapping.parameters())
    return {
        "networks": _adam([(rest, 1.0), (mapping, config.mapping_rate)], config),
        "discriminator": _adam([(list(discriminator.parameters()), config.discriminator_rate)], config),
    }


def _judge(config: FaceTraining, camera: Camera, heatmap_net: HeatmapNet) -> Callable[[Tensor], Any]:
    """What reads new faces: a network of its own, behind its camera or none, or the one that reads acquisitions."""
    device, size = next(heatmap_net.parameters()).device, config.networks.size
    if config.judge:
        heatmap_net = load_heatmap_net(config.judge).requires_grad_(False).to(device)
        if not config.judge_camera:
            return heatmap_net
        camera = _frozen(config.judge_camera, size, device)
    return lambda face: heatmap_net(camera(face))


def _recogniser(config: FaceTraining, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What embeds faces, given their landmarks, for the identity loss."""
    network = DlibResNet().to(device)
    if not config.identity_camera:
        return lambda faces, landmarks: network(aligned_chips(faces, landmarks))
    camera = _frozen(config.identity_camera, config.networks.size, device)
    return lambda faces, landmarks: network(aligned_chips(camera(faces), landmarks))


def _detector(device: str) -> nn.ModuleDict:
    """MTCNN's last networks, for the detector loss."""
    return nn.ModuleDict({name: MTCNNNetwork(name) for name in MTCNN_NETWORKS}).to(device)


def _frozen(camera: str, size: int, device: str | torch.device) -> Camera:
    return load_camera(camera).to(device).frozen(size).to(device)


def _adam(groups: list[tuple[list[nn.Parameter], float]], config: FaceTraining) -> torch.optim.Optimizer:
    """AdamW on parameters and their shares of the learning rate; ``rate`` keeps what the schedule scales."""
    rates = [{"params": parameters, "rate": config.learning_rate * share} for parameters, share in groups]
    return torch.optim.AdamW(rates, lr=config.learning_rate, betas=(0.0, 0.99), weight_decay=config.weight_decay)
