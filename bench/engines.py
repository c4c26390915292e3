"""Speed, or quality, of the engines of ``phaseveil anonymize --engine`` on the pair of networks, without files.

    python -m bench.engines --rounds 100
    python -m bench.engines --quality val --faces 96      # instead: FD and LM of what they draw

All engines live in one process and take turns, each round in another order, so that whatever else the machine does
hits them alike; ratios are medians over rounds of PyTorch's time over the engine's. The networks' inputs are faces
through the camera. As many threads as PyTorch has are used by all (``OMP_NUM_THREADS``).
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from phaseveil.apps.evaluate_measure import DETECTORS
from phaseveil.apps.export import export_onnx, samples
from phaseveil.data.image_io import list_images, read_image, resize, to_array, to_tensor
from phaseveil.engines.engine import Engine
from phaseveil.engines.export import Samples, Settings, named_tensors
from phaseveil.engines.files import PAIR_FILE
from phaseveil.engines.onnx_runtime import OnnxRuntimeEngine
from phaseveil.engines.open_vino import OpenVinoEngine
from phaseveil.metrics.detection import detection_score, find_faces
from phaseveil.pipeline import PhaseVeil

LARGE = 16
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="at batch 1; a tenth of it at batch 16")
    parser.add_argument("--weights", type=Path, help="folder of weights; the bundled ones by default")
    parser.add_argument("--int8", action="store_true", help="also files with int8 convolutions")
    parser.add_argument("--quality", type=Path, help="folder of aligned crops: detection of new faces, no speed")
    parser.add_argument("--faces", type=int, default=96, help="of that folder, evenly spread")
    arguments = parser.parse_args()

    pipeline = PhaseVeil.from_pretrained(arguments.weights)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.quality:
            engines = open_engines(pipeline, Path(folder), ("fp32", "fp16", "int8"))
            print(quality(pipeline, engines, arguments.quality, arguments.faces))
            return
        given = samples(pipeline)
        engines = open_engines(pipeline, Path(folder), ("fp32", "int8") if arguments.int8 else ("fp32",))
        single = measure(engines, given, 1, arguments.rounds)
        large = measure(engines, given, LARGE, max(arguments.rounds // 10, 2))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f}, {pipeline.size} px, torch {torch.__version__}\n")
    print(table(single, large, deviations(pipeline, engines, given)))


def open_engines(pipeline: PhaseVeil, folder: Path, precisions: tuple[str, ...]) -> dict[str, Engine]:
    """All engines by their names; the first is PyTorch as the pipeline runs it."""
    engines: dict[str, Engine] = {f"torch {name_of(pipeline.dtype)}": pipeline.engine}
    for precision in precisions:
        settings = Settings(precision=precision, files=frozenset({PAIR_FILE}))
        export_onnx(pipeline, folder / precision, settings, lambda done, total: None)
        path = folder / precision / PAIR_FILE
        engines[f"onnxruntime {precision}"] = OnnxRuntimeEngine(path)
        for dtype in dict.fromkeys((torch.float32, pipeline.dtype)):
            suffix = name_of(dtype) if precision == "fp32" else f"{precision}, rest {name_of(dtype)}"
            engines[f"openvino {suffix}"] = OpenVinoEngine(path, dtype)
    return engines


def name_of(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def measure(engines: dict[str, Engine], given: Samples, batch: int, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each engine for a batch, a value a round."""
    acquisitions, styles = given.acquisitions[:batch].contiguous(), given.styles[:batch].contiguous()
    for engine in engines.values():
        for _ in range(WARM_UP):
            engine.redraw(acquisitions, styles)
    names = list(engines)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            engines[name].redraw(acquisitions, styles)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def deviations(pipeline: PhaseVeil, engines: dict[str, Engine], given: Samples) -> dict[str, str]:
    """Largest and mean absolute difference of the new faces from PyTorch's in float32, on [0, 1]."""
    exact = named_tensors(pipeline.pair, given.acquisitions, given.styles)["face"]
    found = {name: (engine.redraw(*given).face - exact).abs() for name, engine in engines.items()}
    return {name: f"{error.max():.1e}, {error.mean():.1e}" for name, error in found.items()}


def quality(pipeline: PhaseVeil, engines: dict[str, Engine], folder: Path, faces: int) -> str:
    """Markdown, a row an engine: distance from PyTorch in float32, FD and LM against the sources, a style each."""
    files = sorted(list_images([folder]))
    crops = [resize(read_image(file), pipeline.size) for file in files[:: max(len(files) // faces, 1)][:faces]]
    seeds = range(len(crops))
    given = Samples(
        pipeline.acquire(torch.stack([to_tensor(crop) for crop in crops]), seeds).cpu(),
        pipeline.latent_styles(seeds).cpu(),
    )
    batches = [Samples(*parts) for parts in zip(*(values.split(LARGE) for values in given), strict=True)]
    exact = torch.cat([named_tensors(pipeline.pair, *batch)["face"] for batch in batches])
    drawn = {"torch fp32": exact}
    drawn |= {name: torch.cat([engine.redraw(*batch).face for batch in batches]) for name, engine in engines.items()}
    readers = {name: make() for name, (_, make) in DETECTORS.items()}
    found = {name: find_faces(crops, reader) for name, reader in readers.items()}
    heads = [f"{figure}, {name}" for name in readers for figure in ("FD", "LM, px")]
    rows = [f"| engine, {len(crops)} faces | from torch fp32: max, mean | {' | '.join(heads)} |", "|---" * 6 + "|"]
    for engine, new in drawn.items():
        error = (new.float() - exact).abs()
        cells = [f"{error.max():.1e}, {error.mean():.1e}"]
        for name, reader in readers.items():
            score = detection_score(found[name], find_faces([to_array(face) for face in new.float()], reader))
            cells += [f"{score.fd:.3f}", f"{score.lm:.2f}"]
        rows.append(f"| {engine} | {' | '.join(cells)} |")
    return "\n".join(rows)


def table(single: dict[str, np.ndarray], large: dict[str, np.ndarray], deviation: dict[str, str]) -> str:
    """Markdown, a row an engine; columns for batches of 1 and 16."""
    base = next(iter(single))
    rows = [
        "| engine | 1: images/s | p50 ms | p95 ms | ratio | 16: images/s | ratio | from torch fp32: max, mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, seconds in single.items():
        p50, p95 = np.percentile(seconds, [50, 95])
        alone, together = np.median(single[base] / seconds), np.median(large[base] / large[name])
        cells = [f"{1 / p50:.1f}", f"{1e3 * p50:.1f}", f"{1e3 * p95:.1f}", f"{alone:.2f}"]
        cells += [f"{LARGE / np.median(large[name]):.1f}", f"{together:.2f}", deviation[name]]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
