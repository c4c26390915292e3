"""Utility and privacy of a camera with its networks, on one page: the application behind ``phaseveil evaluate``.

Protocol of Lopez et al. (CVPR 2024) and StarGAN v2: each source of one domain against several references of the other
(*reference mode*), and the same with styles of nobody (*latent mode*). All distances in pixels of a 256-px frame.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from phaseveil import __version__
from phaseveil.apps import evaluate_identity, evaluate_summary
from phaseveil.apps.evaluate_identity import Known, Stage
from phaseveil.apps.evaluate_inputs import (
    MODES,
    Options,
    Subject,
    choose_subjects,
    file_digest,
    list_domains,
    read_crop,
)
from phaseveil.apps.evaluate_measure import FaceFinder, Instruments, detector_names, measure, share_of_frame
from phaseveil.apps.evaluate_shards import Shards
from phaseveil.apps.evaluate_summary import TOO_FEW_TO_CORRECT, Figures
from phaseveil.data.datasets import DOMAINS
from phaseveil.data.image_io import to_tensor, write_atomically
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.expression import ExpressionReader
from phaseveil.metrics.fid import AlexNetFeatures, Features, InceptionFeatures
from phaseveil.metrics.identity import Floats
from phaseveil.metrics.onnx_recogniser import load_recogniser
from phaseveil.metrics.photographs import cached, oracle_landmarks, states
from phaseveil.optics.camera import plain_config
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import Report

FORMAT = "phaseveil-evaluate-2"
"""Of the file and of what measured it: it changes with either, and what an earlier one kept is measured again."""

NEEDS = {
    "LPIPS": "needs LPIPS-AlexNet weights; give --perceptual",
    "FD-AlexNet": "needs LPIPS-AlexNet weights; give --perceptual",
    "KID-AlexNet": "needs LPIPS-AlexNet weights; give --perceptual",
    "FID": "needs Inception as TorchScript; give --inception",
    "KID": "needs Inception as TorchScript; give --inception",
    "expression": "needs the expression classifier of fer; give --expression",
}
"""Columns of a mode that need an optional file, and the way to fill them."""
NO_PAIRS = "linking another photograph of a person needs a list of pairs; give --pairs"


class Clock:
    """Seconds that each stage of this run took, under the stage's name.

    Args:
        stage: Shows progress.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, description: str) -> Iterator[Report]:
        """Time and show one stage."""
        start = time.perf_counter()
        with self._stage(description) as report:
            yield report
        self.seconds[description] = round(time.perf_counter() - start, 2)


