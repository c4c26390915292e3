import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phaseveil import PhaseVeil
from phaseveil.apps import anonymize
from phaseveil.apps.anonymize import Batch, Options, Sheet, Written, latent_styles, reference_styles
from phaseveil.apps.batch import Job, Record, Summary
from phaseveil.apps.sources import Acquisitions, AlignedCrops, Photographs, Source, crop_detector
from phaseveil.data import image_io
from phaseveil.data.image_io import read_image, write_png
from phaseveil.data.landmarks import default_detector
from phaseveil.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32)


@pytest.fixture
def faces(tmp_path: Path, face_crop: np.ndarray) -> Path:
    """A folder of five different crops of one face."""
    for index in range(5):
        write_png(tmp_path / "in" / f"face{index}.png", np.roll(face_crop, index, axis=1))
    return tmp_path / "in"


def run(
    pipeline: PhaseVeil, inputs: Sequence[Path], out: Path, options: Options | None = None, source: Source | None = None
) -> tuple[Summary, list[str]]:
    """Run a batch with latent styles; returns its summary and warnings."""
    warnings: list[str] = []
    source = source or AlignedCrops(crop_detector, pipeline.size)
    batch = Batch(pipeline, source, latent_styles(pipeline, None), options or Options(seed=1), out)
    return batch.run(inputs, lambda done, total: None, warnings.append), warnings


def manifest(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text("utf-8").splitlines()]


def test_outputs_do_not_depend_on_the_batch_size(pipeline: PhaseVeil, faces: Path, tmp_path: Path) -> None:
    for size in (1, 2, 5):
        summary, _ = run(pipeline, [faces], tmp_path / str(size), Options(seed=1, batch_size=size))
        assert (summary.done, summary.skipped, summary.faces) == (5, 0, 5)
    for index in range(5):
        one, two, five = (read_image(tmp_path / f"{size}/face{index}.png").astype(int) for size in (1, 2, 5))
        assert np.abs(one - two).max() <= 1
        assert np.abs(one - five).max() <= 1
    lines = manifest(tmp_path / "2")
    assert [Path(line["input"]).stem for line in lines] == [f"face{index}" for index in range(5)]
    assert all(Path(line["output"]).is_file() and line["seconds"] > 0 and line["seed"] == 1 for line in lines)


