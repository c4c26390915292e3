"""The benchmark: that what it compares is equal, that its figures follow from its laps, and what it writes."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from phaseveil.apps import bench, bench_networks, bench_optics
from phaseveil.apps.bench_race import Laps, Row, race, rows_of, section
from phaseveil.cli import run
from phaseveil.errors import ConfigError, InputError


def laps(*clock: float) -> Laps:
    return Laps(np.array(clock), 2 * np.array(clock))


def test_contestants_take_turns_and_every_round_begins_with_another() -> None:
    order: list[str] = []
    contestants = {name: lambda name=name: order.append(name) for name in "abc"}
    found = race(contestants, rounds=3)
    assert order[-9:] == list("abcbcacab")
    assert {name: (len(lap.clock), len(lap.processor)) for name, lap in found.items()} == dict.fromkeys("abc", (3, 3))


def test_ratios_compare_within_a_round() -> None:
    """A round in which the machine was ten times slower says the same as the others."""
    rows = rows_of({"first": laps(1, 10, 1), "second": laps(2, 20, 3)}, items=4, shares={"second": 0.5})
    assert [row.ratio for row in rows] == [1, 2]
    assert [row.work_ratio for row in rows] == [1, 2]
    assert rows[1] == Row("second", 3000.0, pytest.approx(18300.0), pytest.approx(4 / 3), 2.0, 2.0, 0.5)


def test_tables_leave_out_columns_that_nobody_fills() -> None:
    table = section("Title", (Row("this", p50=1.25, p95=2.0), Row("that", note="not installed"))).as_markdown()
    assert "### Title" in table
    assert "| case | p50, ms | p95, ms | note |" in table
    assert "| this | 1.25 | 2.00 |  |" in table
    assert re.search(r"Peak memory of the process so far: \d{2,5} MiB", table)


@pytest.mark.parametrize("library", ["poppy", "torchoptics"])
def test_the_libraries_compute_the_same_psf(library: str) -> None:
    pytest.importorskip(library, reason="is in the extra 'dev'")
    phase = bench_optics._phase()
    make: Callable = {"poppy": bench_optics._poppy, "torchoptics": bench_optics._torchoptics}[library]
    ours = bench_optics._ours(phase)
    assert ours.shape == (3, 512, 512)
    assert 0.9 < ours[2].sum() <= 1.0001  # the window holds the light, so that something is compared
    assert np.abs(ours - ours[:, ::-1, ::-1]).max() > 0.05 * ours.max()  # and it has no symmetry that hides a flip
    assert bench_optics._difference(make(phase)(), ours) < 1e-5


def test_libraries_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ((part, found),) = bench.bench(["psf"], 1, lambda message: None)
    assert part == "psf"
    told = {row.case: row.note for row in found.rows if row.p50 is None}
    assert told == dict.fromkeys(["poppy", "torchoptics"], bench_optics.NOT_INSTALLED)


def test_work_is_counted_in_multiplications_and_additions() -> None:
    convolution = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False)
    image = torch.rand(2, 3, 8, 8)
    assert bench_networks._flop(lambda: convolution(image)) == 2 * 9 * 3 * 5 * 64 * 2


@pytest.mark.parametrize(("step", "losses"), [(bench_networks._camera_step, 1), (bench_networks._face_step, 2)])
def test_training_steps_have_gradients_for_all_that_learns(
    step: Callable, losses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        seen.append(sum(gradient.abs().sum().item() for gradient in gradients))

    torch.manual_seed(0)
    monkeypatch.setattr(bench_networks, "_descend", look)
    step(2)()
    assert len(seen) == losses
    assert min(seen) > 0


def test_engines_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = bench_networks.pipeline_at(128)
    monkeypatch.setattr(bench_networks, "_installed", lambda *packages: False)
    engines, missing = bench_networks._engines(pipeline, Path("unused"), lambda message: None)
    assert len(engines) == 1
    assert {row.case: row.note for row in missing} == {
        "onnxruntime": "not installed; it comes with 'phaseveil[onnx]'",
        "openvino": "not installed; it comes with 'phaseveil[openvino]'",
    }


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="is called 'lens'; use camera, psf, networks"):
        list(bench.bench(["lens"], 1, lambda message: None))


def test_the_command_prints_markdown_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_optics, "SIZE", 64)
    path = tmp_path / "bench.json"
    assert run(["bench", "--only", "camera", "--rounds", "2", "--markdown", "--json", str(path)]) == 0
    printed = capsys.readouterr()
    assert "### Camera, 8 frames of 64 px" in printed.out
    assert "measuring camera" in printed.err
    written = json.loads(path.read_text("utf-8"))
    assert written["machine"] in printed.out
    (found,) = written["sections"]
    assert found["part"] == "camera"
    assert found["rows"][0]["ratio"] == 1
    assert all(row["p50"] > 0 for row in found["rows"])


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        bench.write_record(tmp_path / "file" / "bench.json", "machine", [])
