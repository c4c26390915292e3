"""`phaseveil design`: a mask in minutes, against exact linear readers where stage I has networks in training.

The best PSF that any optics could have is found first, pixel by pixel, then a mask that sends the light there, by
optimal transport; then that mask is improved as a wave. A Gaussian blur of the same geometry is found to compare with.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from phaseveil import __version__
from phaseveil.apps.attack_results import write_json
from phaseveil.attacks.attacker import embed, to_layout
from phaseveil.config import load_config, preset_path, to_mapping
from phaseveil.data.datasets import FaceDataset, load_faces
from phaseveil.errors import ConfigError, InputError
from phaseveil.losses.linear import FACES_A_COMPONENT, LinearReaders, Observations, Reading
from phaseveil.losses.optics import information_loss, slope_loss
from phaseveil.metrics.dlib_resnet import DlibResNet
from phaseveil.models.blocks import to_channels_last
from phaseveil.optics.camera import GAUSSIAN_REACH, Camera, PhaseMaskCamera, build_camera, load_camera, save_camera
from phaseveil.optics.psf import normalise_energy
from phaseveil.optics.sensor import srgb_to_linear
from phaseveil.optics.transport import disk_points, mode_gradients, transport_coefficients
from phaseveil.optics.zernike import FIRST_MODE, noll_to_radial_azimuthal
from phaseveil.progress import Report, progress
from phaseveil.run_state import require_finite, seeded
from phaseveil.training.pictures import save_optics_figure

SIDE = 32
"""Means across the frame that are read: up to 16 cycles, more than a protecting camera lets through."""

FINE = 8.0
"""Cycles per frame beyond which the losses know fine structure."""

BEYOND_POINTS = 40000
"""Points that share the pupil as densely as those beyond its rim share the margin."""

BEYOND_STEP, BEYOND_WEIGHT = 0.9 * math.pi, 0.01
"""Phase steps beyond the rim that cost nothing, radians, and the weight of those that do against those in the pupil.
They need only be samplable: stricter, searches end in sharper masks (``docs/experiments.md``)."""

BATCH = 128
_FACES = 51  # purpose of random numbers; training uses small ones, attacks 11 to 14, sweeps 21, scores 31, draws 41

Record = dict[str, Any]


@dataclass
class Design:
    """Configuration of ``phaseveil design``.

    Attributes:
        camera: Phase-mask camera to design for, a name or file; its own mask does not count.
        geometry: Weight of the landmark error against the share of identity: 7 blurs more, 12 less.
        fine: Weight of what passes above the noise beyond :data:`FINE` cycles: linear readers make nothing of it,
            deconvolution does.
        size: Pixels of the frame that the sensor has.
        faces: To learn from, at most.
        eyes_within: Of where most faces have their eyes, eye distances: landmarks farther off are more likely the
            detector's mistake, and least squares feel it squared. 0 takes all.
        components: Principal components of scenes that readers know.
        ridge: Penalty of the readers' first component, a share of the faces.
        target_steps: Of the search for the best light distribution.
        target_rate: Adam step of that search, in logarithms of light.
        points: Of equal light that are transported.
        steps: Of the improvement as a wave.
        mask_rate: Adam step of coefficients of second degree, metres; of degree n it is 2/n of that.
        slope: Weight of phase steps near the sampling limit.
        margin: Beyond the pupil's rim, pupil radii, in which the mask stays samplable, so that one out of its place
            still is a mask: 0.06 are 30 µm of ``freeform``, three standard deviations of a lithographer's 10 µm.
        outside: Weight of the light beyond the PSF's window.
        seed: Of the choice of faces.
    """

    camera: str = "freeform"
    geometry: float = 9.5
    fine: float = 0.05
    size: int = 128
    faces: int = 16000
    eyes_within: float = 0.2
    components: int = 600
    ridge: float = 0.003
    target_steps: int = 300
    target_rate: float = 0.05
    points: int = 2000
    steps: int = 500
    mask_rate: float = 2e-9
    slope: float = 1000.0
    margin: float = 0.06
    outside: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.faces, self.components, self.target_steps, self.points, self.steps) < 1 or self.seed < 0:
            raise ConfigError(
                "design: faces, components, target_steps, points and steps must be at least 1, seed at least 0"
            )
        if min(self.geometry, self.ridge, self.target_rate, self.mask_rate) <= 0:
            raise ConfigError("design: geometry, ridge, target_rate and mask_rate must be above 0")
        if min(self.fine, self.slope, self.outside, self.eyes_within) < 0 or not 0 <= self.margin <= 0.5:
            raise ConfigError(
                "design: fine, slope, outside and eyes_within must be at least 0, margin must lie in [0, 0.5]"
            )
        if not SIDE <= self.size <= 4096:
            raise ConfigError(f"design: size must lie between {SIDE} and 4096 pixels, got {self.size}")


def load_design(source: str | Path | None, overrides: Sequence[str] = ()) -> Design:
    """A design's configuration from a YAML file, or the defaults.

    Raises:
        ConfigError: No such file, an unknown key or a wrong value.
    """
    return load_config(Design, preset_path(source) if source is not None else None, overrides)


def design(config: Design, data: Path, out: Path, say: Callable[[str], None] = print) -> Record:
    """Design a mask; write ``camera.safetensors``, ``design.json`` and ``optics.png``.

    Args:
        config: What for.
        data: Folder that ``phaseveil prepare`` wrote.
        out: Folder for the results.
        say: Takes messages.

    Returns:
        What ``design.json`` holds: ``settings``; of ``target``, ``transported`` mask, finished ``design`` and the
        ``gaussian`` blur of the design's landmark error ``landmark_error`` and ``identity``, see
        :class:`phaseveil.losses.linear.Reading`; of the latter its ``sigma``, a share of the frame; ``fine``, bits a
        mode beyond :data:`FINE` cycles; ``outside``, the share of light beyond the PSF's window; ``relief``, the
        mask's difference of heights, metres.

    Raises:
        ConfigError: A camera without a mask to design, or a package is missing.
        InputError: Too few faces, or the results cannot be written.
        OpticsError: The camera cannot be simulated as sampled.
        TrainingError: The search diverged.
    """
    camera = load_camera(config.camera)
    if type(camera) is not PhaseMaskCamera:
        raise ConfigError(f"camera {config.camera!r} has no mask to design; try freeform")
    try:
        out.mkdir(parents=True, exist_ok=True)  # now, not after minutes
    except OSError as error:
        raise InputError(f"{out}: cannot be a folder ({error.strerror}); choose another --out") from error
    with progress("faces") as report:
        faces = observe(load_faces(data, "train", config.size).eyes_within(config.eyes_within), config, report)
    readers = LinearReaders.fit(faces, camera.config.sensor, config.size, config.components, config.ridge)
    with progress("best light") as report:
        target = best_light(readers, camera.config.psf_pixels(SIDE), config, report)
    camera.coefficients.data = transport_coefficients(camera, target[0], SIDE, config.points, config.margin)
    camera.keep_samplable()
    transported = _figures(read(readers, camera))
    with progress("mask") as report:
        improve(camera, readers, config, report)
    found = _figures(read(readers, camera))
    with torch.no_grad():
        height = camera.height_map()
        record: Record = {
            "phaseveil": __version__,
            "settings": to_mapping(config),
            "target": _figures(readers(target)),
            "transported": transported,
            "design": found,
            "gaussian": equal_gaussian(readers, camera, found["landmark_error"]),
            "fine": _fine(camera, config.size).item(),
            "outside": _outside(camera.enclosed_psf(SIDE)).item(),
            "relief": (height.amax() - height.amin()).item(),
        }
    save_camera(out / "camera.safetensors", camera, {"design": to_mapping(config)})
    write_json(out / "design.json", record)
    save_optics_figure(out / "optics.png", camera, config.size)
    say(f"written: {out / 'camera.safetensors'}, design.json, optics.png")
    return record


def describe(record: Record) -> str:
    """The design against a Gaussian blur of the same geometry, in words."""
    found, blur = record["design"], record["gaussian"]
    return (
        f"read by exact linear estimates: landmark error {found['landmark_error']:.2%}, identity "
        f"{found['identity']:.3f} of the embedding's variance\n"
        f"Gaussian blur nearest to it (sigma {blur['sigma']:.3f} of the frame): landmark error "
        f"{blur['landmark_error']:.2%}, identity {blur['identity']:.3f}\n"
        f"beyond {FINE:g} cycles a frame {record['fine']:.2f} bits a mode pass above the noise\n"
        f"relief {1e6 * record['relief']:.1f} µm; light beyond the PSF's window {record['outside']:.2%}"
    )


@torch.inference_mode()
def observe(faces: FaceDataset, config: Design, report: Report) -> Observations:
    """What readers learn from: some of the training faces.

    Raises:
        InputError: Too few for so many components.
    """
    places = faces.drawable
    count = min(config.faces, len(places))
    needed = FACES_A_COMPONENT * config.components
    if count < needed:  # said before they are embedded, not after
        raise InputError(
            f"{count} faces are too few for {config.components} components; prepare {needed} at least, or set "
            f"components to {max(1, count // FACES_A_COMPONENT)}"
        )
    chosen = places[torch.randperm(len(places), generator=seeded(config.seed, 0, _FACES))[:count].sort().values]
    recogniser = to_channels_last(DlibResNet(), "cpu")
    light, embeddings = [], []
    for done, part in enumerate(chosen.split(BATCH)):
        batch = faces.batch(part)
        light.append(functional.adaptive_avg_pool2d(srgb_to_linear(batch.image), SIDE))
        embeddings.append(embed(recogniser, to_layout(batch.image, "cpu"), batch.landmarks))
        report(min(count, (done + 1) * BATCH), count)
    return Observations(torch.cat(light), faces.landmarks[chosen], torch.cat(embeddings))


def best_light(readers: LinearReaders, pixels: int, config: Design, report: Report) -> Tensor:
    """PSF of least loss that any optics could have, the same in all colours. Shape ``(3, pixels, pixels)``."""
    axis = torch.arange(pixels) - pixels // 2
    squares = axis.square()[:, None] + axis.square()[None, :]
    light = torch.nn.Parameter(-squares / (2 * (0.08 * SIDE) ** 2))  # a Gaussian of a twelfth of the frame
    optimizer = torch.optim.Adam([light], lr=config.target_rate)

    def psf() -> Tensor:
        return light.flatten().softmax(0).unflatten(0, (pixels, pixels)).expand(3, -1, -1)

    for step in range(config.target_steps):
        optimizer.zero_grad()
        loss = _loss(readers(psf()), config)
        require_finite({"loss": loss.item()}, step)
        loss.backward()
        optimizer.step()
        report(step + 1, config.target_steps)
    return psf().detach()


def improve(camera: PhaseMaskCamera, readers: LinearReaders, config: Design, report: Report) -> None:
    """Descend from the camera's mask, its wave optics and sampling limit included."""
    degrees = [noll_to_radial_azimuthal(j)[0] for j in range(FIRST_MODE, camera.config.num_modes + 1)]
    scale = 2 / torch.tensor(degrees, dtype=torch.float32)
    scaled = torch.nn.Parameter(camera.coefficients.detach() / scale)
    optimizer = torch.optim.Adam([scaled], betas=(0.9, 0.99), eps=1e-14)
    margin = _margin_steps(camera, config.margin)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.mask_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))
        optimizer.zero_grad()
        mask = scaled * scale
        enclosed = camera.enclosed_psf(SIDE, mask)
        loss = _loss(readers(normalise_energy(enclosed)), config)
        steep = slope_loss(camera.pupil_phase(mask), camera.aperture) + BEYOND_WEIGHT * _steep_beyond(margin, mask)
        loss = loss + config.slope * steep
        loss = loss + config.outside * _outside(enclosed)
        loss = loss + config.fine * _fine(camera, config.size, mask)
        require_finite({"loss": loss.item()}, step)
        loss.backward()
        optimizer.step()
        report(step + 1, config.steps)
    camera.coefficients.data = (scaled * scale).detach()
    camera.keep_samplable()


