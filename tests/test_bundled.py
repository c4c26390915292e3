"""The weights that are shipped: they load, they are small, each has a card, and they draw faces."""

from pathlib import Path

import numpy as np
import pytest

import phaseveil
from phaseveil import PhaseVeil
from phaseveil.apps.sources import crop_detector
from phaseveil.data.image_io import resize, to_tensor

WEIGHTS = Path(phaseveil.__file__).parent / "weights"


@pytest.fixture(scope="module")
def pipeline() -> PhaseVeil:
    return PhaseVeil.from_pretrained()


def test_weights_stay_within_40_megabytes() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.glob("*.safetensors")) < 40e6


@pytest.mark.parametrize("name", ["camera", "heatmap", "face"])
def test_each_file_has_a_model_card_with_figures(name: str) -> None:
    card = (WEIGHTS / f"{name}.md").read_text("utf-8")
    assert "Limits" in card
    assert "@" not in card  # a figure that was never filled in


def test_the_camera_takes_the_detail_and_the_new_face_is_a_face(pipeline: PhaseVeil, face_crop: np.ndarray) -> None:
    crop = resize(face_crop, 256)
    scene = to_tensor(resize(crop, pipeline.size))[None]
    acquisition = pipeline.camera(scene)  # noiseless
    assert acquisition.diff(dim=-1).abs().mean() < 0.3 * scene.diff(dim=-1).abs().mean()
    detector = crop_detector()
    assert all(detector.detect(np.asarray(pipeline(crop, seed=seed).face)) for seed in range(4))


def test_two_seeds_give_two_faces_and_one_seed_one(pipeline: PhaseVeil, face_crop: np.ndarray) -> None:
    crop = resize(face_crop, 256)
    first, again, other = (np.asarray(pipeline(crop, seed, domain="female").face, float) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 4
