"""Losses on geometry; each is differentiable with respect to the network's input as well as its weights."""

from torch import Tensor
from torch.nn import functional

from phaseveil.data.heatmaps import draw_heatmaps, normalised_mean_error


def heatmap_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 between predicted and wanted heatmaps (DESIGN: published stage-I term), summed over channels, mean over
    pixels and batch.

    Args:
        logits: Before the sigmoid. Shape ``(B, K, h, w)``.
        target: 0 to 1. Shape ``(B, K, h, w)``.
    """
    return functional.smooth_l1_loss(logits.float().sigmoid(), target, beta=0.1) * logits.shape[1]


def teacher_loss(logits: Tensor, landmarks: Tensor) -> Tensor:
    """:func:`heatmap_loss` against Gaussians drawn at the clear image's landmarks, ``(B, 68, 2)`` in [0, 1]."""
    return heatmap_loss(logits, draw_heatmaps(landmarks, logits.shape[-1]))


def landmark_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of the error over the 68 points, in inter-ocular distances. ``(B, 68, 2)`` twice → scalar."""
    return normalised_mean_error(predicted, target).mean()


def expression_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Error of the shape of brows, eyes and mouth about their own centres: expression without head pose.

    The offline stand-in for the authors' optical flow inside the landmark mask (paper §3.3): each group's points are
    compared after both have been centred, so that only their displacement against each other counts.

    Args:
        predicted, target: Points, normalised to [0, 1]. Shape ``(B, 68, 2)``.

    Returns:
        Scalar, in inter-ocular distances.
    """
    parts = [slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 68)]
    centred = [
        (points[:, part] - points[:, part].mean(dim=1, keepdim=True))
        for points in (predicted, target)
        for part in parts
    ]
    difference = [
        (a - b).norm(dim=-1).mean() for a, b in zip(centred[: len(parts)], centred[len(parts) :], strict=True)
    ]
    scale = (target[:, 36:42].mean(dim=1) - target[:, 42:48].mean(dim=1)).norm(dim=-1).mean()
    return sum(difference[1:], difference[0]) / (len(parts) * scale)
