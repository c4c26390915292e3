"""Stage I: the mask and the heatmap network, trained together.

Privacy is maximised *subject to* a ceiling on the landmark error: left to itself it spreads the PSF until the heatmap
is the mean face. The network minimises the geometry loss alone; the mask sees it through an automatic multiplier.
Adversaries may learn in the same loop (:mod:`phaseveil.training.adversaries`), in circumstances drawn for every batch.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phaseveil.config import to_mapping
from phaseveil.data.datasets import FaceBatch, FaceDataset, load_faces
from phaseveil.data.heatmaps import normalised_mean_error
from phaseveil.data.transforms import JitterConfig, random_colour, random_mirror, random_similarity
from phaseveil.errors import ConfigError
from phaseveil.losses import heatmap as geometry
from phaseveil.losses import optics as optics_losses
from phaseveil.losses.optics import ConstraintMultiplier
from phaseveil.models.blocks import to_channels_last
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet, load_heatmap_net, save_heatmap_net
from phaseveil.optics.camera import Camera, ConvolutionCamera, PhaseMaskCamera, build_camera, load_camera, save_camera
from phaseveil.optics.dynamic import DynamicCamera, dynamic_from
from phaseveil.optics.psf import normalise_energy
from phaseveil.run_state import load_state, require_finite, save_state, seeded
from phaseveil.training.adversaries import Adversary, AdversaryConfig, adversarial_losses, build_adversaries
from phaseveil.training.conditions import ConditionsConfig, draw_conditions, draw_departure
from phaseveil.training.ema import ModelEMA
from phaseveil.training.logging import RunLog
from phaseveil.training.parallel import Processes, SilentLog, join, mixed_precision, share_batch_statistics
from phaseveil.training.pictures import heatmap_pictures, save_grid, save_optics_figure


@dataclass
class CameraLossWeights:
    """Weights of stage I's losses.

    Attributes:
        heatmap: Smooth L1 to the teacher's heatmaps (published: 2).
        landmark: Landmark error, inter-ocular distances.
        privacy: 1 - MSE of acquisition and source (published: 1).
        detail: MTF suppression.
        information: What passes above the noise, bits of a Fourier mode; the part of privacy that deconvolution is
            measured by.
        airy: PSF against the clear lens's (published: 10; pulls against privacy, see ``docs/experiments.md``).
        slope: Phase steps near the sampling limit; strong enough to stop before ``keep_samplable`` must shrink
            the whole mask.
        range: Relief beyond ``CameraTraining.height_range``.
        smoothness: Mean square Laplacian of the relief.
        sameness: Correlation of the PSFs of two members of a family of masks; fixed masks have none.
        inversion: Reversed loss of the adversary that restores the scene; 0 leaves it out.
        identity: Reversed loss of the adversary that recognises the face; 0 leaves it out.
    """

    heatmap: float = 2.0
    landmark: float = 1.0
    privacy: float = 1.0
    detail: float = 1.0
    information: float = 0.0
    airy: float = 0.0
    slope: float = 1000.0
    range: float = 1.0
    smoothness: float = 0.0
    sameness: float = 0.0
    inversion: float = 0.0
    identity: float = 0.0


@dataclass
class CameraTraining:
    """Configuration of ``phaseveil train camera``.

    Attributes:
        data: Folder that ``phaseveil prepare`` wrote.
        eyes_within: Train on faces whose eyes lie so near to where most have them, eye distances: landmarks farther off
            are more likely the detector's mistake. 0 takes all.
        out: Run folder: ``state.safetensors``, ``camera.safetensors``, ``heatmap.safetensors``, pictures, logs.
        camera: Camera to start from, a name or file.
        heatmap: Heatmap network to start from, a file, also of another size; fresh where empty.
        network: Heatmap network's size and width.
        mask_share: Share of the steps in which the mask learns; then the network settles on the finished mask. 0 keeps
            the camera as it is (clear lens, baselines).
        ceiling: Highest landmark error allowed in training, inter-ocular distances.
        mask_start: Standard deviation of the first coefficients, metres, where the mask is flat.
        mask_start_defocus: Defocus (Noll 4) that a flat mask starts with, metres RMS; from less than about 3 µm the
            search ends in a local optimum that blurs little, see ``docs/experiments.md``.
        mask_rate: Adam step of the coefficients, metres.
        family_size: Numbers that select a mask of a family, drawn afresh for each exposure; 0 learns a fixed mask.
        family_spread: RMS height of each of the family's first directions, metres.
        height_range: Difference of heights of the mask that costs nothing, metres.
        conditions: Circumstances drawn for every batch.
        adversary: Of the adversaries, where their weights are above 0.
        ema: Decay of the mean of the network's weights, see :class:`phaseveil.training.ema.ModelEMA`.
        ema_ramp: Whether that decay grows over the first steps; false for long runs that go on behind the same camera.
    """

    data: str = "data/prepared"
    eyes_within: float = 0.0
    out: str = "runs/camera"
    camera: str = "portrait"
    heatmap: str = ""
    network: HeatmapConfig = field(default_factory=HeatmapConfig)
    weights: CameraLossWeights = field(default_factory=CameraLossWeights)
    jitter: JitterConfig = field(default_factory=JitterConfig)
    steps: int = 4000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warm_up: int = 100
    weight_decay: float = 1e-4
    mask_share: float = 0.6
    mask_start: float = 2e-8
    mask_start_defocus: float = 3.5e-6
    mask_rate: float = 3e-9
    family_size: int = 0
    family_spread: float = 2e-7
    height_range: float = 50e-6
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    ceiling: float = 0.055
    multiplier_rate: float = 0.05
    ema: float = 0.998
    ema_ramp: bool = True
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    val_faces: int = 512
    wandb_project: str = ""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.save_every) < 1:
            raise ConfigError("stage I: steps, batch_size, log_every and save_every must be at least 1")
        if not 0 <= self.mask_share <= 1 or not 0 < self.ceiling < 1:
            raise ConfigError("stage I: mask_share must lie in [0, 1], ceiling in (0, 1) inter-ocular distances")
        if self.eyes_within < 0:
            raise ConfigError("stage I: eyes_within must be at least 0 eye distances; 0 takes all faces")


def train_camera(
    config: CameraTraining,
    resume: bool = False,
    max_minutes: float = math.inf,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Run stage I; returns the validation figures of the weights written last.

    Raises:
        InputError: The data folder is not a prepared one.
        CheckpointError: ``resume`` without a fitting state, or the disk is full.
        OpticsError: The optics cannot be simulated as sampled.
    """
    began, out, processes = time.monotonic(), Path(config.out), join(device)
    device = processes.device
    with processes.main_first():
        faces, held_out = (load_faces(config.data, split, config.network.size) for split in ("train", "val"))
    faces = faces.eyes_within(config.eyes_within)
    run = _start(config, processes)
    step, figures = run.restore(out / "state.safetensors") if resume else 0, {}
    log = RunLog(out, config.log_every, config.wandb_project, say) if processes.is_main else SilentLog()
    if processes.count > 1:
        log.say(f"sharing each batch among {processes.count} processes")
    with closing(processes), closing(log):
        while step < config.steps:
            losses = _train_step(step, _augmented(faces, config, step, device), run, config)
            require_finite(losses, step)
            log.step(step, losses)
            run.ema.update(run.network, step)
            step += 1
            timed_out = processes.main_says((time.monotonic() - began) / 60 > max_minutes)
            if processes.is_main and (step % config.save_every == 0 or step == config.steps or timed_out):
                figures = _validate(run.camera, run.ema.module, held_out, config, device)
                _export(out, run, held_out, config, {"steps": step, **figures})
                run.save(out / "state.safetensors", config, step)  # last: what a resumed run finds is exported already
                log.scalars(step, figures)
            if timed_out:
                log.say(f"stopped after {max_minutes:g} minutes at step {step} of {config.steps}; go on with --resume")
                break
        processes.wait()
    return figures


