"""The comparison of cameras like for like: each with a heatmap network and a generator of its own, equally trained.

Every row starts from the same weights and takes the same steps on the same data, so that the cameras alone differ. The
shared start is the bundled one, which was trained behind the learned mask: a head start for that row, of which the
fine-tuning leaves some.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from phaseveil import checkpoint
from phaseveil.apps.attack_target import Target
from phaseveil.apps.evaluate import evaluate, write_record
from phaseveil.apps.evaluate_identity import Stage
from phaseveil.apps.evaluate_inputs import Options
from phaseveil.apps.evaluate_report import Record, dig, interval, markdown_table, number, percent, share
from phaseveil.config import load_config, preset_path, to_mapping
from phaseveil.errors import ConfigError
from phaseveil.optics.camera import Camera, load_camera, save_camera
from phaseveil.pipeline import PhaseVeil
from phaseveil.run_state import begun
from phaseveil.training.camera import train_camera
from phaseveil.training.camera_config import CameraTraining
from phaseveil.training.face import train_face
from phaseveil.training.face_config import FaceTraining

ROWS = ("learned", "low-resolution", "gaussian", "defocus")
STATE, CAMERA, HEATMAP, FACE = (f"{name}.safetensors" for name in ("state", "camera", "heatmap", "face"))
BUNDLED = Path(str(resources.files("phaseveil"))) / "weights"
PLACES = ("out", "data", "camera", "heatmap", "start", "log_every", "save_every")
"""Keys that may change in a run that goes on: where things lie, and what does not count as budget."""

Say = Callable[[str], None]


@dataclass
class TableRow:
    """One camera of a comparison.

    Attributes:
        camera: Name or file.
        heatmap_steps: Steps of the heatmap network behind that camera.
        face_steps: Steps of the face networks; 0 leaves them out.
        stage1: Preset that the heatmap network is trained by.
        stage2: Preset that the face networks are trained by.
        start: Folder of the weights that every row starts from; the bundled ones where empty.
        perceptual: LPIPS weights that the face networks are trained by; the evaluation's where empty.
        seed: Of both.
    """

    camera: str = "learned"
    heatmap_steps: int = 400
    face_steps: int = 300
    stage1: str = "stage1/base"
    stage2: str = "stage2/base"
    start: str = ""
    perceptual: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.heatmap_steps < 1 or self.face_steps < 0:
            raise ConfigError("table: heatmap_steps must be at least 1, face_steps at least 0")


def load_row(name: str, overrides: Sequence[str] = ()) -> TableRow:
    """A row by its name among ``configs/table1``, or from a YAML file.

    Raises:
        ConfigError: No such row, an unknown key or a wrong value.
    """
    known = name if Path(name).suffix in (".yaml", ".yml") or "/" in name else f"table1/{name}"
    return load_config(TableRow, preset_path(known), overrides)


def make_table(rows: Mapping[str, TableRow], data: Path, options: Options, out: Path, stage: Stage, say: Say) -> str:
    """Train and evaluate every row; what is finished is not done again.

    Args:
        rows: By name.
        data: Folder that ``phaseveil prepare`` wrote.
        options: Of the evaluation; ``perceptual`` is needed for training too.
        out: A folder a row is made here: ``stage1``, ``stage2``, ``weights``, ``evaluate.json``.
        stage: Shows the evaluation's progress.
        say: Takes messages.

    Returns:
        The table in Markdown; rows without face networks are trained but not in it.

    Raises:
        ConfigError: No perceptual weights, or a folder holds a row of another budget.
        CheckpointError, InputError: See :func:`train_row` and :func:`phaseveil.apps.evaluate.evaluate`.
    """
    if options.perceptual is None:
        raise ConfigError("the comparison trains with LPIPS; give --perceptual")
    records = {}
    for name, row in rows.items():
        say(f"row {name}")
        weights = train_row(row, data, options.perceptual, out / name, say)
        if row.face_steps > 0:
            chosen = dataclasses.replace(options, camera=name)
            records[name] = evaluate(PhaseVeil.from_pretrained(weights), chosen, stage)
            write_record(out / name / "evaluate.json", records[name])
    return comparison(records)


def comparison(records: Mapping[str, Record]) -> str:
    """Evaluations of several cameras as one Markdown table: the authors' protocol, with reference styles."""
    rows = [(name, *_cells(record).values()) for name, record in records.items()]
    headings = list(_cells(next(iter(records.values())))) if records else []
    return markdown_table(("camera", *headings), rows)


