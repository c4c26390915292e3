"""What tests of training share."""

from pathlib import Path

import pytest
from tests.training.face_cases import TINY

from phaseveil.config import from_mapping
from phaseveil.training.face_config import FaceTraining


@pytest.fixture
def config(prepared: Path, heatmap_file: Path, perceptual_file: Path, tmp_path: Path) -> FaceTraining:
    """A short run of stage II with tiny networks."""
    values = {
        "data": str(prepared),
        "out": str(tmp_path / "run"),
        "camera": "gaussian",
        "heatmap": str(heatmap_file),
        "perceptual": str(perceptual_file),
        "networks": TINY,
        "weights": {"identity": 0.0},
        "discriminator_width": 4,
        "steps": 4,
        "batch_size": 8,
        "r1_every": 2,
        "cycle_every": 2,
        "identity_every": 2,
        "log_every": 1,
        "save_every": 100,
    }
    return from_mapping(FaceTraining, values)
