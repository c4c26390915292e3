"""What an attack found, scored and kept: figures as JSON, embeddings and pictures beside them."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseveil.apps.attack_data import BATCH, Study
from phaseveil.data.image_io import write_atomically
from phaseveil.errors import InputError
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.identity import Floats, Interval, Thresholds, thresholds_on
from phaseveil.metrics.image import psnr, ssim
from phaseveil.metrics.photographs import Linkage, link_another, link_itself

Artefact = Literal["acquisition", "recovered", "heatmap", "generated"]
ARTEFACTS: tuple[Artefact, ...] = ("acquisition", "recovered", "heatmap", "generated")

HIGHEST_PSNR = 99.0  # dB; equal images would give infinity
NO_PERCEPTUAL = "no LPIPS weights; fetch them with 'phaseveil download perceptual' and give --perceptual FILE"
SAME_EXPOSURE = "two exposures of one scene are trivially alike"
UNALTERED = "the very same photograph is trivially linked to itself"

Record = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Finding:
    """What one attack has in its hands, before it is scored.

    Attributes:
        key: Name in the card, unique.
        code: A0 to A4.
        title: What is done, in a few words.
        artefact: What the attacker looks at.
        knowledge: What the attacker is assumed to know.
        probes: Embeddings of the attacked photographs, as ``study.probes``. Shape ``(P, D)``.
        clear: Embeddings of the clear photographs by the same recogniser, by place. Shape ``(N, D)``.
        gallery: Embeddings of the gallery as the attacker acquired it, as ``study.gallery``; ``None`` where the gallery
            is clear. Shape ``(G, D)``.
        refitted: Whether thresholds are fitted to the scored impostor pairs, since the clean ones mean nothing to an
            embedding that was trained anew.
        nominal: Whether camera and sensor are the real ones, so that the attack counts for the headline.
        quality: How near the recovered image is to the scene, see :func:`image_quality`; or why there is none.
        settings: What was tuned or varied.
        pictures: What the attacker looks at, of the first probes. Shape ``(K, 3, H, W)``, sRGB, 0 to 1.
    """

    key: str
    code: str
    title: str
    artefact: Artefact
    knowledge: str
    probes: Floats
    clear: Floats
    gallery: Floats | None = None
    refitted: bool = False
    nominal: bool = True
    quality: Record | str = "recovers no image"
    settings: Record = field(default_factory=dict)
    pictures: Tensor | None = None

    def arrays(self) -> Arrays:
        """Embeddings and pictures to keep."""
        kept: Arrays = {"probes": self.probes}
        if self.gallery is not None:
            kept["gallery"] = self.gallery
        if self.pictures is not None:
            pixels = self.pictures.float().clamp(0, 1).mul(255).round().to(torch.uint8)
            kept["pictures"] = pixels.permute(0, 2, 3, 1).numpy()
        return kept


def score(finding: Finding, study: Study) -> Record:
    """Identity figures of a finding, and all that describes it, as plain values."""
    probes = study.by_place(study.probes, finding.probes)
    clear_gallery = finding.gallery is None
    gallery = finding.clear if finding.gallery is None else study.by_place(study.gallery, finding.gallery)
    itself: Record | None = None
    another = _link(link_another, study, probes, gallery, finding.refitted)
    if clear_gallery:
        itself = _link(link_itself, study, probes, gallery, finding.refitted)
    return {
        "key": finding.key,
        "code": finding.code,
        "title": finding.title,
        "artefact": finding.artefact,
        "knowledge": finding.knowledge,
        "gallery": "clear" if clear_gallery else "acquired",
        "nominal": finding.nominal,
        "settings": finding.settings,
        "thresholds_refitted": finding.refitted,
        "another": another,
        "itself": itself,
        "itself_reason": None if clear_gallery else SAME_EXPOSURE,
        "quality": finding.quality if isinstance(finding.quality, dict) else None,
        "quality_reason": finding.quality if isinstance(finding.quality, str) else None,
    }


def upper_bound(study: Study) -> Record:
    """What the recogniser scores on clear photographs, at the very same pairs."""
    linkage = link_another(study.photographs, study.clear, study.clear, study.all_pairs, study.thresholds)
    return {"another": describe(linkage), "itself": None, "itself_reason": UNALTERED}


def describe(linkage: Linkage) -> Record:
    """A linkage's figures as plain values; intervals are ``{"value", "low", "high"}``."""
    verification = linkage.verification
    return {
        "tar": interval(verification.tar),
        "tar_1e4": interval(verification.tar_1e4),
        "auc": interval(verification.auc),
        "eer": interval(verification.eer),
        "rank_one": interval(linkage.rank_one),
        "chance": linkage.chance,
        "gallery_size": linkage.gallery,
        "fmr": verification.fmr,
        "tar_refitted": interval(verification.tar_refitted),
        "threshold": verification.thresholds.fmr_1e3,
        "threshold_1e4": verification.thresholds.fmr_1e4,
        "mean_genuine": verification.mean_genuine,
        "mean_impostor": verification.mean_impostor,
        "genuine_pairs": verification.genuine_pairs,
        "impostor_pairs": verification.impostor_pairs,
    }


