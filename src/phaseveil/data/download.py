"""Public files that the original work builds on: what there is, where it is, and fetching it.

None of these files is ours. Where their publishers state no digest, that of the first download is recorded in a lock
file and enforced from then on.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseveil.data.archive import extract
from phaseveil.data.fetch import ByteProgress, RemoteFile, fetch, install_copy
from phaseveil.data.image_io import write_problem
from phaseveil.data.perceptual_weights import convert_lpips
from phaseveil.errors import DownloadError, InputError

_DROPBOX = "https://www.dropbox.com/s"
_TORCH = "https://download.pytorch.org/models"
_INCEPTION = "inception-2015-12-05.pt"
_TRUNK = "alexnet-owt-7be5be79.pth"
_HEADS = "lpips_alex_heads.pth"
_LPIPS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1"


@dataclass(frozen=True)
class Package:
    """A catalogue entry.

    Attributes:
        title: What it is, in one line.
        terms: Its publisher's terms of use.
        documented_at: Page on which its publisher names these files.
        files: What is fetched.
    """

    title: str
    terms: str
    documented_at: str
    files: tuple[RemoteFile, ...]


def _authors(share: str, key: str, name: str) -> RemoteFile:
    """A file that the paper's authors share."""
    place = "https://correouisedu-my.sharepoint.com/:u:/g/personal/jhon2208456_correo_uis_edu_co"
    return RemoteFile(f"{place}/{share}?e={key}&download=1", name)


CATALOGUE: dict[str, Package] = {
    "celeba-hq": Package(
        title="CelebA-HQ at 256×256 in train and val, female and male, as StarGAN v2 divides it",
        terms="non-commercial research only, as CelebA's agreement says",
        documented_at="https://github.com/clovaai/stargan-v2",
        files=(RemoteFile(f"{_DROPBOX}/f7pvjij2xlpff59/celeba_hq.zip?dl=1", "celeba_hq.zip"),),
    ),
    "stargan-v2": Package(
        title="StarGAN v2 networks trained on CelebA-HQ",
        terms="CC BY-NC 4.0, NAVER Corp.",
        documented_at="https://github.com/clovaai/stargan-v2",
        files=(RemoteFile(f"{_DROPBOX}/96fmei6c93o8b8t/100000_nets_ema.ckpt?dl=1", "100000_nets_ema.ckpt"),),
    ),
    "wing": Package(
        title="Landmark network of StarGAN v2 and its mean CelebA landmarks",
        terms="CC BY-NC 4.0, NAVER Corp.",
        documented_at="https://github.com/clovaai/stargan-v2",
        files=(
            RemoteFile(f"{_DROPBOX}/tjxpypwpt38926e/wing.ckpt?dl=1", "wing.ckpt"),
            RemoteFile(f"{_DROPBOX}/91fth49gyb7xksk/celeba_lm_mean.npz?dl=1", "celeba_lm_mean.npz"),
        ),
    ),
    "paper": Package(
        title="Weights of the CVPR 2024 paper: learned lens and 16×16 low resolution",
        terms="MIT, as their repository states",
        documented_at="https://github.com/carlosh93/privacy-preserving-vision",
        files=(
            _authors("EVq0kTjK3s1Kumfihm8bOYEBi9_Lq7mrYdrCqEyEBYn4DA", "npeyVv", "Model_Lens.ckpt"),
            _authors("ERVy4RAJ3yNPnfXcZgfxeAgBisIzYD-VAxJ6NJLJNkjZrA", "MJxUCE", "Model_LR.ckpt"),
            _authors("EZ4QSB0VAIBDm4i9-uOEt1UB8LUbHUS-uGRyPuYlpZycTQ", "mABZOQ", "Model_wing.pth"),
            _authors("EYEiwI-tj75PgipYLu_ia30BS22dU_sZS59TKXBsGnSbfg", "YV2IQk", "Wing_LR_16.ckpt"),
        ),
    ),
    "inception": Package(
        title="Inception v3 of the original FID, as NVIDIA ported it to TorchScript",
        terms="Apache-2.0, as the network it was made from",
        documented_at="https://github.com/NVlabs/stylegan2-ada-pytorch",
        files=(
            RemoteFile(
                f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{_INCEPTION}",
                _INCEPTION,
                # NVIDIA states no digest; this is the one that k-diffusion and others verify the file by.
                sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
            ),
        ),
    ),
    "perceptual": Package(
        title="LPIPS 0.1: AlexNet (ImageNet) and its calibrated heads, made into lpips_alex.safetensors",
        terms="BSD",
        documented_at="https://github.com/richzhang/PerceptualSimilarity",
        files=(
            RemoteFile(f"{_TORCH}/{_TRUNK}", _TRUNK, sha256="7be5be79"),
            RemoteFile(
                f"{_LPIPS}/alex.pth",
                _HEADS,
                # Digest of the same file in the published package lpips 0.1.4.
                sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
            ),
        ),
    ),
}


