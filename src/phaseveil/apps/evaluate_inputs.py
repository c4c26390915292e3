"""What an evaluation is run on: options, source and reference faces by domain, and the seeds that draw from them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phaseveil.data.datasets import DOMAINS
from phaseveil.data.image_io import ImageArray, list_images, resize
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics.detection import FRAME
from phaseveil.pipeline import STRENGTH, require_strength, square
from phaseveil.seeds import SEEDS, require_seed

MODES = ("reference", "latent")
LEAST_OUTPUTS = 3  # what the kernel distance of a single source needs


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how.

    Attributes:
        sources: Folder of aligned square crops with the subfolders ``female`` and ``male``.
        references: The same for the faces whose appearance is taken and that new faces are compared with.
        work: Where finished parts are kept; a run with the same settings goes on from them.
        camera: What the record calls the camera.
        pairs: List of pairs of photographs, see :func:`phaseveil.metrics.photographs.load_pairs`.
        perceptual: LPIPS-AlexNet weights, for LPIPS diversity and the distances on AlexNet's features.
        inception: Inception as a TorchScript file, for FID and KID.
        expression: Expression classifier's file, for expression agreement.
        recogniser: Face recogniser, ``.onnx``; dlib's where ``None``.
        limit: Random subset of so many sources; all where ``None``.
        outputs: New faces a source in each mode.
        latent_detections: How many of a source's latent faces the detectors see; all faces in reference mode.
        eye_distance: The detectors look a second time, at pictures shrunk until the sources' eyes lie so many pixels of
            256 apart in the median; ``None`` leaves that out.
        strength: Of the latent styles, from 0 on; 1 draws them as they are, less is nearer to their domain's mean.
        seed: Of the subset, the references, the latents and the sensor's noise.
        shard_size: Sources in a finished part.
    """

    sources: Path
    references: Path
    work: Path
    camera: str = "learned"
    pairs: Path | None = None
    perceptual: Path | None = None
    inception: Path | None = None
    expression: Path | None = None
    recogniser: Path | None = None
    limit: int | None = None
    outputs: int = 10
    latent_detections: int = 2
    eye_distance: float | None = None
    strength: float = STRENGTH
    seed: int = 0
    shard_size: int = 16

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < len(DOMAINS):
            raise ConfigError(f"the limit must be at least {len(DOMAINS)} sources, one a domain, got {self.limit}")
        if self.outputs < LEAST_OUTPUTS:
            raise ConfigError(f"distances need at least {LEAST_OUTPUTS} outputs a source, got {self.outputs}")
        if not 1 <= self.latent_detections <= self.outputs:
            raise ConfigError(f"latent detections must lie between 1 and {self.outputs}, got {self.latent_detections}")
        if self.eye_distance is not None and not 0 < self.eye_distance < FRAME:
            raise ConfigError(f"the eyes' distance must lie between 0 and {FRAME} pixels, got {self.eye_distance:g}")
        require_strength(self.strength)
        require_seed(self.seed)
        if self.shard_size < 1:
            raise ConfigError(f"a shard needs at least 1 source, got {self.shard_size}")


@dataclass(frozen=True)
class Subject:
    """One source face.

    Attributes:
        path: Its file.
        domain: ``female`` or ``male``.
        target: The other domain, that of its new faces.
        seed: Of everything random about it; does not depend on which other sources there are.
        references: Files whose appearance its new faces take in reference mode.
    """

    path: Path
    domain: str
    target: str
    seed: int
    references: tuple[Path, ...]

    def latent_seeds(self, count: int) -> list[int]:
        """Seeds of its latent styles: every other number, since neighbours may have opposite latents."""
        return [(self.seed + 2 * number) % SEEDS for number in range(count)]


def list_domains(folder: Path, least: int = 1) -> dict[str, list[Path]]:
    """Images of each domain's subfolder, sorted.

    Args:
        folder: With the subfolders ``female`` and ``male``.
        least: Images that each needs.

    Raises:
        InputError: A subfolder is missing or holds too few images.
    """
    found = {}
    for domain in DOMAINS:
        if not (folder / domain).is_dir():
            raise InputError(
                f"{folder}: needs subfolders {' and '.join(DOMAINS)} of aligned crops; {domain} is missing"
            )
        found[domain] = list_images([folder / domain])
        if len(found[domain]) < least:
            raise InputError(f"{folder / domain}: {len(found[domain])} images, at least {least} are needed; add some")
    return found


def choose_subjects(options: Options) -> list[Subject]:
    """Sources to evaluate, females first, each with its references of the other domain.

    Raises:
        InputError: Subfolders are missing or hold too few images.
    """
    sources = list_domains(options.sources)
    references = list_domains(options.references, options.outputs)
    subjects = []
    for domain, files in _subset(sources, options.limit, options.seed).items():
        target = other_domain(domain)
        for path in files:
            name = path.relative_to(options.sources).as_posix()
            seed = number_of(f"{options.seed}/{name}")
            drawn = np.random.default_rng(seed).choice(len(references[target]), options.outputs, replace=False)
            subjects.append(Subject(path, domain, target, seed, tuple(references[target][i] for i in drawn)))
    return subjects


def other_domain(domain: str) -> str:
    """``male`` for ``female`` and the other way round."""
    return DOMAINS[1 - DOMAINS.index(domain)]


def read_crop(path: Path) -> ImageArray:
    """An aligned crop in the frame of all measurements. Shape ``(256, 256, 3)``, uint8.

    Raises:
        InputError: Unreadable or not square.
    """
    return resize(square(path), FRAME)


def number_of(text: str) -> int:
    """32 bits that a text always gives."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:4], "big")


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive parts of at most ``size``."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _subset(files: dict[str, list[Path]], limit: int | None, seed: int) -> dict[str, list[Path]]:
    """A random subset with the domains in the shares that they have, at least one file each."""
    counts = [len(files[domain]) for domain in DOMAINS]
    if limit is None or limit >= sum(counts):
        return files
    first = min(max(round(limit * counts[0] / sum(counts)), 1, limit - counts[1]), limit - 1)
    generator = np.random.default_rng(seed)
    return {
        domain: _sorted_sample(files[domain], quota, generator)
        for domain, quota in zip(DOMAINS, (first, limit - first), strict=True)
    }


def _sorted_sample(files: Sequence[Path], count: int, generator: np.random.Generator) -> list[Path]:
    return [files[place] for place in sorted(generator.permutation(len(files))[:count].tolist())]
