"""`phaseveil attack`: attack a camera as a determined adversary would, and write a privacy card."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phaseveil import __version__
from phaseveil.apps.attack_bench import Bench, Stage
from phaseveil.apps.attack_card import assemble
from phaseveil.apps.attack_data import BUDGETS, Budget, Study, embed_photographs, prepare_study
from phaseveil.apps.attack_front import Card, bundled_points, read_points
from phaseveil.apps.attack_results import ARTEFACTS, Record, Work, plain, write_json
from phaseveil.apps.attack_suite import run_attacks
from phaseveil.apps.attack_target import Target, load_target
from phaseveil.apps.privacy_card import Column, write_html
from phaseveil.data.image_io import to_array
from phaseveil.errors import ConfigError
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.identity import Recogniser
from phaseveil.metrics.onnx_recogniser import load_recogniser
from phaseveil.metrics.photographs import PairSet, load_pairs
from phaseveil.optics.camera import load_camera
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.pipeline import STRENGTH
from phaseveil.progress import progress

DO_NOT_PUBLISH = "contains photographs from --pairs; do not publish"
DELETE_WORK = "keeps embeddings and recovered faces to resume from; delete it when the card is done"


@dataclass(frozen=True)
class Options:
    """What to attack and how.

    Attributes:
        pairs: CSV of pairs, see :func:`phaseveil.metrics.photographs.load_pairs`.
        out: Folder for the card and for what is kept to resume.
        budget: How much work; one of :data:`phaseveil.apps.attack_data.BUDGETS` or another.
        recogniser: ONNX recogniser off the shelf; dlib's where ``None``.
        perceptual: LPIPS weights; no LPIPS where ``None``.
        against: Privacy cards of other cameras.
        seed: Of the split, the draws, the noise and the attackers' training.
        cache: Folder of landmarks and clear embeddings, which runs may share; inside ``out`` where ``None``.
        pictures: Whether the card shows test persons.
        erase_shape: Directions of the shape that the new faces are drawn without, see
            :meth:`phaseveil.pipeline.PhaseVeil.erasing_shape`.
    """

    pairs: Path
    out: Path
    budget: Budget = BUDGETS["quick"]
    recogniser: Path | None = None
    perceptual: Path | None = None
    against: tuple[Path, ...] = ()
    seed: int = 0
    cache: Path | None = None
    pictures: bool = True
    erase_shape: int = 0


def budget_named(name: str) -> Budget:
    """A budget by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in BUDGETS:
        raise ConfigError(f"--budget {name}: unknown; choose from {', '.join(BUDGETS)}")
    return BUDGETS[name]


def attack(
    camera: str, weights: Path | None, options: Options, say: Callable[[str], None], stage: Stage = progress
) -> Card:
    """Attack a camera and write ``privacy_card.json`` and ``privacy_card.html`` to ``options.out``.

    An interrupted run goes on when it is called again, and gives the same figures. With other networks but the same
    ``options.out`` it runs those attacks alone that depend on what has changed.

    Args:
        camera: Name or file, see :func:`phaseveil.optics.camera.load_camera`.
        weights: Folder with the ``heatmap.safetensors`` (and ``face.safetensors``) that were trained with the camera;
            the bundled ones for ``learned`` where ``None``, none for others.
        options: How.
        say: Told what the user should know.
        stage: Shows progress.

    Returns:
        The card, as the JSON file holds it.

    Raises:
        InputError: The pairs, a photograph or another card cannot be used, or ``options.out`` cannot be written.
        ConfigError: No such camera; too few pairs; a package is missing.
        CheckpointError: Weights are missing, damaged or do not fit.
        TrainingError: An attacker's training diverged.
    """
    target = load_target(camera, load_camera(camera), weights).erasing_shape(options.erase_shape)
    return attack_target(target, options, say, stage)


