"""Speed of the networks: generator, pair and whole pipeline by every engine, against the machine's best convolution."""

import importlib.util
import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from phaseveil.apps.bench_race import Row, Section, race, rows_of, section
from phaseveil.apps.export import EXTRAS, OPENERS, Say, export_onnx, samples
from phaseveil.engines.engine import Engine
from phaseveil.engines.export import Samples, Settings, named_tensors
from phaseveil.engines.files import PAIR_FILE
from phaseveil.losses import adversarial
from phaseveil.losses.heatmap import landmark_loss, teacher_loss
from phaseveil.models.blocks import to_channels_last
from phaseveil.models.discriminator import Discriminator
from phaseveil.models.face import NUM_DOMAINS, FaceConfig, FaceNetworks
from phaseveil.models.folding import folded
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet
from phaseveil.optics.camera import PhaseMaskCamera, load_camera
from phaseveil.pipeline import PhaseVeil
from phaseveil.precision import mixed_precision

BATCHES = (1, 16)
PEAK_SHAPES = ((1, 64, 64), (1, 128, 32), (16, 64, 64), (16, 128, 32), (16, 256, 16), (1, 256, 64), (4, 512, 32))
"""Batch, channels and side of the 3 × 3 convolutions of which the fastest is the peak."""
PEAK = "3 × 3 convolution, the best"
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def machine() -> str:
    """The machine and what it runs, in a line."""
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    name = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    return (
        f"{name or platform.machine()}, {os.cpu_count()} cores, {threads} threads, load {load:.1f}, "
        f"torch {torch.__version__}, {NAMES[PhaseVeil.from_pretrained().dtype]}"
    )


