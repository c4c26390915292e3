"""Networks as ONNX files: they agree with PyTorch, say what they are, and are not left where they do not agree."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phaseveil import PhaseVeil, __version__
from phaseveil.apps.export import samples
from phaseveil.engines import export as module
from phaseveil.engines.export import Exported, Samples, Settings, check, export, feed, named_tensors, parts_of
from phaseveil.engines.files import GENERATOR_FILE, HEATMAP_FILE, PAIR_FILE, check_fits, describe, digest_of
from phaseveil.engines.onnx_runtime import open_session
from phaseveil.engines.precision import PRECISIONS
from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.models.pair import Pair

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

Known = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32)


@pytest.fixture(scope="module")
def pair(pipeline: PhaseVeil) -> Pair:
    return pipeline.pair


@pytest.fixture(scope="module")
def given(pipeline: PhaseVeil) -> Samples:
    return samples(pipeline)


@pytest.fixture(scope="module")
def known(pair: Pair, given: Samples) -> Known:
    return named_tensors(pair, *given)


@pytest.fixture
def traced(exported: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the exporter shall give for each file: at first what it did give, for tests that need no second tracing."""
    models = {name: onnx.load(exported / name) for name in (HEATMAP_FILE, GENERATOR_FILE, PAIR_FILE)}
    names = {part.inputs: name for name, part in parts_of(Pair(torch.nn.Module(), torch.nn.Module())).items()}  # type: ignore[arg-type]
    monkeypatch.setattr(module, "to_onnx", lambda part, known, opset: models[names[part.inputs]])
    return models


def write(pair: Pair, given: Samples, folder: Path, settings: Settings | None = None) -> list[Exported]:
    return export(pair, given, folder, settings or Settings(), lambda done, total: None)


def initializer(model: Any, ending: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name.endswith(ending))


@pytest.mark.parametrize("name", [HEATMAP_FILE, GENERATOR_FILE, PAIR_FILE])
@pytest.mark.parametrize("batch", [1, 3, 5, 16])
def test_a_file_gives_what_pytorch_gives(pair: Pair, known: Known, exported: Path, name: str, batch: int) -> None:
    part = parts_of(pair)[name]
    found = open_session(exported / name).run(part.outputs, feed(part, known, slice(batch)))
    for output, values in zip(part.outputs, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(values), known[output][:batch], rtol=0, atol=2e-3)
    assert (known["face"][0] - known["face"][2]).abs().max() > 0.02  # the samples differ by more than that


def test_a_file_says_what_it_is(pair: Pair, exported: Path) -> None:
    model = onnx.load(exported / PAIR_FILE)
    onnx.checker.check_model(model, full_check=True)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["part"], said["phaseveil_version"], said["precision"]) == ("pair", __version__, "fp32")
    assert said["weights_sha256"] == digest_of(pair)
    assert (said["size"], said["style_dim"], said["colour_order"]) == ("32", "8", "RGB")
    assert said["range"].startswith("0 to 1")
    check_fits(exported / PAIR_FILE, said, pair)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "acquisition": ["batch", 3, 32, 32],
        "style_code": ["batch", 8],
        "face": ["batch", 3, 32, 32],
        "heatmap": ["batch", 5, 16, 16],
        "landmarks": ["batch", 68, 2],
    }
    assert model.opset_import[0].version == 18


def test_a_file_knows_nothing_of_the_machine(exported: Path) -> None:
    for path in exported.iterdir():
        data = path.read_bytes()
        for trace in (b"/generator.py", b"site-packages", b"torch.nn", str(Path.home()).encode() + b"/"):
            assert trace not in data, f"{path.name}: {trace!r}"


def test_sums_over_weights_are_folded(exported: Path) -> None:
    model = onnx.load(exported / GENERATOR_FILE)
    constants = {tensor.name for tensor in model.graph.initializer}
    assert not [node.name for node in model.graph.node if node.input and set(node.input) <= constants]


def test_of_all_files_none_is_left_where_one_does_not_agree(
    pair: Pair, given: Samples, traced: dict[str, Any], tmp_path: Path
) -> None:
    bias = initializer(traced[PAIR_FILE], "to_rgb.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.02, bias.name))
    with pytest.raises(CheckpointError, match=r"pair\.onnx: the exported network differs from PyTorch's by up to 0\.0"):
        write(pair, given, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_number_does_not_agree(
    pair: Pair, given: Samples, traced: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / PAIR_FILE).write_text("of before")
    bias = initializer(traced[PAIR_FILE], "to_rgb.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), bias.name))
    with pytest.raises(CheckpointError, match="differs from PyTorch's by up to nan"):
        write(pair, given, tmp_path, Settings(files=frozenset({PAIR_FILE})))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]


def test_a_full_disk_leaves_nothing(
    pair: Pair, given: Samples, traced: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(InputError, match="the disk is full"):
        write(pair, given, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fewer_bits_stay_within_their_limits(
    pair: Pair, given: Samples, traced: dict[str, Any], tmp_path: Path, exported: Path, precision: str
) -> None:
    (file,) = write(pair, given, tmp_path, Settings(precision=precision, files=frozenset({PAIR_FILE})))
    assert file.path == tmp_path / PAIR_FILE
    assert file.size == file.path.stat().st_size < 0.6 * (exported / PAIR_FILE).stat().st_size
    assert 0 < file.mean < file.largest <= PRECISIONS[precision].largest
    assert file.mean <= PRECISIONS[precision].mean
    assert 0 < file.landmark_shift < 1
    said = {entry.key: entry.value for entry in onnx.load(file.path).metadata_props}
    assert said["precision"] == precision
    assert json.loads(json.dumps(vars(file) | {"path": ""}))["size"] == file.size


def test_int8_spares_the_first_and_last_layers(
    pair: Pair, given: Samples, known: Known, traced: dict[str, Any], tmp_path: Path
) -> None:
    (file,) = write(pair, given, tmp_path, Settings(precision="int8", files=frozenset({GENERATOR_FILE})))
    weights = {
        tensor.name: tensor.data_type
        for tensor in onnx.load(tmp_path / GENERATOR_FILE).graph.initializer
        if tensor.dims
    }
    assert weights["to_rgb.weight"] == weights["stem.weight"] == onnx.TensorProto.FLOAT
    assert weights["encoder.0.first.weight_quantized"] == onnx.TensorProto.INT8
    with pytest.raises(CheckpointError, match=r"allowed are 0\.002"):
        check(file.path, file.path, parts_of(pair)[GENERATOR_FILE], known, pair.heatmap_net, Settings())


@pytest.mark.parametrize("values", [{"opset": 17}, {"opset": 99}, {"precision": "fp4"}])
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"opset must lie between 18 and|unknown precision 'fp4'; use fp32, fp16, int8"
    ):
        Settings(**values)


def test_a_missing_package_is_named(
    pair: Pair, given: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnx and onnxscript and onnxruntime; install 'phaseveil\[onnx\]'"):
        write(pair, given, tmp_path)


def test_files_of_other_weights_do_not_fit(pair: Pair) -> None:
    said = describe(pair, 8, "fp32")
    check_fits(Path("a.onnx"), said, pair)
    for key in ("weights_sha256", "size", "phaseveil_graph"):
        with pytest.raises(
            CheckpointError, match=rf"a\.onnx: exported from other weights or by another release \({key}"
        ):
            check_fits(Path("a.onnx"), said | {key: "0"}, pair)
    with pytest.raises(CheckpointError, match="was not written by 'phaseveil export onnx'"):
        check_fits(Path("a.onnx"), {}, pair)