def download(
    name: str,
    out: str | Path,
    from_file: str | Path | None = None,
    progress: ByteProgress | None = None,
    catalogue: Mapping[str, Package] = CATALOGUE,
) -> list[Path]:
    """Fetch a catalogue entry into ``OUT/<name>/``; archives are unpacked, the perceptual weights converted.

    Args:
        name: Key of :data:`CATALOGUE`.
        out: Folder for all downloads.
        from_file: The user's own copy of the entry's file (named like it, where the entry has several): no network is
            used, and of several files only this one is installed.
        progress: Called with the bytes done and in all of the file under way.
        catalogue: Entries to choose from.

    Returns:
        What is ready to use: files and unpacked folders.

    Raises:
        DownloadError: Unknown name, offline, damaged, or not what was published or first downloaded.
    """
    package = catalogue.get(name)
    if package is None:
        raise DownloadError(f"{name}: not in the catalogue; choose one of {', '.join(sorted(catalogue))}")
    folder = Path(out) / name
    if from_file is not None:
        files = [install_copy(_file_of(package, Path(from_file)), folder, from_file, progress)]
    else:
        files = [
            unpacked if (unpacked := _unpacked(folder, remote)) is not None else fetch(remote, folder, progress)
            for remote in package.files
        ]
    return _ready(folder, files, package.files)


def _unpacked(folder: Path, remote: RemoteFile) -> Path | None:
    """Folder that an earlier call unpacked an archive into, ``None`` where there is none."""
    place = (folder / remote.name).with_suffix("")
    return place if remote.name.endswith(".zip") and place.is_dir() else None


def _file_of(package: Package, copy: Path) -> RemoteFile:
    """The file of a package that the user's copy is."""
    if len(package.files) == 1:
        return package.files[0]
    for remote in package.files:
        if copy.name == remote.name:
            return remote
    names = ", ".join(remote.name for remote in package.files)
    raise DownloadError(f"{copy}: the name must tell which file it is; rename it to one of {names}")


def _ready(folder: Path, files: Sequence[Path], remotes: Sequence[RemoteFile]) -> list[Path]:
    """Unpack archives and convert the perceptual weights once all of them are here."""
    try:
        ready = [_unpack(file) if file.is_file() and file.suffix == ".zip" else file for file in files]
        trunk, heads = folder / _TRUNK, folder / _HEADS
        if {_TRUNK, _HEADS} <= {remote.name for remote in remotes} and trunk.is_file() and heads.is_file():
            ready.append(convert_lpips(trunk, heads, folder / "lpips_alex.safetensors"))
    except InputError as error:
        raise DownloadError(str(error)) from error
    except OSError as error:
        raise DownloadError(f"{folder}: {write_problem(error)}") from error
    return ready


def _unpack(archive: Path) -> Path:
    """Unpack an archive beside itself and remove it; its digest stays in the lock file."""
    folder = archive.with_suffix("")
    if folder.exists():
        shutil.rmtree(folder)
    extract(archive, folder)
    archive.unlink()
    return folder
