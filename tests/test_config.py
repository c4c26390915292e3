from dataclasses import dataclass, field
from pathlib import Path

import pytest

from phaseveil.apps.sweep import Sweep
from phaseveil.apps.table import TableRow
from phaseveil.apps.tolerance import ToleranceStudy
from phaseveil.config import from_mapping, load_config, preset_path, to_mapping
from phaseveil.errors import ConfigError
from phaseveil.optics.camera import CameraConfig
from phaseveil.training.camera_config import CameraTraining
from phaseveil.training.face_config import FaceTraining

SCHEMAS = {
    "camera": CameraConfig,
    "front": TableRow,
    "stage1": CameraTraining,
    "stage2": FaceTraining,
    "sweep": Sweep,
    "table1": TableRow,
    "tolerance": ToleranceStudy,
}
CONFIGS = preset_path("camera/portrait").parent.parent


@dataclass
class Inner:
    rate: float = 0.5


@dataclass
class Outer:
    steps: int = 10
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("steps: 20\ninner: {rate: 0.25}\n")
    assert load_config(Outer) == Outer()
    assert load_config(Outer, file) == Outer(20, Inner(0.25))
    assert load_config(Outer, file, ["inner.rate=1.5"]) == Outer(20, Inner(1.5))


@pytest.mark.parametrize(
    ("text", "override", "named"),
    [
        ("stepz: 3", "", "stepz"),
        ("", "inner.rat=1", "rat"),
        ("steps: many", "", "steps"),
        ("steps: [1", "", "config.yaml"),
        ("", "steps=0", "at least 1"),
        ("", "steps", "steps"),
        ("", "=3", "is no key"),
        ("", ".=3", "is no key"),
    ],
)
def test_a_wrong_value_is_one_clear_line(tmp_path: Path, text: str, override: str, named: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, file, [override] if override else [])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(Outer, file)


def test_a_missing_preset_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="camera/portrait"):
        load_config(CameraConfig, "camera/telescope")
    with pytest.raises(ConfigError, match="no such config"):
        load_config(CameraConfig, "../../secrets")


def test_mappings_are_as_strict() -> None:
    assert from_mapping(Outer, to_mapping(Outer(3))) == Outer(3)
    with pytest.raises(ConfigError, match="surplus"):
        from_mapping(Outer, {"surplus": 1})
    with pytest.raises(ConfigError, match="at least 1"):
        from_mapping(Outer, {"steps": 0})


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_packaged_preset_is_valid(path: Path) -> None:
    schema = SCHEMAS[path.relative_to(CONFIGS).parts[0]]
    load_config(schema, str(path.relative_to(CONFIGS).with_suffix("")))
