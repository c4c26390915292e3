"""Losses of stage II that make faces: adversarial, style and reconstruction. Each returns an unweighted scalar."""

import torch
from torch import Tensor
from torch.nn import functional


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the discriminator [Goodfellow et al. 2014, arXiv 1406.2661]. ``(B,)`` twice → scalar."""
    return functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator [Goodfellow et al. 2014]. ``(B,)`` → scalar."""
    return functional.softplus(-fake_logits).mean()


def r1_penalty(real_logits: Tensor, real_image: Tensor) -> Tensor:
    """Half the squared gradient of the logits at real images [Mescheder et al. 2018, arXiv 1801.04406, eq. 9].

    The published weights count pixels from -1 to 1; ours run from 0 to 1, where gradients are twice as long, hence the
    quarter.

    Args:
        real_logits: Shape ``(B,)``.
        real_image: What they were computed from, requiring a gradient. Shape ``(B, 3, H, W)``, 0 to 1.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_image, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean() / 8


def style_reconstruction_loss(recovered: Tensor, style: Tensor) -> Tensor:
    """L1 between the style code read from the new face and the one it was drawn with [StarGAN v2, eq. 2]. → scalar.

    No gradient to the latter: with it, encoder and generator agree on one code for everybody.
    """
    return (recovered - style.detach()).abs().mean()


def style_uniformity_loss(codes: Tensor) -> Tensor:
    """Spread of the encoder's codes over their sphere [Wang & Isola 2020, arXiv 2005.10242, eq. 4].

    Args:
        codes: Of different faces, unit RMS. Shape ``(N, S)``, N ≥ 2.

    Returns:
        Scalar, 0 where all codes are one, about -2 where they are orthogonal.
    """
    squared = torch.pdist(codes.float()).square() / codes.shape[1]
    return (-squared).exp().mean().log()


def diversity_loss(first: Tensor, second: Tensor) -> Tensor:
    """Minus the L1 between faces of two styles [StarGAN v2, eq. 3], pixels from -1 to 1; no gradient to the second."""
    return -2 * (first - second.detach()).abs().mean()


def reconstruction_loss(face: Tensor, target: Tensor) -> Tensor:
    """L1 between images, pixels from -1 to 1. ``(B, 3, H, W)`` in 0 to 1, twice → scalar."""
    return 2 * (face - target).abs().mean()


def style_prior_loss(codes: Tensor, wanted: Tensor, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance between two sets of style codes [Bonneel et al. 2015, J. Math. Imaging Vis. 51, 22].

    Teaches the mapping network the distribution of codes that the style encoder reads from faces, so that a latent
    style is as good as a reference's.

    Args:
        codes: From the mapping network. Shape ``(M, S)``.
        wanted: From the style encoder, as many. Shape ``(M, S)``.
        directions: Unit vectors to project on. Shape ``(S, P)``.

    Returns:
        Mean absolute difference of the sorted projections.
    """
    return ((codes @ directions).sort(dim=0).values - (wanted.detach() @ directions).sort(dim=0).values).abs().mean()
