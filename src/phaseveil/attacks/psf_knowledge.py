"""Attack A2: a point spread function that the attacker knows only approximately."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from phaseveil.errors import ConfigError
from phaseveil.optics.calibration_captures import above_floor
from phaseveil.optics.camera import Camera
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.optics.psf import normalise_energy
from phaseveil.optics.sensor import linear_to_srgb, srgb_to_linear

CAPTURES = 16
TOLERANCE = 0.05  # of scale: what a wrong subject distance or focus does first
PEAK = 0.8  # of white: how bright the lamp's image is made


@torch.no_grad()
def average_psf(camera: Camera, size: int) -> Tensor:
    """PSF of a frame, averaged over where the point may lie on the sampling grid.

    That is the camera's own PSF, except for the ``low-resolution`` camera, whose response depends on the point's
    place in its photosite and lies up to half a photosite beside it: deconvolved with the response of one place, the
    whole image would move.

    Args:
        camera: Any.
        size: S, pixels.

    Returns:
        Unit sum per channel. Shape ``(3, K, K)``, K odd.
    """
    period = _sampling_period(camera, size)
    if period == 1:
        return camera.psf(size).float()
    places = _lamp_places(torch.arange(period**2), period, size)
    truth = camera.psf(size)
    seen = camera.blur(_lamps(size, places, truth.new_ones(3)))
    return normalise_energy(_registered(seen, places, truth.shape[-1]))


@torch.no_grad()
def captured_psf(camera: Camera, size: int, captures: int, generator: torch.Generator) -> Tensor:
    """PSF as an attacker measures it: point sources photographed by the very camera.

    A lamp fills one pixel near the frame's centre. It is so bright in each colour that its image peaks at
    :data:`PEAK` of white: nothing clips. The captures are averaged, as many dark frames subtracted, and what does not
    rise above the dark noise is cut off. Noise and quantisation are the camera's own: what always stays
    below half a level of the converter is lost. For the ``low-resolution`` camera the lamp moves over a photosite, and
    its images are laid over each other; interpolation of sRGB values between photosites then biases them, being no
    linear map of light. Of a dynamic camera each capture shows another member, and what is measured is their mean; its
    lamp is set by the brightest of as many members drawn beforehand.

    Args:
        camera: Any.
        size: S, pixels.
        captures: How many, at least 1.
        generator: Source of the sensor's noise and of the lamp's places.

    Returns:
        Unit sum per channel. Shape ``(3, K, K)``, K odd, as ``camera.psf(size)`` has it.

    Raises:
        ConfigError: No capture.
    """
    if captures < 1:
        raise ConfigError(f"PSF capture: needs at least 1 capture, got {captures}")
    truth, period = camera.psf(size), _sampling_period(camera, size)
    cells = torch.randperm(period**2, generator=generator, device=generator.device).cpu()
    places = _lamp_places(cells.repeat(math.ceil(captures / len(cells)))[:captures], period, size)
    peaks = truth.amax(dim=(-2, -1))
    if isinstance(camera, DynamicCamera):
        peaks = camera.psfs(camera.draw(captures, generator), size).amax(dim=(0, -2, -1))
    lamps = _lamps(size, places, PEAK / peaks)
    dark = srgb_to_linear(camera(torch.zeros_like(lamps), generator))
    seen = srgb_to_linear(camera(linear_to_srgb(lamps), generator)) - dark.mean(dim=0)
    measured = _registered(seen, places, truth.shape[-1])
    noise = dark.std(dim=(0, 2, 3)) * math.sqrt(2 / captures)
    return above_floor(measured, noise[:, None, None])


def mistaken_psf(psf: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """The PSF magnified by ``1 + tolerance`` about its centre: what an error of distance or focus does first.

    Bicubic interpolation; what grows beyond the window is cut off.

    Args:
        psf: Unit sum per channel. Shape ``(3, K, K)``, K odd.
        tolerance: Above -1; 0 keeps the PSF.

    Returns:
        Unit sum per channel. Shape ``(3, K, K)``.

    Raises:
        ConfigError: A tolerance of -1 or less.
    """
    if not tolerance > -1:
        raise ConfigError(f"mistaken PSF: the tolerance must be above -1, got {tolerance:g}")
    scale = 1 / (1 + tolerance)
    matrix = psf.new_tensor([[[scale, 0.0, 0.0], [0.0, scale, 0.0]]])
    places = functional.affine_grid(matrix, [1, *psf.shape], align_corners=True)
    magnified = functional.grid_sample(psf[None], places, mode="bicubic", padding_mode="zeros", align_corners=True)
    return normalise_energy(magnified[0].clamp_min(0))


def _sampling_period(camera: Camera, size: int) -> int:
    """Pixels after which the response to a shifted point repeats; 1 where it only shifts."""
    return math.ceil(size / camera.config.low_resolution) if camera.config.kind == "low-resolution" else 1


def _lamp_places(cells: Tensor, period: int, size: int) -> Tensor:
    """Rows and columns near the frame's centre, one for each cell of a ``period``-pixel square. Shape ``(N, 2)``."""
    return torch.stack([cells // period, cells % period], dim=1) + size // 2 - period // 2


def _lamps(size: int, places: Tensor, brightness: Tensor) -> Tensor:
    """Linear light of scenes with one bright pixel each, ``brightness`` ``(3,)``. Shape ``(N, 3, S, S)``."""
    scenes = brightness.new_zeros(len(places), 3, size, size)
    scenes[torch.arange(len(places)), :, places[:, 0], places[:, 1]] = brightness
    return scenes


def _registered(seen: Tensor, places: Tensor, pixels: int) -> Tensor:
    """Mean of the windows about each lamp, over the images that hold the pixel. Shape ``(3, pixels, pixels)``."""
    margin = pixels // 2
    padded = functional.pad(seen, (margin,) * 4)
    inside = functional.pad(torch.ones_like(seen[:1, :1]), (margin,) * 4).expand(len(seen), 3, -1, -1)
    windows, counts = (
        torch.stack(
            [
                image[:, row : row + pixels, column : column + pixels]
                for image, (row, column) in zip(images, places.tolist(), strict=True)
            ]
        ).sum(dim=0)
        for images in (padded, inside)
    )
    return windows / counts.clamp_min(1)
