"""Stage I: the mask and the heatmap network, trained together.

Privacy is maximised *subject to* a ceiling on the landmark error: left to itself it spreads the PSF until the heatmap
is the mean face. The network minimises the geometry loss alone; the mask sees it through an automatic multiplier.
Adversaries may learn in the same loop (:mod:`phaseveil.training.adversaries`), in circumstances drawn for every batch.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phaseveil.data.datasets import FaceBatch, FaceDataset, load_faces
from phaseveil.data.heatmaps import normalised_mean_error
from phaseveil.data.transforms import random_colour, random_mirror, random_similarity
from phaseveil.losses import heatmap as geometry
from phaseveil.losses import optics as optics_losses
from phaseveil.models.heatmap import HeatmapNet, save_heatmap_net
from phaseveil.optics.camera import Camera, ConvolutionCamera, PhaseMaskCamera, save_camera
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.optics.psf import normalise_energy
from phaseveil.run_state import require_finite, seeded
from phaseveil.training.adversaries import adversarial_losses
from phaseveil.training.camera_config import CameraTraining
from phaseveil.training.camera_run import Run, start_run
from phaseveil.training.conditions import draw_conditions, draw_departure
from phaseveil.training.logging import RunLog
from phaseveil.training.parallel import SilentLog, join, mixed_precision
from phaseveil.training.pictures import heatmap_pictures, save_grid, save_optics_figure


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
    run = start_run(config, processes)
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


def _augmented(faces: FaceDataset, config: CameraTraining, step: int, device: str) -> FaceBatch:
    """The batch of a step, jittered; a function of seed and step alone."""
    generator = seeded(config.seed, step, 0)
    image, landmarks, domain = faces.draw(config.batch_size, generator)
    image, landmarks = random_mirror(image, landmarks, generator)
    image, landmarks = random_similarity(image, landmarks, config.jitter, generator)
    image = random_colour(image, config.jitter, generator)
    return FaceBatch(image.to(device), landmarks.to(device), domain.to(device))


def _train_step(step: int, batch: FaceBatch, run: Run, config: CameraTraining) -> dict[str, Any]:
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
    step: int, whole: FaceBatch, share: slice, run: Run, config: CameraTraining, mask_learns: bool, weight: float
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


def _in_circumstances(step: int, run: Run, config: CameraTraining, mask_learns: bool) -> Camera:
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


def _descend(step: int, run: Run, config: CameraTraining, mask_learns: bool) -> bool:
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


def _mask_losses(run: Run, step: int, acquisition: Tensor, source: Tensor, config: CameraTraining) -> dict[str, Tensor]:
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


def _export(out: Path, run: Run, faces: FaceDataset, config: CameraTraining, metadata: dict[str, Any]) -> None:
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
