"""Erasure of the identity in a face's shape: the directions of the 68 landmarks that tell persons apart, taken out."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseveil import checkpoint
from phaseveil.config import from_mapping, to_mapping
from phaseveil.data.heatmaps import NUM_LANDMARKS
from phaseveil.errors import ConfigError

COORDINATES = 2 * NUM_LANDMARKS
GRID = 33  # nodes an axis at which a warp is computed; bilinear between them
BORDER = 5  # nodes an axis of the frame's border that stay where they are
SMOOTHING = 1e-4  # of the spline; landmarks that fall together, as those of closed lips, leave it solvable


@dataclass
class ShapeConfig:
    """An eraser.

    Attributes:
        directions: How many it holds.
    """

    directions: int = 40

    def __post_init__(self) -> None:
        if not 1 <= self.directions < COORDINATES:
            raise ConfigError(f"shape: directions must lie between 1 and {COORDINATES - 1}, got {self.directions}")


class ShapeEraser(nn.Module):
    r"""Moves the points of a face so that they tell less about whose they are.

    .. math:: x' = x - \Sigma^{1/2} Q_n Q_n^T \Sigma^{-1/2} (x - \mu)

    where :math:`\Sigma` is the covariance of the points and :math:`Q` the principal directions, most identifying first,
    of the whitened points' regression on a face recogniser's embedding: least-squares concept erasure [Belrose et al.
    2023, LEACE, arXiv 2306.03819] of its first n directions. With all of them no linear reader finds anything of the
    embedding, and no other affine map moves the points less. Readings that have to stay as they are, such as those of
    :func:`expression_readings`, are kept by directions that are orthogonal to the whitened readings.

    Args:
        config: How many directions it holds.
    """

    mean: Tensor
    analysis: Tensor
    synthesis: Tensor

    def __init__(self, config: ShapeConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(COORDINATES))
        self.register_buffer("analysis", torch.zeros(config.directions, COORDINATES))
        self.register_buffer("synthesis", torch.zeros(COORDINATES, config.directions))

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        landmarks: Tensor,
        embeddings: Tensor,
        config: ShapeConfig,
        ridge: float = 0.1,
        kept: Tensor | None = None,
    ) -> "ShapeEraser":
        """Find the directions.

        Args:
            landmarks: Of aligned faces, normalised to [0, 1]. Shape ``(N, 68, 2)``, N well above 136.
            embeddings: A recogniser's, of the same photographs. Shape ``(N, D)``.
            config: How many directions.
            ridge: Of the regression, in mean variances of an embedding's coordinate.
            kept: Linear readings of the points that erasure leaves as they are. Shape ``(R, 136)``, R small.
        """
        points, known = landmarks.flatten(1).double(), embeddings.double()
        mean = points.mean(dim=0)
        points, known = points - mean, known - known.mean(dim=0)
        variance, axes = torch.linalg.eigh(points.T @ points / len(points))
        spread = variance.clamp(min=variance[-1] * 1e-9).sqrt()
        white = points @ axes / spread
        covariance = known.T @ known / len(known)
        penalty = ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        told = known @ torch.linalg.solve(covariance + penalty, known.T @ white / len(known))
        if kept is not None:
            readings = torch.linalg.qr((kept.double() @ (axes * spread)).T).Q
            told = told - told @ readings @ readings.T
        directions = torch.linalg.eigh(told.T @ told).eigenvectors.flip(1)[:, : config.directions]
        eraser = cls(config)
        eraser.mean.copy_(mean)
        eraser.analysis.copy_((axes / spread @ directions).T)
        eraser.synthesis.copy_(axes * spread @ directions)
        return eraser

    def first(self, directions: int) -> "ShapeEraser":
        """An eraser of the most identifying directions only.

        Args:
            directions: How many.

        Raises:
            ConfigError: More than this one holds, or fewer than one.
        """
        if not 1 <= directions <= self.config.directions:
            raise ConfigError(
                f"choose 1 to {self.config.directions} directions of the shape to erase, got {directions}"
            )
        fewer = ShapeEraser(ShapeConfig(directions)).to(self.mean.device)
        fewer.load_state_dict(
            {
                "mean": self.mean,
                "analysis": self.analysis[:directions],
                "synthesis": self.synthesis[:, :directions],
            }
        )
        return fewer

    def forward(self, landmarks: Tensor) -> Tensor:
        """Where the points of aligned faces go. Normalised to [0, 1], ``(B, 68, 2)`` in and out."""
        points = landmarks.flatten(1)
        told = (points - self.mean) @ self.analysis.T
        return (points - told @ self.synthesis.T).unflatten(1, (NUM_LANDMARKS, 2))


def expression_readings() -> Tensor:
    """What tells an expression: opening of the mouth, height of its corners, its width, opening of the eyes.

    Returns:
        Sums over coordinates of the 68 points, in the points' unit. Shape ``(4, 136)``, float32.
    """
    x, y = 0, 1
    readings = torch.zeros(4, NUM_LANDMARKS, 2)
    mouth, corners, width, eyes = readings
    mouth[66, y], mouth[62, y] = 1.0, -1.0
    corners[[48, 54], y], corners[[51, 57], y] = 0.5, -0.5
    width[54, x], width[48, x] = 1.0, -1.0
    eyes[[40, 41, 46, 47], y], eyes[[37, 38, 43, 44], y] = 0.25, -0.25
    return readings.flatten(1)


class Warp:
    """A thin-plate spline [Bookstein 1989, IEEE TPAMI 11, 567] that moves points, and what is around them along.

    The border of the frame stays where it is. One spline serves pictures of the same faces in any size.

    Args:
        points: Normalised to [0, 1]. Shape ``(B, P, 2)``.
        moved: Where they go. Shape ``(B, P, 2)``.
    """

    def __init__(self, points: Tensor, moved: Tensor) -> None:
        edge = _border(BORDER).to(points.device).expand(len(points), -1, -1)
        to = torch.cat([moved.double(), edge], dim=1)
        back = torch.cat([(points - moved).double(), torch.zeros_like(edge)], dim=1)
        size = to.shape[1]
        plane = torch.cat([to.new_ones(len(to), size, 1), to], dim=2)
        system = to.new_zeros(len(to), size + 3, size + 3)
        system[:, :size, :size] = _bending(to, to) + SMOOTHING * torch.eye(size, dtype=to.dtype, device=to.device)
        system[:, :size, size:], system[:, size:, :size] = plane, plane.mT
        weights = torch.linalg.solve(system, functional.pad(back, (0, 0, 0, 3)))
        nodes = _nodes(GRID).to(to).expand(len(to), -1, -1)
        values = torch.cat([_bending(nodes, to), nodes.new_ones(len(to), GRID**2, 1), nodes], dim=2) @ weights
        self.field = values.mT.unflatten(2, (GRID, GRID)).to(points.dtype)
        """Where each node's picture comes from, less the node. Shape ``(B, 2, GRID, GRID)``."""

    def __call__(self, images: Tensor) -> Tensor:
        """Warped pictures; a sharp edge may overshoot their range a little. ``(B, C, H, W)`` in and out."""
        height, width = images.shape[-2:]
        field = functional.interpolate(self.field, (height, width), mode="bilinear", align_corners=False)
        rows, columns = ((torch.arange(side, device=images.device) + 0.5) / side for side in (height, width))
        own = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        places = 2 * (own + field.permute(0, 2, 3, 1)) - 1
        return functional.grid_sample(
            images.float(), places, mode="bicubic", padding_mode="border", align_corners=False
        )


