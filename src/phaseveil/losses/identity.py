"""Identity repulsion: the new face must not be recognised as the source."""

from torch import Tensor


def repulsion_loss(generated: Tensor, source: Tensor, margin: float = 0.8) -> Tensor:
    """Mean shortfall of the distance between two faces' embeddings below ``margin``.

    Args:
        generated: Embeddings of the new faces by a differentiable recogniser. Shape ``(B, D)``.
        source: Embeddings of the sources; takes no gradient. Shape ``(B, D)``.
        margin: Distance of strangers. dlib's recogniser puts them at about 0.8, the same person below 0.6.

    Returns:
        Scalar, 0 where every pair is at least ``margin`` apart.
    """
    distance = (generated.float() - source.detach().float()).square().sum(dim=-1).add(1e-8).sqrt()
    return (margin - distance).clamp_min(0).mean()