def evaluate(pipeline: PhaseVeil, options: Options, stage: Stage) -> Figures:
    """Measure everything, going on from what an interrupted run with the same settings has left in ``options.work``.

    Args:
        pipeline: Camera and networks.
        options: What to evaluate, and how.
        stage: Shows progress, such as :func:`phaseveil.progress.progress`.

    Returns:
        The record as plain values, ready for JSON; the same from run to run but for ``seconds``. A column that could
        not be filled is ``None``, with its reason under ``missing``.

    Raises:
        InputError: A folder, image or list cannot be used, or ``work`` cannot be written.
        CheckpointError: A weights file is damaged or of another network.
        ConfigError: A package is missing.
    """
    clock = Clock(stage)
    subjects = choose_subjects(options)
    references = list_domains(options.references, options.outputs)
    instruments = load_instruments(options, pipeline.device)
    digests = {name: file_digest(file) for name, file in optional_files(options).items()}
    recogniser = [digests.get(name) for name in ("recogniser", "recogniser settings")]
    known = Known(instruments.recogniser, key_of(__version__, instruments.recogniser.name, recogniser))
    networks = key_of(digest_of(pipeline), states([file for files in references.values() for file in files]))
    key = key_of(
        FORMAT, networks, known.key, digests, states([s.path for s in subjects]), options.seed, options.outputs,
        options.latent_detections, options.eye_distance, options.strength,
    )  # fmt: skip
    landmarks = find_landmarks(subjects, options.work / "cache", clock)
    finder = FaceFinder(detector_names(options), share_of_frame(options, landmarks))
    real = reference_features(instruments.features, references, digests, options.work / "cache", clock)
    shards = Shards(options.work / key, len(subjects), options.shard_size)
    fill(shards, pipeline, instruments, options, subjects, landmarks, finder, clock)
    with clock("figures"):
        rows, variance = evaluate_summary.gather(shards.read(), landmarks)
        figures = {
            "geometry": evaluate_summary.geometry(rows["points"], landmarks) | variance,
            "modes": {
                mode: evaluate_summary.mode_figures(mode, rows, subjects, options, real, instruments.features)
                for mode in MODES
            },
            "expression_ceiling": evaluate_summary.expression_ceiling(rows) if "expression" in rows else None,
        }
        among, missing = evaluate_identity.among_sources(rows["embeddings"], known.recogniser.name, options.seed)
    identity: Figures = {"sources": among, "pairs": None}
    if options.pairs is None:
        missing["identity.pairs"] = NO_PAIRS
    else:
        pairs_key = key_of(networks, known.key, options.seed, options.outputs)
        identity["pairs"], reasons = evaluate_identity.on_pairs(pipeline, known, options, pairs_key, clock)
        missing |= reasons
    missing |= complete(figures)
    record = {
        "format": FORMAT,
        "version": __version__,
        "machine": machine(pipeline),
        "settings": settings(options, pipeline, digests, key),
        "samples": samples(subjects, references, options),
        **figures,
        "identity": identity,
        "missing": missing,
        "seconds": clock.seconds,
    }
    plain: Figures = as_plain(record)
    return plain


def load_instruments(options: Options, device: torch.device) -> Instruments:
    """Networks that the options name.

    Raises:
        CheckpointError: A file is missing, damaged or of another network.
        ConfigError: A package is missing.
    """
    perceptual = LPIPS(options.perceptual).to(device) if options.perceptual is not None else None
    features: list[Features] = []
    if perceptual is not None:
        features.append(AlexNetFeatures(perceptual))
    if options.inception is not None:
        features.append(InceptionFeatures(options.inception, device))
    reader = ExpressionReader(options.expression) if options.expression is not None else None
    return Instruments(load_recogniser(options.recogniser), perceptual, features, reader)


def optional_files(options: Options) -> dict[str, Path]:
    """Files that decide what is measured, by the option's name."""
    files = {name: getattr(options, name) for name in ("perceptual", "inception", "expression", "recogniser")}
    if options.recogniser is not None:
        files["recogniser settings"] = options.recogniser.with_suffix(".yaml")
    return {name: file for name, file in files.items() if file is not None}


def find_landmarks(subjects: Sequence[Subject], folder: Path, stage: Stage) -> Floats:
    """Oracle landmarks of the sources, pixels of the 256-px frame, kept in a cache. Shape ``(N, 68, 2)``."""
    names = states([subject.path for subject in subjects])
    file = folder / f"landmarks-{key_of(__version__, names)}.npz"
    with stage("landmarks") as report:
        return cached(file, names, lambda place: oracle_landmarks(read_crop(subjects[place].path)), report)


def reference_features(
    networks: Sequence[Features],
    references: dict[str, list[Path]],
    digests: dict[str, str],
    folder: Path,
    stage: Stage,
) -> dict[str, dict[str, Floats]]:
    """Features of all references by network and domain, kept in a cache. Shape ``(M, D)`` each."""
    found: dict[str, dict[str, Floats]] = {}
    for network in networks:
        found[network.name] = {}
        for domain in DOMAINS:
            files = references[domain]
            names = states(files)

            def compute(place: int, network: Features = network, files: Sequence[Path] = files) -> np.ndarray:
                return network(to_tensor(read_crop(files[place]))[None])[0].cpu().numpy()

            key = key_of(__version__, network.name, digests, names)
            with stage(f"references: {network.name}, {domain}") as report:
                found[network.name][domain] = cached(folder / f"features-{key}.npz", names, compute, report)
    return found


