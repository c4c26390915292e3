"""The whole suite on small lists of drawn people: what is there must be found, and nothing where nothing is."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.all_pairs import strongest
from torch import Tensor

from phaseveil import PhaseVeil
from phaseveil.apps.attack import DELETE_WORK, DO_NOT_PUBLISH, Options, attack, attack_target, budget_named
from phaseveil.apps.attack_bench import Bench
from phaseveil.apps.attack_data import Budget, embed_photographs, prepare_study
from phaseveil.apps.attack_learned import off_the_shelf_acquisition, recogniser_on_acquisitions
from phaseveil.apps.attack_psf import exact_psf, real_sensor
from phaseveil.apps.attack_results import Work, score, upper_bound
from phaseveil.apps.attack_target import Target, load_target
from phaseveil.attacks import deconvolution
from phaseveil.attacks.deconvolution import METHODS, tv_admm
from phaseveil.attacks.inversion import InversionConfig
from phaseveil.attacks.recognition import RecogniserConfig
from phaseveil.data.image_io import read_image, resize, to_array, to_tensor, write_png
from phaseveil.data.transforms import JitterConfig, random_colour, random_similarity
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics.identity import DlibRecogniser
from phaseveil.metrics.photographs import load_pairs
from phaseveil.optics.camera import Camera, CameraConfig, build_camera
from phaseveil.optics.sensor import SensorConfig
from phaseveil.progress import Report

pytest.importorskip("dlib", reason="needs the extra 'eval'")

CROPS = Path(__file__).parents[2] / "examples" / "crops"
PERSONS = 68  # half of them give 34 * 33 > 1000 impostor pairs
TINY = Budget(
    "tiny",
    probes=34,
    impostors=2000,
    tuning=4,
    captures=2,
    sweep=("wiener",),
    trained_on=("acquisition", "heatmap"),
    inversion=InversionConfig(steps=4, batch_size=2, width=8, identity_faces=0, save_every=2),
    recogniser=RecogniserConfig(steps=3, persons=2, photographs=2, learning_rate=1e-6, save_every=2),
    pictures=2,
)
CHEAP = dataclasses.replace(TINY, sweep=(), trained_on=("acquisition",))


class GreyCamera(Camera):
    """A lens cap: grey whatever is before it, but for the sensor's noise."""

    def blur(self, light: Tensor) -> Tensor:
        return torch.full_like(light, 0.2)

    def psf(self, size: int) -> Tensor:
        return build_camera(CameraConfig(kind="gaussian")).psf(size)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, jittered, of each of 68 people that the bundled generator draws; a list of their pairs."""
    folder, pipeline = tmp_path_factory.mktemp("people"), PhaseVeil.from_pretrained()
    scenes = torch.stack([to_tensor(resize(read_image(crop), 128)) for crop in sorted(CROPS.glob("*.png"))])
    poses = pipeline.acquire(scenes, range(len(scenes)))
    for person in range(PERSONS):
        face = pipeline.redraw(poses[person % len(poses)][None], pipeline.latent_styles([person])).face
        noise = torch.Generator().manual_seed(person)
        faces, _ = random_similarity(face.repeat(2, 1, 1, 1), torch.zeros(2, 68, 2), JitterConfig(), noise)
        for number, image in enumerate(random_colour(faces, JitterConfig(), noise)):
            write_png(folder / f"p{person:02}" / f"{number}.png", resize(to_array(image), 256))
    rows = [
        (f"p{i:02}/0.png", f"p{(i + k) % PERSONS:02}/1.png", int(k == 0)) for i in range(PERSONS) for k in range(17)
    ]
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("first", "second", "same"), *rows])
    return folder / "pairs.csv"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@contextmanager
def few_iterations() -> Iterator[None]:
    """Deconvolution with few iterations and a short search, for what is as good at once or never."""
    ends = {"wiener": (1e-4, 1e-2), "richardson-lucy": (2, 8), "tv": (1e-5, 1e-3)}
    with pytest.MonkeyPatch.context() as patch:
        for name, limits in ends.items():
            patch.setitem(METHODS, name, dataclasses.replace(METHODS[name], candidates=limits, limits=limits))
        shorter = dataclasses.replace(METHODS["tv"], restore=partial(tv_admm, iterations=5))
        patch.setitem(METHODS, "tv", shorter)
        patch.setattr(deconvolution, "MOST_WIENER_ITERATIONS", 4)
        yield


@contextmanager
def silent(_: str) -> Iterator[Report]:
    yield ignore


@pytest.fixture(scope="module")
def run(people: Path, cache: Path) -> Callable[..., dict[str, Any]]:
    """Attack a target with a budget; returns the card."""

    def attack_it(
        target: Target, out: Path, budget: Budget = TINY, stage: Any = silent, say: Any = str, **more: Any
    ) -> dict[str, Any]:
        with few_iterations():
            return attack_target(target, Options(people, out, budget, cache=cache, **more), say, stage)

    return attack_it


@pytest.fixture(scope="module")
def clear_lens(run: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The card of a clear lens, and its folder."""
    out = tmp_path_factory.mktemp("clear")
    return out, run(Target("clear", build_camera(CameraConfig())), out, CHEAP)


