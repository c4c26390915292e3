"""`phaseveil tolerance`: how many of the cameras that are built will see enough and leak no more than allowed.

Monte Carlo over :class:`phaseveil.optics.tolerance.Tolerances`; all draws see the same faces with the same noise, so
that they differ by the camera alone. Then each tolerance alone, with the numbers that it drew among all.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phaseveil import __version__
from phaseveil.apps import fabrication_score as scores
from phaseveil.apps import geometry
from phaseveil.apps.attack_bench import Stage
from phaseveil.apps.attack_results import Work, plain, write_json
from phaseveil.apps.attack_target import NEED_HEATMAP, Target
from phaseveil.apps.evaluate_inputs import file_digest
from phaseveil.apps.fabrication import mask_of
from phaseveil.apps.tolerance_plot import write_plot
from phaseveil.config import load_config, preset_path, to_mapping
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics.identity import area_under_curve
from phaseveil.optics.camera import Camera, PhaseMaskCamera
from phaseveil.optics.tolerance import Tolerances, built_within, draw_deviation
from phaseveil.progress import progress
from phaseveil.run_state import seeded

FIGURES = ("landmark_error", "information", "auc")
_DRAW = 41  # purpose of random numbers; training uses small ones, attacks 11 to 14, sweeps 21, scores 31

Record = dict[str, Any]


@dataclass
class ToleranceStudy:
    """Configuration of ``phaseveil tolerance``.

    Attributes:
        tolerances: What is drawn.
        draws: Built cameras, at least 1.
        alone: Draws of each tolerance alone; 0 leaves the ranking out.
        landmark_rise: Highest rise of the landmark error over the design's, share of it.
        information_rise: Highest rise of the information that the camera lets through, share of the design's.
        auc_rise: Highest rise of the AUC of the deconvolution attack; only where pairs are given.
        faces: On which the landmark error is measured.
        probes: Genuine pairs that are attacked.
        seed: Of the draws, the noise and the attacker's split.
    """

    tolerances: Tolerances = field(default_factory=Tolerances)
    draws: int = 64
    alone: int = 12
    landmark_rise: float = 0.10
    information_rise: float = 0.10
    auc_rise: float = 0.02
    faces: int = 128
    probes: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.draws, self.faces) < 1 or self.alone < 0 or self.seed < 0:
            raise ConfigError("tolerance: draws and faces must be at least 1, alone and seed at least 0")
        if min(self.landmark_rise, self.information_rise, self.auc_rise) <= 0:
            raise ConfigError("tolerance: landmark_rise, information_rise and auc_rise must be above 0")
        if self.probes < 33:
            raise ConfigError("tolerance: probes must be at least 33, for 1,000 impostor pairs")
        if not self.tolerances.active():
            raise ConfigError("tolerance: no tolerance is set; choose a preset such as lithography")


@dataclass(frozen=True)
class Options:
    """Where a study reads and writes.

    Attributes:
        data: Prepared folder, or folder of aligned crops.
        out: Folder for ``tolerance.json``, ``tolerance.png`` and what is kept to resume.
        pairs: CSV of photographs; no attack where ``None``.
        cache: Folder of landmarks and clear embeddings, which runs may share; inside ``out`` where ``None``.
        limits: ``tolerance.json`` of another design, to whose limits this one is held; its own where ``None``.
    """

    data: Path
    out: Path
    pairs: Path | None = None
    cache: Path | None = None
    limits: Path | None = None


def load_study(name: str, overrides: Sequence[str] = ()) -> ToleranceStudy:
    """A study by its name among ``configs/tolerance``, or from a YAML file.

    Raises:
        ConfigError: No such study, an unknown key or a wrong value.
    """
    known = name if Path(name).suffix in (".yaml", ".yml") or "/" in name else f"tolerance/{name}"
    return load_config(ToleranceStudy, preset_path(known), overrides)


def tolerance(target: Target, study: ToleranceStudy, options: Options, stage: Stage = progress) -> Record:
    """Draw cameras, measure them, write ``tolerance.json`` and ``tolerance.png``.

    An interrupted study goes on when it is called again, and gives the same figures; draws may be added to a finished
    one.

    Args:
        target: The design with its heatmap network, which stays as it is.
        study: What to draw and measure.
        options: Where.
        stage: Shows progress.

    Returns:
        What ``tolerance.json`` holds.

    Raises:
        ConfigError: No fixed mask or no heatmap network, or a package is missing.
        InputError: Faces or pairs cannot be used, or the results cannot be written.
        OpticsError: A drawn camera cannot be simulated; says what to change.
    """
    design = mask_of(target)
    if target.heatmap_net is None:
        raise ConfigError(NEED_HEATMAP)
    others = _limits_of(options.limits, options.pairs is not None) if options.limits is not None else None
    faces = geometry.load_some_faces(options.data, target.size, study.faces)
    cache = options.cache or options.out / "cache"
    work = Work(options.out / "work" / _fingerprint(target, study, options, faces))
    linker = None
    if options.pairs is not None:
        linker = scores.load_linker(options.pairs, study.probes, cache, design, target.size, study.seed, stage)

    def measure(camera: Camera) -> Record:
        assert target.heatmap_net is not None
        errors = geometry.landmark_errors(camera, target.heatmap_net, faces, study.seed)
        figures: Record = {
            "landmark_error": errors.mean().item(),
            "information": scores.information(camera, target.size),
        }
        if linker is not None:
            pairs = linker.deconvolved(camera)
            figures["auc"] = area_under_curve(pairs.genuine, pairs.impostor)
        return figures

    nominal = work.once("design", lambda: ([measure(design)], {}))[0]
    jobs = _jobs(study)
    found: dict[str, list[Record]] = {}
    with stage("tolerance") as report:
        for done, (name, number, tolerances) in enumerate(jobs):
            key = f"{_key(tolerances)}-{number:05}"
            records = work.once(key, lambda t=tolerances, n=number: (_draw(design, t, study.seed, n, measure), {}))  # type: ignore[misc]
            found.setdefault(name, []).extend(records)
            report(done + 1, len(jobs))
    result: Record = plain(_summary(target, study, nominal, others or _limits(study, nominal), found))
    write_json(options.out / "tolerance.json", result)
    write_plot(options.out / "tolerance.png", result)
    return result


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a binomial share [Wilson 1927, J. Am. Stat. Assoc. 22, 209]."""
    share, square = hits / count, z * z / count
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return middle - half if hits else 0.0, middle + half if hits < count else 1.0


