"""Stage I's camera, networks and optimisers: as a configuration starts them, saved and restored."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from phaseveil.config import to_mapping
from phaseveil.errors import ConfigError
from phaseveil.losses.optics import ConstraintMultiplier
from phaseveil.models.blocks import to_channels_last
from phaseveil.models.heatmap import HeatmapNet, load_heatmap_net
from phaseveil.optics.camera import Camera, PhaseMaskCamera, build_camera, load_camera
from phaseveil.optics.dynamic import DynamicCamera, dynamic_from
from phaseveil.run_state import load_state, save_state, seeded
from phaseveil.training.adversaries import Adversary, build_adversaries
from phaseveil.training.camera_config import CameraTraining
from phaseveil.training.ema import ModelEMA
from phaseveil.training.parallel import Processes, share_batch_statistics


@dataclass
class Run:
    """What a run changes, and the clear lens it is compared with.

    ``settled`` is the camera with its PSF computed, from when its mask no longer learns.
    """

    camera: Camera
    network: HeatmapNet
    ema: ModelEMA[HeatmapNet]
    optimizers: dict[str, torch.optim.Optimizer]
    multiplier: ConstraintMultiplier
    clear_psf: Tensor
    adversaries: dict[str, Adversary]
    processes: Processes
    settled: Camera | None = None

    @property
    def _modules(self) -> dict[str, nn.Module]:
        own = {"camera": self.camera, "network": self.network, "ema": self.ema.module}
        return own | {name: adversary.network for name, adversary in self.adversaries.items()}

    def save(self, path: Path, config: CameraTraining, step: int) -> None:
        """Write the state that :meth:`restore` reads."""
        save_state(path, to_mapping(config), step, self._modules, self.optimizers, self.multiplier.state())

    def restore(self, path: Path) -> int:
        """Continue from a state; returns the step to go on with."""
        step, numbers = load_state(path, self._modules, self.optimizers)
        self.multiplier.restore(numbers)
        return step


def start_run(config: CameraTraining, processes: Processes) -> Run:
    """Camera, networks and optimisers as the configuration starts them, in every process alike.

    Raises:
        CheckpointError: Weights are missing or do not fit.
        ConfigError: A mask is to learn and the camera has none, or weights do not fit each other.
    """
    torch.manual_seed(config.seed)
    device, learns = processes.device, config.mask_share > 0
    camera, network = _camera(config), _network(config)
    clear_psf = build_camera(camera.config).psf(config.network.size).detach().to(device)
    to_channels_last(network, device).train()
    camera.to(device).train()
    adversaries = build_adversaries(vars(config.weights), config.adversary, device) if learns else {}
    for learner in (network, *(adversary.network for adversary in adversaries.values())):
        share_batch_statistics(learner, processes)
    return Run(
        camera=camera,
        network=network,
        ema=ModelEMA(network, config.ema, ramp=config.ema_ramp),
        optimizers=_optimizers(camera, network, adversaries, config),
        multiplier=ConstraintMultiplier(config.ceiling, config.multiplier_rate),
        clear_psf=clear_psf,
        adversaries=adversaries,
        processes=processes,
    )


def _camera(config: CameraTraining) -> Camera:
    """The camera to start from, with a mask or a family of masks that can learn where the configuration wants that."""
    camera = load_camera(config.camera)
    if config.mask_share == 0:
        return camera
    if not isinstance(camera, PhaseMaskCamera):
        raise ConfigError(f"camera {config.camera!r} has no mask to learn; set mask_share=0 to train the network alone")
    if not camera.coefficients.any():
        start = torch.randn(camera.coefficients.shape, generator=seeded(config.seed, 0, 9)) * config.mask_start
        start[0] += config.mask_start_defocus
        camera.coefficients.data.copy_(start)
    if config.family_size > 0 and not isinstance(camera, DynamicCamera):
        camera = dynamic_from(camera, config.family_size, config.family_spread, seeded(config.seed, 0, 10))
    if config.weights.sameness > 0 and not isinstance(camera, DynamicCamera):
        raise ConfigError("weights.sameness compares masks of a family, and this camera has one; set family_size=4")
    return camera


def _network(config: CameraTraining) -> HeatmapNet:
    size = config.network.size
    network = load_heatmap_net(config.heatmap, size) if config.heatmap else HeatmapNet(config.network)
    if network.config != config.network:
        raise ConfigError(
            f"{config.heatmap}: a network of {network.config}, but the configuration says {config.network}"
        )
    return network


def _optimizers(
    camera: Camera, network: HeatmapNet, adversaries: dict[str, Adversary], config: CameraTraining
) -> dict[str, torch.optim.Optimizer]:
    optimizers: dict[str, torch.optim.Optimizer] = {
        "network": torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    }
    if config.mask_share > 0:
        optimizers["mask"] = torch.optim.Adam(camera.parameters(), lr=config.mask_rate, betas=(0.9, 0.99), eps=1e-12)
    return optimizers | {name: adversary.optimizer for name, adversary in adversaries.items()}
