"""Configurations of stage II for tests."""

from pathlib import Path

from phaseveil.config import from_mapping, to_mapping
from phaseveil.training.face_config import FaceTraining

TINY = {"size": 32, "width": 8, "bottleneck": 1, "style_width": 4, "style_dim": 8, "latent_dim": 4}


def elsewhere(config: FaceTraining, out: Path, **changes: object) -> FaceTraining:
    return from_mapping(FaceTraining, {**to_mapping(config), "out": str(out), **changes})
