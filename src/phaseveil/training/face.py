"""Stage II: generator, mapping network, style encoder and discriminator, on a fixed camera and heatmap network.

Half of each batch asks for the source back from its own style (the warm start that makes days into minutes), half for
another face's or a latent style. The reconstruction weight then falls, so that identity comes from the style.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phaseveil.config import to_mapping
from phaseveil.data.datasets import DOMAINS, FaceDataset, load_faces
from phaseveil.data.mtcnn_networks import MTCNN_NETWORKS, MTCNNNetwork
from phaseveil.data.transforms import JitterConfig, recolour
from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.dlib_resnet import DlibResNet, aligned_chips
from phaseveil.models.blocks import to_channels_last
from phaseveil.models.discriminator import (
    AnyDiscriminator,
    Discriminator,
    FeatureDiscriminator,
    load_discriminator,
    save_discriminator,
)
from phaseveil.models.face import FaceConfig, FaceNetworks, load_face_networks, save_face_networks
from phaseveil.models.heatmap import HeatmapNet, load_heatmap_net
from phaseveil.optics.camera import Camera, load_camera
from phaseveil.run_state import load_state, require_finite, save_state, seeded
from phaseveil.training import face_batches
from phaseveil.training.ema import ModelEMA
from phaseveil.training.face_batches import FaceStep
from phaseveil.training.face_losses import (
    Drawn,
    FaceLossWeights,
    cycle_loss,
    detector_loss,
    discriminator_loss,
    generator_losses,
    identity_loss,
    r1_loss,
    style_losses,
)
from phaseveil.training.logging import RunLog
from phaseveil.training.parallel import Processes, SilentLog, join, mixed_precision
from phaseveil.training.pictures import heatmap_pictures, save_grid
from phaseveil.training.style_bank import StyleBank


@dataclass
class FaceTraining:
    """Configuration of ``phaseveil train face``.

    Attributes:
        data: Folder that ``phaseveil prepare`` wrote.
        out: Run folder: ``state.safetensors``, ``face.safetensors``, ``discriminator.safetensors``, pictures, logs.
        camera: Camera, a name or file; stays as it is.
        heatmap: Heatmap network trained behind that camera, a file; the bundled one where empty.
        judge: Heatmap network for clear faces, a file, that reads the geometry of generated faces; where empty they are
            acquired by the camera and read by ``heatmap``.
        judge_camera: Camera that the judge was trained behind, a name or file; where empty it looks at the pixels. A
            mild blur keeps it from being pleased by patterns of a few pixels.
        perceptual: LPIPS weights (AlexNet or VGG16), a file.
        start: Face networks to start from, a file; fresh where empty.
        discriminator: Discriminator to start from, a file; fresh where empty. Beside good networks a fresh one of
            pixels has learned next to nothing after a hundred steps.
        judged_by: What the discriminator looks at: ``pixels``, or ``features``, the activations of ``perceptual``,
            which knows natural images from the start. R1 is of pixels only.
        recoloured: Share of the faces that the perceptual network, and with it a discriminator of features, sees with
            other colours, each with its reference in the same [Zhao et al. 2020, arXiv 2006.10738], so that a stain
            that pleases in one colour alone pleases less.
        networks: Sizes of the face networks.
        jitter: Colour changes of the references; small, since the style takes up whatever varies.
        discriminator_width: Discriminator's channels at half resolution, or of its heads.
        batch_size: Faces per step, even: half reconstruct, half translate.
        mapping_rate: Share of the learning rate that the mapping network gets (published: 0.01).
        discriminator_rate: Multiple of the learning rate that the discriminator gets.
        reconstruction_floor: What the reconstruction weight falls to, share.
        hold: Share of the steps before it begins to fall.
        identity_margin: Distance in dlib's embedding that new face and source are pushed to; strangers: about 0.8.
        identity_camera: Camera that dlib's recogniser sees both through, a name or file; where empty it looks at the
            pixels. A blur keeps the generator from pleasing it by fine lines.
        r1_every, cycle_every, identity_every: Steps between these costly terms; R1 is weighted up in turn.
        ema: Decay of the mean of the networks' weights, see :class:`phaseveil.training.ema.ModelEMA`.
        ema_ramp: Whether that decay grows over the first steps; false for long runs that go on from good weights.
    """

    data: str = "data/prepared"
    out: str = "runs/face"
    camera: str = "learned"
    heatmap: str = ""
    judge: str = ""
    judge_camera: str = ""
    perceptual: str = ""
    start: str = ""
    discriminator: str = ""
    judged_by: str = "pixels"
    recoloured: float = 0.0
    networks: FaceConfig = field(default_factory=FaceConfig)
    weights: FaceLossWeights = field(default_factory=FaceLossWeights)
    jitter: JitterConfig = field(default_factory=lambda: JitterConfig(brightness=0.03, contrast=0.03))
    discriminator_width: int = 48
    steps: int = 6000
    batch_size: int = 16
    learning_rate: float = 3e-4
    mapping_rate: float = 1.0
    discriminator_rate: float = 1.0
    warm_up: int = 50
    weight_decay: float = 1e-4
    reconstruction_floor: float = 0.5
    hold: float = 0.3
    identity_margin: float = 0.8
    identity_camera: str = ""
    r1_every: int = 16
    cycle_every: int = 8
    identity_every: int = 4
    ema: float = 0.999
    ema_ramp: bool = True
    seed: int = 0
    log_every: int = 50
    save_every: int = 250
    wandb_project: str = ""

    def __post_init__(self) -> None:
        if self.batch_size < 4 or self.batch_size % 4:
            raise ConfigError(
                f"stage II: batch_size must be a multiple of 4 (8 or more is stable), got {self.batch_size}"
            )
        if min(self.steps, self.log_every, self.save_every, self.r1_every, self.cycle_every, self.identity_every) < 1:
            raise ConfigError(
                "stage II: steps, log_every, save_every and the steps between costly terms must be at least 1"
            )
        if self.judge_camera and not self.judge:
            raise ConfigError("stage II: judge_camera needs the judge that was trained behind it: set judge=FILE")
        if self.judged_by not in ("pixels", "features"):
            raise ConfigError(f"stage II: judged_by must be pixels or features, got {self.judged_by!r}")
        if not 0 <= self.recoloured <= 1:
            raise ConfigError(f"stage II: recoloured is a share from 0 to 1, got {self.recoloured:g}")
        if not self.identity_margin > 0:
            raise ConfigError(
                f"stage II: identity_margin is a distance above 0 (strangers: 0.8), got {self.identity_margin:g}"
            )
        if not 0 <= self.reconstruction_floor <= 1 or not 0 <= self.hold < 1:
            raise ConfigError("stage II: reconstruction_floor must lie in [0, 1], hold in [0, 1)")


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


def train_face(
    config: FaceTraining,
    resume: bool = False,
    max_minutes: float = math.inf,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Run stage II; returns the last step's figures.

    Raises:
        InputError: The data folder is not a prepared one.
        CheckpointError: Weights are missing or do not fit, or the disk is full.
        ConfigError: Sizes that do not fit each other.
    """
    began, out, processes = time.monotonic(), Path(config.out), join(device)
    device = processes.device
    with processes.main_first():
        faces, held_out = (load_faces(config.data, split, config.networks.size) for split in ("train", "val"))
    run = _start(config, processes)
    step, figures = run.restore(out / "state.safetensors") if resume else 0, {}
    log = RunLog(out, config.log_every, config.wandb_project, say) if processes.is_main else SilentLog()
    if processes.count > 1:
        log.say(f"sharing each batch among {processes.count} processes")
    with closing(processes), closing(log):
        while step < config.steps:
            batch = face_batches.draw_step(faces, run.camera, run.heatmap_net, config, step, device)
            figures = _train_step(step, batch, run, config)
            require_finite(figures, step)
            run.ema.update(run.networks, step)
            log.step(step, figures)
            step += 1
            timed_out = processes.main_says((time.monotonic() - began) / 60 > max_minutes)
            if processes.is_main and (step % config.save_every == 0 or step == config.steps or timed_out):
                history = {"steps": step, "batch_size": config.batch_size}
                save_face_networks(out / "face.safetensors", run.ema.module, history)
                save_discriminator(out / "discriminator.safetensors", run.discriminator, history)
                _save_samples(out / "samples.png", held_out, run, config, device)
                run.save(out / "state.safetensors", config, step)  # last: what a resumed run finds is exported already
            if timed_out:
                log.say(f"stopped after {max_minutes:g} minutes at step {step} of {config.steps}; go on with --resume")
                break
        processes.wait()
    return figures