def best_convolution(dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """The 3 × 3 convolution, channels-last, with the most FLOP/s of those of :data:`PEAK_SHAPES`, and its FLOP."""
    contestants, work = {}, {}
    for batch, channels, side in PEAK_SHAPES:
        name = f"{batch} × {channels} × {side}²"
        features = torch.randn(batch, channels, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
        contestants[name] = lambda features=features, weight=weight: functional.conv2d(features, weight, padding=1)
        work[name] = 2.0 * 9 * channels**2 * side**2 * batch
    with torch.inference_mode():
        seconds = race(contestants, rounds=5)
    best = max(contestants, key=lambda name: work[name] / seconds[name].best)
    return contestants[best], work[best]


def pipeline_at(size: int) -> PhaseVeil:
    """The bundled pipeline at 128 px; at another size the ``paper`` networks, not trained: speed is the same."""
    if size == 128:
        return PhaseVeil.from_pretrained()
    torch.manual_seed(0)
    networks = FaceNetworks(FaceConfig(size=size))
    return PhaseVeil(load_camera("learned"), HeatmapNet(HeatmapConfig(size=size)), networks)


def network_sections(sizes: tuple[int, ...], rounds: int, say: Say) -> Iterator[Section]:
    """Generator, and the whole pipeline by each engine, for batches of :data:`BATCHES`, at each size."""
    for size in sizes:
        pipeline = pipeline_at(size)
        given = samples(pipeline)
        with TemporaryDirectory() as folder:
            engines, missing = _engines(pipeline, Path(folder), say)
            notes = _differences(pipeline, engines, given) if size == 128 else {}
            for batch in BATCHES:
                say(f"networks: {size} px, batch {batch}")
                turns = rounds if batch == 1 else max(3, rounds // 10)
                yield _network_section(pipeline, engines, given, batch, turns, notes, missing)


def _engines(pipeline: PhaseVeil, folder: Path, say: Say) -> tuple[dict[str, Engine], tuple[Row, ...]]:
    """Every engine that is installed, PyTorch first, and rows for the others."""
    engines: dict[str, Engine] = {f"torch {NAMES[pipeline.dtype]}": pipeline.engine}
    present = [name for name in OPENERS if _installed("onnx", "onnxscript", "onnxruntime", name)]
    missing = tuple(
        Row(name, note=f"not installed; it comes with 'phaseveil[{EXTRAS[name]}]'")
        for name in OPENERS
        if name not in present
    )
    if present:
        say(f"exporting the networks at {pipeline.size} px")
        export_onnx(pipeline, folder, Settings(files=frozenset({PAIR_FILE})), lambda done, total: None)
    for name in present:
        dtype = pipeline.dtype if name == "openvino" else torch.float32
        engines[f"{name} {NAMES[dtype]}"] = OPENERS[name](folder / PAIR_FILE, dtype)
    return engines, missing


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


def _network_section(
    pipeline: PhaseVeil,
    engines: dict[str, Engine],
    given: Samples,
    batch: int,
    rounds: int,
    notes: dict[str, str],
    missing: tuple[Row, ...],
) -> Section:
    acquisitions, styles = given.acquisitions[:batch].clone(), given.styles[:batch].clone()
    scenes, seeds = torch.rand(acquisitions.shape, generator=torch.Generator().manual_seed(0)), range(batch)
    convolution, convolution_work = best_convolution(pipeline.dtype)
    generator, heatmap = _generator(pipeline, acquisitions, styles)
    work = {"generator, torch": _flop(lambda: pipeline.networks.generator(acquisitions, heatmap, styles))}
    contestants: dict[str, Callable[[], object]] = {"generator, torch": generator}
    pair_work = _flop(lambda: pipeline.pair(acquisitions, styles))
    for name, engine in engines.items():
        contestants[f"pipeline, {name}"] = partial(pipeline.with_engine(engine).generate, scenes, styles, seeds)
        work[f"pipeline, {name}"] = pair_work
    first = f"pipeline, {next(iter(engines))}"  # the yardstick
    ordered = {first: contestants.pop(first), **contestants, PEAK: convolution}
    with torch.inference_mode():
        seconds = race(ordered, rounds)
    peak = convolution_work / seconds[PEAK].best
    shares = {name: flop / seconds[name].best / peak for name, flop in work.items()}
    told = {f"pipeline, {name}": note for name, note in notes.items()} | {PEAK: f"{peak / 1e9:.0f} GFLOP/s"}
    rows = rows_of(seconds, dict.fromkeys(work, batch), shares, told)
    kind = "" if pipeline.size == 128 else ", not trained"
    return section(f"Scene to new face, {pipeline.size} px{kind}, batch {batch}", rows + missing)


def _generator(pipeline: PhaseVeil, acquisitions: Tensor, styles: Tensor) -> tuple[Callable[[], Tensor], Tensor]:
    """The generator as PyTorch's engine runs it, and the heatmaps that it is given."""
    pair = folded(pipeline.pair, pipeline.dtype)
    frames = acquisitions.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        heatmap = pipeline.pair.heatmap_net(frames).heatmap.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=pipeline.dtype == torch.bfloat16):
            return pair.generator(frames, heatmap, styles)

    return run, heatmap


@torch.inference_mode()
def _flop(run: Callable[[], object]) -> float:
    """Floating-point operations of the convolutions and matrix products of a run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _differences(pipeline: PhaseVeil, engines: dict[str, Engine], given: Samples) -> dict[str, str]:
    """How far each engine's faces are from PyTorch's in float32, on [0, 1]."""
    exact = named_tensors(pipeline.pair, given.acquisitions, given.styles)["face"]
    found = {name: (engine.redraw(*given).face - exact).abs() for name, engine in engines.items()}
    return {name: f"from fp32: at most {error.max():.1e}, mean {error.mean():.1e}" for name, error in found.items()}


def training_sections(rounds: int, batch: int = 8) -> Iterator[Section]:
    """The heart of a step of either stage at 128 px, on random images: without files, logging and judges."""
    contestants = {
        "stage I: camera, heatmap network": _camera_step(batch),
        "stage II: generator, style encoder, discriminator": _face_step(batch),
    }
    yield section(f"Training step, 128 px, batch {batch}", rows_of(race(contestants, rounds), batch))


def _camera_step(batch: int) -> Callable[[], None]:
    camera, network = load_camera("learned"), to_channels_last(HeatmapNet(HeatmapConfig()), "cpu").train()
    assert isinstance(camera, PhaseMaskCamera)
    optimizer = torch.optim.AdamW([*network.parameters(), *camera.parameters()], lr=1e-9)
    image, landmarks = torch.rand(batch, 3, 128, 128), torch.rand(batch, 68, 2)

    def step() -> None:
        acquisition = camera(image, torch.Generator().manual_seed(0))
        with mixed_precision("cpu"):
            output = network(acquisition.contiguous(memory_format=torch.channels_last))
        loss = teacher_loss(output.logits, landmarks) + landmark_loss(output.landmarks, landmarks)
        _descend(optimizer, loss)

    return step


def _face_step(batch: int) -> Callable[[], None]:
    networks, discriminator = FaceNetworks(FaceConfig()).train(), Discriminator(128, 32, 5, NUM_DOMAINS)
    for module in (networks, discriminator):
        to_channels_last(module, "cpu")
    learning = torch.optim.AdamW([*networks.generator.parameters(), *networks.style_encoder.parameters()], lr=1e-9)
    judging = torch.optim.AdamW(discriminator.parameters(), lr=1e-9)
    image, heatmap = torch.rand(batch, 3, 128, 128), torch.rand(batch, 5, 64, 64)
    domain = torch.zeros(batch, dtype=torch.int64)

    def step() -> None:
        with mixed_precision("cpu"):
            fake = networks.generator(image, heatmap, networks.style_encoder(image, domain))
            real, drawn = (discriminator(face, heatmap, domain) for face in (image, fake.detach()))
        _descend(judging, adversarial.discriminator_loss(real, drawn))
        with mixed_precision("cpu"):
            convinced = adversarial.generator_loss(discriminator(fake, heatmap, domain))
        _descend(learning, convinced + adversarial.reconstruction_loss(fake, image))

    return step


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def scaling_sections(rounds: int) -> Iterator[Section]:
    """PyTorch's engine at 128 px over the batch, and over the processor's cores."""
    pipeline = PhaseVeil.from_pretrained()
    given = samples(pipeline)
    sizes = (1, 2, 4, 8, 16)
    contestants = {
        f"batch {batch}": lambda batch=batch: pipeline.engine.redraw(
            given.acquisitions[:batch].contiguous(), given.styles[:batch].contiguous()
        )
        for batch in sizes
    }
    items = {f"batch {batch}": batch for batch in sizes}
    yield section("Networks, 128 px, over the batch", rows_of(race(contestants, rounds), items))
    yield _core_section(pipeline, given, rounds)


def _core_section(pipeline: PhaseVeil, given: Samples, rounds: int) -> Section:
    before, four = torch.get_num_threads(), Samples(*(tensor[:4].contiguous() for tensor in given))

    def run(threads: int) -> Callable[[], object]:
        def redraw() -> object:
            torch.set_num_threads(threads)
            return pipeline.engine.redraw(*four)

        return redraw

    counts = [1 << power for power in range((os.cpu_count() or 1).bit_length())]
    try:
        found = race({f"{threads} threads": run(threads) for threads in counts}, rounds)
    finally:
        torch.set_num_threads(before)
    return section("Networks, 128 px, batch 4, over the threads", rows_of(found, 4))
