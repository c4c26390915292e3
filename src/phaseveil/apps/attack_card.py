"""The privacy card as plain values: settings, attacks, headline, and what was not measured."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseveil import __version__
from phaseveil.apps.attack_bench import Bench
from phaseveil.apps.attack_front import SCHEMA, Card, front_point, trade_off
from phaseveil.apps.attack_results import ARTEFACTS, NO_PERCEPTUAL, Record, interval, plain, upper_bound
from phaseveil.apps.attack_target import NEED_FACE, NEED_HEATMAP, family_of, landmark_error
from phaseveil.attacks import inversion
from phaseveil.metrics.identity import Integers
from phaseveil.optics.camera import plain_config

REAL = ("acquisition", "recovered")
"""Artefacts of the headline: what the camera lets out, and what can be made of it."""

NO_TRAINED_ON_FACES = "a recogniser trained on generated faces is not part of this budget"
NO_POINT_SEEN = "no captured point source rises above the sensor's noise"
SHORT_INVERSION = (
    "the inversion network was trained for {steps} steps; {full} of them (--budget full) raise its AUC on the bundled "
    "camera from 0.80 to 0.96"
)
ONE_METHOD_SWEPT = "noise and bit depth are swept for Wiener only; --budget full sweeps every method"
OFF_CENTRE = "low resolution has no single point spread function; deconvolution uses the average over a photosite"
ONE_EXPOSURE = (
    "each exposure is attacked by itself; what many of one face, each through another mask, give together is open"
)
OTHER_CAMERA = "deconvolution, inversion and recognition by methods other than these; a real sensor in a real lens"


def describe_target(bench: Bench) -> Record:
    """The part ``camera`` of a card, the landmark error included."""
    target, family = bench.target, family_of(bench.target.camera)
    error = None
    if target.heatmap_net is not None:
        error = landmark_error(target.heatmap_net, bench.acquisitions, bench.study, bench.study.probes)
    return {
        "name": target.name,
        "family": family.name,
        "strength": family.strength,
        "frame": target.size,
        "config": plain_config(target.camera.config),
        "digest": target.digest(),
        "landmark_error": interval(error),
        "landmark_error_faces": len(bench.study.probes) if error is not None else 0,
        "landmark_error_reason": None if error is not None else NEED_HEATMAP,
    }


def describe_sample(bench: Bench) -> Record:
    """The part ``sample``: who and what was scored."""
    study = bench.study
    persons, same = study.photographs.persons, study.photographs.same

    def people(places: Integers) -> int:
        return len(np.unique(persons[places]))

    return {
        "photographs": len(study.photographs),
        "persons": len(np.unique(persons)),
        "attacker_persons": people(study.attacker),
        "attacker_photographs": len(study.attacker),
        "probes": len(study.probes),
        "probe_persons": people(study.probes),
        "gallery": len(study.gallery),
        "genuine_pairs": int(same.sum()),
        "impostor_pairs": int((~same).sum()),
        "clean_impostor_pairs": study.clean_impostors,
    }


def describe_machine() -> Record:
    """Where it ran."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",  # not the kernel's build: cards are published
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def assemble(
    bench: Bench, records: Sequence[Record], settings: Record, others: Sequence[Record], pictures: bool
) -> Card:
    """The whole card.

    Args:
        bench: What the attacks worked with.
        records: Of all attacks.
        settings: Budget, seed, pairs, recogniser, weights.
        others: Points of other cameras, see :func:`phaseveil.apps.attack_front.front_point`.
        pictures: Whether the HTML shows photographs.
    """
    card: Card = {
        "schema": SCHEMA,
        "phaseveil": __version__,
        "contains_photographs": pictures,
        "machine": describe_machine(),
        "camera": describe_target(bench),
        "settings": settings,
        "sample": describe_sample(bench),
        "thresholds": {
            "fmr_1e3": bench.study.thresholds.fmr_1e3,
            "fmr_1e4": bench.study.thresholds.fmr_1e4,
            "on": f"{bench.study.clean_impostors} clean impostor pairs of the list",
        },
        "upper_bound": upper_bound(bench.study),
        "attacks": list(records),
        "headline": headline(records),
        "not_measured": not_measured(bench, records),
        "seconds": {record["step"]: record["seconds"] for record in records},
    }
    card["front"] = trade_off(front_point(card), others)
    plain_card: Card = plain(card)
    return plain_card