@dataclass
class _Run:
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
        save_state(path, to_mapping(config), step, self._modules, self.optimizers, self.multiplier.state())

    def restore(self, path: Path) -> int:
        step, numbers = load_state(path, self._modules, self.optimizers)
        self.multiplier.restore(numbers)
        return step


def _start(config: CameraTraining, processes: Processes) -> _Run:
    """Camera, network and optimisers as the configuration starts them, in every process alike."""
    torch.manual_seed(config.seed)
    device = processes.device
    camera = load_camera(config.camera)
    clear_psf = build_camera(camera.config).psf(config.network.size).detach().to(device)
    if config.mask_share > 0:
        if not isinstance(camera, PhaseMaskCamera):
            raise ConfigError(
                f"camera {config.camera!r} has no mask to learn; set mask_share=0 to train the network alone"
            )
        if not camera.coefficients.any():
            start = torch.randn(camera.coefficients.shape, generator=seeded(config.seed, 0, 9)) * config.mask_start
            start[0] += config.mask_start_defocus
            camera.coefficients.data.copy_(start)
        if config.family_size > 0 and not isinstance(camera, DynamicCamera):
            camera = dynamic_from(camera, config.family_size, config.family_spread, seeded(config.seed, 0, 10))
        if config.weights.sameness > 0 and not isinstance(camera, DynamicCamera):
            raise ConfigError("weights.sameness compares masks of a family, and this camera has one; set family_size=4")
    size = config.network.size
    network = load_heatmap_net(config.heatmap, size) if config.heatmap else HeatmapNet(config.network)
    if network.config != config.network:
        raise ConfigError(
            f"{config.heatmap}: a network of {network.config}, but the configuration says {config.network}"
        )
    to_channels_last(network, device).train()
    camera.to(device).train()
    optimizers: dict[str, torch.optim.Optimizer] = {
        "network": torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    }
    if config.mask_share > 0:
        optimizers["mask"] = torch.optim.Adam(camera.parameters(), lr=config.mask_rate, betas=(0.9, 0.99), eps=1e-12)
    adversaries = build_adversaries(vars(config.weights), config.adversary, device) if config.mask_share > 0 else {}
    optimizers |= {name: adversary.optimizer for name, adversary in adversaries.items()}
    for learner in (network, *(adversary.network for adversary in adversaries.values())):
        share_batch_statistics(learner, processes)
    multiplier = ConstraintMultiplier(config.ceiling, config.multiplier_rate)
    average = ModelEMA(network, config.ema, ramp=config.ema_ramp)
    return _Run(camera, network, average, optimizers, multiplier, clear_psf, adversaries, processes)