def _margin_steps(camera: PhaseMaskCamera, margin: float) -> Tensor:
    """Takes a mask to its phase steps beyond the pupil's rim, radians a pupil sample in the colour that sees most of
    them, along x and y. Shape ``(2 P, M)``."""
    config = camera.config
    beyond = torch.from_numpy(disk_points(BEYOND_POINTS, margin)[BEYOND_POINTS:])
    radians = 2 * math.pi * (camera.delta_n / camera.wavelengths).max() * 2 / config.pupil_samples
    return radians * mode_gradients(config.num_modes, beyond).float()


def _steep_beyond(margin_steps: Tensor, mask: Tensor) -> Tensor:
    """What :func:`phaseveil.losses.optics.slope_loss` is inside the pupil, from :data:`BEYOND_STEP` on."""
    return ((margin_steps @ mask).abs() - BEYOND_STEP).clamp_min(0).square().sum() / max(1, len(margin_steps) // 2)


@torch.no_grad()
def read(readers: LinearReaders, camera: Camera) -> Reading:
    """What is read behind a camera whose optics are one PSF."""
    return readers(camera.psf(readers.size))


@torch.no_grad()
def equal_gaussian(readers: LinearReaders, camera: Camera, landmark_error: float) -> Record:
    """Gaussian blur behind which the landmarks are read as exactly, by bisection."""

    def blurred(sigma: float) -> Reading:
        support = min(1.0, 8 * sigma)
        blur = replace(camera.config, kind="gaussian", gaussian_sigma=sigma, psf_support=support)
        return read(readers, build_camera(blur))

    low, high = 1 / SIDE, 1 / (2 * GAUSSIAN_REACH)  # narrower ones are no blur to the readers, wider ones are cut off
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if blurred(middle).landmark_error < landmark_error else (low, middle)
    return {"sigma": low, **_figures(blurred(low))}


def _fine(camera: PhaseMaskCamera, size: int, mask: Tensor | None = None) -> Tensor:
    psf = normalise_energy(camera.enclosed_psf(size, mask))
    return information_loss(psf, camera.config.sensor, FINE, size)


def _loss(reading: Reading, config: Design) -> Tensor:
    return reading.identity + config.geometry * reading.landmark_error


def _outside(enclosed: Tensor) -> Tensor:
    return 1 - enclosed.sum(dim=(1, 2)).mean()


def _figures(reading: Reading) -> Record:
    return {name: value.item() for name, value in reading._asdict().items()}
