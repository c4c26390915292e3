"""A sweep of tiny cameras: trainings, resuming, errors, record, plot and table are real, the attacks stand-ins."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phaseveil import __version__, checkpoint
from phaseveil.apps import attack
from phaseveil.apps.attack_data import BUDGETS
from phaseveil.apps.attack_front import SCHEMA, front_point
from phaseveil.apps.attack_results import write_json
from phaseveil.apps.attack_target import Target, family_of
from phaseveil.apps.evaluate_inputs import file_digest
from phaseveil.apps.sweep import Options, Sweep, front_budget, load_sweep, members, sweep
from phaseveil.config import from_mapping, load_config, to_mapping
from phaseveil.data.image_io import read_image
from phaseveil.errors import CheckpointError, ConfigError, InputError, PhaseVeilError
from phaseveil.optics.camera import load_camera
from phaseveil.progress import Report
from phaseveil.training.camera_config import CameraTraining

STAGE1 = """network: {{size: 32, width: 4}}
camera: {camera}
mask_start_defocus: 2.0e-7
warm_up: 1
batch_size: 4
val_faces: 4
"""
GATHER = attack.gather
MEMBERS = ["learned-0.05", "learned-0.2", "gaussian", "gaussian-24", "low-resolution"]


@contextmanager
def quiet(description: str) -> Iterator[Report]:
    yield lambda done, total: None


def say(line: str) -> None:
    """Say nothing."""


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.01}


class Attacker:
    """Stands for the attacks: writes the card of a camera at once; may be told to stop at one."""

    def __init__(self) -> None:
        self.attacked: list[str] = []
        self.options: list[attack.Options] = []
        self.stop_at = ""

    def __call__(self, target: Target, options: attack.Options, *_: Any) -> dict[str, Any]:
        if target.name == self.stop_at:
            raise KeyboardInterrupt
        self.attacked.append(target.name)
        self.options.append(options)
        found = card(target, options)
        write_json(options.out / "privacy_card.json", found)
        return found


def card(target: Target, options: attack.Options) -> dict[str, Any]:
    """A card whose figures depend on the camera's name alone."""
    error, auc = {
        "gaussian": (0.05, 0.95),
        "gaussian-24": (0.07, 0.85),
        "low-resolution": (0.04, 0.98),
        "learned-0.05": (0.05, 0.8),
        "learned-0.2": (0.06, 0.7),
    }.get(target.name, (0.08, 0.6))
    family = family_of(target.camera)
    return {
        "schema": SCHEMA,
        "phaseveil": __version__,
        "camera": {
            "name": target.name,
            "family": family.name,
            "strength": family.strength,
            "landmark_error": figure(error),
            "digest": target.digest(),
        },
        "settings": {
            "budget": attack.describe_budget(target, options.budget),
            "seed": options.seed,
            "pairs": {"digest": file_digest(options.pairs)[:16]},
            "recogniser": {"name": "dlib"},
        },
        "headline": {"strongest": {"key": "A4-acquisition-clear", "auc": figure(auc), "tar": figure(auc / 4)}},
        "attacks": [{"key": "A4-acquisition-clear", "another": {"auc": figure(auc)}}],
    }


@contextmanager
def stand_ins() -> Iterator[Attacker]:
    """Sweeps whose attacks take no time, and whose trainings draw no pictures."""
    found = Attacker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack, "attack_target", found)
        patch.setattr(attack, "gather", lambda *_: None)
        patch.setattr("phaseveil.training.logging._tensorboard", lambda folder: None)
        patch.setattr("phaseveil.training.camera.save_optics_figure", lambda path, camera, size: None)
        yield found


@pytest.fixture(autouse=True)
def attacker() -> Iterator[Attacker]:
    with stand_ins() as found:
        yield found


