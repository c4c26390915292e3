"""The pipeline's networks as ONNX files, and other engines than PyTorch that run these files.

The files are checked with the faces of ``samples.webp``: the crops of ``examples/crops`` at 128 px, side by side.
"""

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from phaseveil import __version__
from phaseveil.data.image_io import read_image, resize, to_tensor
from phaseveil.engines.engine import Engine
from phaseveil.engines.export import BATCHES, Exported, Samples, Settings, export
from phaseveil.engines.files import GRAPH, PAIR_FILE, check_fits, digest_of
from phaseveil.engines.onnx_runtime import OnnxRuntimeEngine
from phaseveil.engines.open_vino import OpenVinoEngine
from phaseveil.engines.packages import need
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.models.pair import Pair
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import Report

Say = Callable[[str], None]
EngineName = Literal["torch", "onnxruntime", "openvino"]


class FileEngine(Engine, Protocol):
    """An engine that was made from a file, with what the file says about itself."""

    metadata: dict[str, str]


OPENERS: dict[str, Callable[[Path, torch.dtype], FileEngine]] = {
    "onnxruntime": lambda path, dtype: OnnxRuntimeEngine(path),
    "openvino": OpenVinoEngine,
}
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


def export_onnx(pipeline: PhaseVeil, out: Path, settings: Settings, report: Report) -> list[Exported]:
    """Write the pipeline's networks as ONNX files, see :func:`phaseveil.engines.export.export`.

    Args:
        pipeline: Its camera photographs the faces that the files are checked with.
        out: Output folder.
        settings: Which files, and how.
        report: Told the files done.

    Raises:
        ConfigError: A package is missing.
        CheckpointError: A file does not agree with PyTorch.
        InputError: The folder cannot be written.
    """
    return export(pipeline.pair, samples(pipeline), out, settings, report)


def use_engine(pipeline: PhaseVeil, name: EngineName, folder: Path | None, say: Say) -> PhaseVeil:
    """The pipeline with its networks run by the engine of this name.

    Args:
        pipeline: Camera and networks. OpenVINO computes in the pipeline's precision, ONNX Runtime in the file's.
        name: ``torch`` (the pipeline as it is), ``onnxruntime`` or ``openvino``.
        folder: Where ``phaseveil export onnx`` wrote ``pair.onnx``. Where ``None``, the file is taken from the user's
            cache, and written there at the first use of these weights.
        say: Told that the networks are exported, which takes some seconds.

    Raises:
        ConfigError: A package is missing, or the options contradict each other.
        CheckpointError: The file is missing, damaged, or of other weights.
    """
    if name == "torch":
        if folder is not None:
            raise ConfigError("--engine-dir holds files of onnxruntime and openvino; name one of them by --engine")
        return pipeline
    if pipeline.device.type != "cpu":
        raise ConfigError(f"--engine {name} runs on the CPU, not on {pipeline.device}; leave --device or --engine out")
    need(name, extra=EXTRAS[name])
    pair = pipeline.pair
    path = _cached(pipeline, pair, name, say) if folder is None else folder / PAIR_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {PAIR_FILE} here; write it by 'phaseveil export onnx --out {folder}'")
    engine = OPENERS[name](path, pipeline.dtype)
    check_fits(path, engine.metadata, pair)
    return pipeline.with_engine(engine)


def samples(pipeline: PhaseVeil) -> Samples:
    """Real inputs for the pipeline's networks: the bundled faces and their mirror images through its camera, with
    styles, noise and order of the seeds 0, 1, 2 …"""
    strip = read_image(Path(str(resources.files("phaseveil"))) / "apps" / "samples.webp")
    faces = np.split(strip, strip.shape[1] // strip.shape[0], axis=1)
    crops = torch.stack([to_tensor(resize(face, pipeline.size)) for face in faces])
    both = torch.cat([crops, crops.flip(-1)])
    seeds = list(range(max(BATCHES)))
    chosen = both[[seed % len(both) for seed in seeds]]
    return Samples(pipeline.acquire(chosen, seeds).cpu(), pipeline.latent_styles(seeds).cpu())


def _cached(pipeline: PhaseVeil, pair: Pair, engine: str, say: Say) -> Path:
    """The pair in the user's cache, exported first where it is not there yet."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "phaseveil" / "engines" / f"{digest_of(pair)[:16]}-{__version__}-{GRAPH}"
    path = folder / PAIR_FILE
    if not path.is_file():
        say(f"{engine}: exporting these weights once, to {path}")
        try:
            export_onnx(pipeline, folder, Settings(files=frozenset({PAIR_FILE})), lambda done, total: None)
        except InputError as error:
            raise ConfigError(
                f"{folder}: the cache cannot be written; give --engine-dir a folder that 'phaseveil export onnx' wrote"
            ) from error
    return path
