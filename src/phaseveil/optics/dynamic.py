"""A camera whose mask changes: a learned family of masks, of which every exposure draws one.

The PSF of a fixed mask can be measured from one point source and undone. Here it is another one each time: a member of
an affine family, selected by a few random numbers that nobody needs to keep.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from phaseveil.errors import ConfigError, InputError, OpticsError
from phaseveil.optics import psf
from phaseveil.optics.camera import (
    CAMERAS,
    CameraConfig,
    FrozenCamera,
    PhaseMaskCamera,
    apply_transfer,
    scene_light,
    transfer_grid,
)
from phaseveil.optics.propagation import phase_delay
from phaseveil.optics.sensor import expose, linear_to_srgb
from phaseveil.optics.zernike import FIRST_MODE, noll_to_radial_azimuthal

KIND = "dynamic-mask"


class DynamicCamera(PhaseMaskCamera):
    r"""A lens behind a mask that is drawn afresh for every exposure.

    .. math:: c(z) = c_0 + \sum_k z_k d_k, \qquad z_k \sim U(-1, 1)

    c are the mask's Zernike coefficients. An exposure takes the latent z from its generator first, then the sensor's
    noise: whoever knows the seed can draw the member again. Without a generator it is the mean mask, noiseless.

    Attributes:
        coefficients: c₀, the mean mask, metres. Shape ``(num_modes - 3,)``.
        directions: d, metres; zero until it is set or learned. Shape ``(family_size, num_modes - 3)``.
    """

    def __init__(self, config: CameraConfig) -> None:
        super().__init__(config)
        self.directions = nn.Parameter(torch.zeros(config.family_size, len(self.coefficients)))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Latents of ``count`` members, uniform in [-1, 1], from a generator on the camera's device. ``(count, K)``."""
        shape = count, len(self.directions)
        like = self.directions
        return 2 * torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype) - 1

    def masks(self, latents: Tensor) -> Tensor:
        """Coefficients of members, metres, differentiable. ``(G, K)`` → ``(G, num_modes - 3)``.

        Raises:
            InputError: Not such latents, or beyond [-1, 1], where nothing guarantees that masks can be simulated.
        """
        if latents.ndim != 2 or latents.shape[1] != len(self.directions) or latents.abs().amax() > 1:
            raise InputError(
                f"latents of this family have the shape (G, {len(self.directions)}) and lie in [-1, 1], "
                f"got {tuple(latents.shape)}"
            )
        return self.coefficients + latents @ self.directions

    def psfs(self, latents: Tensor, size: int) -> Tensor:
        """PSFs of members in a ``size``-pixel frame, one after another: a batch of them is no faster.

        Args:
            latents: From :meth:`draw`. Shape ``(G, K)``, G at least 1.
            size: Pixels.

        Returns:
            Unit sum per channel; differentiable with respect to mean and directions. Shape ``(G, 3, P, P)``, P odd.

        Raises:
            InputError: Not such latents.
            OpticsError: A member's phase is steeper than the pupil is sampled.
        """
        with torch.autocast(latents.device.type, enabled=False):
            return psf.normalise_energy(torch.stack([self.enclosed_psf(size, mask) for mask in self.masks(latents)]))

    def member(self, latent: Tensor) -> PhaseMaskCamera:
        """The fixed camera of one member, a copy that learns by itself.

        Args:
            latent: Shape ``(K,)``.

        Raises:
            InputError: Not such a latent.
        """
        fixed = PhaseMaskCamera(replace(self.config, kind="phase-mask")).to(self.coefficients)
        fixed.coefficients.data.copy_(self.masks(latent[None])[0])
        return fixed.train(self.training)

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Acquire scenes, each through a member of its own; see :meth:`phaseveil.optics.camera.Camera.forward`.

        In training mode neighbours in the batch share members, of which there are at most ``config.training_draws``.
        """
        if generator is None:
            return super().forward(image)
        members = min(len(image), self.config.training_draws) if self.training else len(image)
        latents = self.draw(members, generator)
        return self.through(image, self.psfs(latents, image.shape[-1]), generator)

    def through(self, image: Tensor, psfs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Acquire scenes through members whose PSFs are at hand.

        Args:
            image: sRGB, 0 to 1. Shape ``(B, 3, H, H)``.
            psfs: From :meth:`psfs`; neighbours share one where there are fewer than images. Shape ``(G, 3, P, P)``.
            generator: Source of the sensor's noise, the latents being drawn already; noiseless where ``None``.

        Returns:
            Acquisition, sRGB, 0 to 1. Shape ``(B, 3, H, H)``.

        Raises:
            InputError: The image is not square.
        """
        with torch.autocast(image.device.type, enabled=False):
            light = scene_light(image)
            transfer = psf.optical_transfer_function(psfs, transfer_grid(self.config, light.shape[-1]))
            whose = torch.arange(len(light), device=light.device) * len(psfs) // len(light)
            seen = apply_transfer(light, transfer[whose], self.config)
            return linear_to_srgb(expose(seen, self.config.sensor, generator))

    def frozen(self, size: int) -> "FrozenDynamicCamera":
        return FrozenDynamicCamera(self, size)

    @torch.no_grad()
    def steepest_member_step(self) -> float:
        """Largest change of phase between neighbouring pupil samples over all members, radians.

        Exact: a step is affine in z, so its largest size over the cube is the mean's plus the sum of the directions'.
        """
        mean, inside = self.pupil_phase(), self.aperture > 0
        sides = [phase_delay(self.height_map(side), self.wavelengths, self.delta_n) for side in self.directions]
        along_x = mean.diff(dim=-1).abs() + sum(side.diff(dim=-1).abs() for side in sides)
        along_y = mean.diff(dim=-2).abs() + sum(side.diff(dim=-2).abs() for side in sides)
        steps = (along_x * (inside[:, 1:] & inside[:, :-1])).max(), (along_y * (inside[1:] & inside[:-1])).max()
        return torch.maximum(*steps).item()

    @torch.no_grad()
    def keep_samplable(self, limit: float = 0.97 * math.pi) -> None:
        """Scale mean and directions down together where some member is steeper than ``limit``, radians a sample.

        To be called after each optimiser step: then every member that will be drawn can be simulated.
        """
        steepest = self.steepest_member_step()
        if steepest > limit:
            self.coefficients.mul_(limit / steepest)
            self.directions.mul_(limit / steepest)


