import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.fid import (
    AlexNetFeatures,
    InceptionFeatures,
    corrected_frechet_distance,
    extract,
    frechet_distance,
    kernel_distance,
)


def random_weights() -> dict[str, Tensor]:
    """LPIPS weights of AlexNet's shapes."""
    generator = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {}
    for level, (index, (outputs, inputs, side)) in enumerate(shapes.items()):
        weight = torch.randn(outputs, inputs, side, side, generator=generator)
        state[f"features.{index}.weight"] = weight * (2 / (inputs * side**2)) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(outputs)
        state[f"lin{level}.weight"] = torch.ones(1, outputs, 1, 1)
    return state


class StandIn(nn.Module):
    """The interface of NVIDIA's file: 8-bit images in, 2048 features out when asked for."""

    def __init__(self, width: int = 2048) -> None:
        super().__init__()
        self.width = width

    def forward(self, images: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        if not return_features:
            return torch.zeros(len(images), 1008)
        assert images.dtype == torch.uint8
        return images.to(torch.float32).mean(dim=(2, 3)).repeat(1, 683)[:, : self.width]


class NoFeatures(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


def save_script(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), str(path))
    return path


@pytest.fixture(scope="module")
def alexnet() -> AlexNetFeatures:
    return AlexNetFeatures(LPIPS(random_weights()))


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> InceptionFeatures:
    return InceptionFeatures(save_script(StandIn(), tmp_path_factory.mktemp("inception") / "inception.pt"))


def images(count: int = 5, size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def two_gaussians(first: int, second: int, seed: int = 0, width: int = 16) -> tuple[np.ndarray, np.ndarray, float]:
    """Samples of two Gaussians that do not depend on the seed's draw, and their true distance."""
    shape = np.random.default_rng(99)
    mixing = shape.normal(size=(width, width)) / width**0.5
    covariance, shift = mixing @ mixing.T + 0.3 * np.eye(width), 0.3 * shape.normal(size=width)
    true = float((shift**2).sum() + np.trace(np.eye(width) + covariance - 2 * sqrtm(covariance).real))
    generator = np.random.default_rng(seed)
    other = shift + generator.normal(size=(second, width)) @ np.linalg.cholesky(covariance).T
    return generator.normal(size=(first, width)), other, true


@pytest.mark.parametrize(("first", "second"), [(500, 400), (100, 30)])
def test_frechet_distance_agrees_with_scipys_matrix_square_root(first: int, second: int) -> None:
    ours, theirs, _ = two_gaussians(first, second)
    one, other = np.cov(ours, rowvar=False), np.cov(theirs, rowvar=False)
    apart = ((ours.mean(axis=0) - theirs.mean(axis=0)) ** 2).sum()
    expected = apart + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(theirs, ours) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_with_fewer_samples_than_features() -> None:
    """In a subspace that both sets lie in, more features than samples change nothing; a shift adds its square."""
    ours, theirs, _ = two_gaussians(60, 50, width=16)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(200, 16)))[0]
    assert frechet_distance(ours @ turn.T, theirs @ turn.T) == pytest.approx(frechet_distance(ours, theirs), rel=1e-9)
    few = ours[:8]
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(few, few + 0.5) == pytest.approx(16 * 0.25, rel=1e-9)


def test_correction_comes_much_nearer_the_truth_than_the_raw_distance() -> None:
    raw, corrected, errors = [], [], []
    for seed in range(20):
        ours, theirs, true = two_gaussians(150, 200, seed)
        raw.append(frechet_distance(ours, theirs) - true)
        estimate = corrected_frechet_distance(ours, theirs, seed)
        corrected.append(estimate.value - true)
        errors.append(estimate.standard_error)
    assert abs(np.mean(corrected)) < 0.2 * abs(np.mean(raw))
    assert np.sqrt(np.mean(np.square(corrected))) < 0.6 * np.sqrt(np.mean(np.square(raw)))
    assert 0.6 < np.mean(errors) / np.std(corrected) < 1.7