def describe(result: Record) -> list[str]:
    """A study as lines for people."""
    privacy, limits, nominal = result["yield"], result["limits"], result["design"]
    lines = [
        f"yield {100 * privacy['value']:.1f} % [{100 * privacy['low']:.1f}, {100 * privacy['high']:.1f}] "
        f"of {result['draws']} built cameras are within both limits "
        f"(geometry {100 * privacy['geometry']:.1f} %, leakage {100 * privacy['leakage']:.1f} %)"
    ]
    for name, factor, unit in (("landmark_error", 100, " %"), ("information", 1, " bits"), ("auc", 1, "")):
        if name in limits:
            spread = result["distributions"][name]
            lines.append(
                f"{name.replace('_', ' ')}: design {factor * nominal[name]:.3f}{unit}, limit "
                f"{factor * limits[name]:.3f}{unit}; built 5 / 50 / 95 %: {factor * spread['p5']:.3f} / "
                f"{factor * spread['p50']:.3f} / {factor * spread['p95']:.3f}{unit}"
            )
    for one in result["ranking"]:
        lines.append(
            f"  {one['tolerance']:<14} uses {100 * one['used']:.0f} % of the margin (mostly {one['limit']}), "
            f"yield alone {100 * one['yield']:.0f} %"
        )
    return lines


def _jobs(study: ToleranceStudy) -> list[tuple[str, int, Tolerances]]:
    """All cameras to draw: name of the tolerance (``all``), number of the draw, what it is drawn from."""
    together = [("all", number, study.tolerances) for number in range(study.draws)]
    names = study.tolerances.active() if study.alone else []
    return together + [(name, number, study.tolerances.only(name)) for name in names for number in range(study.alone)]