class FrozenDynamicCamera(FrozenCamera):
    """A copy of a dynamic camera for one frame size: it goes on drawing, and only the mean mask's transfer is fixed."""

    optics: DynamicCamera

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if generator is None or image.shape[-1] != self.size:
            return super().forward(image, generator)
        return self.optics(image, generator)


CAMERAS[KIND] = DynamicCamera


def dynamic_from(camera: PhaseMaskCamera, family_size: int, spread: float, generator: torch.Generator) -> DynamicCamera:
    r"""A family of masks about a fixed one, to start learning from.

    Directions are normal with the spectrum of atmospheric turbulence, standard deviations that fall as n^(-11/6) with
    a mode's radial order n [Noll 1976, J. Opt. Soc. Am. 66, 207, eq. 25], each then scaled to the RMS height
    ``spread``. Members depart from the mean by ``spread`` :math:`\sqrt{K/3}` RMS. (Of the laws n⁰ to n⁻³ at equal
    steepness, these change the PSF most or nearly so.)

    Args:
        camera: Its mask becomes the mean.
        family_size: Directions K, at least 1.
        spread: RMS height of each direction, metres, above 0.
        generator: Of the directions, on the CPU.

    Returns:
        On the camera's device, in its mode.

    Raises:
        ConfigError: An impossible number.
        OpticsError: Some member would be steeper than the pupil is sampled; says how many samples are needed.
    """
    if not 0 < spread < math.inf:
        raise ConfigError(f"dynamic mask: spread must be above 0 metres (such as 2e-7), got {spread:g}")
    family = DynamicCamera(replace(camera.config, kind=KIND, family_size=family_size))
    orders = [noll_to_radial_azimuthal(FIRST_MODE + place)[0] for place in range(len(camera.coefficients))]
    directions = torch.randn(family.directions.shape, generator=generator) * torch.tensor(orders) ** (-11 / 6)
    family.directions.data.copy_(spread * directions / directions.norm(dim=1, keepdim=True))
    family = family.to(camera.coefficients).train(camera.training)
    family.coefficients.data.copy_(camera.coefficients)
    steepest, samples = family.steepest_member_step(), family.config.pupil_samples
    if not steepest <= math.pi:
        raise OpticsError(
            f"a member of the family would turn the phase by {steepest:.2f} rad between neighbouring pupil samples; "
            f"choose a smaller spread, or set pupil_samples to at least {math.ceil((samples + 8) * steepest / math.pi)}"
        )
    return family