def interval(figure: Interval | None) -> dict[str, float] | None:
    """A figure with its bounds as plain values."""
    return None if figure is None else {"value": figure.value, "low": figure.low, "high": figure.high}


@torch.inference_mode()
def image_quality(images: Tensor, scenes: Tensor, perceptual: LPIPS | None) -> Record:
    """Mean PSNR (dB, at most 99), SSIM and LPIPS of images against their scenes, both ``(B, 3, S, S)``, 0 to 1."""
    pairs = list(zip(images.float().split(BATCH), scenes.split(BATCH), strict=True))
    ratio = torch.cat([psnr(*pair) for pair in pairs]).clamp_max(HIGHEST_PSNR)
    likeness = torch.cat([ssim(*pair) for pair in pairs])
    distance = torch.cat([perceptual(*pair) for pair in pairs]).mean().item() if perceptual else None
    return {
        "psnr": ratio.mean().item(),
        "ssim": likeness.mean().item(),
        "lpips": distance,
        "lpips_reason": None if perceptual else NO_PERCEPTUAL,
        "images": len(images),
    }


def plain(value: Any) -> Any:
    """Values as JSON has them: what is not finite becomes ``None``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Any) -> Path:
    """Write plain values, atomically.

    Raises:
        InputError: The file cannot be written.
    """
    return write_text(path, json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a text file, atomically.

    Raises:
        InputError: The file cannot be written.
    """
    return write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


class Work:
    """Folder of what a run has finished and begun, so that an interrupted one goes on.

    Args:
        folder: Of all that the figures depend on: another camera, list, budget or seed has another one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, digest: str) -> "Work":
        """The part of it that rests on something else, too, of this checksum."""
        return Work(self._folder / digest[:16])

    def state(self, name: str) -> Path:
        """Where a network in training is kept."""
        return self._folder / f"{name}.safetensors"

    def once(self, name: str, compute: Callable[[], tuple[list[Record], Arrays]]) -> list[Record]:
        """Records of a step, computed unless an earlier run has finished it; each learns the step's seconds.

        Seconds of interrupted attempts count.

        Raises:
            InputError: The folder cannot be written.
        """
        stored = self._read(name)
        if stored is not None:
            return stored
        with self._timed(name) as elapsed:
            records, arrays = compute()
            self._write_arrays(name, arrays)
            return self._keep(name, [{**record, "step": name, "seconds": round(elapsed(), 1)} for record in records])

    def arrays(self, name: str) -> Arrays:
        """Embeddings and pictures of a finished step.

        Raises:
            InputError: They are gone or damaged.
        """
        path = self._folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: missing or damaged; delete {self._folder} and run again") from error

    def _keep(self, name: str, records: list[Record]) -> list[Record]:
        write_json(self._folder / f"{name}.json", records)
        return [plain(record) for record in records]

    def _read(self, name: str) -> list[Record] | None:
        path = self._folder / f"{name}.json"
        if not path.is_file():
            return None
        try:
            records: list[Record] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: damaged; delete it and run again") from error
        return records

    def _write_arrays(self, name: str, arrays: Arrays) -> None:
        write_atomically(self._folder / f"{name}.npz", lambda temporary: np.savez(temporary, **arrays))  # type: ignore[arg-type]

    @contextmanager
    def _timed(self, name: str) -> Iterator[Callable[[], float]]:
        """Gives the seconds spent on a step so far, those of interrupted attempts included."""
        path, began = self._folder / f"{name}.seconds", time.monotonic()
        before = float(path.read_text()) if path.is_file() else 0.0
        try:
            yield lambda: before + time.monotonic() - began
        except BaseException:
            write_text(path, f"{before + time.monotonic() - began:.1f}")
            raise


def keep(findings: Sequence[Finding], study: Study) -> tuple[list[Record], Arrays]:
    """Records of findings, and their arrays under ``<key>/<name>``."""
    arrays = {f"{finding.key}/{name}": array for finding in findings for name, array in finding.arrays().items()}
    return [score(finding, study) for finding in findings], arrays


def _link(link: Callable[..., Linkage], study: Study, probes: Floats, gallery: Floats, refitted: bool) -> Record:
    """Figures of one question."""
    thresholds = _refit(study, probes, gallery) if refitted else study.thresholds
    return describe(link(study.photographs, probes, gallery, study.all_pairs, thresholds))


def _refit(study: Study, probes: Floats, gallery: Floats) -> Thresholds:
    """Thresholds on the scored impostor pairs themselves."""
    return thresholds_on(study.photographs.score(probes, gallery, study.all_pairs).impostor)
