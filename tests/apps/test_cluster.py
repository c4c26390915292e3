"""A data set through Ray: the plain command's outputs, gone on with, and nothing that others could reach."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseveil import cli
from phaseveil.apps import cluster
from phaseveil.apps.anonymize import Options
from phaseveil.apps.batch import Job
from phaseveil.apps.cluster import fingerprint, units
from phaseveil.apps.cluster_ray import PREFIX, local_ray
from phaseveil.apps.cluster_worker import Settings
from phaseveil.data.image_io import write_png
from phaseveil.errors import ConfigError


@pytest.fixture
def faces(tmp_path: Path, face_crop: np.ndarray) -> Path:
    for index in range(6):
        write_png(tmp_path / "in" / f"face{index}.png", np.roll(face_crop, index, axis=1))
    return tmp_path / "in"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Workers in this process instead of Ray's; gives the units of each run."""
    runs: list[list[str]] = []

    @contextmanager
    def no_ray(workers: int) -> Iterator[None]:
        yield

    def do(texts: list[str], worker: Callable[..., Any], arguments: Any, workers: int, device: str) -> Iterator[Any]:
        runs.append(texts)
        actor = worker(*arguments)
        for text in texts:
            answer = actor({"unit": np.array([text])})
            yield answer["inputs"][0], answer["error"][0]

    monkeypatch.setattr(cluster, "local_ray", no_ray)
    monkeypatch.setattr(cluster, "capacity", lambda kind: 2)
    monkeypatch.setattr(cluster, "map_units", do)
    return runs


@pytest.fixture
def run(here: list[list[str]], tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        options = ["--engine", "ray", "--weights", tiny_weights, "--batch-size", "1", *arguments]
        code = cli.run(["anonymize", *map(str, options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_run_is_gone_on_with(run: Any, here: list[list[str]], faces: Path, tmp_path: Path) -> None:
    code, out, _ = run(faces, "--out", tmp_path / "out", "--json")
    assert (code, json.loads(out)["done"], json.loads(out)["before"]) == (0, 6, 0)
    (tmp_path / "out/face3.png").unlink()
    (faces / "new.png").write_bytes((faces / "face0.png").read_bytes())
    (faces / "zero.png").touch()
    code, out, err = run(faces, "--out", tmp_path / "out")
    assert code == 1
    assert out.startswith("7 done (5 of them before), 1 skipped")
    assert f"skipped {faces}/zero.png: the file is empty (0 bytes)\n" in err
    assert [len(texts) for texts in here] == [2, 1]
    (faces / "zero.png").unlink()
    code, out, _ = run(faces, "--out", tmp_path / "out", "--json")
    assert (code, json.loads(out)["before"], len(here)) == (0, 7, 2)
    assert (tmp_path / "out/dead-letters.jsonl").read_text() == ""


def test_a_folder_keeps_to_its_settings(run: Any, faces: Path, tmp_path: Path) -> None:
    run(faces, "--out", tmp_path / "out")
    code, _, err = run(faces, "--out", tmp_path / "out", "--seed", "3")
    assert (code, err) == (2, f"error: {tmp_path}/out: begun with another seed; choose another --out\n")


def test_an_error_of_a_worker_stops_the_run(
    run: Any, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "map_units", lambda *arguments: iter([(1, ""), (0, "out: the disk is full")]))
    assert run(faces, "--out", tmp_path / "out")[::2] == (2, "error: out: the disk is full\n")


def test_lost_units_are_no_success(run: Any, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "map_units", lambda *arguments: iter([]))
    code, _, err = run(faces, "--out", tmp_path / "out")
    assert code == 2
    assert "6 inputs are not done; run the command again" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "sheet"], "--engine ray and --save exclude each other"),
        (["--engine", "torch", "--workers", "2"], "--workers belongs to --engine ray"),
        (["--engine", "torch", "--keep-fields", "cls"], "--keep-fields belongs to --engine ray"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    run: Any, faces: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, _, err = run(faces, "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert message in err


def test_shards_are_units_and_images_are_grouped() -> None:
    jobs = [
        Job(Path(name), name) for name in ("a.png", "b.tar", "c.png", "d.parquet", "e.png", "f.png", "g.png", "h.png")
    ]
    found = [(unit.kind, len(unit.inputs)) for unit in units(jobs, 1)]
    assert found == [("tar", 1), ("parquet", 1), ("images", 4), ("images", 2)]


def test_weights_count_by_their_content(tiny_weights: Path, tmp_path: Path) -> None:
    first = fingerprint(Settings(Options(), tiny_weights))
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_weights.glob("*.safetensors"):
        (copy / path.name).write_bytes(path.read_bytes())
    assert fingerprint(Settings(Options(), copy)) == first
    assert fingerprint(Settings(Options(), copy, erase_shape=5)) != first
    (copy / "face.safetensors").write_bytes(b"other")
    assert fingerprint(Settings(Options(), copy)) != first
    assert json.loads(json.dumps(first)) == first


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install 'phaseveil\[cluster\]'"), local_ray(1):
        pass


@pytest.mark.slow
def test_ray_does_it_alone_and_leaves_nothing(faces: Path, tiny_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra 'cluster'")
    code = (
        "import sys; from phaseveil import cli; from phaseveil.apps import cluster_ray\n"
        "old = cluster_ray.map_units\n"
        "def spy(*arguments):\n"
        "    import ray  # not before the command has set its switches\n"
        "    from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "    print(ray.get_runtime_context().gcs_address, usage_stats_enabled(), file=sys.stderr)\n"
        "    return old(*arguments)\n"
        "import phaseveil.apps.cluster as app; app.map_units = spy\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    command = ["anonymize", str(faces), "--out", str(tmp_path / "out"), "--engine", "ray", "--workers", "1"]
    with tempfile.TemporaryDirectory(prefix="r-") as short:  # Ray's sockets need a short path
        ran = subprocess.run(
            [sys.executable, "-c", code, *command, "--weights", str(tiny_weights), "--json"],
            env={**os.environ, "TMPDIR": short},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not list(Path(short).glob(f"{PREFIX}*"))
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["done"] == 6
    assert "127.0.0.1:" in ran.stderr
    assert " False\n" in ran.stderr
    assert len(list((tmp_path / "out").glob("[!.]*.png"))) == 6
