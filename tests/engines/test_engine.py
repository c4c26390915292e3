"""The engines draw the same faces from the same seeds."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from phaseveil import PhaseVeil
from phaseveil.apps.export import samples
from phaseveil.engines.engine import Engine, TorchEngine
from phaseveil.engines.files import PAIR_FILE
from phaseveil.engines.onnx_runtime import OnnxRuntimeEngine
from phaseveil.engines.open_vino import OpenVinoEngine
from phaseveil.errors import CheckpointError, ConfigError


def needs(package: str, extra: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs the extra '{extra}'")


OPENERS = [
    pytest.param(OnnxRuntimeEngine, marks=needs("onnxruntime", "onnx"), id="onnxruntime"),
    pytest.param(lambda path: OpenVinoEngine(path, torch.float32), marks=needs("openvino", "openvino"), id="openvino"),
]
Opener = Callable[[Path], Engine]


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32)


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_same_seeds_same_faces(pipeline: PhaseVeil, exported: Path, opener: Opener, batch: int) -> None:
    other = pipeline.with_engine(opener(exported / PAIR_FILE))
    scenes, seeds = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)), range(batch)
    expected = pipeline.generate(scenes, pipeline.latent_styles(seeds), seeds)
    found = other.generate(scenes, other.latent_styles(seeds), seeds)
    for value, right in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        assert value.is_contiguous()
        torch.testing.assert_close(value, right, rtol=0, atol=2e-3)


@pytest.mark.parametrize("opener", OPENERS)
def test_a_later_batch_leaves_an_earlier_one_alone(pipeline: PhaseVeil, exported: Path, opener: Opener) -> None:
    engine, given = opener(exported / PAIR_FILE), samples(pipeline)
    first = engine.redraw(*given)
    kept = first.face.clone()
    assert not torch.equal(engine.redraw(given.acquisitions.flip(0), given.styles).face, kept)
    assert torch.equal(first.face, kept)


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_or_missing_file_is_one_line(
    exported: Path, tmp_path: Path, opener: Opener, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "a.onnx").write_bytes(content)
    message = "no such network" if content is None else "damaged or no network of ONNX"
    with pytest.raises(CheckpointError, match=rf"a\.onnx: {message}") as caught:
        opener(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("opener", "message"),
    [
        (OnnxRuntimeEngine, r"the package onnxruntime; install 'phaseveil\[onnx\]'"),
        (lambda path: OpenVinoEngine(path, torch.float32), r"the package openvino; install 'phaseveil\[openvino\]'"),
    ],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, opener: Opener, message: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=message):
        opener(Path("pair.onnx"))


@needs("openvino", "openvino")
def test_openvino_computes_in_bfloat16_when_asked(pipeline: PhaseVeil, exported: Path) -> None:
    given = samples(pipeline)
    exact = pipeline.engine.redraw(*given)
    quick = OpenVinoEngine(exported / PAIR_FILE, torch.bfloat16).redraw(*given)
    assert quick.face.dtype == torch.float32
    assert (quick.face - exact.face).abs().mean() < 5e-3


def test_pytorch_is_the_engine_that_a_pipeline_has(pipeline: PhaseVeil) -> None:
    given = samples(pipeline)
    engine = TorchEngine(pipeline.pair, torch.device("cpu"), torch.float32)
    drawn, generated = engine.redraw(*given), pipeline.redraw(*given)
    assert torch.equal(drawn.face, generated.face)
    assert torch.equal(drawn.heatmap, generated.heatmap)
    assert torch.equal(drawn.landmarks, generated.landmarks)
    assert pipeline.with_engine(engine) is not pipeline


def test_pytorch_draws_large_batches_in_parts(pipeline: PhaseVeil, monkeypatch: pytest.MonkeyPatch) -> None:
    acquisitions, styles = samples(pipeline)
    whole = pipeline.engine.redraw(acquisitions[:5], styles[:5])
    monkeypatch.setattr("phaseveil.engines.engine.PART_PIXELS", 2 * 32**2)
    drawn = pipeline.engine.redraw(acquisitions[:5], styles[:5])
    alone = pipeline.engine.redraw(acquisitions[4:5], styles[4:5])
    for value, right, last in zip(drawn, whole, alone, strict=True):
        torch.testing.assert_close(value, right, rtol=0, atol=1e-5)
        assert torch.equal(value[4:], last)  # what is left over is a part of its own
