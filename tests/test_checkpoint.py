import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from phaseveil import checkpoint
from phaseveil.errors import CheckpointError

TENSORS = {"net.weight": torch.arange(6.0).reshape(2, 3), "net.bias": torch.ones(2)}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "weights.safetensors", "face", {"size": 128}, TENSORS, {"steps": 7})


def test_what_is_saved_is_loaded(stored: Path) -> None:
    loaded = checkpoint.load(stored, kind="face")
    assert (loaded.kind, loaded.config, loaded.metadata) == ("face", {"size": 128}, {"steps": 7})
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert loaded.part("net").keys() == {"weight", "bias"}


def test_another_kind_is_refused(stored: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds 'face' weights, but 'camera'"):
        checkpoint.load(stored, kind="camera")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\xff" * 64])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        checkpoint.load(path)


def test_a_truncated_file_is_refused(stored: Path) -> None:
    stored.write_bytes(stored.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(stored)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not a PhaseVeil weights file"):
        checkpoint.load(path)


def test_a_header_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    header = {"format": checkpoint.FORMAT, "kind": "face", "config": "{", "metadata": json.dumps({})}
    save_file(TENSORS, path, metadata=header)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        checkpoint.load(tmp_path / "absent.safetensors")


def test_a_full_disk_leaves_the_old_weights(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = stored.read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        checkpoint.save(stored, "face", {}, TENSORS)
    assert "\n" not in str(caught.value)
    assert stored.read_bytes() == before
    assert list(stored.parent.iterdir()) == [stored]


def test_weights_fit_all_or_none() -> None:
    module = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fitting = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    for wrong in ({"weight": fitting["weight"]}, fitting | {"more": torch.ones(1)}, fitting | {"bias": torch.ones(5)}):
        with pytest.raises(CheckpointError, match="do not fit Linear"):
            checkpoint.load_into(module, wrong, "file")
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    checkpoint.load_into(module, checkpoint.half(fitting), "file")
    assert module.weight.dtype == torch.float32
    assert not module.weight.any()


def test_half_keeps_what_must_stay_exact() -> None:
    exact = {"b": torch.ones(1, dtype=torch.float64), "c": torch.ones(1, dtype=torch.int64)}
    halved = checkpoint.half({"a": torch.ones(1)} | exact)
    assert [tensor.dtype for tensor in halved.values()] == [torch.float16, torch.float64, torch.int64]


def test_an_error_inside_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"

    def fail_half_way() -> None:
        with checkpoint.replace_atomically(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert list(path.parent.iterdir()) == []
