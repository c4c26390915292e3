"""Networks as ONNX files: heatmap network, generator, and both as one, checked against PyTorch before they are left."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phaseveil.checkpoint import replace_atomically
from phaseveil.data.image_io import write_problem
from phaseveil.engines.files import GENERATOR_FILE, HEATMAP_FILE, PAIR_FILE, describe
from phaseveil.engines.onnx_runtime import open_session
from phaseveil.engines.packages import need
from phaseveil.engines.precision import PRECISIONS, Feed
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.models.heatmap import HeatmapNet
from phaseveil.models.pair import Pair
from phaseveil.progress import Report

OPSETS = range(18, 24)
BATCHES = (1, 3, 16)
"""Batch sizes that a file is checked at."""
FOLDED = 2**24  # elements of a constant that may be computed at export: all weights of these networks
EVALUATION_SIDE = 256  # side of the frame in whose pixels distances are told


@dataclass(frozen=True)
class Settings:
    """How files are written.

    Attributes:
        opset: Version of ONNX's operators, one of :data:`OPSETS`.
        precision: One of :data:`phaseveil.engines.precision.PRECISIONS`.
        files: Which of ``heatmap.onnx``, ``generator.onnx`` and ``pair.onnx``.
    """

    opset: int = OPSETS.start
    precision: str = "fp32"
    files: frozenset[str] = frozenset({HEATMAP_FILE, GENERATOR_FILE, PAIR_FILE})

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ConfigError(f"the opset must lie between {OPSETS.start} and {OPSETS.stop - 1}, got {self.opset}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"unknown precision {self.precision!r}; use {', '.join(PRECISIONS)}")


class Samples(NamedTuple):
    """Real inputs, as many as the largest of :data:`BATCHES`.

    Attributes:
        acquisitions: sRGB, 0 to 1. Shape ``(16, 3, S, S)``, float32.
        styles: Style codes of unit RMS. Shape ``(16, style_dim)``, float32.
    """

    acquisitions: Tensor
    styles: Tensor


@dataclass(frozen=True)
class Exported:
    """A file, and how far its outputs are from PyTorch's in float32 on the samples, over all checked batches.

    Attributes:
        path: Where it is.
        size: Bytes.
        largest: Largest absolute difference of any output, on [0, 1].
        mean: Mean absolute difference of the output that differs most, on [0, 1].
        landmark_shift: Mean shift of the landmarks (of those that the heatmap network finds in the new faces, where the
            file draws faces), pixels of a 256×256 frame.
    """

    path: Path
    size: int
    largest: float
    mean: float
    landmark_shift: float


class Geometry(nn.Module):
    """The heatmap network with heatmaps instead of logits: ``(B, 3, S, S)`` → ``(B, 5, S/2, S/2)``, ``(B, 68, 2)``."""

    def __init__(self, heatmap_net: HeatmapNet) -> None:
        super().__init__()
        self.heatmap_net = heatmap_net

    def forward(self, acquisition: Tensor) -> tuple[Tensor, Tensor]:
        found = self.heatmap_net(acquisition)
        return found.heatmap, found.landmarks


class Part(NamedTuple):
    """What a file holds: a network, and the names of its inputs and outputs."""

    network: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def parts_of(pair: Pair) -> dict[str, Part]:
    """What each file holds."""
    return {
        HEATMAP_FILE: Part(Geometry(pair.heatmap_net), ("acquisition",), ("heatmap", "landmarks")),
        GENERATOR_FILE: Part(pair.generator, ("acquisition", "heatmap", "style_code"), ("face",)),
        PAIR_FILE: Part(pair, ("acquisition", "style_code"), ("face", "heatmap", "landmarks")),
    }


def export(pair: Pair, samples: Samples, folder: Path, settings: Settings, report: Report) -> list[Exported]:
    """Write the networks as ONNX files, all of them or none.

    Every file is run by ONNX Runtime on the samples, in batches of :data:`BATCHES`, before it gets its name.

    Args:
        pair: The networks, of any device and memory layout.
        samples: What the files are checked (and for int8, mirrored, calibrated) with.
        folder: Where to write.
        settings: Which files, and how.
        report: Told the files done.

    Raises:
        ConfigError: A package is missing.
        CheckpointError: A file does not agree with PyTorch.
        InputError: The folder cannot be written.
    """
    need("onnx", "onnxscript", "onnxruntime", extra="onnx")
    import onnx

    pair = copy.deepcopy(pair).cpu().eval()
    known = named_tensors(pair, samples.acquisitions, samples.styles)
    mirrored = named_tensors(pair, samples.acquisitions.flip(-1), samples.styles.roll(1, 0))
    metadata = describe(pair, samples.styles.shape[1], settings.precision)
    chosen = {name: part for name, part in parts_of(pair).items() if name in settings.files}
    exported = []
    try:
        with ExitStack() as stack, quiet():
            for name, part in chosen.items():
                temporary = stack.enter_context(replace_atomically(folder / name))
                model = to_onnx(part, known, settings.opset)
                calibration = [feed(part, mirrored, slice(i, i + 1)) for i in range(len(samples.styles))]
                model = PRECISIONS[settings.precision].convert(model, calibration)
                onnx.helper.set_model_props(model, {"part": Path(name).stem, **metadata})
                onnx.save(model, str(temporary))
                exported.append(check(temporary, folder / name, part, known, pair.heatmap_net, settings))
                report(len(exported), len(chosen))
    except OSError as error:
        raise InputError(f"{folder}: {write_problem(error)}") from error
    return exported


@torch.inference_mode()
def named_tensors(pair: Pair, acquisitions: Tensor, styles: Tensor) -> dict[str, Tensor]:
    """All inputs and outputs of the networks by their names in the files, computed by PyTorch in float32."""
    given = {"acquisition": acquisitions.float().cpu(), "style_code": styles.float().cpu()}
    return {**given, **pair(**given)._asdict()}


def feed(part: Part, known: dict[str, Tensor], items: slice) -> Feed:
    """A part's inputs for some of the samples."""
    return {name: known[name][items].contiguous().numpy() for name in part.inputs}


