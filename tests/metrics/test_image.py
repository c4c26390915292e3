import numpy as np
import pytest
import torch
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from phaseveil.errors import ConfigError
from phaseveil.metrics.image import diversity, psnr, ssim


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    clean = torch.from_numpy(astronaut()[:96, 160:256].copy()).permute(2, 0, 1)[None].float() / 255
    noise = 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return clean, (clean + noise).clamp(0, 1)


def test_psnr_agrees_with_skimage(pair: tuple[Tensor, Tensor]) -> None:
    clean, noisy = (image[0].numpy() for image in pair)
    assert psnr(pair[1], pair[0]).item() == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=1), abs=1e-4)


def test_psnr_of_equal_images_is_infinite(pair: tuple[Tensor, Tensor]) -> None:
    assert psnr(pair[0], pair[0]).isinf().all()


def test_ssim_agrees_with_skimage(pair: tuple[Tensor, Tensor]) -> None:
    expected = structural_similarity(
        *(image[0].numpy() for image in pair),
        channel_axis=0,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(*pair).item() == pytest.approx(expected, abs=1e-5)


def test_ssim_scores_each_image_by_itself(pair: tuple[Tensor, Tensor]) -> None:
    both = ssim(torch.cat([pair[0], pair[0]]), torch.cat([pair[0], pair[1]]))
    assert both[0] == pytest.approx(1, abs=1e-6)
    assert both[1] < 0.9


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ConfigError, match="11 px"):
        ssim(torch.zeros(1, 3, 10, 10), torch.zeros(1, 3, 10, 10))


def test_diversity_is_the_mean_over_all_pairs() -> None:
    outputs = torch.tensor([0.0, 0.1, 0.4])[None, :, None, None, None].expand(2, 3, 3, 4, 4)
    mean = diversity(outputs, lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
    assert mean.numpy() == pytest.approx(np.mean([0.1, 0.4, 0.3]))


def test_diversity_needs_two_outputs() -> None:
    with pytest.raises(ConfigError, match="two outputs"):
        diversity(torch.zeros(2, 1, 3, 4, 4), lambda a, b: (a - b).mean(dim=(1, 2, 3)))