def _augmented(faces: FaceDataset, config: CameraTraining, step: int, device: str) -> FaceBatch:
    """The batch of a step, jittered; a function of seed and step alone."""
    generator = seeded(config.seed, step, 0)
    image, landmarks, domain = faces.draw(config.batch_size, generator)
    image, landmarks = random_mirror(image, landmarks, generator)
    image, landmarks = random_similarity(image, landmarks, config.jitter, generator)
    image = random_colour(image, config.jitter, generator)
    return FaceBatch(image.to(device), landmarks.to(device), domain.to(device))


def _train_step(step: int, batch: FaceBatch, run: _Run, config: CameraTraining) -> dict[str, Any]:
    """One optimisation step; returns unweighted losses and figures to log."""
    mask_learns = step < int(config.mask_share * config.steps)
    for optimizer in run.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    shares = run.processes.shares(len(batch.image))
    parts = [_descent(step, batch, share, run, config, mask_learns, 1 / len(shares)) for share in shares]
    figures: dict[str, Any] = run.processes.mean({name: sum(p[name] for p in parts) / len(parts) for name in parts[0]})
    for optimizer in run.optimizers.values():
        run.processes.average_gradients(p for group in optimizer.param_groups for p in group["params"])
    moved = _descend(step, run, config, mask_learns)
    if moved:
        run.multiplier.update(figures["landmark"])
        figures |= {"multiplier": run.multiplier.value, "mean_error": run.multiplier.mean_error}
    return figures


def _descent(
    step: int, whole: FaceBatch, share: slice, run: _Run, config: CameraTraining, mask_learns: bool, weight: float
) -> dict[str, float]:
    """Add a share's gradients of all losses, times ``weight``; returns the unweighted losses.

    The whole batch is photographed, since its noise belongs to the batch; what the networks see is the share.
    """
    camera = _in_circumstances(step, run, config, mask_learns)
    with torch.set_grad_enabled(mask_learns):
        acquisition = camera(whole.image, seeded(config.seed, step, 1, whole.image.device))[share]
    batch = FaceBatch(*(field[share] for field in whole))
    seen = optics_losses.scale_gradient(acquisition, run.multiplier.value) if mask_learns else acquisition
    with mixed_precision(batch.image.device.type):
        output = run.network(seen.contiguous(memory_format=torch.channels_last))
    losses = {
        "heatmap": geometry.teacher_loss(output.logits, batch.landmarks),
        "landmark": geometry.landmark_loss(output.landmarks, batch.landmarks),
    }
    weights, adversarial = vars(config.weights), {}
    if mask_learns:
        losses |= _mask_losses(run, step, acquisition, batch.image, config)
        felt = {name: config.adversary.share(step) * weights[name] for name in run.adversaries}
        adversarial = adversarial_losses(run.adversaries, acquisition, batch, felt)
    terms = [weights[name] * loss for name, loss in losses.items()] + list(adversarial.values())
    (torch.stack(terms).sum() * weight).backward()
    return {name: loss.item() for name, loss in (losses | adversarial).items()}


def _in_circumstances(step: int, run: _Run, config: CameraTraining, mask_learns: bool) -> Camera:
    """The camera as this batch finds it; its PSF computed once where the mask has settled and nothing moves it."""
    luck = seeded(config.seed, step, 4)
    conditions = draw_conditions(run.camera.config, config.conditions, luck)
    departure = draw_departure(run.camera.config, config.conditions, luck)
    has_one_psf = isinstance(run.camera, ConvolutionCamera) and not isinstance(run.camera, DynamicCamera)
    if mask_learns or config.conditions.move_optics or not has_one_psf:
        return run.camera.under(conditions, departure)
    if run.settled is None:
        run.settled = run.camera.frozen(config.network.size)
    return run.settled.under(conditions)