def _draw(
    design: PhaseMaskCamera, tolerances: Tolerances, seed: int, number: int, measure: Callable[[Camera], Record]
) -> list[Record]:
    deviation = draw_deviation(tolerances, seeded(seed, number, _DRAW))
    return [{"number": number, "deviation": dataclasses.asdict(deviation), **measure(built_within(design, deviation))}]


def _limits(study: ToleranceStudy, nominal: Record) -> dict[str, float]:
    limits = {
        "landmark_error": nominal["landmark_error"] * (1 + study.landmark_rise),
        "information": nominal["information"] * (1 + study.information_rise),
    }
    return limits | ({"auc": nominal["auc"] + study.auc_rise} if "auc" in nominal else {})


def _limits_of(path: Path, attacked: bool) -> dict[str, float]:
    """The limits of another study, for the figures that this one measures."""
    try:
        limits = json.loads(path.read_text("utf-8"))["limits"]
        return {name: float(limits[name]) for name in FIGURES if name != "auc" or attacked}
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); --limits takes a tolerance.json"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        what = "; its study had no --pairs" if attacked else ""
        raise InputError(f"{path}: not the tolerance.json of a study{what}") from error


def _summary(
    target: Target, study: ToleranceStudy, nominal: Record, limits: dict[str, float], found: dict[str, list[Record]]
) -> Record:
    together = found.pop("all")
    kept = [_within(record, limits) for record in together]
    hits = sum(all(one.values()) for one in kept)
    low, high = wilson_interval(hits, len(kept))
    margins = {name: limit - nominal[name] for name, limit in _limits(study, nominal).items()}
    ranking = [_rank(name, records, nominal, margins, limits) for name, records in found.items()]
    return {
        "phaseveil": __version__,
        "camera": target.name,
        "study": to_mapping(study),
        "design": {name: nominal[name] for name in limits},
        "limits": limits,
        "draws": len(together),
        "yield": {
            "value": hits / len(kept),
            "low": low,
            "high": high,
            "geometry": float(np.mean([one["landmark_error"] for one in kept])),
            "leakage": float(np.mean([all(v for k, v in one.items() if k != "landmark_error") for one in kept])),
        },
        "distributions": {name: _distribution([record[name] for record in together]) for name in limits},
        "ranking": sorted(ranking, key=lambda one: -one["used"]),
        "built": [{k: v for k, v in one.items() if k not in ("step", "seconds")} for one in together],
    }


def _within(record: Record, limits: dict[str, float]) -> dict[str, bool]:
    return {name: record[name] <= limit for name, limit in limits.items()}


def _rank(
    name: str, records: list[Record], nominal: Record, margins: dict[str, float], limits: dict[str, float]
) -> Record:
    """How much of each of the design's margins one tolerance alone uses up on average, and of which margin most."""
    used = {
        figure: float(np.mean([max(0.0, record[figure] - nominal[figure]) for record in records])) / margin
        for figure, margin in margins.items()
    }
    worst = max(used, key=lambda figure: used[figure])
    share = float(np.mean([all(_within(record, limits).values()) for record in records]))
    return {"tolerance": name, "used": used[worst], "limit": worst, "margins": used, "yield": share}


def _distribution(values: list[float]) -> dict[str, float]:
    p5, p50, p95 = np.percentile(values, [5, 50, 95])
    return {"mean": float(np.mean(values)), "p5": float(p5), "p50": float(p50), "p95": float(p95)}


def _key(tolerances: Tolerances) -> str:
    """Names what is drawn from: another name for another set of tolerances."""
    return hashlib.sha256(json.dumps(to_mapping(tolerances), sort_keys=True).encode()).hexdigest()[:12]


def _fingerprint(target: Target, study: ToleranceStudy, options: Options, faces: geometry.Faces) -> str:
    """Names a run: changes with anything that a camera's figures depend on but its own deviation."""
    pairs = file_digest(options.pairs)[:16] if options.pairs is not None else None
    facts = [__version__, target.digest(), study.seed, pairs, study.probes]
    checksum = hashlib.sha256(json.dumps(facts).encode())
    checksum.update(np.ascontiguousarray(faces.landmarks.numpy()).tobytes())
    checksum.update(np.ascontiguousarray(faces.images.numpy()).tobytes())
    return checksum.hexdigest()[:16]