def _start(config: FaceTraining, processes: Processes) -> Run:
    """Networks and optimisers as the configuration starts them, in every process alike."""
    device = processes.device
    if not config.perceptual:
        raise ConfigError(
            "stage II: set perceptual=FILE to LPIPS weights; 'phaseveil download perceptual' fetches them"
        )
    size = config.networks.size
    torch.manual_seed(config.seed)
    networks = load_face_networks(config.start) if config.start else FaceNetworks(config.networks)
    if networks.config != config.networks:
        raise CheckpointError(
            f"{config.start}: face networks of {networks.config}, but the configuration says {config.networks}"
        )
    bank = StyleBank(config.networks.style_dim)
    perceptual = LPIPS(config.perceptual).to(device)
    discriminator = _fresh_discriminator(config, perceptual)
    if config.discriminator:
        load_discriminator(config.discriminator, discriminator)
    heatmap_net = load_heatmap_net(config.heatmap or None).requires_grad_(False)
    if heatmap_net.config.size != size:
        raise ConfigError(
            f"the heatmap network is for {heatmap_net.config.size}-pixel faces, the face networks for {size}"
        )
    camera = _frozen(config.camera, size, device)
    for module in (networks, discriminator, heatmap_net):
        to_channels_last(module, device)
    networks.train()
    bank.to(device)

    rest = [*networks.generator.parameters(), *networks.style_encoder.parameters()]
    mapping = list(networks.mapping.parameters())
    optimizers: dict[str, torch.optim.Optimizer] = {
        "networks": _adam([(rest, 1.0), (mapping, config.mapping_rate)], config),
        "discriminator": _adam([(list(discriminator.parameters()), config.discriminator_rate)], config),
    }
    return Run(
        networks=networks,
        discriminator=discriminator,
        bank=bank,
        ema=ModelEMA(networks, config.ema, ramp=config.ema_ramp),
        optimizers=optimizers,
        camera=camera,
        heatmap_net=heatmap_net,
        judge=_judge(config, camera, heatmap_net),
        perceptual=perceptual,
        recogniser=_recogniser(config, device) if config.weights.identity > 0 else None,
        detector=_detector(device) if config.weights.detector > 0 else None,
        processes=processes,
    )


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


