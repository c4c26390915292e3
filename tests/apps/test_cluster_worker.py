"""A worker makes what the plain command makes, and does a unit once."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from phaseveil.apps.anonymize import Batch, Options, latent_styles
from phaseveil.apps.cluster_ledger import Ledger, Unit
from phaseveil.apps.cluster_worker import MAX_TRIES, Settings, Worker
from phaseveil.apps.sources import Acquisitions, AlignedCrops, Photographs
from phaseveil.data.image_io import decode_image, write_png


@pytest.fixture
def faces(tmp_path: Path, face_crop: np.ndarray) -> list[Path]:
    return [write_png(tmp_path / f"in/face{index}.png", np.roll(face_crop, index, axis=1)) for index in range(5)]


@pytest.fixture
def settings(tiny_weights: Path) -> Settings:
    return Settings(Options(batch_size=2), tiny_weights)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "out")
    with ledger.open({}):
        pass
    return ledger


def images(paths: list[Path]) -> Unit:
    return Unit("images", tuple((str(path), path.stem) for path in paths))


def plain(settings: Settings, paths: list[Path], out: Path) -> dict[str, bytes]:
    """What ``phaseveil anonymize`` writes."""
    pipeline = settings.pipeline(print)
    batch = Batch(pipeline, settings.source(pipeline.size), latent_styles(pipeline, None), settings.options, out)
    batch.run(paths, lambda done, total: None, print)
    return {path.stem: path.read_bytes() for path in out.glob("*.png")}


def ask(worker: Worker, *units: Unit) -> dict[str, list[object]]:
    return worker({"unit": np.array([unit.text for unit in units])})


def test_images_are_the_plain_commands(settings: Settings, faces: list[Path], ledger: Ledger, tmp_path: Path) -> None:
    answer = ask(Worker(settings, ledger.out), images(faces[:4]), images(faces[4:]))
    assert answer == {"inputs": [4, 1], "error": ["", ""]}
    wanted = plain(settings, faces, tmp_path / "plain")
    assert {path.stem: path.read_bytes() for path in ledger.out.glob("*.png")} == wanted
    results = ledger.fold({str(path): path.name for path in faces})
    assert len({result.record.seed for result in results.values()}) == 5


def test_shards_hold_the_plain_commands_images(
    settings: Settings, faces: list[Path], ledger: Ledger, tmp_path: Path
) -> None:
    shard = tmp_path / "s.tar"
    with tarfile.open(shard, "w") as archive:
        for path in faces[:4]:
            archive.add(path, path.name)
        member = tarfile.TarInfo("bad.jpg")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"plain"))
    worker = Worker(settings, ledger.out)
    ask(worker, Unit("tar", ((str(shard), "s"),)))
    with tarfile.open(ledger.out / "s.tar") as archive:
        new = {name.removesuffix(".png"): archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    assert new == plain(settings, faces[:4], tmp_path / "plain")
    (result,) = ledger.fold({str(shard): "s.tar"}).values()
    assert (result.record.status, result.record.faces) == ("partial", 4)
    ((letter),) = result.dead
    assert (letter.input, letter.sample) == (str(shard), "bad.jpg")
    assert letter.reason.startswith("not an image")


def test_tables_hold_new_images(settings: Settings, faces: list[Path], ledger: Ledger, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'cluster'")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "s.parquet"
    parquet.write_table(
        pyarrow.table({"image": [path.read_bytes() for path in faces[:2]], "key": ["face0.png", "b"]}), table
    )
    ask(Worker(settings, ledger.out), Unit("parquet", ((str(table), "s"),)))
    new = parquet.read_table(ledger.out / "s.parquet")
    assert new["key"].to_pylist() == ["face0.png", "b"]
    wanted = plain(settings, faces[:1], tmp_path / "plain")["face0"]
    first = decode_image(new["image"][0].as_py(), "first").astype(int)
    assert np.abs(first - decode_image(wanted, "plain")).max() <= 8  # another batch rounds otherwise in bfloat16


def test_a_shard_with_nothing_usable_has_no_output(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w"):
        pass
    ask(Worker(settings, ledger.out), Unit("tar", ((str(tmp_path / "s.tar"), "s"),)))
    (result,) = ledger.fold({str(tmp_path / "s.tar"): "s.tar"}).values()
    assert (result.record.status, result.record.output) == ("skipped", None)
    assert result.dead[0].reason == "no images in this shard"
    assert not (ledger.out / "s.tar").exists()


def test_a_unit_that_is_recorded_is_not_done_again(settings: Settings, faces: list[Path], ledger: Ledger) -> None:
    unit = images(faces[:1])
    ledger.record(unit, [])
    assert ask(Worker(settings, ledger.out), unit) == {"inputs": [1], "error": [""]}
    assert not (ledger.out / "face0.png").exists()


def test_an_input_that_kills_workers_stops_the_run(settings: Settings, faces: list[Path], ledger: Ledger) -> None:
    unit = images(faces[:1])
    for _ in range(MAX_TRIES):
        ledger.begin(unit)
    (error,) = ask(Worker(settings, ledger.out), unit)["error"]
    assert str(error).startswith(f"{faces[0]}: {MAX_TRIES} workers died at it")


def test_what_stops_the_plain_command_is_an_answer(faces: list[Path], ledger: Ledger, tmp_path: Path) -> None:
    worker = Worker(Settings(Options(), tmp_path / "nowhere"), ledger.out)
    (error,) = ask(worker, images(faces[:1]))["error"]
    assert "no such weights file" in str(error)


def test_paths_lead_there_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera.yaml").touch()
    given = Settings(Options(), Path("w"), "camera.yaml", engine_dir=Path("e")).anywhere()
    assert (given.weights, given.camera, given.engine_dir) == (
        tmp_path / "w",
        str(tmp_path / "camera.yaml"),
        tmp_path / "e",
    )
    assert Settings(Options(), camera="portrait").anywhere() == Settings(Options(), camera="portrait")


def test_kinds_of_input_have_their_sources(settings: Settings) -> None:
    for kind, source in (("crops", AlignedCrops), ("photographs", Photographs), ("acquisitions", Acquisitions)):
        assert isinstance(Settings(Options(), kind=kind).source(32), source)