def test_without_a_seed_every_file_draws_its_own(pipeline: PhaseVeil, faces: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(pipeline, [faces], tmp_path / name, Options())
    seeds = [line["seed"] for line in manifest(tmp_path / "first")]
    assert len(set(seeds)) == 5
    assert seeds == [line["seed"] for line in manifest(tmp_path / "second")]
    assert (tmp_path / "first/face0.png").read_bytes() == (tmp_path / "second/face0.png").read_bytes()


def test_bad_inputs_are_skipped_in_their_place(pipeline: PhaseVeil, faces: Path, tmp_path: Path) -> None:
    (faces / "face1.png").write_bytes(b"")
    (faces / "face3.png").write_text("plain text")
    summary, warnings = run(pipeline, [faces], tmp_path / "out", Options(seed=1, batch_size=2))
    lines = manifest(tmp_path / "out")
    assert (summary.done, summary.skipped) == (3, 2)
    assert [line["status"] for line in lines] == ["done", "skipped", "done", "skipped", "done"]
    assert "0 bytes" in lines[1]["reason"]
    assert "not an image" in lines[3]["reason"]
    assert len(warnings) == 2
    assert warnings[0].startswith(f"skipped {faces / 'face1.png'}: the file is empty")


def test_a_batch_of_nothing_but_bad_inputs_ends_well(pipeline: PhaseVeil, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    summary, _ = run(pipeline, [tmp_path / "a.png"], tmp_path / "out")
    assert (summary.done, summary.skipped) == (0, 1)


def test_extras_are_kept(pipeline: PhaseVeil, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anonymize, "ROWS_A_SHEET", 2)
    options = Options(seed=1, save=frozenset({"acquisition", "heatmap", "sheet"}))
    summary, _ = run(pipeline, [faces], tmp_path / "out", options)
    assert [Path(sheet).name for sheet in summary.sheets] == ["page-1.png", "page-2.png", "page-3.png"]
    assert all(Path(sheet).is_file() for sheet in summary.sheets)
    for index in range(5):
        assert read_image(tmp_path / f"out/acquisition/face{index}.png").shape == (32, 32, 3)
        assert read_image(tmp_path / f"out/heatmap/face{index}.png").shape == (16, 16, 3)


def test_faces_of_a_photograph_have_opposite_neighbours_as_seeds(
    pipeline: PhaseVeil, astronaut: np.ndarray, tmp_path: Path
) -> None:
    head = astronaut[:256, 96:352]
    photograph = write_png(tmp_path / "pair.png", np.concatenate([head, head[:, ::-1]], axis=1))
    seen: list[list[int]] = []
    source = Photographs(default_detector, pipeline.size)

    def styles(seeds: Sequence[int]) -> torch.Tensor:
        seen.append(list(seeds))
        return pipeline.latent_styles(seeds)

    options = Options(seed=2**32 - 1, save=frozenset({"acquisition"}), batch_size=1)
    batch = Batch(pipeline, source, styles, options, tmp_path / "out")
    summary = batch.run([photograph], lambda done, total: None, print)
    assert seen == [[2**32 - 1], [2**32 - 2]]
    assert summary.faces == 2
    assert manifest(tmp_path / "out")[0]["faces"] == 2
    assert read_image(tmp_path / "out/pair.png").shape == (256, 512, 3)
    assert (tmp_path / "out/acquisition/pair.png").is_file()
    assert (tmp_path / "out/acquisition/pair/2.png").is_file()


def test_acquisitions_are_redrawn_as_they_are(pipeline: PhaseVeil, tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = write_png(tmp_path / "frame.png", frame)
    options = Options(seed=1, save=frozenset({"acquisition"}))
    run(pipeline, [path], tmp_path / "out", options, Acquisitions(pipeline.size))
    assert np.array_equal(read_image(tmp_path / "out/acquisition/frame.png"), frame)
    alone = pipeline(frame, seed=1, acquired=True)
    assert np.abs(read_image(tmp_path / "out/frame.png").astype(int) - np.asarray(alone.face)).max() <= 1


def test_a_reference_is_aligned_first(pipeline: PhaseVeil, astronaut: np.ndarray, tmp_path: Path) -> None:
    reference = write_png(tmp_path / "reference.png", astronaut)
    styles = reference_styles(pipeline, reference, default_detector(), "male")
    assert torch.equal(styles([1, 2])[0], styles([3])[0])
    female = reference_styles(pipeline, reference, default_detector(), None)
    assert not torch.equal(styles([1]), female([1]))
    blank = write_png(tmp_path / "blank.png", np.full((64, 64, 3), 127, np.uint8))
    with pytest.raises(InputError, match="no face found in the reference"):
        reference_styles(pipeline, blank, default_detector(), None)


def test_a_disk_that_fills_up_stops_the_run_and_spares_what_is_done(
    pipeline: PhaseVeil, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    replace = image_io.replace_atomically

    def nearly_full(path: Path) -> Any:
        if Path(path).stem == "face3":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path)

    monkeypatch.setattr(image_io, "replace_atomically", nearly_full)
    with pytest.raises(InputError, match=r"face3\.png: the disk is full"):
        run(pipeline, [faces], out, Options(seed=1, batch_size=1))
    assert [Path(line["input"]).stem for line in manifest(out)] == ["face0", "face1", "face2"]
    assert all(read_image(line["output"]).shape == (96, 96, 3) for line in manifest(out))
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"save": frozenset({"poster"})}, "--save poster: unknown; choose from acquisition,heatmap,sheet"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"seed": 2**32}, "seed must lie between 0 and"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**values)


def test_names_that_are_not_text_have_a_seed_too() -> None:
    assert Options().seed_of(Job(Path("caf\udce9.png"), "x")) != Options().seed_of(Job(Path("b.png"), "x"))


def test_an_empty_sheet_is_not_written(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path)
    sheet.add(Written(Record("a.png", "skipped")))
    sheet.flush()
    assert sheet.pages == []
    assert not (tmp_path / "sheet").exists()
