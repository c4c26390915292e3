"""Stage II: generator, mapping network, style encoder and discriminator, on a fixed camera and heatmap network.

Half of each batch asks for the source back from its own style (the warm start that makes days into minutes), half for
another face's or a latent style. The reconstruction weight then falls, so that identity comes from the style.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn

from phaseveil.data.datasets import FaceDataset, load_faces
from phaseveil.data.transforms import recolour
from phaseveil.models.discriminator import (
    Discriminator,
    FeatureDiscriminator,
    save_discriminator,
)
from phaseveil.models.face import save_face_networks
from phaseveil.run_state import require_finite, seeded
from phaseveil.training import face_batches
from phaseveil.training.face_batches import FaceStep
from phaseveil.training.face_config import FaceTraining
from phaseveil.training.face_losses import (
    Drawn,
    cycle_loss,
    detector_loss,
    discriminator_loss,
    generator_losses,
    identity_loss,
    r1_loss,
    style_losses,
)
from phaseveil.training.face_run import Run, start_run
from phaseveil.training.logging import RunLog
from phaseveil.training.parallel import Processes, SilentLog, join, mixed_precision
from phaseveil.training.pictures import heatmap_pictures, save_grid


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
    run = start_run(config, processes)
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
