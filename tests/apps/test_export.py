"""The choice of an engine, and the cache of its files."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseveil import PhaseVeil
from phaseveil.apps import export as app
from phaseveil.apps.export import samples, use_engine
from phaseveil.engines.export import Settings
from phaseveil.engines.files import PAIR_FILE
from phaseveil.engines.onnx_runtime import OnnxRuntimeEngine
from phaseveil.errors import CheckpointError, ConfigError, InputError


@pytest.fixture
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32)


@pytest.fixture
def exports(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of all exports, which only copy a file; the user's cache is empty at first."""
    calls: list[Settings] = []

    def copy(pipeline: PhaseVeil, out: Path, settings: Settings, report: Any) -> None:
        calls.append(settings)
        out.mkdir(parents=True)
        shutil.copy(exported / PAIR_FILE, out)

    monkeypatch.setattr(app, "export_onnx", copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_samples_are_faces_through_the_camera(pipeline: PhaseVeil) -> None:
    given = samples(pipeline)
    assert given.acquisitions.shape == (16, 3, 32, 32)
    assert given.styles.shape == (16, 8)
    assert 0 <= given.acquisitions.min() < 0.2 < 0.8 < given.acquisitions.max() <= 1
    torch.testing.assert_close(given.styles.square().mean(dim=1), torch.ones(16))
    assert all(torch.equal(first, again) for first, again in zip(given, samples(pipeline), strict=True))


def test_the_first_use_exports_the_pair_and_later_ones_do_not(
    pipeline: PhaseVeil, exports: list[Settings], tmp_path: Path
) -> None:
    told: list[str] = []
    for _ in range(2):
        other = use_engine(pipeline, "onnxruntime", None, told.append)
        assert isinstance(other.engine, OnnxRuntimeEngine)
    assert [settings.files for settings in exports] == [frozenset({PAIR_FILE})]
    (file,) = (tmp_path / "cache").rglob("*.onnx")
    assert told == [f"onnxruntime: exporting these weights once, to {file}"]


def test_other_weights_have_another_place_in_the_cache(
    pipeline: PhaseVeil, exports: list[Settings], tmp_path: Path
) -> None:
    use_engine(pipeline, "onnxruntime", None, print)
    with torch.no_grad():
        next(pipeline.networks.generator.parameters()).add_(1)
    with pytest.raises(CheckpointError, match="exported from other weights"):  # since the stand-in copies the old ones
        use_engine(pipeline, "onnxruntime", None, print)
    assert len(list((tmp_path / "cache").rglob("*.onnx"))) == len(exports) == 2


def test_a_folder_of_files_is_used_as_it_is(pipeline: PhaseVeil, exports: list[Settings], exported: Path) -> None:
    other = use_engine(pipeline, "onnxruntime", exported, print)
    assert isinstance(other.engine, OnnxRuntimeEngine)
    assert exports == []
    assert not isinstance(pipeline.engine, OnnxRuntimeEngine)


def test_a_folder_without_the_pair_is_refused(pipeline: PhaseVeil, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no pair\.onnx here; write it by 'phaseveil export onnx --out"):
        use_engine(pipeline, "onnxruntime", tmp_path, print)
    with torch.no_grad():
        next(pipeline.networks.generator.parameters()).add_(1)
    with pytest.raises(CheckpointError, match="exported from other weights"):
        use_engine(pipeline, "onnxruntime", exported, print)


def test_pytorch_needs_no_files(pipeline: PhaseVeil, tmp_path: Path) -> None:
    assert use_engine(pipeline, "torch", None, print) is pipeline
    with pytest.raises(ConfigError, match="--engine-dir holds files of onnxruntime and openvino"):
        use_engine(pipeline, "torch", tmp_path, print)


def test_other_engines_run_on_the_cpu_alone(pipeline: PhaseVeil) -> None:
    pipeline.device = torch.device("cuda")
    with pytest.raises(ConfigError, match="--engine openvino runs on the CPU, not on cuda"):
        use_engine(pipeline, "openvino", None, print)


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_package_is_named(
    pipeline: PhaseVeil, monkeypatch: pytest.MonkeyPatch, name: Any, extra: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"this needs the package {name}; install 'phaseveil\[{extra}\]'"):
        use_engine(pipeline, name, None, print)


def test_a_cache_that_cannot_be_written_tells_the_way_out(
    pipeline: PhaseVeil, exports: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise InputError("no permission")

    monkeypatch.setattr(app, "export_onnx", refuse)
    with pytest.raises(ConfigError, match="the cache cannot be written; give --engine-dir a folder"):
        use_engine(pipeline, "onnxruntime", None, lambda line: None)
