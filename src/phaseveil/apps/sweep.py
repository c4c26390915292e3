"""`phaseveil sweep`: masks learned over the ceiling on landmark error, against baselines of several strengths.

Every camera gets a heatmap network that starts from the same weights and takes the same steps on the same data, and is
attacked with the same budget. What is finished is not done again.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from phaseveil import __version__
from phaseveil.apps import attack
from phaseveil.apps.attack_bench import Stage
from phaseveil.apps.attack_data import BATCH, BUDGETS, Budget
from phaseveil.apps.attack_front import SCHEMA, Card
from phaseveil.apps.attack_results import plain, write_json
from phaseveil.apps.attack_target import Target, load_target
from phaseveil.apps.evaluate_inputs import file_digest
from phaseveil.apps.sweep_front import Measured, assemble, markdown, write_plot
from phaseveil.apps.table import BUNDLED, CAMERA, HEATMAP, TableRow, train_heatmap_net, train_stage1
from phaseveil.config import load_config, preset_path, to_mapping
from phaseveil.data.datasets import FaceDataset, load_faces
from phaseveil.errors import ConfigError, InputError
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.collapse import check_geometry, check_psf
from phaseveil.models.heatmap import HeatmapNet, load_heatmap_net
from phaseveil.optics.camera import PhaseMaskCamera, load_camera
from phaseveil.progress import progress
from phaseveil.run_state import seeded
from phaseveil.training.camera_config import CameraTraining

CHECKED_FACES = 512
"""Held-out faces, at most, on which the geometry's variance is measured."""

_NOISE = 21  # purpose of random numbers; training uses small ones, attacks 11 to 13

Say = Callable[[str], None]
Record = dict[str, Any]


@dataclass
class Sweep:
    """Configuration of ``phaseveil sweep``.

    Attributes:
        stage1: Preset that masks are trained by.
        settle: Preset that the heatmap network behind every finished camera is trained by.
        ceilings: Landmark errors allowed in training, inter-ocular distances; one mask each.
        baselines: Cameras to compare with, names or files.
        steps: Of each mask's training.
        heatmap_steps: Of each heatmap network's training behind the finished camera.
        start_camera: Camera that the masks start from, a name or file; the preset's where empty.
        start_heatmap: Weights that every heatmap network starts from, a file; the bundled ones where empty.
        seed: Of all trainings and attacks.
        budget: Of the attacks, ``quick`` or ``full``.
    """

    stage1: str = "stage1/adversarial"
    settle: str = "stage1/base"
    ceilings: list[float] = field(default_factory=list)
    baselines: list[str] = field(default_factory=list)
    steps: int = 1000
    heatmap_steps: int = 400
    start_camera: str = ""
    start_heatmap: str = ""
    seed: int = 0
    budget: str = "quick"

    def __post_init__(self) -> None:
        if min(self.steps, self.heatmap_steps) < 1 or self.seed < 0:
            raise ConfigError("sweep: steps and heatmap_steps must be at least 1, seed at least 0")
        if not all(0 < ceiling < 1 for ceiling in self.ceilings):
            raise ConfigError(f"sweep: ceilings must lie in (0, 1) inter-ocular distances, got {self.ceilings}")
        if self.budget not in BUDGETS:
            raise ConfigError(f"sweep: budget must be one of {', '.join(BUDGETS)}, got {self.budget!r}")
        names = [member.name for member in members(self)]
        if not names or len(set(names)) < len(names):
            raise ConfigError("sweep: needs ceilings or baselines, none of them twice")


@dataclass(frozen=True)
class Options:
    """Where a sweep reads and writes.

    Attributes:
        data: Folder that ``phaseveil prepare`` wrote, for training.
        pairs: CSV of photographs, for the attackers.
        out: Folder for all results, a folder a camera in it.
        perceptual: LPIPS weights, for the quality of recovered images; none where ``None``.
        cache: Folder of landmarks and clear embeddings, which runs may share; inside ``out`` where ``None``.
    """

    data: Path
    pairs: Path
    out: Path
    perceptual: Path | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class Member:
    """One camera of a sweep.

    Attributes:
        name: Of its folder and in the plot.
        camera: Baseline, a name or file; ``None`` where a mask is learned.
        ceiling: Of the learned mask; ``None`` for baselines.
    """

    name: str
    camera: str | None = None
    ceiling: float | None = None


