"""Fine-tune the networks to a calibrated camera, and measure what that wins."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseveil.apps.geometry import landmark_errors, load_some_faces
from phaseveil.apps.table import BUNDLED, HEATMAP, TableRow, train_row
from phaseveil.errors import ConfigError
from phaseveil.models.heatmap import load_heatmap_net
from phaseveil.optics.camera import load_camera

FACES = 512  # held out, at most

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """Settings of a fine-tuning.

    Attributes:
        data: Folder that ``phaseveil prepare`` wrote.
        out: Folder for ``stage1``, ``stage2`` and ``weights``.
        weights: Folder of the design's weights, to start from; the bundled ones where ``None``.
        steps: Of the heatmap network.
        face_steps: Of the face networks; 0 leaves them as they are.
        perceptual: LPIPS weights, for the face networks.
        stage1, stage2: Presets.
        seed: Of both.
    """

    data: Path
    out: Path
    weights: Path | None = None
    steps: int = 400
    face_steps: int = 0
    perceptual: Path | None = None
    stage1: str = "stage1/base"
    stage2: str = "stage2/base"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.face_steps > 0 and self.perceptual is None:
            raise ConfigError("face networks are trained with LPIPS; give --perceptual, or leave --face-steps out")


def fine_tune(design: str, calibrated: Path, tuning: Tuning, say: Say) -> dict[str, Any]:
    """Train heatmap network, and face networks where asked, behind a calibrated camera; the camera stays as it is.

    Args:
        design: Name or file of the camera as designed, that the start weights were trained behind.
        calibrated: Camera file.
        tuning: Settings.
        say: Takes messages.

    Returns:
        ``weights`` (folder as ``--weights`` wants it; without ``face.safetensors`` where the face networks were left),
        and landmark errors of held-out faces, inter-ocular distances: ``design`` and ``untuned`` (start weights behind
        either camera), ``tuned``.

    Raises:
        ConfigError, CheckpointError, InputError: See :func:`phaseveil.apps.table.train_row`.
    """
    start = load_heatmap_net((tuning.weights or BUNDLED) / HEATMAP)
    faces = load_some_faces(tuning.data, start.config.size, FACES)
    built = load_camera(calibrated)
    errors = {
        "design": landmark_errors(load_camera(design), start, faces, tuning.seed).mean().item(),
        "untuned": landmark_errors(built, start, faces, tuning.seed).mean().item(),
    }
    row = TableRow(
        camera=str(calibrated),
        heatmap_steps=tuning.steps,
        face_steps=tuning.face_steps,
        stage1=tuning.stage1,
        stage2=tuning.stage2,
        start=str(tuning.weights or ""),
        seed=tuning.seed,
    )
    weights = train_row(row, tuning.data, tuning.perceptual, tuning.out, say)
    errors["tuned"] = landmark_errors(built, load_heatmap_net(weights / HEATMAP), faces, tuning.seed).mean().item()
    return {"weights": str(weights), "landmark_error": errors}


def lines(tuned: dict[str, Any]) -> list[str]:
    """The result as people read it."""
    errors = tuned["landmark_error"]
    names = {"design": "behind the design", "untuned": "behind the built camera", "tuned": "the same, fine-tuned"}
    return [*(f"{'landmark error, ' + names[name]:<42}{errors[name]:.2%}" for name in names), tuned["weights"]]