def aucs(card: dict[str, Any]) -> dict[str, float]:
    return {attack["key"]: attack["another"]["auc"]["value"] for attack in card["attacks"]}


def test_behind_a_clear_lens_every_attack_reaches_the_upper_bound(clear_lens: tuple[Path, Any]) -> None:
    card = clear_lens[1]
    bound = card["upper_bound"]["another"]["auc"]["value"]
    assert bound > 0.9
    found = aucs(card)
    assert {key[:2] for key in found} == {"A0", "A1", "A2", "A3", "A4"}
    assert min(found.values()) > bound - 0.03, found
    strongest = card["headline"]["strongest"]
    assert strongest["auc"]["value"] == max(found.values())
    assert strongest["tar"]["value"] > 0.9 * card["upper_bound"]["another"]["tar"]["value"]


def test_wiener_undoes_a_mild_blur(people: Path, cache: Path, tmp_path: Path) -> None:
    quiet = SensorConfig(full_well=1e6, bits=14)
    blur = build_camera(CameraConfig(kind="gaussian", gaussian_sigma=2 / 128, sensor=quiet))
    photographs, recogniser = load_pairs(people, cache, ignore), DlibRecogniser()
    clear = embed_photographs(photographs, recogniser, "dlib", cache, ignore)
    study = prepare_study(photographs, clear, 128, TINY, 0)
    bench = Bench(study, Target("mild", blur), TINY, recogniser, None, Work(tmp_path))
    blurred = score(off_the_shelf_acquisition(bench), study)
    restored = score(exact_psf(bench, "wiener", real_sensor(blur), ignore), study)
    bound = upper_bound(study)["another"]["tar"]["value"]
    assert restored["another"]["tar"]["value"] >= max(0.9 * bound, blurred["another"]["tar"]["value"])
    assert restored["itself"]["mean_genuine"] > blurred["itself"]["mean_genuine"] + 0.1
    assert restored["quality"]["psnr"] > blurred["quality"]["psnr"] + 2


def recognised(camera: Camera, people: Path, cache: Path, out: Path, seed: int) -> dict[str, dict[str, float]]:
    """What a recogniser trained on acquisitions reaches with another seed, by the attack's key."""
    photographs, recogniser = load_pairs(people, cache, ignore), DlibRecogniser()
    clear = embed_photographs(photographs, recogniser, "dlib", cache, ignore)
    study = prepare_study(photographs, clear, 128, TINY, seed)
    bench = Bench(study, Target("again", camera), TINY, recogniser, None, Work(out))
    findings = recogniser_on_acquisitions(bench, ignore)
    return {finding.key: score(finding, study)["another"]["auc"] for finding in findings}