def _cells(record: Record) -> dict[str, str]:
    """One row of the table by column."""
    mode, identity = record["modes"]["reference"], _identity(record)
    cells = {
        "FID": number(dig(mode, "FID", "mean", "value"), 2),
        "FD-AlexNet, corrected": number(dig(mode, "FD-AlexNet", "mean", "corrected"), 2),
        "KID-AlexNet": number(dig(mode, "KID-AlexNet", "mean", "value"), 4),
    }
    for detector, score in mode["detection"].items():
        for name, digits in (("fd", 3), ("bb", 2), ("lm", 2)):
            cells[f"{name.upper()} ({detector})"] = number(score[name], digits)
    cells |= {
        "LPIPS": number(dig(mode, "LPIPS", "mean"), 3),
        "expression": percent(dig(mode, "expression", "agreement")),
        "landmark error": percent(record["geometry"]["error_over_eye_centres"], 2),
    }
    for artefact in ("acquisition", "generated (reference)"):
        cells[f"{artefact}: AUC"] = interval(dig(identity, artefact, "verification", "auc"))
        cells[f"{artefact}: TAR @ 1e-3"] = share(dig(identity, artefact, "verification", "tar"))
    return cells


def _identity(record: Record) -> Record | None:
    """Rows of the identity table: another photograph where pairs were given, else the very same one."""
    pairs = record["identity"]["pairs"]
    found: Record | None = record["identity"]["sources"]["rows"] if pairs is None else pairs["another"]
    return found


def train_row(row: TableRow, data: Path, perceptual: Path | None, out: Path, say: Say) -> Path:
    """Train what a row lacks; an interrupted row goes on where it stopped.

    Args:
        row: Camera and budget.
        data: Folder that ``phaseveil prepare`` wrote.
        perceptual: LPIPS weights where the row names none; needed for the face networks alone.
        out: The row's folder.
        say: Takes messages.

    Returns:
        Folder of the row's weights, as ``--weights`` wants it.

    Raises:
        ConfigError: The folder holds a row of another camera or budget; no LPIPS weights.
        CheckpointError: Weights are missing or the disk is full.
        InputError: The data folder is not a prepared one.
    """
    lpips = row.perceptual or perceptual
    if row.face_steps > 0 and lpips is None:
        raise ConfigError("face networks are trained with LPIPS; give --perceptual, or face_steps=0")
    start = Path(row.start) if row.start else BUNDLED
    weights = train_heatmap_net(row, start / HEATMAP, data, out, say)
    if row.face_steps > 0:
        stage2 = out / "stage2"
        overrides = [
            f"data={data}",
            f"camera={row.camera}",
            f"seed={row.seed}",
            f"out={stage2}",
            f"heatmap={weights / HEATMAP}",
            f"perceptual={lpips}",
            f"start={start / FACE}",
            f"steps={row.face_steps}",
            "hold=0",
            "save_every=100",
        ]
        face = load_config(FaceTraining, row.stage2, overrides)
        train_face(face, begun(stage2 / STATE, to_mapping(face), PLACES), say=say)
        _copy(stage2 / FACE, weights / FACE)
    return weights


def train_heatmap_net(row: TableRow, start: Path, data: Path, out: Path, say: Say) -> Path:
    """Train the heatmap network behind a row's camera; an interrupted training goes on where it stopped.

    Args:
        row: Camera and budget.
        start: Weights that the network starts from.
        data: Folder that ``phaseveil prepare`` wrote.
        out: The row's folder.
        say: Takes messages.

    Returns:
        Folder with ``camera.safetensors`` and ``heatmap.safetensors``.

    Raises:
        ConfigError, CheckpointError, InputError: See :func:`train_row`.
    """
    stage1, weights = out / "stage1", out / "weights"
    keep_camera(weights / CAMERA, load_camera(row.camera))
    overrides = [
        f"data={data}",
        f"camera={row.camera}",
        f"seed={row.seed}",
        f"out={stage1}",
        f"heatmap={start}",
        "mask_share=0",
        f"steps={row.heatmap_steps}",
        "save_every=200",
    ]
    config = load_config(CameraTraining, row.stage1, overrides)
    train_stage1(config, say)
    _copy(stage1 / HEATMAP, weights / HEATMAP)
    return weights


def train_stage1(config: CameraTraining, say: Say) -> None:
    """Stage I, from the beginning or from where an interrupted run of this very configuration stopped.

    Raises:
        ConfigError: The folder holds a run of another configuration.
        InputError: The data folder is not a prepared one.
    """
    train_camera(config, begun(Path(config.out) / STATE, to_mapping(config), PLACES), say=say)


def keep_camera(path: Path, camera: Camera) -> None:
    """Write a row's camera, or see that the one written before is the same.

    Raises:
        ConfigError: It is another one.
    """
    if not path.is_file():
        save_camera(path, camera)
    elif Target("", load_camera(path)).digest() != Target("", camera).digest():
        raise ConfigError(f"{path}: begun with another camera; choose another --out")


def _copy(source: Path, target: Path) -> None:
    with checkpoint.replace_atomically(target) as temporary:
        shutil.copyfile(source, temporary)
