"""What linear estimates read behind a PSF, exactly and with a gradient: stage I without a network to train."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from phaseveil.errors import InputError
from phaseveil.optics.psf import convolve_linear, fast_fft_size, optical_transfer_function
from phaseveil.optics.sensor import SensorConfig, noise_variance

FACES_A_COMPONENT = 6
"""Faces that each component needs at least, or its part in what is read drowns in chance."""


class Reading(NamedTuple):
    """What is read behind a PSF.

    Attributes:
        landmark_error: Root mean square error of a landmark, inter-ocular distances. Scalar.
        identity: Share of the embeddings' variance that is read, 0 to 1. Scalar.
    """

    landmark_error: Tensor
    identity: Tensor


@dataclass(frozen=True)
class Observations:
    """Faces from which readers learn.

    Attributes:
        light: Linear light of the scenes, local means. Shape ``(N, 3, S, S)``.
        landmarks: Normalised to [0, 1]. Shape ``(N, 68, 2)``.
        embeddings: Of the clear photographs. Shape ``(N, D)``.
    """

    light: Tensor
    landmarks: Tensor
    embeddings: Tensor


class LinearReaders(nn.Module):
    r"""Linear minimum mean square error estimates of landmarks and embedding from an acquisition.

    A scene is a sum :math:`\mu + \sum_i c_i e_i` of principal components of unit variance; behind the PSF and with
    noise of variance N its coefficients have the error covariance

    .. math:: P = \Big(I + \tfrac1N\, G^T G\Big)^{-1}, \qquad G = [\,psf * e_1, psf * e_2, \dots]

    [Kay 1993, Fundamentals of Statistical Signal Processing: Estimation Theory, theorem 12.1]. What depends linearly on
    the scene, :math:`t = B c` and what nobody explains, is read with the variance :math:`tr(B^T B) - tr(B^T P B)`. An
    attacker who trains for longer has no better linear estimate, and no camera profits from where a network started.

    Args:
        components: e, each with the scale of its standard deviation. Shape ``(C, 3, S, S)``.
        noise: N of a local mean, linear light squared.
        geometry: B of the landmarks, in inter-ocular distances. Shape ``(C, 136)``.
        identity: B of the embeddings, over the root of their whole variance. Shape ``(C, D)``.
        unexplained: Mean square error of a landmark that the clear scene leaves, squared inter-ocular distances.
    """

    def __init__(
        self, components: Tensor, noise: float, geometry: Tensor, identity: Tensor, unexplained: float
    ) -> None:
        super().__init__()
        self.components: Tensor
        self.geometry: Tensor
        self.identity: Tensor
        for name, value in {"components": components, "geometry": geometry, "identity": identity}.items():
            self.register_buffer(name, value.float(), persistent=False)
        self.noise, self.unexplained = noise, unexplained

    @property
    def size(self) -> int:
        """Side of the frame that PSFs are to be sampled for, pixels."""
        return self.components.shape[-1]

    @classmethod
    def fit(
        cls, faces: Observations, sensor: SensorConfig, size: int, components: int = 600, ridge: float = 0.01
    ) -> Self:
        """Learn the statistics of faces.

        The readers are ridge regressions; weak components, of which a finite number of faces tells little, are held
        back the more, by the root of their variance.

        Args:
            faces: At least :data:`FACES_A_COMPONENT` for each component.
            sensor: Its noise at the faces' mean light.
            size: Pixels of the frame that the sensor has; local means of several have less noise.
            components: C.
            ridge: Penalty of the first component, a share of the faces.

        Raises:
            InputError: Too few faces.
        """
        count, side = len(faces.light), faces.light.shape[-1]
        if count < (needed := FACES_A_COMPONENT * components):
            raise InputError(f"{count} faces are too few for {components} components; give {needed} at least")
        rows = faces.light.flatten(1).double()
        centred = rows - rows.mean(dim=0)
        variance, directions = torch.linalg.eigh(centred.mT @ centred / (count - 1))
        variance, directions = variance.flip(0)[:components].clamp_min(1e-12), directions.flip(1)[:, :components]
        coefficients = centred @ directions / variance.sqrt()
        penalty = torch.diag(count * ridge * (variance[0] / variance).sqrt())
        normal = coefficients.mT @ coefficients + penalty

        def regress(targets: Tensor) -> tuple[Tensor, float]:
            deviations = (targets - targets.mean(dim=0)).double()
            whole = deviations.square().sum(dim=1).mean().item()
            return torch.linalg.solve(normal, coefficients.mT @ deviations), whole

        eyes = faces.landmarks[:, 36:42].mean(dim=1) - faces.landmarks[:, 42:48].mean(dim=1)
        geometry, scatter = regress((faces.landmarks / eyes.norm(dim=-1).mean()).flatten(1))
        identity, whole = regress(faces.embeddings)
        noise = noise_variance(sensor, rows.mean().item()) * (side / size) ** 2
        points = faces.landmarks.shape[1]
        return cls(
            (directions * variance.sqrt()).mT.unflatten(1, faces.light.shape[1:]),
            noise,
            geometry,
            identity / whole**0.5,
            (scatter - geometry.square().sum().item()) / points,
        )

    def forward(self, psf: Tensor) -> Reading:
        """Read behind a PSF.

        Args:
            psf: Unit sum per channel, sampled for a frame of :attr:`size` pixels. Shape ``(3, K, K)``, K odd.

        Returns:
            Differentiable with respect to the PSF, once.
        """
        margin = psf.shape[-1] // 2
        transfer = optical_transfer_function(psf, fast_fft_size(self.size + 2 * margin))
        seen = convolve_linear(self.components, transfer, margin).flatten(1) / self.noise**0.5
        precision = torch.eye(len(seen), dtype=torch.float64, device=seen.device) + (seen @ seen.mT).double()
        root = torch.linalg.cholesky(precision).float()
        lost = [
            torch.linalg.solve_triangular(root, reader, upper=False).square().sum()
            for reader in (self.geometry, self.identity)
        ]
        points = self.geometry.shape[1] // 2
        error = (self.unexplained + lost[0] / points).sqrt()
        return Reading(error, self.identity.square().sum() - lost[1])
