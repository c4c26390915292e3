"""Distance of two sets of images in a network's features: Fréchet distance (FID) and kernel distance (KID).

Which network was asked is part of the figure's name: FID and KID are Inception's, everything else is a substitute whose
figures compare only with themselves.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.losses.perceptual import LPIPS

Floats = NDArray[np.float64]

_ALEXNET_SIDE = 256
_ALEXNET_WIDTH = 256
_INCEPTION_WIDTH = 2048
_INVERSE_SHARES = (1.0, 1.25, 1.5, 1.75, 2.0)  # whole sample over subsample
_DRAWS = 4  # subsamples of each size
_GROUPS = 10  # of the jackknife
_KERNEL_ROWS = 512


class Features(Protocol):
    """A network that describes images by vectors.

    Attributes:
        name: What the Fréchet distance of these features is called.
        kid_name: What their kernel distance is called.
    """

    name: str
    kid_name: str

    def __call__(self, images: Tensor) -> Tensor:
        """Features of sRGB images in [0, 1]. Shape ``(B, 3, S, S)`` → ``(B, D)``, float32."""
        ...


class AlexNetFeatures:
    """Mean activation of AlexNet's last convolution on 256-px frames, from the weights of LPIPS. ``D`` is 256.

    A substitute where Inception is not at hand. Figures are named FD-AlexNet and KID-AlexNet.

    Args:
        weights: A loaded network, or its safetensors file.
        device: Where a network loaded from a file runs.

    Raises:
        CheckpointError: The file is missing, damaged, or holds another network than AlexNet.
    """

    name = "FD-AlexNet"
    kid_name = "KID-AlexNet"

    def __init__(self, weights: LPIPS | str | Path, device: str | torch.device = "cpu") -> None:
        self._lpips = weights if isinstance(weights, LPIPS) else LPIPS(weights).to(device)
        if self._lpips.channels[-1] != _ALEXNET_WIDTH:
            raise CheckpointError("FD-AlexNet needs LPIPS weights of AlexNet, these are VGG16's; give lpips_alex")

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """See :class:`Features`; any ``S``."""
        frames = images.to(self._lpips.shift.device)
        frames = functional.interpolate(frames, (_ALEXNET_SIDE, _ALEXNET_SIDE), mode="bilinear", antialias=True)
        return self.pooled(self._lpips.activations(frames))

    @staticmethod
    def pooled(activations: Sequence[Tensor]) -> Tensor:
        """Features from the activations that LPIPS gives of 256-px frames, where those are at hand already."""
        return activations[-1].mean(dim=(2, 3))


class InceptionFeatures:
    """Inception v3 as FID is defined on it, from NVIDIA's TorchScript file. ``D`` is 2048.

    Karras et al., *Training generative adversarial networks with limited data*, NeurIPS 2020. The file resizes to
    299 px by itself, as the original TensorFlow graph did.

    Args:
        path: ``inception-2015-12-05.pt``, from ``phaseveil download inception``.
        device: Where the network runs.

    Raises:
        CheckpointError: The file is missing, not TorchScript, or of another network.
    """

    name = "FID"
    kid_name = "KID"

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such Inception file; fetch it with 'phaseveil download inception'")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of TorchScript as a whole
                self._network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise CheckpointError(f"{path}: damaged or not TorchScript; give inception-2015-12-05.pt") from error
        self._device = device
        try:
            shape = tuple(self(torch.full((2, 3, 64, 64), 0.5)).shape)
        except (RuntimeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{path}: not FID's Inception ({reason}); give inception-2015-12-05.pt") from error
        if shape != (2, _INCEPTION_WIDTH):
            raise CheckpointError(
                f"{path}: gave features of shape {shape} for two images instead of (2, {_INCEPTION_WIDTH}); "
                "give inception-2015-12-05.pt"
            )

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """See :class:`Features`; images are rounded to 8 bits, as files are."""
        levels = images.mul(255).round().clamp(0, 255).to(self._device, torch.uint8)
        features: Tensor = self._network(levels, return_features=True)
        return features.float()


def extract(features: Features, batches: Iterable[Tensor]) -> Floats:
    """Features of all images of some batches. Batches ``(B, 3, S, S)``, at least one → ``(N, D)``."""
    return np.concatenate([features(batch).double().cpu().numpy() for batch in batches])


class Estimate(NamedTuple):
    """A figure and the standard deviation that it would show over new samples of the same size."""

    value: float
    standard_error: float


def frechet_distance(generated: ArrayLike, real: ArrayLike) -> float:
    r"""Fréchet distance of the Gaussians fitted to two sets of features; its bias grows as samples get few.

    .. math:: \lVert\mu_1 - \mu_2\rVert^2 + \mathrm{Tr}(\Sigma_1 + \Sigma_2 - 2(\Sigma_1\Sigma_2)^{1/2})

    Heusel et al., *GANs trained by a two time-scale update rule*, NeurIPS 2017, equation 6. The last trace is taken as
    the sum of the singular values of :math:`X_1 X_2^T`, where :math:`\Sigma_i = X_i^T X_i`: exact with fewer samples
    than features too, where a matrix square root is not.

    Args:
        generated: Shape ``(N, D)``, N ≥ 2.
        real: Shape ``(M, D)``, M ≥ 2.

    Raises:
        ConfigError: Shapes that do not fit, too few samples, or values that are not finite.
    """
    return _frechet(*_checked(generated, real, least=2))


def corrected_frechet_distance(generated: ArrayLike, real: ArrayLike, seed: int = 0) -> Estimate:
    """Fréchet distance extrapolated to infinitely many samples, with its standard error.

    Both sets are reduced together to a share s of their samples, so that the bias of either, inverse to its size in
    first order, is linear in 1/s; a straight line over 1/s from 1 to 2 is read off at 0. Chong and Forsyth,
    *Effectively unbiased FID and Inception score and where to find them*, CVPR 2020, section 4, where the generated set
    alone is reduced. With fewer samples than features part of the bias is not linear and stays. The standard error
    joins that of the line with a jackknife over ten groups.

    Args:
        generated: Shape ``(N, D)``, N ≥ 20.
        real: Shape ``(M, D)``, M ≥ 20.
        seed: Of the subsamples.

    Returns:
        The distance, slightly negative at times where the sets hardly differ.

    Raises:
        ConfigError: Shapes that do not fit, too few samples, or values that are not finite.
    """
    ours, theirs = _checked(generated, real, least=2 * _GROUPS)
    generator = np.random.default_rng(seed)
    whole = _frechet(ours, theirs)
    places, distances = [], []
    for inverse in _INVERSE_SHARES:
        for _ in range(_DRAWS):
            some = [_subsample(side, inverse, generator) for side in (ours, theirs)]
            places.append(inverse)
            distances.append(whole if inverse == 1 else _frechet(*some))
    design = np.column_stack([np.ones(len(places)), places])
    line, residual, *_ = np.linalg.lstsq(design, np.array(distances), rcond=None)
    spread = float(residual[0]) / (len(places) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Estimate(float(line[0]), float(np.sqrt(spread + _jackknife_variance(ours, theirs, generator))))


def kernel_distance(generated: ArrayLike, real: ArrayLike) -> Estimate:
    r"""Unbiased squared maximum mean discrepancy with the kernel :math:`(x \cdot y / D + 1)^3`, and its standard error.

    Bińkowski et al., *Demystifying MMD GANs*, ICLR 2018 (KID), over all samples at once; the standard error is the
    jackknife over single samples, which is exact from the kernel's row sums (and too wide where both sets are of one
    distribution). Memory is that of 512 rows of the kernel's matrix.

    Args:
        generated: Shape ``(N, D)``, N ≥ 3.
        real: Shape ``(M, D)``, M ≥ 3.

    Returns:
        The distance, as often below 0 as above for sets of one distribution.

    Raises:
        ConfigError: Shapes that do not fit, too few samples, or values that are not finite.
    """
    ours, theirs = _checked(generated, real, least=3)
    within_ours, within_theirs = (_row_sums(side, side) - _self_kernel(side) for side in (ours, theirs))
    ours_to_theirs, theirs_to_ours = _row_sums(ours, theirs), _row_sums(theirs, ours)
    n, m = len(ours), len(theirs)
    a, b, c = within_ours.sum(), within_theirs.sum(), ours_to_theirs.sum()
    value = a / (n * (n - 1)) + b / (m * (m - 1)) - 2 * c / (n * m)
    without_one = (a - 2 * within_ours) / ((n - 1) * (n - 2)) - 2 * (c - ours_to_theirs) / ((n - 1) * m)
    without_other = (b - 2 * within_theirs) / ((m - 1) * (m - 2)) - 2 * (c - theirs_to_ours) / (n * (m - 1))
    variance = (n - 1) * without_one.var() + (m - 1) * without_other.var()
    return Estimate(float(value), float(np.sqrt(variance)))


def _checked(generated: ArrayLike, real: ArrayLike, least: int) -> tuple[Floats, Floats]:
    ours, theirs = np.asarray(generated, dtype=np.float64), np.asarray(real, dtype=np.float64)
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        raise ConfigError(f"features must be (N, D) and (M, D), got {ours.shape} and {theirs.shape}; use one extractor")
    if min(len(ours), len(theirs)) < least:
        raise ConfigError(
            f"this distance needs at least {least} images a side, got {len(ours)} and {len(theirs)}; give more"
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ConfigError("features hold values that are not finite; look at the images they came from")
    return ours, theirs


def _frechet(ours: Floats, theirs: Floats) -> float:
    (mean_one, root_one), (mean_other, root_other) = _moments(ours), _moments(theirs)
    shared = np.linalg.svd(root_one @ root_other.T, compute_uv=False).sum()
    return float(
        ((mean_one - mean_other) ** 2).sum() + (root_one**2).sum() + (root_other**2).sum() - 2 * shared,
    )


def _moments(features: Floats) -> tuple[Floats, Floats]:
    """Mean, and a matrix X of at most D rows with XᵀX the (unbiased) covariance."""
    mean = features.mean(axis=0)
    centred = (features - mean) / np.sqrt(len(features) - 1)
    return mean, centred if len(centred) <= centred.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))


def _subsample(features: Floats, inverse_share: float, generator: np.random.Generator) -> Floats:
    return features[generator.permutation(len(features))[: round(len(features) / inverse_share)]]


def _jackknife_variance(ours: Floats, theirs: Floats, generator: np.random.Generator) -> float:
    """Variance of the raw distance, a tenth of both sets being left out at a time (Efron and Stein 1981)."""
    groups = [generator.permutation(len(side)) % _GROUPS for side in (ours, theirs)]
    left = [_frechet(ours[groups[0] != group], theirs[groups[1] != group]) for group in range(_GROUPS)]
    return (_GROUPS - 1) * float(np.var(left))


def _row_sums(rows: Floats, columns: Floats) -> Floats:
    """Sums of the kernel's rows. Shape ``(N,)``."""
    width = rows.shape[1]
    parts = (rows[start : start + _KERNEL_ROWS] for start in range(0, len(rows), _KERNEL_ROWS))
    return np.concatenate([((part @ columns.T / width + 1) ** 3).sum(axis=1) for part in parts])


def _self_kernel(rows: Floats) -> Floats:
    """The kernel's diagonal. Shape ``(N,)``."""
    return ((rows**2).mean(axis=1) + 1) ** 3