def load_sweep(name: str, overrides: Sequence[str] = ()) -> Sweep:
    """A sweep by its name among ``configs/sweep``, or from a YAML file.

    Raises:
        ConfigError: No such sweep, an unknown key or a wrong value.
    """
    known = name if Path(name).suffix in (".yaml", ".yml") or "/" in name else f"sweep/{name}"
    return load_config(Sweep, preset_path(known), overrides)


def members(config: Sweep) -> list[Member]:
    """All cameras of a sweep, the learned ones first."""
    learned = [Member(f"learned-{ceiling:g}", ceiling=ceiling) for ceiling in config.ceilings]
    return learned + [Member(Path(camera).stem, camera=camera) for camera in config.baselines]


def front_budget(name: str) -> Budget:
    """What an attack must do for a point of the front, and no more.

    The sensor sweep and recognisers trained on heatmaps are left out: neither counts for the strongest attack on what
    the camera lets out, so that points stay comparable with those of ``phaseveil attack``.

    Raises:
        ConfigError: No budget of that name.
    """
    return dataclasses.replace(attack.budget_named(name), sweep=(), trained_on=("acquisition",))


def sweep(config: Sweep, options: Options, say: Say, stage: Stage = progress) -> str:
    """Train, attack and check every camera; write ``front.json`` and ``front.png``.

    An interrupted sweep goes on when it is called again, and gives the same figures. Ceilings and baselines may be
    added to a finished one.

    Args:
        config: What to train and how long.
        options: Where.
        say: Takes messages.
        stage: Shows progress.

    Returns:
        The front as Markdown.

    Raises:
        ConfigError: A preset or camera cannot be used, or ``options.out`` holds another sweep.
        InputError: The training data, the pairs or a photograph cannot be used, or the results cannot be written.
        CheckpointError: Weights are missing, damaged or do not fit.
        TrainingError: A training diverged.
    """
    faces = _check(config, options, stage)
    _claim(config, options)
    measured = []
    for member in members(config):
        say(f"camera {member.name}")
        target = _train(member, config, options, say)
        card = _attack(target, config, options, say, stage)
        measured.append(Measured(member.ceiling, card, _check_collapse(target, faces, config, options)))
    front = assemble(measured, to_mapping(config))
    write_json(options.out / "front.json", front)
    write_plot(options.out / "front.png", front)
    return markdown(front)


def _check(config: Sweep, options: Options, stage: Stage) -> FaceDataset:
    """Find whatever would stop the sweep after hours of training now; returns the held-out faces."""
    network = load_heatmap_net(_start_heatmap(config))
    for preset in (config.stage1, config.settle):
        wanted = load_config(CameraTraining, preset).network
        if wanted != network.config:
            raise ConfigError(f"{_start_heatmap(config)}: a network of {network.config}, but {preset} says {wanted}")
    if config.ceilings and not isinstance(load_camera(_start_camera(config)), PhaseMaskCamera):
        raise ConfigError(f"camera {_start_camera(config)!r} has no mask to learn; give another start_camera")
    for camera in config.baselines:
        load_camera(camera)
    if options.perceptual is not None:
        LPIPS(options.perceptual)
    load_faces(options.data, "train", network.config.size)
    faces = load_faces(options.data, "val", network.config.size)
    attack.gather(_attack_options(config, options, options.out), network.config.size, stage)
    return faces


def _claim(config: Sweep, options: Options) -> None:
    """Note what all members share, or refuse a folder of another sweep."""
    own = ("ceilings", "baselines")  # these may grow
    shared = {key: value for key, value in to_mapping(config).items() if key not in own} | {
        "start_camera": Target("", load_camera(_start_camera(config))).digest() if config.ceilings else None,
        "start_heatmap": file_digest(_start_heatmap(config)),
        "data": file_digest(options.data / "index.jsonl"),
        "pairs": file_digest(options.pairs),
    }
    path = options.out / "sweep.json"
    stored = _read(path)
    other = sorted(key for key in shared if stored is not None and stored.get(key) != shared[key])
    if other:
        raise ConfigError(f"{path}: begun with another {', '.join(other)}; choose another --out")
    write_json(path, shared)