def test_nothing_is_found_in_uniform_grey(
    run: Callable[..., dict[str, Any]], people: Path, cache: Path, tmp_path: Path
) -> None:
    learned = load_target("learned", build_camera(CameraConfig()), None)
    grey = GreyCamera(CameraConfig())
    pipeline = PhaseVeil(grey, learned.heatmap_net, learned.pipeline.networks)
    card = run(Target("grey", grey, 128, learned.heatmap_net, pipeline), tmp_path)
    assert {attack["artefact"] for attack in card["attacks"]} == {"acquisition", "recovered", "heatmap", "generated"}
    assert len(card["attacks"]) == 16
    assert "A2 with a captured PSF" in {missing["what"] for missing in card["not_measured"]}
    more = [recognised(grey, people, cache, tmp_path / str(seed), seed) for seed in (1, 2)]  # it scatters by 0.045
    for entry in card["attacks"]:  # 34 persons: where scores are not tied, three standard errors are 0.09
        found = [entry["another"]["auc"], *(other[entry["key"]] for other in more if entry["key"] in other)]
        auc = {bound: sum(one[bound] for one in found) / len(found) for bound in ("value", "low", "high")}
        assert abs(auc["value"] - 0.5) < max(0.05, 0.75 * (auc["high"] - auc["low"])), (entry["key"], found)
    assert card["camera"]["landmark_error"]["value"] > 0.05


def ignore(done: int, total: int | None) -> None:
    """Progress that nobody watches."""


class Interrupted(Exception):
    """Stands for a user who presses Ctrl-C."""


def test_an_interrupted_attack_goes_on_with_the_same_figures(
    run: Callable[..., dict[str, Any]], clear_lens: tuple[Path, Any], tmp_path: Path
) -> None:
    shutil.copytree(clear_lens[0] / "work", tmp_path / "work")
    work = next((tmp_path / "work").glob("*/*"))
    for file in [*work.glob("A3*"), *work.glob("A4*"), *work.glob("A0-acquisition*")]:
        file.unlink()
    target = Target("clear", build_camera(CameraConfig()))

    @contextmanager
    def stopping(name: str) -> Iterator[Report]:
        def report(done: int, total: int | None) -> None:
            if name == "attack A3-inversion" and done == 3:
                raise Interrupted

        yield report

    with pytest.raises(Interrupted):
        run(target, tmp_path, CHEAP, stopping)
    assert not (tmp_path / "privacy_card.json").exists()
    assert (work / "A0-acquisition.json").exists()
    assert (work / "A3-inversion.safetensors").exists()
    assert not (work / "A3-inversion.json").exists()
    finished = {file: file.stat().st_mtime_ns for file in work.glob("A[012]*.json")}
    card = run(target, tmp_path, CHEAP)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert timeless(card) == timeless(clear_lens[1])
    assert timeless(json.loads((tmp_path / "privacy_card.json").read_text())) == timeless(card)


def timeless(card: dict[str, Any]) -> dict[str, Any]:
    """A card without the seconds."""
    attacks = [{name: value for name, value in attack.items() if name != "seconds"} for attack in card["attacks"]]
    return {**card, "seconds": None, "attacks": attacks}


def test_all_pairs_scores_every_genuine_pair_once(people: Path, cache: Path, tmp_path: Path) -> None:
    options = Options(people, tmp_path, dataclasses.replace(TINY, probes=None), cache=cache)
    with few_iterations():
        found = strongest("learned", None, options)
        again = strongest("learned", None, options)  # from the work that the first one kept
    assert (found["pairs"], found["persons"]) == (34, 34)
    assert 0 < found["landmark_error"]["value"] < 0.2
    trained = {"A3-inversion", "A4-acquisition-acquired", "A4-acquisition-clear"}
    assert set(found["attacks"]) == {"A0-acquisition", "A1-richardson-lucy", *trained}
    assert all(figures["auc"]["low"] < figures["auc"]["high"] for figures in found["attacks"].values())
    assert again == found