def _fresh_discriminator(config: FaceTraining, perceptual: LPIPS) -> AnyDiscriminator:
    width, domains = config.discriminator_width, len(DOMAINS)
    if config.judged_by == "features":
        return FeatureDiscriminator(perceptual.channels, width, 5, domains)
    return Discriminator(config.networks.size, width, 5, domains)


def _adam(groups: list[tuple[list[nn.Parameter], float]], config: FaceTraining) -> torch.optim.Optimizer:
    """AdamW on parameters and their shares of the learning rate; ``rate`` keeps what the schedule scales."""
    rates = [{"params": parameters, "rate": config.learning_rate * share} for parameters, share in groups]
    return torch.optim.AdamW(rates, lr=config.learning_rate, betas=(0.0, 0.99), weight_decay=config.weight_decay)


def _train_step(step: int, batch: FaceStep, run: Run, config: FaceTraining) -> dict[str, float]:
    """One step of the discriminator and one of everything else, on the same generated faces."""
    processes, rate = run.processes, _rate(step, config)
    parts = [batch.part(share) for share in processes.shares(len(batch.latent))]
    drawn = [_draw(part, run) for part in parts]

    run.optimizers["discriminator"].zero_grad(set_to_none=True)
    judged = [
        _descent(_discriminator_losses(step, part, new, run, config), _discriminator_weights(config), len(parts))
        for part, new in zip(parts, drawn, strict=True)
    ]
    _update(run.optimizers["discriminator"], run.discriminator, rate, processes)

    run.discriminator.requires_grad_(False)
    run.optimizers["networks"].zero_grad(set_to_none=True)
    own = [
        _descent(_network_losses(step, part, new, run, config), _weights_at(step, config), len(parts))
        for part, new in zip(parts, drawn, strict=True)
    ]
    _update(run.optimizers["networks"], run.networks, rate, processes)
    run.discriminator.requires_grad_(True)
    return processes.mean(_mean(judged) | _mean(own))