def headline(records: Sequence[Record]) -> Record:
    """The strongest attack on what the camera lets out, and that on each artefact: highest AUC, another photograph."""
    per_artefact = {name: _strongest([r for r in records if r["artefact"] == name]) for name in ARTEFACTS}
    return {
        "strongest": _strongest([record for record in records if record["artefact"] in REAL]),
        "per_artefact": per_artefact,
    }


def not_measured(bench: Bench, records: Sequence[Record]) -> list[dict[str, str]]:
    """What the card leaves open, and the option that fills it."""
    target, budget = bench.target, bench.budget
    missing = []
    if target.heatmap_net is None:
        missing.append(("landmark error, heatmap", NEED_HEATMAP))
    if target.pipeline is None:
        missing.append(("generated face", NEED_FACE))
    elif "generated" not in budget.trained_on:
        missing.append(("A4 on the generated face", NO_TRAINED_ON_FACES))
    if bench.perceptual is None:
        missing.append(("LPIPS", NO_PERCEPTUAL))
    if not any(record["key"] == "A2-captured" for record in records):
        missing.append(("A2 with a captured PSF", NO_POINT_SEEN))
    if budget.inversion.steps < inversion.FULL.steps:
        missing.append(("A3 trained for longer", _short_inversion(budget.inversion.steps)))
    if len(budget.sweep) < 2:
        missing.append(("sensor sweep of all methods", ONE_METHOD_SWEPT))
    if family_of(target.camera).name == "low-resolution":
        missing.append(("exact inverse of low resolution", OFF_CENTRE))
    if family_of(target.camera).name == "dynamic-mask":
        missing.append(("several exposures of one face", ONE_EXPOSURE))
    missing.append(("attacks beyond these", OTHER_CAMERA))
    return [{"what": what, "why": why} for what, why in missing]


def _short_inversion(steps: int) -> str:
    return SHORT_INVERSION.format(steps=steps, full=inversion.FULL.steps)


def summary(card: Mapping[str, Any], folder: Path) -> list[str]:
    """A card in a few lines, for the terminal."""
    strongest, clear = card["headline"]["strongest"], card["upper_bound"]["another"]
    lines = [
        f"strongest attack: {strongest['code']} {strongest['title']} ({strongest['artefact']})",
        f"  AUC {bounds(strongest['auc'])}, TAR at FMR 1e-3 {percent(strongest['tar'])}, "
        f"Rank-1 {percent(strongest['rank_one'])} of {strongest['gallery_size']}",
        f"  clear photographs: AUC {bounds(clear['auc'])}, TAR {percent(clear['tar'])}",
    ]
    steps = card["settings"]["budget"]["inversion"]["steps"]
    if steps < inversion.FULL.steps:
        lines.append(f"  a lower bound: {_short_inversion(steps)}")
    error = card["camera"]["landmark_error"]
    if error is not None:
        lines.append(f"landmark error {percent(error)}; at equal landmark error: {equal_error(card)}")
    return [*lines, str(folder / "privacy_card.html")]


def equal_error(card: Mapping[str, Any]) -> str:
    """AUC of the strongest attack on each family of baselines at this camera's landmark error, in one line."""
    families = card["front"]["equal_error"].items()
    return ", ".join(
        f"{name} {bounds(at['auc'])}, {bounds(at.get('leaks_more'))} more" if at["auc"] else f"{name} unknown"
        for name, at in families
    )


def bounds(figure: Mapping[str, float] | None) -> str:
    """``0.931 [0.912, 0.950]``; a dash where there is none."""
    return (
        "–"
        if figure is None
        else f"{_digits(figure['value'], 3)} [{_digits(figure['low'], 3)}, {_digits(figure['high'], 3)}]"
    )


def percent(figure: Mapping[str, float] | None) -> str:
    """``12.3 % [10.1, 14.5]``; a dash where there is none."""
    if figure is None:
        return "–"
    low, value, high = (_digits(figure[name], 1, 100) for name in ("low", "value", "high"))
    return f"{value} % [{low}, {high}]"


def _digits(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "–" if value is None else f"{value * factor:.{digits}f}"


def _strongest(records: Sequence[Record]) -> Record | None:
    nominal = [record for record in records if record["nominal"]]
    if not nominal:
        return None
    best = max(nominal, key=lambda record: record["another"]["auc"]["value"])
    named = ("key", "code", "title", "artefact", "gallery", "thresholds_refitted")
    return {**{name: best[name] for name in named}, **best["another"]}


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text("utf-8").splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