def test_a_card_says_all_that_it_rests_on(clear_lens: tuple[Path, Any]) -> None:
    out, card = clear_lens
    assert json.loads((out / "privacy_card.json").read_text()) == card
    sample = card["sample"]
    assert (sample["persons"], sample["attacker_persons"], sample["probes"]) == (PERSONS, 34, 34)
    assert (sample["genuine_pairs"], sample["impostor_pairs"]) == (34, 34 * 33)
    assert card["thresholds"]["fmr_1e4"] is None  # fewer than 10,000 clean impostor pairs
    assert card["camera"]["landmark_error"] is None
    assert {entry["what"] for entry in card["not_measured"]} >= {
        "LPIPS",
        "generated face",
        "landmark error, heatmap",
    }
    by_key = {attack["key"]: attack for attack in card["attacks"]}
    assert by_key["A4-acquisition-acquired"]["itself"] is None
    assert by_key["A4-acquisition-acquired"]["thresholds_refitted"]
    assert by_key["A4-acquisition-clear"]["itself"]["auc"]["value"] > 0.9
    assert not by_key["A3-inversion"]["thresholds_refitted"]
    assert all(attack["seconds"] > 0 for attack in card["attacks"])
    page = (out / "privacy_card.html").read_text("utf-8")
    assert "do not publish" in page
    assert page.count("data:image/png") == 2 * 8  # two persons: source, acquisition, three A1, two A2, A3


def test_other_settings_reuse_nothing_and_pictures_can_be_left_out(
    run: Callable[..., dict[str, Any]], clear_lens: tuple[Path, Any]
) -> None:
    out, card = clear_lens
    said: list[str] = []
    again = run(Target("clear", build_camera(CameraConfig())), out, CHEAP, say=said.append, pictures=False)
    assert timeless(again) == timeless(card) | {"contains_photographs": False}
    assert len(list((out / "work").iterdir())) == 1
    assert "data:image/png" not in (out / "privacy_card.html").read_text("utf-8")
    assert [message.partition(": ")[2] for message in said] == [DELETE_WORK]
    run(Target("clear", build_camera(CameraConfig())), out, CHEAP, say=said.append)
    assert [message.partition(": ")[2] for message in said[1:]] == [DO_NOT_PUBLISH, DELETE_WORK]
    other = Target("clear", build_camera(CameraConfig(sensor=SensorConfig(bits=11))))

    def stop(name: str) -> Any:
        if name.startswith("attack"):
            raise Interrupted(name)
        return silent(name)

    with pytest.raises(Interrupted, match="A0-acquisition"):  # the first step is not there yet
        run(other, out, CHEAP, stop)


def test_other_networks_run_no_attack_that_does_not_see_them(
    run: Callable[..., dict[str, Any]], clear_lens: tuple[Path, Any], tmp_path: Path
) -> None:
    shutil.copytree(clear_lens[0] / "work", tmp_path / "work")
    clear = build_camera(CameraConfig())
    learned = load_target("learned", clear, None)
    target = Target("clear", clear, 128, learned.heatmap_net, learned.pipeline)
    cards = [clear_lens[1], run(target, tmp_path, CHEAP), run(target.erasing_shape(30), tmp_path, CHEAP)]
    before, drawn, erased = ({attack["key"]: attack for attack in card["attacks"]} for card in cards)
    assert drawn.keys() - before.keys() == {"A0-heatmap", "A0-generated"}
    assert {key: drawn[key] for key in before} == before  # to the second: they were not run again
    assert [key for key in drawn if drawn[key] != erased[key]] == ["A0-generated"]
    assert drawn["A0-generated"]["another"] != erased["A0-generated"]["another"]


def test_a_point_of_another_card_is_drawn(run: Callable[..., dict[str, Any]], clear_lens: tuple[Path, Any]) -> None:
    out, card = clear_lens
    against = (out / "privacy_card.json",)
    again = run(Target("clear", build_camera(CameraConfig())), out, CHEAP, against=against)
    assert again["front"]["points"][-1]["auc"] == card["headline"]["strongest"]["auc"]
    assert again["front"]["points"][-1]["differs"] == []
    assert "landmark error of this camera was not measured" in again["front"]["equal_error"]["gaussian"]["reason"]


def test_mistakes_are_told_in_a_line(people: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--budget endless: unknown; choose from quick, full"):
        budget_named("endless")
    options = Options(people, tmp_path, against=(tmp_path / "none.json",), cache=cache)
    with pytest.raises(InputError, match=r"none\.json: cannot be read as JSON"):
        attack("identity", None, options, print, silent)
    with pytest.raises(ConfigError, match="no such config file or preset"):
        attack("pinhole", None, options, print, silent)