def fill(
    shards: Shards,
    pipeline: PhaseVeil,
    instruments: Instruments,
    options: Options,
    subjects: Sequence[Subject],
    landmarks: Floats,
    finder: FaceFinder,
    stage: Stage,
) -> None:
    """Measure the sources that no shard holds yet."""
    places = shards.missing
    rows = measure(pipeline, instruments, options, [subjects[place] for place in places], landmarks[places], finder)
    with stage("sources") as report, closing(rows):
        for done in shards.write(rows):
            report(len(subjects) - len(places) + done, len(subjects))


def complete(figures: Figures) -> dict[str, str]:
    """Put ``None`` where a mode's column is missing; returns the reasons by column."""
    missing = {}
    for mode, columns in figures["modes"].items():
        for name in NEEDS.keys() - columns.keys():
            columns[name] = None
            missing[f"modes.{mode}.{name}"] = NEEDS[name]
        for name in ("FD-AlexNet", "FID"):
            if columns[name] is not None and columns[name]["mean"]["corrected"] is None:
                missing[f"modes.{mode}.{name}.mean.corrected"] = TOO_FEW_TO_CORRECT
    if figures["expression_ceiling"] is None:
        missing["expression_ceiling"] = NEEDS["expression"]
    return dict(sorted(missing.items()))


def samples(subjects: Sequence[Subject], references: dict[str, list[Path]], options: Options) -> Figures:
    """How many images the figures rest on."""
    return {
        "sources": {domain: sum(subject.domain == domain for subject in subjects) for domain in DOMAINS},
        "references": {domain: len(references[domain]) for domain in DOMAINS},
        "generated": dict.fromkeys(MODES, len(subjects) * options.outputs),
        "detected": {
            "reference": len(subjects) * options.outputs,
            "latent": len(subjects) * options.latent_detections,
        },
    }


def settings(options: Options, pipeline: PhaseVeil, digests: dict[str, str], key: str) -> Figures:
    """All that decides the figures; files and folders by their names, for records are published."""
    chosen = {
        name: value.name if isinstance(value, Path) else value
        for name, value in asdict(options).items()
        if name not in ("work", "shard_size")
    }
    return chosen | {
        "size": pipeline.size,
        "erased_directions": pipeline.erased_directions,
        "camera_config": plain_config(pipeline.camera.config),
        "detectors": detector_names(options),
        "sha256": digests,
        "fingerprint": key,
    }


def machine(pipeline: PhaseVeil) -> Figures:
    """Where the run took place."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",  # not the kernel's build
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(pipeline.device),
        "precision": str(pipeline.dtype).removeprefix("torch."),
    }


def digest_of(pipeline: PhaseVeil) -> str:
    """Changes when camera, weights, precision or device do, or the library that runs them."""
    digest = hashlib.sha256()
    modules: dict[str, nn.Module] = {
        "camera": pipeline.camera,
        "pair": pipeline.pair,
        "face": pipeline.networks,
    }
    for part, module in modules.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    configuration = plain_config(pipeline.camera.config)
    return key_of(__version__, torch.__version__, digest.hexdigest(), configuration, pipeline.dtype, pipeline.device)


def key_of(*parts: Any) -> str:
    """Short name for all that decides a result."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def as_plain(value: Any) -> Any:
    """Values as JSON has them: named tuples and dataclasses as objects, ``null`` where there is no number."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return as_plain(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return {name: as_plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(name): as_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def write_record(path: Path, record: Figures) -> None:
    """Write the record as JSON, whole or not at all.

    Raises:
        InputError: The place is not writable, or the disk is full.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
