import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phaseveil import PhaseVeil
from phaseveil.data.image_io import resize, to_tensor
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.models.face import FaceConfig, FaceNetworks, save_face_networks
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet
from phaseveil.models.pair import Redrawn
from phaseveil.models.shape import load_shape_eraser
from phaseveil.optics.camera import load_camera
from phaseveil.pipeline import usable_device

SIZE = 32  # of the tiny networks


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32)


@pytest.fixture(scope="module")
def scenes(face_crop: np.ndarray) -> torch.Tensor:
    face = to_tensor(resize(face_crop, SIZE))
    return torch.stack([face, face.flip(-1), 1 - face])


def test_three_lines_give_a_face(pipeline: PhaseVeil, face_crop: np.ndarray) -> None:
    result = pipeline(Image.fromarray(face_crop), seed=0)
    assert result.face.size == (96, 96)
    assert result.acquisition.size == (SIZE, SIZE)
    assert result.heatmap.shape == (5, SIZE // 2, SIZE // 2)
    assert 0 <= result.heatmap.min() <= result.heatmap.max() <= 1
    assert result.landmarks.shape == (68, 2)
    assert (result.landmarks > -0.5).all()
    assert (result.landmarks < 95.5).all()


def test_same_seed_same_face(pipeline: PhaseVeil, face_crop: np.ndarray, face_file: Path) -> None:
    first, again = pipeline(face_crop, seed=3), pipeline(face_file, seed=3)
    other = pipeline(face_crop, seed=4)
    assert np.array_equal(first.face, again.face)
    assert np.array_equal(first.acquisition, again.acquisition)
    assert not np.array_equal(first.face, other.face)


def test_a_face_does_not_depend_on_its_batch(pipeline: PhaseVeil, scenes: torch.Tensor) -> None:
    seeds = [5, 6, 7]
    together = pipeline.generate(scenes, pipeline.latent_styles(seeds), seeds)
    for index, seed in enumerate(seeds):
        alone = pipeline.generate(scenes[index : index + 1], pipeline.latent_styles([seed]), [seed])
        torch.testing.assert_close(alone.acquisition[0], together.acquisition[index], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.face[0], together.face[index], rtol=0, atol=1e-4)


def test_noise_comes_from_the_seed(pipeline: PhaseVeil, scenes: torch.Tensor) -> None:
    same = pipeline.acquire(scenes[:1], [1])
    assert torch.equal(same, pipeline.acquire(scenes[:1], [1]))
    assert not torch.equal(same, pipeline.acquire(scenes[:1], [2]))


def test_the_domain_changes_the_style_and_is_drawn_from_the_seed(pipeline: PhaseVeil) -> None:
    seeds = list(range(8))
    drawn = pipeline.latent_styles(seeds)
    female, male = pipeline.latent_styles(seeds, "female"), pipeline.latent_styles(seeds, "male")
    is_female = (drawn == female).all(dim=1)
    assert (is_female ^ (drawn == male).all(dim=1)).all()
    assert 0 < is_female.sum() < len(seeds)


def test_a_reference_gives_its_style(pipeline: PhaseVeil, face_crop: np.ndarray) -> None:
    mirrored, overturned = (np.ascontiguousarray(crop) for crop in (face_crop[:, ::-1], face_crop[::-1]))
    plain = pipeline(face_crop, reference=face_crop)
    assert np.array_equal(plain.face, pipeline(face_crop, reference=face_crop, domain="female").face)
    assert not np.array_equal(plain.face, pipeline(face_crop, reference=overturned).face)
    of_mirrored = np.asarray(pipeline(face_crop, reference=mirrored).face, np.int16)
    assert abs(of_mirrored - np.asarray(plain.face, np.int16)).max() <= 1  # a style has no side
    assert not np.array_equal(plain.face, pipeline(face_crop, reference=face_crop, domain="male").face)


def test_an_acquisition_passes_no_second_camera(pipeline: PhaseVeil, face_crop: np.ndarray) -> None:
    small = resize(face_crop, SIZE)
    assert np.array_equal(pipeline(small, acquired=True).acquisition, small)
    assert not np.array_equal(pipeline(small).acquisition, small)


def test_bfloat16_differs_little(pipeline: PhaseVeil, tiny_weights: Path, face_crop: np.ndarray) -> None:
    quick = PhaseVeil.from_pretrained(tiny_weights, dtype=torch.bfloat16)
    difference = np.abs(np.asarray(quick(face_crop).face, dtype=float) - np.asarray(pipeline(face_crop).face))
    assert difference.mean() < 3
    assert quick(face_crop).heatmap.dtype == np.float32


def test_another_camera_can_be_named(tiny_weights: Path, face_crop: np.ndarray) -> None:
    clear = PhaseVeil.from_pretrained(tiny_weights, camera="identity")
    blurred = PhaseVeil.from_pretrained(tiny_weights)
    source = resize(face_crop, SIZE).astype(float)
    errors = [np.abs(np.asarray(p(face_crop).acquisition) - source).mean() for p in (clear, blurred)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((10, 20, 3), np.uint8), r"not square \(20×10 px\); give an aligned crop, or --align"),
        (np.zeros((10, 10), np.uint8), "need an RGB image"),
        (np.zeros((10, 10, 3), np.float32), "need an RGB image"),
        ("absent.png", "absent.png: no such file"),
    ],
)
def test_an_unusable_image_is_refused(pipeline: PhaseVeil, image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipeline(image)  # type: ignore[arg-type]


def test_unknown_domains_cameras_and_devices_are_refused(pipeline: PhaseVeil, tiny_weights: Path) -> None:
    with pytest.raises(ConfigError, match="unknown domain 'robot'; use female or male"):
        pipeline.latent_styles([0], "robot")
    with pytest.raises(ConfigError, match="camera/telescope"):
        PhaseVeil.from_pretrained(tiny_weights, camera="telescope")
    for device in ("warp-drive", "cuda:99"):
        with pytest.raises(ConfigError, match="not usable on this machine; use cpu"):
            usable_device(device)


def test_weights_of_another_size_are_refused(tiny_weights: Path, tiny_face_config: FaceConfig, tmp_path: Path) -> None:
    for name in ("camera", "heatmap"):
        shutil.copy(tiny_weights / f"{name}.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"face\.safetensors: no such weights file"):
        PhaseVeil.from_pretrained(tmp_path)
    larger = dataclasses.replace(tiny_face_config, size=64)
    save_face_networks(tmp_path / "face.safetensors", FaceNetworks(larger))
    with pytest.raises(CheckpointError, match="works at 32 pixels, the face networks at 64"):
        PhaseVeil.from_pretrained(tmp_path)


def test_networks_can_be_put_together_by_hand(tiny_face_config: FaceConfig, tiny_heatmap_config: HeatmapConfig) -> None:
    networks, heatmap_net = FaceNetworks(tiny_face_config), HeatmapNet(tiny_heatmap_config)
    pipeline = PhaseVeil(load_camera("low-resolution"), heatmap_net, networks)
    generated = pipeline.redraw(torch.rand(2, 3, SIZE, SIZE), pipeline.latent_styles([0, 1]))
    assert [tuple(tensor.shape) for tensor in generated] == [(2, 3, 32, 32), (2, 3, 32, 32), (2, 5, 16, 16), (2, 68, 2)]
    assert not generated.face.requires_grad


def test_erasing_shape_changes_what_faces_are_drawn_with_and_nothing_else(
    pipeline: PhaseVeil, scenes: torch.Tensor
) -> None:
    assert pipeline.erasing_shape(0) is pipeline
    erasing, seeds = pipeline.erasing_shape(7), [1, 2, 3]
    assert (pipeline.erased_directions, erasing.erased_directions) == (0, 7)
    plain, erased = (one.generate(scenes, one.latent_styles(seeds), seeds) for one in (pipeline, erasing))
    assert torch.equal(plain.acquisition, erased.acquisition)
    expected = load_shape_eraser().first(7)(plain.landmarks)
    torch.testing.assert_close(erased.landmarks, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(plain.heatmap, erased.heatmap, atol=1e-3)
    assert not torch.allclose(plain.face, erased.face, atol=1e-3)


def test_only_pytorch_erases_shape(pipeline: PhaseVeil) -> None:
    class Other:
        def redraw(self, acquisitions: torch.Tensor, styles: torch.Tensor) -> Redrawn:
            raise AssertionError

    with pytest.raises(ConfigError, match="engine torch alone"):
        pipeline.with_engine(Other()).erasing_shape(5)