def _train(member: Member, config: Sweep, options: Options, say: Say) -> Target:
    """The member's camera with its own heatmap network, trained as far as they are not yet."""
    folder = options.out / member.name
    camera = _learn_mask(member.ceiling, config, options, folder, say) if member.camera is None else member.camera
    row = TableRow(camera, config.heatmap_steps, face_steps=0, stage1=config.settle, seed=config.seed)
    weights = train_heatmap_net(row, _start_heatmap(config), options.data, folder, say)
    return load_target(member.name, load_camera(weights / CAMERA), weights)


def _learn_mask(ceiling: float | None, config: Sweep, options: Options, folder: Path, say: Say) -> str:
    """Learn a mask under a ceiling; returns its camera file."""
    out = folder / "mask"
    overrides = [
        f"data={options.data}",
        f"out={out}",
        f"camera={_start_camera(config)}",
        f"heatmap={_start_heatmap(config)}",
        f"ceiling={ceiling}",
        f"steps={config.steps}",
        f"seed={config.seed}",
        "save_every=100",
    ]
    train_stage1(load_config(CameraTraining, config.stage1, overrides), say)
    return str(out / CAMERA)


def _attack(target: Target, config: Sweep, options: Options, say: Say, stage: Stage) -> Card:
    """The member's privacy card, the one written before where it is of these very settings."""
    chosen = _attack_options(config, options, options.out / target.name)
    basis = {
        "schema": SCHEMA,
        "phaseveil": __version__,
        "camera": target.digest(),
        "budget": attack.describe_budget(target, chosen.budget),
        "seed": chosen.seed,
        "pairs": file_digest(options.pairs)[:16],
    }
    written = _read(chosen.out / "privacy_card.json")
    if written is not None and _basis(written) == basis:
        return written
    return attack.attack_target(target, chosen, say, stage)


def _basis(card: Mapping[str, Any]) -> Record | None:
    """What a card's figures rest on; ``None`` where it does not say so."""
    try:
        camera, settings = card["camera"]["digest"], card["settings"]
        return {
            "schema": card["schema"],
            "phaseveil": card["phaseveil"],
            "camera": camera,
            "budget": settings["budget"],
            "seed": settings["seed"],
            "pairs": settings["pairs"]["digest"],
        }
    except (KeyError, TypeError):
        return None


def _attack_options(config: Sweep, options: Options, out: Path) -> attack.Options:
    return attack.Options(
        pairs=options.pairs,
        out=out,
        budget=front_budget(config.budget),
        perceptual=options.perceptual,
        seed=config.seed,
        cache=options.cache or options.out / "cache",
        pictures=False,
    )


def _check_collapse(target: Target, faces: FaceDataset, config: Sweep, options: Options) -> Record:
    """Collapse of geometry and PSF as plain values, once for each camera."""
    path = options.out / target.name / "collapse.json"
    basis = {"phaseveil": __version__, "camera": target.digest(), "seed": config.seed}
    written = _read(path)
    if written is not None and written.get("basis") == basis:
        return written
    assert target.heatmap_net is not None
    geometry = check_geometry(*_read_geometry(target, target.heatmap_net, faces, config.seed))
    psf = check_psf(target.camera.psf(target.size), target.size)
    record: Record = plain({"basis": basis, "geometry": geometry.as_dict(), "psf": psf.as_dict()})
    write_json(path, record)
    return record


@torch.inference_mode()
def _read_geometry(
    target: Target, network: HeatmapNet, faces: FaceDataset, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Landmarks and heatmaps that a network reads from held-out faces, and the true landmarks."""
    camera, outputs = target.camera.frozen(target.size), []
    places = torch.linspace(0, len(faces) - 1, min(CHECKED_FACES, len(faces))).long()
    for number, part in enumerate(places.split(BATCH)):
        outputs.append(network(camera(faces.batch(part).image, seeded(seed, number, _NOISE))))
    landmarks, heatmaps = (torch.cat([getattr(out, name) for out in outputs]) for name in ("landmarks", "heatmap"))
    return landmarks, heatmaps, faces.landmarks[places]


def _start_camera(config: Sweep) -> str:
    return config.start_camera or load_config(CameraTraining, config.stage1).camera


def _start_heatmap(config: Sweep) -> Path:
    return Path(config.start_heatmap) if config.start_heatmap else BUNDLED / HEATMAP


def _read(path: Path) -> Record | None:
    """A record that was written before, ``None`` where there is none."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged; delete it and run again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object; delete it and run again")
    return content
