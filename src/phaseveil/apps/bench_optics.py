"""Speed of the camera: against the Fourier transforms that it needs, and against two libraries for the same PSF."""

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseveil.apps.bench_race import Row, Section, race, rows_of, section
from phaseveil.optics import grid, psf
from phaseveil.optics.camera import Camera, CameraConfig, PhaseMaskCamera, load_camera, transfer_grid
from phaseveil.optics.propagation import fraunhofer

SIZE, BATCH = 256, 8
# A geometry that all three can compute: a Fresnel integral on one spacing for pupil and detector, as torchoptics needs.
PUPIL_SAMPLES, DETECTOR_SAMPLES, SPACING, DISTANCE = 256, 512, 7.4e-6, 0.1
WAVELENGTHS = (640e-9, 550e-9, 440e-9)
PHASE_RMS = 1.5  # radians at the shortest wavelength
NOT_INSTALLED = "not installed; it comes with 'phaseveil[dev]'"

Psf = Callable[[], NDArray[np.float64]]


def camera_sections(rounds: int) -> Iterator[Section]:
    """Camera forward, and forward and backward, against a bare pair of Fourier transforms of its padded frames."""
    camera = load_camera("learned")
    frozen, image = camera.frozen(SIZE), torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    padded_size = transfer_grid(camera.config, SIZE)
    padded, noise = torch.rand(BATCH, 3, padded_size, padded_size), torch.Generator().manual_seed(1)
    watched = image.clone().requires_grad_(True)
    contestants = {
        f"rfft2 and irfft2, {padded_size} px": lambda: torch.fft.irfft2(torch.fft.rfft2(padded), s=padded.shape[-2:]),
        "forward, PSF kept": lambda: _forward(frozen, image, None),
        "forward, PSF kept, sensor noise": lambda: _forward(frozen, image, noise),
        "forward, PSF computed": lambda: _forward(camera, image, None),
        "forward and backward to the image, PSF kept": lambda: _backward(frozen, watched),
        "forward and backward to the mask": lambda: _backward(camera, image),
    }
    found = race(contestants, rounds)
    yield section(f"Camera, {BATCH} frames of {SIZE} px", rows_of(found, BATCH))


@torch.no_grad()
def _forward(camera: Camera, image: Tensor, noise: torch.Generator | None) -> Tensor:
    return camera(image, noise)


def _backward(camera: Camera, image: Tensor) -> None:
    """Gradients of a scalar to whatever learns, thrown away."""
    learning = [value for value in (image, *camera.parameters()) if value.requires_grad]
    torch.autograd.grad(camera(image).square().mean(), learning)


def psf_sections(rounds: int) -> Iterator[Section]:
    """One PSF in three colours by this package, by poppy [Perrin et al.] and by torchoptics [Filipovich & Lvovsky].

    All start from the same field in the pupil, or the same optical path differences, and end with the intensity on the
    same points. poppy's time holds what its ``calc_psf`` does; torchoptics' the propagation of a field through a lens.
    """
    phase = _phase()
    contestants: dict[str, Psf] = {"phaseveil": lambda: _ours(phase), "plain matrices": lambda: _plain(phase)}
    missing = []
    for name, make in (("poppy", _poppy), ("torchoptics", _torchoptics)):
        if importlib.util.find_spec(name) is None:
            missing.append(Row(name, note=NOT_INSTALLED))
        else:
            contestants[name] = make(phase)
    values = {name: run() for name, run in contestants.items()}
    notes = {name: f"differs by {_difference(value, values['phaseveil']):.1e}" for name, value in values.items()}
    notes["phaseveil"] = "differences: largest, over the peak"
    rows = rows_of(race(contestants, rounds), notes=notes) + tuple(missing)
    yield section(
        f"PSF of 3 colours, {PUPIL_SAMPLES}-sample pupil, {DETECTOR_SAMPLES} × {DETECTOR_SAMPLES} detector samples",
        rows,
    )