@pytest.fixture(scope="module")
def config(heatmap_file: Path, small_camera: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    preset = tmp_path_factory.mktemp("presets") / "stage1.yaml"
    preset.write_text(STAGE1.format(camera=small_camera))
    presets = {"stage1": str(preset), "settle": str(preset), "start_heatmap": str(heatmap_file)}
    return Sweep(ceilings=[0.05, 0.2], baselines=MEMBERS[2:], steps=2, heatmap_steps=2, **presets)


def options_in(folder: Path, prepared: Path) -> Options:
    pairs = folder / "pairs.csv"
    pairs.write_text("first,second,same\na.png,b.png,1\n")
    return Options(prepared, pairs, folder / "out")


@pytest.fixture
def options(prepared: Path, tmp_path: Path) -> Options:
    return options_in(tmp_path, prepared)


@pytest.fixture(scope="module")
def finished(
    config: Sweep, prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, list[attack.Options]]:
    """Folder and table of a finished sweep, and how its cameras were attacked."""
    options = options_in(tmp_path_factory.mktemp("finished"), prepared)
    with stand_ins() as attacker:
        table = sweep(config, options, say, quiet)
    assert attacker.attacked == MEMBERS
    return options.out, table, attacker.options


@pytest.fixture
def done(finished: tuple[Path, str, Any], options: Options) -> str:
    """The table of a finished sweep, whose folder is moved to where ``options`` says."""
    shutil.copytree(finished[0], options.out)
    return finished[1]


def written(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((options.out / "front.json").read_text("utf-8"))
    return found


def times(options: Options) -> dict[Path, int]:
    files = [*options.out.rglob("state.safetensors"), *options.out.rglob("*.json")]
    return {file: file.stat().st_mtime_ns for file in files if file.parent != options.out}


def test_all_cameras_are_trained_attacked_and_checked(done: str, config: Sweep, options: Options) -> None:
    front = written(options)
    assert (front["phaseveil"], front["settings"]) == (__version__, to_mapping(config))
    assert [point["camera"] for point in front["points"]] == MEMBERS
    assert [point["family"] for point in front["points"]] == ["mask"] * 2 + ["gaussian"] * 2 + ["low-resolution"]
    assert front["ceilings"] == {"learned-0.05": 0.05, "learned-0.2": 0.2}
    for name in MEMBERS:
        kept = json.loads((options.out / name / "privacy_card.json").read_text("utf-8"))
        assert front_point(kept) in front["points"]
        checks = front["collapse"][name]
        assert checks["geometry"]["faces"] == 4
        assert set(checks["geometry"]["collapsed"]) <= {"landmarks", "shape", "heatmap"}
        assert len(checks["psf"]["replica"]) == 3
        assert (checks["psf"]["replicates"], checks["psf"]["shifts"]) == (False, False)
    assert read_image(options.out / "front.png").shape == (750, 1080, 3)
    assert len([line for line in done.splitlines() if line.startswith("| ")]) == 2 + 5 + 2 + 2


def test_masks_are_learned_from_one_start_and_all_networks_settle_alike(
    done: str, config: Sweep, options: Options, small_camera: Path
) -> None:
    for name in MEMBERS:
        weights = options.out / name / "weights"
        settled = checkpoint.load(options.out / name / "stage1" / "state.safetensors").config
        assert (settled["mask_share"], settled["steps"], settled["heatmap"]) == (0, 2, config.start_heatmap)
        assert (weights / "heatmap.safetensors").is_file()
        if name.startswith("learned"):
            trained = checkpoint.load(options.out / name / "mask" / "state.safetensors").config
            assert (trained["camera"], trained["ceiling"]) == (str(small_camera), float(name[8:]))
            assert load_camera(weights / "camera.safetensors").coefficients.any()


def test_attacks_leave_out_what_the_front_does_not_show(finished: tuple[Path, str, list[attack.Options]]) -> None:
    budget = front_budget("quick")
    assert (budget.name, budget.sweep, budget.trained_on) == ("quick", (), ("acquisition",))
    assert budget.inversion == BUDGETS["quick"].inversion
    for name, given in zip(MEMBERS, finished[2], strict=True):
        assert (given.budget, given.pictures, given.out) == (budget, False, finished[0] / name)
        assert given.cache == finished[0] / "cache"


def test_a_finished_sweep_does_nothing_anew(
    done: str, config: Sweep, options: Options, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, front = times(options), (options.out / "front.json").read_bytes()
    monkeypatch.setattr("phaseveil.training.camera._train_step", lambda *given: pytest.fail("trained again"))
    monkeypatch.setattr("phaseveil.apps.sweep.check_geometry", lambda *given: pytest.fail("checked again"))
    assert sweep(config, options, say, quiet) == done
    assert attacker.attacked == []
    assert times(options) == before
    assert (options.out / "front.json").read_bytes() == front


def test_an_interrupted_sweep_goes_on_with_the_same_figures(
    done: str, config: Sweep, options: Options, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, attacker.stop_at = written(options), "gaussian"
    again = replace(options, out=options.out.with_name("again"))
    with pytest.raises(KeyboardInterrupt):
        sweep(config, again, say, quiet)
    assert not (again.out / "front.json").exists()
    attacker.stop_at = ""
    with monkeypatch.context() as patch:
        patch.setattr("phaseveil.training.camera._train_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sweep(config, again, say, quiet)
    assert attacker.attacked == MEMBERS[:3]
    assert sweep(config, again, say, quiet) == done
    assert attacker.attacked == MEMBERS
    assert written(again) == whole


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_finished_sweep_may_grow(done: str, config: Sweep, options: Options, attacker: Attacker) -> None:
    before = written(options)
    sweep(replace(config, ceilings=[*config.ceilings, 0.3], baselines=["gaussian"]), options, say, quiet)
    assert attacker.attacked == ["learned-0.3"]
    after = written(options)
    kept = ["learned-0.05", "learned-0.2", "gaussian"]
    assert [point for point in after["points"] if point["camera"] in kept] == before["points"][:3]


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card | {"phaseveil": "0.0.1"},
        lambda card: card["settings"].update(seed=7) or card,
        lambda card: card["settings"]["budget"].update(probes=2) or card,
        lambda card: card["camera"].pop("digest") and card,
    ],
    ids=["version", "seed", "budget", "damaged"],
)
def test_a_card_of_other_settings_is_made_anew(
    done: str, config: Sweep, options: Options, attacker: Attacker, change: Callable[[Any], Any]
) -> None:
    file = options.out / "gaussian" / "privacy_card.json"
    file.write_text(json.dumps(change(json.loads(file.read_text("utf-8")))))
    assert sweep(config, options, say, quiet) == done
    assert attacker.attacked == ["gaussian"]


def test_learned_cameras_are_set_against_each_family_at_equal_error(done: str) -> None:
    first, second = done.splitlines()[-7:-5]
    assert first == ("| learned-0.05 | 5.0 % [3.0, 6.0] | 0.800 [0.780, 0.810] | – | 0.950 [0.930, 0.960] (-0.150) |")
    assert second.endswith("| 0.900 [0.880, 0.910] (-0.200) |")
    assert done.splitlines()[-1] == (
        "- learned-0.2, low-resolution: its landmark errors, 4.0% to 4.0%, do not enclose this camera's"
    )


def test_another_sweep_in_the_folder_is_refused(done: str, config: Sweep, options: Options) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.json: begun with another heatmap_steps, seed; choose another --out"):
        sweep(replace(config, heatmap_steps=3, seed=1), options, say, quiet)
    options.pairs.write_text("first,second,same\na.png,c.png,1\n")
    with pytest.raises(ConfigError, match="begun with another pairs"):
        sweep(config, options, say, quiet)


def test_a_baseline_that_has_changed_is_refused(config: Sweep, options: Options, tmp_path: Path) -> None:
    file = tmp_path / "blur.yaml"
    alone = replace(config, ceilings=[], baselines=[str(file)])
    file.write_text("kind: gaussian\ngaussian_sigma: 0.05\n")
    sweep(alone, options, say, quiet)
    file.write_text("kind: gaussian\ngaussian_sigma: 0.04\n")
    with pytest.raises(ConfigError, match=r"camera\.safetensors: begun with another camera; choose another --out"):
        sweep(alone, options, say, quiet)


def test_baselines_alone_make_a_front(config: Sweep, options: Options) -> None:
    text = sweep(replace(config, ceilings=[]), options, say, quiet)
    assert written(options)["equal_error"] == {}
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 5


def test_a_mask_alone_makes_a_front(config: Sweep, options: Options) -> None:
    text = sweep(replace(config, ceilings=[0.2], baselines=[]), options, say, quiet)
    assert written(options)["equal_error"] == {"learned-0.2": {}}
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 3


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], type[PhaseVeilError], str]] = {
    "preset": ({"stage1": "stage1/wishful"}, {}, ConfigError, "stage1/wishful: no such config file or preset"),
    "settle": ({"settle": "stage1/base"}, {}, ConfigError, "a network of .*, but stage1/base says"),
    "camera": ({"start_camera": "gaussian"}, {}, ConfigError, "'gaussian' has no mask to learn"),
    "baseline": ({"baselines": ["pinhole"]}, {}, ConfigError, "camera/pinhole: no such config file"),
    "heatmap": ({"start_heatmap": "none.safetensors"}, {}, CheckpointError, "none.safetensors: no such weights"),
    "data": ({}, {"data": Path("nowhere")}, InputError, "nowhere: no index.jsonl"),
    "perceptual": ({}, {"perceptual": Path("none")}, PhaseVeilError, "none"),
}