def to_onnx(part: Part, known: dict[str, Tensor], opset: int) -> Any:
    """A part as ``onnx.ModelProto``: batch open, constants folded, nothing of this machine in it."""
    from onnxscript import optimizer

    arguments = tuple(known[name][:2].clone() for name in part.inputs)
    program = torch.onnx.export(
        part.network,
        arguments,
        dynamo=True,
        opset_version=opset,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        dynamic_shapes=tuple({0: "batch"} for _ in part.inputs),
        verbose=False,
    )
    assert program is not None
    optimizer.optimize(program.model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    return without_traces(program.model_proto)


def without_traces(model: Any) -> Any:
    """Remove what the exporter notes at every node: source files, lines, module paths."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return model


@torch.inference_mode()
def check(
    path: Path, name: Path, part: Part, known: dict[str, Tensor], reader: HeatmapNet, settings: Settings
) -> Exported:
    """Compare a file's outputs with PyTorch's.

    Args:
        path: Where it is now.
        name: Where it shall be.
        part: What it holds.
        known: Inputs and right outputs.
        reader: Finds the landmarks of new faces.
        settings: Say what may differ how much.

    Raises:
        CheckpointError: It differs too much, or gives values that are not finite.
    """
    session = open_session(path)
    differences: dict[str, list[np.ndarray]] = {output: [] for output in part.outputs}
    faces: list[Tensor] = []
    for batch in BATCHES:
        found = session.run(part.outputs, feed(part, known, slice(batch)))
        for output, values in zip(part.outputs, found, strict=True):
            differences[output].append(np.abs(values - known[output][:batch].numpy()).ravel())
        faces = [torch.from_numpy(found[part.outputs.index("face")])] if "face" in part.outputs else []
    spread = {output: np.concatenate(parts) for output, parts in differences.items()}
    largest = max(float(values.max()) for values in spread.values())
    mean = max(float(values.mean()) for values in spread.values())
    limit = PRECISIONS[settings.precision]
    if not (largest <= limit.largest and mean <= limit.mean):  # so that what is not a number fails, too
        raise CheckpointError(
            f"{name}: the exported network differs from PyTorch's by up to {largest:.2g} (mean {mean:.2g}; allowed are "
            f"{limit.largest:g} and {limit.mean:g}), nothing was written; try another --opset or --precision"
        )
    shift = float(spread["landmarks"].mean()) if "landmarks" in spread else 0.0
    if faces:
        shift = float((reader(faces[0]).landmarks - reader(known["face"]).landmarks).abs().mean())
    return Exported(name, path.stat().st_size, largest, mean, shift * EVALUATION_SIDE)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporter and the quantiser tell about themselves while the block runs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