def _bending(at: Tensor, centres: Tensor) -> Tensor:
    """r² log r between points ``(B, N, 2)`` and centres ``(B, M, 2)``. Shape ``(B, N, M)``."""
    squared = (at[:, :, None] - centres[:, None]).square().sum(dim=-1)
    return 0.5 * torch.xlogy(squared, squared)


def _nodes(count: int) -> Tensor:
    """Centres of ``count`` by ``count`` fields of the frame, row by row. Shape ``(count², 2)``, float64."""
    axis = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)


def _border(count: int) -> Tensor:
    """Points around the frame, corners included. Shape ``(4 (count − 1), 2)``, float64."""
    axis = torch.linspace(0, 1, count, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    outside = torch.ones(count, count, dtype=torch.bool)
    outside[1:-1, 1:-1] = False
    return grid[outside]


def save_shape_eraser(path: str | Path, eraser: ShapeEraser, metadata: dict[str, Any] | None = None) -> Path:
    """Write an eraser.

    Raises:
        CheckpointError: The file cannot be written.
    """
    tensors = {f"eraser.{name}": tensor for name, tensor in eraser.state_dict().items()}
    return checkpoint.save(path, "shape", to_mapping(eraser.config), tensors, metadata)


def load_shape_eraser(path: str | Path | None = None) -> ShapeEraser:
    """Read an eraser.

    Args:
        path: File; the bundled eraser where ``None``.

    Raises:
        CheckpointError: Missing, damaged, of another kind or shape.
    """
    path = path or Path(str(resources.files("phaseveil"))) / "weights" / "shape.safetensors"
    stored = checkpoint.load(path, kind="shape")
    config = from_mapping(ShapeConfig, stored.config)
    return checkpoint.load_module(lambda: ShapeEraser(config), stored.part("eraser"), path).eval()