@pytest.mark.parametrize(("config_change", "options_change", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_told_before_any_training(
    config: Sweep,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
    config_change: dict[str, Any],
    options_change: dict[str, Any],
    error: type[PhaseVeilError],
    message: str,
) -> None:
    monkeypatch.setattr("phaseveil.apps.table.train_camera", lambda *given, **more: pytest.fail("trained"))
    with pytest.raises(error, match=message) as caught:
        sweep(replace(config, **config_change), replace(options, **options_change), say, quiet)
    assert "\n" not in str(caught.value)
    assert not options.out.exists()


def test_pairs_that_cannot_be_attacked_are_told_before_any_training(
    config: Sweep, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dlib", reason="needs the extra 'eval'")
    monkeypatch.setattr(attack, "gather", GATHER)
    monkeypatch.setattr("phaseveil.apps.table.train_camera", lambda *given, **more: pytest.fail("trained"))
    with pytest.raises(InputError, match="needs pairs of the same person and pairs of different persons"):
        sweep(config, options, say, quiet)


@pytest.mark.parametrize("name", ["sweep.json", "gaussian/privacy_card.json", "gaussian/collapse.json"])
@pytest.mark.parametrize(("text", "message"), [("{", "damaged; delete it"), ("[]", "not a JSON object")])
def test_a_damaged_record_is_named(
    done: str, config: Sweep, options: Options, name: str, text: str, message: str
) -> None:
    (options.out / name).write_text(text)
    with pytest.raises(InputError, match=f"{Path(name).name}: {message}"):
        sweep(config, options, say, quiet)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"seed": -1}, "seed at least 0"),
        ({"ceilings": [0.05, 1.5]}, "ceilings must lie in"),
        ({"budget": "endless"}, "budget must be one of quick, full"),
        ({"ceilings": [], "baselines": []}, "needs ceilings or baselines"),
        ({"ceilings": [0.05, 0.05]}, "none of them twice"),
        ({"baselines": ["gaussian", "other/gaussian.yaml"]}, "none of them twice"),
        ({"ceilings": ["low"]}, "low"),
        ({"strength": 3}, "strength"),
    ],
)
def test_impossible_sweeps_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Sweep, {"ceilings": [0.05]} | values)


def test_the_packaged_sweep_names_cameras_and_presets_that_exist() -> None:
    config = load_sweep("front", ["ceilings=[0.05,0.06]", "budget=full"])
    assert (config.ceilings, config.budget) == ([0.05, 0.06], "full")
    families: dict[str, list[float | None]] = {}
    for member in members(config)[2:]:
        assert member.camera is not None
        family = family_of(load_camera(member.camera))
        families.setdefault(family.name, []).append(family.strength)
    assert {name: len(strengths) for name, strengths in families.items()} == {
        "low-resolution": 2,
        "gaussian": 3,
        "defocus": 4,
    }
    for preset in (config.stage1, config.settle):
        load_config(CameraTraining, preset)
    with pytest.raises(ConfigError, match="sweep/wishful: no such config file or preset"):
        load_sweep("wishful")
