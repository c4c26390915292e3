"""All of stage II's losses, unweighted; the weights are applied in one place, :mod:`phaseveil.training.face`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phaseveil.data.datasets import DOMAINS
from phaseveil.data.mtcnn_networks import MTCNN_NETWORKS, face_squares
from phaseveil.losses import adversarial
from phaseveil.losses import heatmap as geometry
from phaseveil.losses.identity import repulsion_loss
from phaseveil.losses.perceptual import normalise
from phaseveil.models.discriminator import AnyDiscriminator, Discriminator, FeatureDiscriminator
from phaseveil.training.face_batches import FaceStep
from phaseveil.training.face_config import FaceLossWeights
from phaseveil.training.face_run import Run

# The squares that MTCNN's first two networks put around 96 held-out faces, in inter-ocular distances: centre from the
# mean of the points without the jaw's, x and y, and side; means and, about, standard deviations.
_SHIFT, _SHIFT_SPREAD = (0.0, -0.12), (0.2, 0.1)
_SIDE, _SIDE_SPREAD = 2.9, 0.28


@dataclass(frozen=True)
class Drawn:
    """New faces of a batch.

    Attributes:
        style: Style codes. Shape ``(B, style_dim)``.
        fake: New faces. Shape ``(B, 3, H, W)``, 0 to 1.
        seen: What the perceptual network sees in them, ``(B, C, H, W)`` a stage; without the latent styles' faces, the
            last quarter, where nothing needs them.
        reference_seen: Likewise in the batch's references.
    """

    style: Tensor
    fake: Tensor
    seen: Sequence[Tensor]
    reference_seen: Sequence[Tensor]


def verdict(
    discriminator: AnyDiscriminator,
    face: Tensor,
    seen: Sequence[Tensor],
    heatmap: Tensor,
    domain: Tensor,
) -> Tensor:
    """Logits of faces, from their pixels or from what the perceptual network sees, as the discriminator likes."""
    if isinstance(discriminator, FeatureDiscriminator):
        return discriminator(seen, heatmap, domain)
    return discriminator(face, heatmap, domain)


def generator_losses(batch: FaceStep, drawn: Drawn, run: Run, weights: FaceLossWeights) -> dict[str, Tensor]:
    """Losses of every step on generator, style encoder and mapping network, unweighted; see :class:`FaceLossWeights`.

    Diversity and mirror are left out where they have no weight: either needs a second face of every source.
    """
    rebuild, _ = batch.halves
    fake, logits = drawn.fake, verdict(run.discriminator, drawn.fake, drawn.seen, batch.heatmap, batch.domain)
    return {
        "adversarial": adversarial.generator_loss(logits),
        "reconstruction": adversarial.reconstruction_loss(fake[rebuild], batch.source[rebuild]),
        **_likeness(batch, drawn, run),
        **geometry_losses(batch, fake, run),
        "style": _style_loss(batch, drawn, run),
        **({"diversity": _diversity(batch, fake, run)} if weights.diversity > 0 else {}),
        **({"mirror": mirror_loss(batch, drawn, run)} if weights.mirror > 0 else {}),
    }


def geometry_losses(batch: FaceStep, fake: Tensor, run: Run) -> dict[str, Tensor]:
    """The new face's geometry, read by the judge, against what was read from the acquisition."""
    seen, whole = run.judge(fake), run.processes.whole
    return {
        "heatmap": geometry.heatmap_loss(seen.logits, batch.target_heatmap),
        "landmark": geometry.landmark_loss(seen.landmarks, batch.landmarks),
        "expression": geometry.expression_loss(whole(seen.landmarks, 4), whole(batch.landmarks, 4)),
    }


def _likeness(batch: FaceStep, drawn: Drawn, run: Run) -> dict[str, Tensor]:
    """LPIPS of the reconstruction, whose references are the sources, and to the reference where there is one."""
    half, quarter = len(batch.source) // 2, len(batch.latent)
    new, wanted = (
        normalise([activation[: half + quarter] for activation in seen]) for seen in (drawn.seen, drawn.reference_seen)
    )
    distances = run.perceptual.distance(new, wanted)
    return {"perceptual": distances[:half].mean(), "reference": distances[half:].mean()}


def _style_loss(batch: FaceStep, drawn: Drawn, run: Run) -> Tensor:
    """Style read back from the translated faces."""
    _, translate = batch.halves
    recovered = _read_style(run.networks.style_encoder, drawn.fake[translate], batch.domain[translate])
    return adversarial.style_reconstruction_loss(recovered, drawn.style[translate])


def _diversity(batch: FaceStep, fake: Tensor, run: Run) -> Tensor:
    """Difference between the new faces and others of the same sources in a second style."""
    _, translate = batch.halves
    with torch.no_grad():
        other_style = batch.other_styles(run.networks)
        other = run.networks.generator(batch.acquisition[translate], batch.heatmap[translate], other_style)
    return adversarial.diversity_loss(fake[translate], other)


def mirror_loss(batch: FaceStep, drawn: Drawn, run: Run) -> Tensor:
    """L1 between the translated faces and those of the mirrored scenes in the same styles, mirrored back; scalar.

    No style then darkens or stains one side of whatever face it is given. Single pixels count, not their means. The
    scene is mirrored and not its acquisition, since a PSF need not be symmetric; without noise, as in
    :func:`cycle_loss`.
    """
    _, translate = batch.halves
    with torch.no_grad():
        acquired = run.camera(batch.source[translate].flip(-1))
        heatmap = run.heatmap_net(acquired).heatmap
    mirrored = run.networks.generator(acquired, heatmap, drawn.style[translate]).flip(-1)
    return adversarial.reconstruction_loss(mirrored, drawn.fake[translate])


