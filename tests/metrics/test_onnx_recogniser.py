from pathlib import Path

import numpy as np
import pytest

from phaseveil.errors import CheckpointError, ConfigError
from phaseveil.metrics.identity import DlibRecogniser
from phaseveil.metrics.onnx_recogniser import OnnxRecogniser, OnnxSettings, arcface_face, load_recogniser

onnx = pytest.importorskip("onnx", reason="needs the extra 'dev'")
pytest.importorskip("onnxruntime", reason="needs the extra 'eval'")

from onnx import NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

SIDE, WIDTH = 16, 5
YAML = "size: 16\nmean: [10, 20, 30]\nstd: [2, 4, 8]\nchannels: BGR\nalignment: crop\nnormalise: false\n"
WEIGHT = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, WIDTH)).astype(np.float32) / 30


def flatten_and_multiply(inputs: int) -> list[NodeProto]:
    """Nodes that flatten each image and multiply it by the first rows of a weight."""
    weight = np.resize(WEIGHT, (inputs, WIDTH))
    return [
        helper.make_node("Constant", [], ["weight"], value=numpy_helper.from_array(weight)),
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]


def save(
    path: Path,
    shape: list[int | str],
    nodes: list[NodeProto] | None = None,
    kind: int = TensorProto.FLOAT,
    output_kind: int = TensorProto.FLOAT,
) -> Path:
    """A network from "image" to "embedding": the given nodes, or its flattened input times ``WEIGHT``."""
    graph = helper.make_graph(
        nodes or flatten_and_multiply(len(WEIGHT)),
        "recogniser",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("embedding", output_kind, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def settings(**changes: object) -> OnnxSettings:
    values = {"size": SIDE, "mean": [10.0, 20.0, 30.0], "std": [2.0, 4.0, 8.0], "channels": "BGR", "alignment": "crop"}
    return OnnxSettings(**{**values, "normalise": False, **changes})  # type: ignore[arg-type]


def faces(count: int = 3, side: int = SIDE) -> tuple[list[np.ndarray], np.ndarray]:
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]
    return images, np.zeros((count, 68, 2))


def expected(images: list[np.ndarray], channels_last: bool = False) -> np.ndarray:
    values = (np.stack(images)[..., ::-1].astype(np.float64) - [10, 20, 30]) / [2, 4, 8]
    return (values if channels_last else values.transpose(0, 3, 1, 2)).reshape(len(images), -1) @ WEIGHT


def test_embeds_as_the_network_written_in_numpy(tmp_path: Path) -> None:
    save(tmp_path / "flat.onnx", ["n", 3, SIDE, SIDE])
    (tmp_path / "flat.yaml").write_text(YAML)
    recogniser = load_recogniser(tmp_path / "flat.onnx")
    images, landmarks = faces()
    assert recogniser.name == "flat"
    assert recogniser.embed(images, landmarks) == pytest.approx(expected(images), abs=1e-3)
    assert recogniser.embed([], np.empty((0, 68, 2))).shape == (0, WIDTH)


def test_takes_channels_last_and_open_sizes(tmp_path: Path) -> None:
    images, landmarks = faces()
    last = OnnxRecogniser(save(tmp_path / "last.onnx", ["n", SIDE, SIDE, 3]), settings())
    open_sizes = OnnxRecogniser(save(tmp_path / "open.onnx", ["n", 3, "h", "w"]), settings())
    assert last.embed(images, landmarks) == pytest.approx(expected(images, channels_last=True), abs=1e-3)
    assert open_sizes.embed(images, landmarks) == pytest.approx(expected(images), abs=1e-3)


@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_batches_do_not_matter_nor_does_a_fixed_one(tmp_path: Path, batch: int | str) -> None:
    images, landmarks = faces(5)
    path = save(tmp_path / "flat.onnx", [batch, 3, SIDE, SIDE])
    for size in (1, 4, 64):
        found = OnnxRecogniser(path, settings(), batch_size=size).embed(images, landmarks)
        assert found == pytest.approx(expected(images), abs=1e-3)


def test_normalises_where_it_should(tmp_path: Path) -> None:
    images, landmarks = faces()
    found = OnnxRecogniser(save(tmp_path / "a.onnx", ["n", 3, SIDE, SIDE]), settings(normalise=True))
    wanted = expected(images)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert found.embed(images, landmarks) == pytest.approx(wanted, abs=1e-5)


def marked_face(side: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A black image with white spots at eyes, nose and mouth corners, and 68 landmarks there."""
    five = np.array([(38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2)]) * scale + 20
    landmarks = np.repeat(five, [6, 6, 1, 1, 1], axis=0)
    all_points = np.zeros((68, 2))
    all_points[[*range(36, 48), 30, 48, 54]] = landmarks
    image = np.zeros((side, side, 3), np.uint8)
    for x, y in np.rint(five).astype(int):
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
    return image, all_points


@pytest.mark.parametrize("shape", [(112, 112), (224, 224), (112, 96)])
def test_arcface_alignment_puts_the_points_where_arcface_has_them(shape: tuple[int, int]) -> None:
    image, landmarks = marked_face(300, 2.0)
    cut = arcface_face(image, landmarks, shape)
    scale, left = shape[0] / 112, (shape[1] - shape[0]) / 2
    assert cut.shape == (*shape, 3)
    for x, y in ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)):
        assert cut[round(y * scale), round(x * scale + left), 0] > 200
        assert cut[round((y - 8) * scale), round(x * scale + left), 0] < 60


def test_arcface_alignment_turns_with_the_face(astronaut: np.ndarray, astronaut_landmarks: np.ndarray) -> None:
    upright = arcface_face(astronaut, astronaut_landmarks.astype(float), (112, 112))
    turned_points = np.column_stack([511 - astronaut_landmarks[:, 1], astronaut_landmarks[:, 0]]).astype(float)
    turned = arcface_face(np.rot90(astronaut, -1), turned_points, (112, 112))
    assert np.abs(upright.astype(float) - turned).mean() < 1


def test_dlib_alignment_cuts_dlibs_chip(tmp_path: Path, astronaut: np.ndarray, astronaut_landmarks: np.ndarray) -> None:
    chip = DlibRecogniser().chip(astronaut, np.rint(astronaut_landmarks).astype(int))
    path = save(tmp_path / "a.onnx", ["n", 3, SIDE, SIDE])
    by_dlib = OnnxRecogniser(path, settings(alignment="dlib")).embed([astronaut], astronaut_landmarks[None])
    by_hand = OnnxRecogniser(path, settings()).embed([chip], astronaut_landmarks[None])
    assert by_dlib == pytest.approx(by_hand)


def test_none_is_dlibs_recogniser() -> None:
    pytest.importorskip("dlib", reason="needs the extra 'eval'")
    assert isinstance(load_recogniser(None), DlibRecogniser)


def test_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.onnx", ["n", 3, SIDE, SIDE])
    with pytest.raises(CheckpointError, match="no such recogniser"):
        load_recogniser(tmp_path / "missing.onnx")
    with pytest.raises(CheckpointError, match="no such network"):
        OnnxRecogniser(tmp_path / "missing.onnx", settings())
    with pytest.raises(ConfigError, match=r"a\.yaml: no such file; write size, mean"):
        load_recogniser(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="package onnxruntime"):
        OnnxRecogniser(path, settings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML.replace("size: 16\n", ""), "missing mandatory value: size"),
        (YAML.replace("std: [2, 4, 8]\n", ""), "missing mandatory value: std"),
        (YAML.replace("BGR", "GBR"), "RGB or BGR"),
        (YAML.replace("crop", "eyes"), "one of arcface, dlib, crop"),
        (YAML.replace("[2, 4, 8]", "[2, 4]"), "three values"),
        (YAML.replace("[2, 4, 8]", "[2, 4, 0]"), "above 0"),
        (YAML.replace("16", "-16"), "at least 1 pixel"),
        (YAML + "flip: true\n", "flip"),
    ],
)
def test_refuses_wrong_settings_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = save(tmp_path / "a.onnx", ["n", 3, SIDE, SIDE])
    path.with_suffix(".yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recogniser(path)
    assert "\n" not in str(caught.value)


def test_refuses_networks_that_do_not_fit(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no network")
    with pytest.raises(CheckpointError, match="damaged or no network") as caught:
        OnnxRecogniser(damaged, settings())
    assert "\n" not in str(caught.value)
    large = save(tmp_path / "large.onnx", ["n", 3, 32, 32], flatten_and_multiply(3 * 32 * 32))
    with pytest.raises(CheckpointError, match="not float32 faces of 16×16"):
        OnnxRecogniser(large, settings())
    with pytest.raises(CheckpointError, match="not float32 faces of 20×16"):
        OnnxRecogniser(save(tmp_path / "tall.onnx", ["n", 3, SIDE, SIDE]), settings(height=20))
    same = [helper.make_node("Identity", ["image"], ["embedding"])]
    levels = save(tmp_path / "levels.onnx", ["n", 3, SIDE, SIDE], same, TensorProto.UINT8, TensorProto.UINT8)
    with pytest.raises(CheckpointError, match=r"takes tensor\(uint8\)"):
        OnnxRecogniser(levels, settings())


def test_refuses_networks_that_fail(tmp_path: Path) -> None:
    fails = save(tmp_path / "fails.onnx", ["n", 3, "h", "w"])
    with pytest.raises(CheckpointError, match="the network fails") as caught:
        OnnxRecogniser(fails, settings(size=SIDE + 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("operation", "options"), [("Identity", {}), ("ReduceMean", {"axes": [2, 3]}), ("Log", {})])
def test_takes_only_outputs_that_are_embeddings(tmp_path: Path, operation: str, options: dict[str, list[int]]) -> None:
    nodes = [
        helper.make_node(operation, ["image"], ["inner"], **options),
        helper.make_node("Flatten", ["inner"], ["embedding"], axis=0 if operation == "ReduceMean" else 1),
    ]
    if operation == "Identity":
        nodes = [helper.make_node("Identity", ["image"], ["embedding"])]
    path = save(tmp_path / "wrong.onnx", [2, 3, SIDE, SIDE], nodes)
    with pytest.raises(CheckpointError, match=r"one embedding a face, \(B, D\)"):
        OnnxRecogniser(path, settings(mean=[200.0, 200.0, 200.0]))
