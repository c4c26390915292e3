"""Linear readers: the closed form against regression on simulated acquisitions, order of blurs, gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.errors import InputError
from phaseveil.losses.linear import LinearReaders, Observations
from phaseveil.optics.camera import CameraConfig, build_camera
from phaseveil.optics.sensor import SensorConfig, noise_variance

SIDE, COUNT, COMPONENTS = 8, 20000, 24
SENSOR = SensorConfig(full_well=40.0)  # noisy, so that the noise counts


def faces(count: int = COUNT, seed: int = 0) -> Observations:
    """Scenes of few degrees of freedom, with landmarks and embeddings that depend on them and on chance."""
    luck = torch.Generator().manual_seed(seed)
    same = torch.Generator().manual_seed(99)
    smooth = torch.randn(COMPONENTS, 3, SIDE, SIDE, generator=same) * 0.02
    to_landmarks = torch.randn(COMPONENTS, 136, generator=same) * 0.002
    to_embedding = torch.randn(COMPONENTS, 16, generator=same) * 0.05
    free = torch.randn(count, COMPONENTS, generator=luck)
    light = 0.3 + torch.einsum("nc,cdhw->ndhw", free, smooth)
    mean = torch.rand(68, 2, generator=same)
    landmarks = mean + (free @ to_landmarks + 0.003 * torch.randn(count, 136, generator=luck)).unflatten(1, (68, 2))
    embeddings = free @ to_embedding + 0.1 * torch.randn(count, 16, generator=luck)
    return Observations(light, landmarks, embeddings)


def gaussian(sigma: float) -> Tensor:
    return build_camera(CameraConfig(kind="gaussian", gaussian_sigma=sigma, psf_support=1.0)).psf(SIDE)


def readers(ridge: float = 1e-9) -> LinearReaders:
    return LinearReaders.fit(faces(), SENSOR, SIDE, COMPONENTS, ridge)


def test_the_closed_form_is_what_regression_finds_on_noisy_acquisitions() -> None:
    psf, known, others = gaussian(0.12), faces(), faces(seed=1)
    luck = torch.Generator().manual_seed(5)
    noise = noise_variance(SENSOR, known.light.mean().item()) ** 0.5

    def acquire(light: Tensor) -> Tensor:
        margin = psf.shape[-1] // 2
        wide = functional.pad(light, (margin,) * 4, mode="replicate")
        seen = functional.conv2d(wide, psf[:, None].flip(2, 3), groups=3)
        return (seen + noise * torch.randn(seen.shape, generator=luck)).flatten(1).double()

    def regress(targets: Tensor, wanted: Tensor) -> Tensor:
        rows, new = acquire(known.light), acquire(others.light)
        centred, mean = rows - rows.mean(dim=0), targets.double().mean(dim=0)
        weights = torch.linalg.lstsq(centred, targets.double() - mean).solution
        return (new - rows.mean(dim=0)) @ weights + mean - wanted.double()

    found = readers()(psf)
    eyes = (known.landmarks[:, 36:42].mean(dim=1) - known.landmarks[:, 42:48].mean(dim=1)).norm(dim=-1).mean()
    error = regress(known.landmarks.flatten(1), others.landmarks.flatten(1)).square().sum(dim=1).mean() / 68
    assert found.landmark_error.item() == pytest.approx((error.sqrt() / eyes).item(), rel=0.03)
    missed = regress(known.embeddings, others.embeddings).square().sum(dim=1).mean()
    whole = (others.embeddings - others.embeddings.mean(dim=0)).square().sum(dim=1).mean()
    assert found.identity.item() == pytest.approx(1 - (missed / whole).item(), abs=0.02)


def test_more_blur_lets_less_be_read() -> None:
    read, found = readers(), []
    for sigma in (0.05, 0.1, 0.16):
        found.append(read(gaussian(sigma)))
    assert found[0].landmark_error < found[1].landmark_error < found[2].landmark_error
    assert found[0].identity > found[1].identity > found[2].identity > 0


def test_more_noise_lets_less_be_read() -> None:
    known, psf = faces(), gaussian(0.1)
    quiet, noisy = (LinearReaders.fit(known, SENSOR.noisier(factor), SIDE, COMPONENTS)(psf) for factor in (1.0, 3.0))
    assert noisy.landmark_error > quiet.landmark_error
    assert noisy.identity < quiet.identity


@pytest.mark.parametrize("name", ["landmark_error", "identity"])
def test_each_reading_moves_the_whole_psf(name: str) -> None:
    psf = gaussian(0.1).clone().requires_grad_()
    getattr(readers()(psf), name).backward()
    assert psf.grad is not None
    assert psf.grad.isfinite().all()
    assert (psf.grad != 0).all()


def test_too_few_faces_are_refused() -> None:
    with pytest.raises(InputError, match="144 at least"):
        LinearReaders.fit(faces(100), SENSOR, SIDE, COMPONENTS)