def test_correction_repeats_with_its_seed() -> None:
    ours, theirs, _ = two_gaussians(60, 60)
    first, again, other = (corrected_frechet_distance(ours, theirs, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_kernel_distance_is_the_textbook_sum() -> None:
    ours, theirs, _ = two_gaussians(600, 7)  # more rows than a block
    kernel = [(a @ b.T / 16 + 1) ** 3 for a, b in ((ours, ours), (theirs, theirs), (ours, theirs))]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernel[:2]]
    assert kernel_distance(ours, theirs).value == pytest.approx(sum(within) - 2 * kernel[2].mean(), rel=1e-9)


def test_kernel_distance_has_no_bias() -> None:
    generator = np.random.default_rng(0)
    drawn = [kernel_distance(generator.normal(size=(40, 8)), generator.normal(size=(50, 8))) for _ in range(300)]
    values = np.array([estimate.value for estimate in drawn])
    assert abs(values.mean()) < 3 * values.std() / 300**0.5
    assert (values < 0).mean() > 0.3


def test_kernel_distances_standard_error_is_what_new_samples_show() -> None:
    generator = np.random.default_rng(0)
    drawn = [kernel_distance(generator.normal(0.3, 1, (60, 8)), generator.normal(size=(70, 8))) for _ in range(200)]
    shown = np.std([estimate.value for estimate in drawn])
    assert np.mean([estimate.standard_error for estimate in drawn]) == pytest.approx(shown, rel=0.2)


@pytest.mark.parametrize("distance", [frechet_distance, corrected_frechet_distance, kernel_distance])
def test_distances_refuse_what_they_cannot_compare(distance: object) -> None:
    assert callable(distance)
    with pytest.raises(ConfigError, match="use one extractor"):
        distance(np.zeros((30, 3)), np.zeros((30, 4)))
    with pytest.raises(ConfigError, match=r"at least \d+ images"):
        distance(np.zeros((30, 3)), np.zeros((1, 3)))
    with pytest.raises(ConfigError, match="not finite"):
        distance(np.zeros((30, 3)), np.full((30, 3), np.nan))


def test_alexnet_features_are_the_mean_of_the_last_activation(alexnet: AlexNetFeatures) -> None:
    frames = images(2, 256)
    last = LPIPS(random_weights()).activations(frames)[-1]
    assert torch.allclose(alexnet(frames), last.mean(dim=(2, 3)), rtol=1e-5)
    assert last.square().sum(dim=1).max() > 1.1  # raw: unit vectors would say less
    assert (alexnet.name, alexnet.kid_name) == ("FD-AlexNet", "KID-AlexNet")


@pytest.mark.parametrize("name", ["alexnet", "inception"])
def test_features_do_not_depend_on_the_batch(name: str, request: pytest.FixtureRequest) -> None:
    features = request.getfixturevalue(name)
    whole, singly = (extract(features, images().split(size)) for size in (5, 1))
    assert whole.shape == (5, 256 if name == "alexnet" else 2048)
    assert singly == pytest.approx(whole, abs=1e-4 * np.abs(whole).max())


def test_inception_is_given_eight_bit_levels(inception: InceptionFeatures) -> None:
    grey = torch.tensor([0.0, 0.501, 1.0])[:, None, None, None].expand(3, 3, 8, 8)
    assert inception(grey)[:, 0].tolist() == [0, 128, 255]
    assert (inception.name, inception.kid_name) == ("FID", "KID")


def test_features_say_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    damaged, state = tmp_path / "damaged.pt", tmp_path / "state.pt"
    damaged.write_bytes(b"no network")
    torch.save({"weight": torch.zeros(1)}, state)
    with pytest.raises(CheckpointError, match="download inception"):
        InceptionFeatures(tmp_path / "missing.pt")
    for path in (damaged, state):
        with pytest.raises(CheckpointError, match="damaged or not TorchScript"):
            InceptionFeatures(path)
    with pytest.raises(CheckpointError, match="not FID's Inception") as caught:
        InceptionFeatures(save_script(NoFeatures(), tmp_path / "other.pt"))
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"shape \(2, 100\)"):
        InceptionFeatures(save_script(StandIn(100), tmp_path / "narrow.pt"))


def test_alexnet_features_take_no_vgg16() -> None:
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, **dict.fromkeys((17, 19, 21, 24, 26, 28), 512)}
    state, inputs = {}, 3
    for index, width in widths.items():
        state[f"features.{index}.weight"] = torch.zeros(width, inputs, 3, 3)
        state[f"features.{index}.bias"] = torch.zeros(width)
        inputs = width
    for level, width in enumerate((64, 128, 256, 512, 512)):
        state[f"lin{level}.weight"] = torch.ones(1, width, 1, 1)
    with pytest.raises(CheckpointError, match="AlexNet"):
        AlexNetFeatures(LPIPS(state))
