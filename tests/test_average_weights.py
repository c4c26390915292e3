"""`bench.average_weights`: the mean of weights that fit together."""

from pathlib import Path

import pytest
import torch
from bench.average_weights import average

from phaseveil import checkpoint
from phaseveil.errors import CheckpointError


def file(path: Path, value: float, size: int = 3, kind: str = "face") -> Path:
    return checkpoint.save(
        path, kind, {"width": 4}, {"a": torch.full((size,), value, dtype=torch.float16)}, {"steps": 7}
    )


def test_the_mean_keeps_kind_precision_and_history(tmp_path: Path) -> None:
    files = [file(tmp_path / f"{name}.safetensors", value) for name, value in (("a", 1.0), ("b", 2.0))]
    average(files, tmp_path / "mean.safetensors")
    mean = checkpoint.load(tmp_path / "mean.safetensors", "face")
    assert mean.tensors["a"].tolist() == [1.5, 1.5, 1.5]
    assert mean.tensors["a"].dtype == torch.float16
    assert mean.metadata["averaged"] == [{"file": "a.safetensors", "steps": 7}, {"file": "b.safetensors", "steps": 7}]


@pytest.mark.parametrize("other", [{"size": 4}, {"kind": "heatmap"}])
def test_others_are_refused_and_nothing_is_written(tmp_path: Path, other: dict[str, object]) -> None:
    files = [file(tmp_path / "a.safetensors", 1.0), file(tmp_path / "b.safetensors", 1.0, **other)]  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"b\.safetensors: other networks"):
        average(files, tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()
