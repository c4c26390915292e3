"""A face's 68 landmarks, where dlib is installed."""

import numpy as np
import pytest

from phaseveil.data.landmarks import DlibDetector, LandmarkPredictor


@pytest.fixture(scope="session")
def astronaut_landmarks(astronaut: np.ndarray) -> np.ndarray:
    """dlib's landmarks of the face, pixels. Shape ``(68, 2)``."""
    pytest.importorskip("dlib", reason="needs the extra 'eval'")
    return LandmarkPredictor().predict(astronaut, DlibDetector().detect(astronaut)[0].box)