def _read_style(encoder: nn.Module, faces: Tensor, domain: Tensor) -> Tensor:
    """Codes of faces with the encoder held still, which could otherwise please the style loss by one code for all."""
    still = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
    return torch.func.functional_call(encoder, still, (faces, domain))


def identity_loss(
    batch: FaceStep, fake: Tensor, recogniser: Callable[[Tensor, Tensor], Tensor], margin: float
) -> Tensor:
    """Push the translated faces ``margin`` away from their sources, cut out at the landmarks of the acquisition."""
    _, translate = batch.halves
    landmarks = batch.landmarks[translate]
    with torch.no_grad():
        source = recogniser(batch.source[translate], landmarks)
    return repulsion_loss(recogniser(fake[translate], landmarks), source, margin)


def detector_loss(batch: FaceStep, fake: Tensor, detector: nn.ModuleDict) -> Tensor:
    """What MTCNN's last networks say of the new faces against what they say of the sources; scalar.

    Both are cut out alike, in squares that scatter about a face as those do that MTCNN's first two networks propose.

    Args:
        batch: Whose sources, landmarks and scatter count.
        fake: New faces. Shape ``(B, 3, H, W)``, 0 to 1.
        detector: :class:`phaseveil.data.mtcnn_networks.MTCNNNetwork` by name.

    Returns:
        Mean absolute differences of the boxes' sides and of the points' coordinates, in inter-ocular distances, summed
        over the networks.
    """
    landmarks = batch.landmarks.float()
    unit = (landmarks[:, 36:42].mean(dim=1) - landmarks[:, 42:48].mean(dim=1)).norm(dim=-1)
    sides = (_SIDE + _SIDE_SPREAD * batch.scatter[:, 2]).clamp_min(_SIDE / 2)
    shift = (batch.scatter[:, :2] * unit.new_tensor(_SHIFT_SPREAD) + unit.new_tensor(_SHIFT)) * unit[:, None]
    losses = []
    for name, network in detector.items():
        new, old = (
            network(face_squares(faces.float(), landmarks, shift, sides * unit, MTCNN_NETWORKS[name]))
            for faces in (fake, batch.source)
        )
        differences = [(a - b.detach()).abs().mean(dim=1) for a, b in zip(new[:-1], old[:-1], strict=True)]
        losses += [(sides * difference).mean() for difference in differences]
    return torch.stack(losses).sum()


def cycle_loss(batch: FaceStep, fake: Tensor, run: Run) -> Tensor:
    """Acquire the new face, give it the source's style back, and acquire that: it must be the first acquisition."""
    _, translate = batch.halves
    acquired = run.camera(fake[translate])
    heatmap = run.heatmap_net(acquired).heatmap
    style = run.networks.style_encoder(batch.source[translate], batch.source_domain[translate])
    returned = run.camera(run.networks.generator(acquired, heatmap, style))
    return adversarial.reconstruction_loss(returned, batch.acquisition[translate])


def discriminator_loss(batch: FaceStep, drawn: Drawn, discriminator: AnyDiscriminator) -> Tensor:
    """The discriminator's own loss on the references and the new faces, which take no gradient; scalar."""
    real = verdict(discriminator, batch.reference, drawn.reference_seen, batch.reference_heatmap, batch.domain)
    seen = [activation.detach() for activation in drawn.seen]
    fake = verdict(discriminator, drawn.fake.detach(), seen, batch.heatmap, batch.domain)
    return adversarial.discriminator_loss(real, fake)


def r1_loss(batch: FaceStep, discriminator: Discriminator) -> Tensor:
    """R1 of a discriminator of pixels, on half of the batch's real faces."""
    half = slice(0, None, 2)
    image = batch.reference[half].detach().clone().requires_grad_(True)
    return adversarial.r1_penalty(discriminator(image, batch.reference_heatmap[half], batch.domain[half]), image)


def style_losses(
    batch: FaceStep, style: Tensor, run: Run, draws: torch.Generator, count: int = 128
) -> dict[str, Tensor]:
    """Spread of the encoder's codes, and latent styles against them, per domain, once enough have been seen.

    The codes are those of all processes, which keep the same bank.
    """
    style, domains = (run.processes.whole(of_faces, 4) for of_faces in (style, batch.domain))
    real = slice(0, len(style) * 3 // 4)
    run.bank.add(style[real], domains[real])
    device, losses = style.device, []
    for domain in range(len(DOMAINS)):
        latent = torch.randn(count, run.networks.mapping.latent_dim, generator=draws).to(device)
        directions = nn.functional.normalize(torch.randn(style.shape[1], 64, generator=draws).to(device), dim=0)
        wanted = run.bank.draw(domain, count, draws)
        if wanted is not None:
            codes = run.networks.mapping(latent, torch.full((count,), domain, device=device))
            losses.append(adversarial.style_prior_loss(codes, wanted, directions))
    spread = {"uniformity": adversarial.style_uniformity_loss(style[real])}
    return spread | ({"style_prior": torch.stack(losses).mean()} if losses else {})
