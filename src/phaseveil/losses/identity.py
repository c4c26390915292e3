"""Identity repulsion: the new face must not be recognised as the source."""

from torch import Tensor
from torch.nn import functional


def repulsion_loss(generated: Tensor, source: Tensor, margin: float = 0.2) -> Tensor:
    """Mean excess of the cosine similarity of two faces' embeddings over ``margin``.

    Args:
        generated: Embeddings of the new faces by a differentiable recogniser. Shape ``(B, D)``.
        source: Embeddings of the sources; takes no gradient. Shape ``(B, D)``.
        margin: Similarity that strangers may have, -1 to 1.

    Returns:
        Scalar, 0 where every pair is no more alike than ``margin``.
    """
    similarity = functional.cosine_similarity(generated.float(), source.detach().float(), dim=-1)
    return (similarity - margin).clamp_min(0).mean()