def _draw(batch: FaceStep, run: Run) -> Drawn:
    """New faces of a part of the batch, and what the perceptual network sees in them and in the references.

    It looks at latent styles' faces, which resemble nobody, only where the discriminator asks for them.
    """
    asks = isinstance(run.discriminator, FeatureDiscriminator)
    looked_at = slice(None) if asks else slice(0, 3 * len(batch.latent))
    with mixed_precision(batch.source.device.type):
        style = batch.styles(run.networks)
        fake = run.networks.generator(batch.acquisition, batch.heatmap, style)
        changes = batch.recolouring[looked_at]
        with torch.no_grad():
            reference_seen = run.perceptual.activations(recolour(batch.reference[looked_at], changes))
        return Drawn(style, fake, run.perceptual.activations(recolour(fake[looked_at], changes)), reference_seen)


def _descent(losses: dict[str, Tensor], weights: dict[str, float], parts: int) -> dict[str, float]:
    """Add the gradients of weighted losses, of one part of several; returns the losses, unweighted."""
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    (total / parts).backward()
    return {name: loss.item() for name, loss in losses.items()}


def _mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def _discriminator_losses(
    step: int, batch: FaceStep, drawn: Drawn, run: Run, config: FaceTraining
) -> dict[str, Tensor]:
    with mixed_precision(batch.source.device.type):
        losses = {"discriminator": discriminator_loss(batch, drawn, run.discriminator)}
        if step % config.r1_every == 0 and isinstance(run.discriminator, Discriminator):
            losses["r1"] = r1_loss(batch, run.discriminator)
    return losses


def _discriminator_weights(config: FaceTraining) -> dict[str, float]:
    return {"discriminator": 1.0, "r1": config.weights.r1 * config.r1_every}


def _network_losses(step: int, batch: FaceStep, drawn: Drawn, run: Run, config: FaceTraining) -> dict[str, Tensor]:
    """All of the losses of generator, style encoder and mapping network, the costly ones every few steps."""
    with mixed_precision(batch.source.device.type):
        own = generator_losses(batch, drawn, run, config.weights)
        if step % config.cycle_every == 0:
            own["cycle"] = cycle_loss(batch, drawn.fake, run)
        if run.recogniser is not None and step % config.identity_every == 0:
            own["identity"] = identity_loss(batch, drawn.fake, run.recogniser, config.identity_margin)
    if run.detector is not None:
        own["detector"] = detector_loss(batch, drawn.fake, run.detector)
    return own | style_losses(batch, drawn.style, run, seeded(config.seed, step, 5))


def _update(optimizer: torch.optim.Optimizer, module: nn.Module, rate: float, processes: Processes) -> None:
    """Step along the gradients of all processes."""
    processes.average_gradients(module.parameters())
    torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * rate
    optimizer.step()


def _rate(step: int, config: FaceTraining) -> float:
    """Share of the learning rate: linear warm-up, then constant, down to a tenth over the last fifth of the steps."""
    left = (config.steps - step) / (0.2 * config.steps)
    return min(1.0, (step + 1) / config.warm_up) * max(0.1, min(1.0, left))


def _weights_at(step: int, config: FaceTraining) -> dict[str, float]:
    """Loss weights of a step: reconstruction falls after ``hold``."""
    weights = dict(vars(config.weights))
    progress = step / config.steps
    fall = max(0.0, (progress - config.hold) / (1 - config.hold))
    factor = 1 - (1 - config.reconstruction_floor) * fall
    weights["reconstruction"] *= factor
    weights["perceptual"] *= factor
    return weights


@torch.inference_mode()
def _save_samples(path: Path, faces: FaceDataset, run: Run, config: FaceTraining, device: str) -> None:
    """Held-out sources, their acquisitions and heatmaps, and the averaged networks' faces in four latent styles."""
    batch = faces.batch(torch.linspace(0, len(faces) - 1, 12).long())
    networks = run.ema.module
    source = batch.image.to(device)
    with mixed_precision(device):
        acquisition = run.camera(source, seeded(config.seed, 0, 3, device))
        heatmap = run.heatmap_net(acquisition).heatmap
        domain = batch.domain.to(device)
        rows = [source, acquisition, heatmap_pictures(heatmap, source.shape[-1])]
        rows.append(networks.generator(acquisition, heatmap, networks.style_encoder(source, domain)))
        for number in range(4):
            latent = torch.randn(len(source), networks.mapping.latent_dim, generator=seeded(config.seed, number, 4))
            style = networks.mapping(latent.to(device), torch.full_like(domain, number % 2))
            rows.append(networks.generator(acquisition, heatmap, style))
    save_grid(path, rows)