def attack_target(target: Target, options: Options, say: Callable[[str], None], stage: Stage = progress) -> Card:
    """:func:`attack` on a camera that is built already, with its networks, erasing what their pipeline does."""
    others = [*bundled_points(), *read_points(options.against)]
    perceptual = LPIPS(options.perceptual) if options.perceptual is not None else None
    photographs, recogniser, study = gather(options, target.size, stage)
    key = _recogniser_key(options.recogniser)
    settings = _settings(target, options, recogniser.name, key)
    work = Work(options.out / "work" / _fingerprint(settings, photographs))
    bench = Bench(study, target, options.budget, recogniser, perceptual, work)
    records = run_attacks(bench, stage)
    card = assemble(bench, records, settings, others, options.pictures)
    write_json(options.out / "privacy_card.json", card)
    write_html(options.out / "privacy_card.html", card, _columns(bench, records) if options.pictures else [])
    if options.pictures:
        say(f"{options.out / 'privacy_card.html'}: {DO_NOT_PUBLISH}")
    say(f"{options.out / 'work'}: {DELETE_WORK}")
    return card


def gather(options: Options, size: int, stage: Stage = progress) -> tuple[PairSet, Recogniser, Study]:
    """What an attack works on, whatever the camera: photographs, recogniser, and who is shown to whom.

    Args:
        options: How.
        size: Side of the camera's frame, pixels.
        stage: Shows progress; landmarks and clear embeddings are kept in the cache.

    Raises:
        InputError, ConfigError: See :func:`attack`.
    """
    recogniser, key = load_recogniser(options.recogniser), _recogniser_key(options.recogniser)
    cache = options.cache if options.cache is not None else options.out / "cache"
    with stage("landmarks") as report:
        photographs = load_pairs(options.pairs, cache, report)
    with stage("clear embeddings") as report:
        clear = embed_photographs(photographs, recogniser, key, cache, report)
    return photographs, recogniser, prepare_study(photographs, clear, size, options.budget, options.seed)


def describe_budget(target: Target, budget: Budget) -> Record:
    """A budget as a card holds it: only what the camera's attacks can spend."""
    described: Record = plain(dataclasses.asdict(budget))
    if not isinstance(target.camera, DynamicCamera):
        del described["members"]  # a fixed mask has no family to search
    return described


def _settings(target: Target, options: Options, recogniser: str, key: str) -> Record:
    """What the figures depend on, as plain values."""
    settings: Record = plain(
        {
            "budget": describe_budget(target, options.budget),
            "seed": options.seed,
            "strength": STRENGTH,
            "erased_directions": target.pipeline.erased_directions if target.pipeline else 0,
            "pairs": {"file": options.pairs.name, "digest": _digest(options.pairs)},
            "recogniser": {"name": recogniser, "digest": key},
            "perceptual": None if options.perceptual is None else _digest(options.perceptual),
            "networks": {"heatmap": target.heatmap_net is not None, "face": target.pipeline is not None},
        }
    )
    return settings


def _fingerprint(settings: Record, photographs: PairSet) -> str:
    """Names a run: changes with anything that its figures depend on, but for camera, networks and what they draw."""
    drawn = ("networks", "erased_directions", "strength")
    settings = {name: value for name, value in settings.items() if name not in drawn}
    root_free = [f"{file.parent.name}/{file.name}|{file.stat().st_size}" for file in photographs.files]
    text = json.dumps([__version__, settings, root_free], sort_keys=True)
    checksum = hashlib.sha256(text.encode())
    checksum.update(np.ascontiguousarray(photographs.landmarks).tobytes())
    return checksum.hexdigest()[:16]


def _recogniser_key(path: Path | None) -> str:
    """Changes when the off-the-shelf recogniser does."""
    return "dlib" if path is None else f"{_digest(path)}-{_digest(path.with_suffix('.yaml'))}"


def _digest(path: Path) -> str:
    """Checksum of a file that has been read before."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _columns(bench: Bench, records: list[Record]) -> list[Column]:
    """Pictures of the test persons: source, acquisition, each recovery, heatmap, generated face."""
    columns = [Column("source", "clear photograph", [to_array(scene) for scene in bench.scenes[bench.shown]])]
    for artefact in ARTEFACTS:
        for record in records:
            if record["artefact"] != artefact or not record["nominal"] or record["code"] == "A4":
                continue
            pictures = bench.kept(artefact).arrays(record["step"])[f"{record['key']}/pictures"]
            caption = f"{record['code']} {record['title']}" if artefact == "recovered" else ""
            columns.append(Column(artefact, caption, list(pictures)))
    return columns