def _descend(step: int, run: _Run, config: CameraTraining, mask_learns: bool) -> bool:
    """Let every optimiser take its step; tells whether the mask moved, which waits for the adversaries' head start."""
    for group in run.optimizers["network"].param_groups:
        group["lr"] = config.learning_rate * cosine_schedule(step, config.warm_up, config.steps)
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), 5.0)
    run.optimizers["network"].step()
    if not mask_learns:
        return False
    for adversary in run.adversaries.values():
        torch.nn.utils.clip_grad_norm_(adversary.network.parameters(), 5.0)
        adversary.optimizer.step()
    if run.adversaries and step < config.adversary.head_start:
        return False
    run.optimizers["mask"].step()
    assert isinstance(run.camera, PhaseMaskCamera)
    run.camera.keep_samplable()
    return True


def _mask_losses(
    run: _Run, step: int, acquisition: Tensor, source: Tensor, config: CameraTraining
) -> dict[str, Tensor]:
    """Privacy and regularity of the optics, unweighted; of a family, those of another member every step."""
    camera, size = run.camera, source.shape[-1]
    assert isinstance(camera, PhaseMaskCamera)
    mask: Tensor = camera.coefficients
    other: Tensor | None = None
    if isinstance(camera, DynamicCamera):
        mask, another = camera.masks(camera.draw(2, seeded(config.seed, step, 5, mask.device)))
        if config.weights.sameness > 0:
            other = normalise_energy(camera.enclosed_psf(size, another))
    psf, height = normalise_energy(camera.enclosed_psf(size, mask)), camera.height_map(mask)
    of_a_family = {} if other is None else {"sameness": optics_losses.sameness_loss(psf, other)}
    return of_a_family | {
        "privacy": optics_losses.privacy_loss(acquisition, source),
        "detail": optics_losses.detail_loss(psf, size=size),
        "information": optics_losses.information_loss(psf, camera.config.sensor, size=size),
        "airy": optics_losses.airy_distance(psf, run.clear_psf),
        "slope": optics_losses.slope_loss(camera.pupil_phase(mask), camera.aperture),
        "range": optics_losses.range_loss(height, config.height_range),
        "smoothness": optics_losses.smoothness_loss(height, camera.aperture),
    }


def cosine_schedule(step: int, warm_up: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to 2 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


@torch.inference_mode()
def _validate(
    camera: Camera, network: HeatmapNet, faces: FaceDataset, config: CameraTraining, device: str
) -> dict[str, float]:
    """Landmark error and what privacy leaves, on held-out faces with the sensor's noise."""
    errors, differences = [], []
    count = min(config.val_faces, len(faces))
    places = torch.linspace(0, len(faces) - 1, count).long()
    for number, indices in enumerate(places.split(64)):
        batch = faces.batch(indices)
        image = batch.image.to(device)
        acquisition = camera(image, seeded(config.seed, number, 2, device))
        with mixed_precision(image.device.type):
            landmarks = network(acquisition.contiguous(memory_format=torch.channels_last)).landmarks
        errors.append(normalised_mean_error(landmarks.cpu(), batch.landmarks))
        differences.append((acquisition - image).square().mean(dim=(1, 2, 3)).cpu())
    return {
        "val_landmark_error": torch.cat(errors).mean().item(),
        "val_landmark_error_p90": torch.cat(errors).quantile(0.9).item(),
        "val_mse": torch.cat(differences).mean().item(),
        "val_faces": float(count),
    }


def _export(out: Path, run: _Run, faces: FaceDataset, config: CameraTraining, metadata: dict[str, Any]) -> None:
    """Weights for the next stage, and pictures to look at."""
    save_camera(out / "camera.safetensors", run.camera, metadata)
    save_heatmap_net(out / "heatmap.safetensors", run.ema.module, {**metadata, "camera": config.camera})
    batch = faces.batch(torch.linspace(0, len(faces) - 1, 8).long())
    with torch.inference_mode():
        device = next(run.network.parameters()).device
        acquisition = run.camera(batch.image.to(device), seeded(config.seed, 0, 3, device))
        output = run.ema.module(acquisition)
    save_optics_figure(out / "optics.png", run.camera, config.network.size)
    save_grid(out / "samples.png", [batch.image, acquisition, heatmap_pictures(output.heatmap, batch.image.shape[-1])])