def _difference(value: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    return float(np.abs(value - right).max() / right.max())


def _axis() -> Tensor:
    return grid.centred_axis(PUPIL_SAMPLES, SPACING)


def _phase() -> Tensor:
    """A smooth phase with no symmetry, radians. Shape ``(3, N, N)``."""
    x = (_axis() / (PUPIL_SAMPLES * SPACING / 2))[None, :]
    y = x.t()
    height = x * y + 0.7 * (x**3 - x * y**2) + 0.5 * (3 * (x**2 + y**2) - 2) * y + (x**2 + y**2)
    height = height * (_aperture() > 0)
    scale = PHASE_RMS * min(WAVELENGTHS) / height.std()
    return torch.stack([height * scale / wavelength for wavelength in WAVELENGTHS])


@cache
def _aperture() -> Tensor:
    return grid.circular_aperture(PUPIL_SAMPLES)


def _pupil(phase: Tensor) -> Tensor:
    return torch.complex(_aperture() * torch.cos(phase), _aperture() * torch.sin(phase))


def _ours(phase: Tensor) -> NDArray[np.float64]:
    wavelengths = torch.tensor(WAVELENGTHS)
    return psf.sampled_psf(_aperture(), phase, _axis(), wavelengths, DISTANCE, DETECTOR_SAMPLES, SPACING).numpy()


def _plain(phase: Tensor) -> NDArray[np.float64]:
    """By :func:`phaseveil.optics.propagation.fraunhofer`, which uses no symmetry."""
    pupil, sensor = _pupil(phase), grid.centred_axis(DETECTOR_SAMPLES, SPACING)
    field = fraunhofer(pupil, _axis(), sensor, torch.tensor(WAVELENGTHS), DISTANCE)
    return (field.abs().square() / pupil.abs().square().sum(dim=(1, 2), keepdim=True)).numpy()


def _poppy(phase: Tensor) -> Psf:
    import poppy
    from astropy import units  # type: ignore[import-untyped]

    radius = PUPIL_SAMPLES * SPACING / 2 * units.m
    systems = []
    for number, wavelength in enumerate(WAVELENGTHS):
        path = phase[number].double().numpy() * wavelength / (2 * math.pi)
        element = poppy.ArrayOpticalElement(
            transmission=_aperture().double().numpy(),
            opd=path,
            pixelscale=SPACING * units.m / units.pixel,
        )
        system = poppy.OpticalSystem(npix=PUPIL_SAMPLES, pupil_diameter=2 * radius, oversample=1)
        system.add_pupil(element)
        system.add_detector(pixelscale=math.degrees(SPACING / DISTANCE) * 3600, fov_pixels=DETECTOR_SAMPLES)
        systems.append(system)

    def run() -> NDArray[np.float64]:
        found = [
            system.calc_psf(wavelength * units.m, normalize="first")[0].data
            for system, wavelength in zip(systems, WAVELENGTHS, strict=True)
        ]
        return np.stack(found)[:, ::-1, ::-1]  # its exponent has the other sign

    return run


def _torchoptics(phase: Tensor) -> Psf:
    from torchoptics import Field
    from torchoptics.planar_grid import PlanarGrid

    axis = _axis().double()
    square = axis[:, None] ** 2 + axis[None, :] ** 2
    pupil = _pupil(phase)
    energy = pupil.abs().square().sum(dim=(1, 2))

    def run() -> NDArray[np.float64]:
        found = []
        for number, wavelength in enumerate(WAVELENGTHS):
            lens = torch.polar(torch.ones_like(square), -math.pi / (wavelength * DISTANCE) * square)
            field = Field(pupil[number] * lens, wavelength, z=0, spacing=SPACING)
            there = PlanarGrid((DETECTOR_SAMPLES, DETECTOR_SAMPLES), DISTANCE, spacing=SPACING)
            seen = field.propagate_to_plane(there, propagation_method="DIM_FRESNEL")
            found.append((seen.intensity() / energy[number]).detach().numpy())
        return np.stack(found)

    return run


def term_section(rounds: int) -> Section:
    """The PSF's time over the number of Zernike terms."""
    base = CameraConfig(pupil_samples=384, psf_support=0.44)
    cameras = {modes: PhaseMaskCamera(replace(base, num_modes=modes)) for modes in (15, 36, 66, 136)}
    contestants = {f"{modes} terms": lambda camera=camera: camera.psf(SIZE) for modes, camera in cameras.items()}
    with torch.no_grad():
        found = race(contestants, rounds)
    return section(f"PSF of a {SIZE}-px frame over the Zernike terms", rows_of(found))


def size_section(rounds: int) -> Section:
    """The camera's time over the frame's size."""
    camera, contestants = load_camera("learned"), {}
    for size in (64, 128, 256, 512):
        frozen, image = camera.frozen(size), torch.rand(1, 3, size, size)
        contestants[f"{size} px"] = lambda frozen=frozen, image=image: _forward(frozen, image, None)
    return section("Camera, one frame, PSF kept, over the frame's size", rows_of(race(contestants, rounds), 1))
