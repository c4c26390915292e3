"""Files from strangers: refused in one line or read, whatever is in them. ``python -m bench.fuzz`` tries many more."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench.fuzz import GUARD, UnsafeError, judge
from bench.fuzz_cases import EVIL_NAMES, bomb_of_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from phaseveil import checkpoint
from phaseveil.config import MAX_DEPTH, load_config
from phaseveil.data.archive import MAX_RATIO, extract, first_damaged, open_zip, read_member
from phaseveil.data.datasets import load_faces
from phaseveil.data.image_io import decode_image
from phaseveil.data.perceptual_weights import convert_lpips
from phaseveil.errors import CheckpointError, ConfigError, InputError, OpticsError, PhaseVeilError
from phaseveil.models.face import FaceConfig, load_face_networks
from phaseveil.models.heatmap import HeatmapConfig, load_heatmap_net
from phaseveil.optics.camera import CameraConfig, build_camera, load_camera
from phaseveil.optics.materials import SELLMEIER, refractive_index


def png_header(width: int, height: int) -> bytes:
    """First chunk of a PNG of 8-bit RGB, with its checksum."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return content + struct.pack(">I", zlib.crc32(content))


ROOT = Path(__file__).parents[1]
SHARED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([*CameraConfig.__dataclass_fields__, "surplus"])


def test_120_spoilt_files_of_every_kind() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.fuzz", "--count", "120", "--seed", "1"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    *_, total, _ = ran.stdout.splitlines()
    name, loaded, refused, failed = total.split()
    assert (name, int(loaded) + int(refused), failed) == ("all", 120, "0")


def test_the_judge_notices_what_must_not_happen(tmp_path: Path) -> None:
    def watched(event: str, *arguments: Any) -> None:
        GUARD.hook(event, arguments)

    assert judge(lambda: None, tmp_path) == "loaded"
    assert "KeyError" in judge(lambda: {}["a"], tmp_path)
    assert judge(lambda: print("x", file=sys.stderr), tmp_path) == "said 'x\\n'"
    assert judge(lambda: watched("open", str(tmp_path / "a"), "w", os.O_WRONLY), tmp_path) == "loaded"
    assert judge(lambda: watched("open", "/etc/passwd", "r", os.O_RDONLY), tmp_path) == "loaded"
    for event, *arguments in (
        ("open", "/etc/passwd", "w", os.O_WRONLY),
        ("open", str(tmp_path / ".." / "a"), None, os.O_CREAT),
        ("os.rename", str(tmp_path / "a"), "/b", -1, -1),
        ("subprocess.Popen", "gs", [], None, None),
        ("pickle.find_class", "os", "system"),
        ("socket.connect", None, ("127.0.0.1", 9)),
    ):
        assert "UnsafeError" in judge(lambda e=event, a=arguments: watched(e, *a), tmp_path)  # type: ignore[misc]

    def swallows() -> None:
        with pytest.raises(UnsafeError):
            watched("os.system", "true")

    assert judge(swallows, tmp_path) == "unsafe: os.system ('true',)"


@SHARED
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_every_loader(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(data)
    for load in (load_camera, load_heatmap_net, load_face_networks):
        with pytest.raises(CheckpointError):
            load(file)
    with pytest.raises(InputError), open_zip(file):
        pass
    with pytest.raises(InputError):
        decode_image(data, "a.png")


@SHARED
@given(st.dictionaries(FIELDS, JSON, max_size=3))
def test_any_camera_in_a_header_is_refused_or_acquires(tmp_path: Path, changes: dict[str, Any]) -> None:
    base = {"kind": "gaussian"} | changes
    path = checkpoint.save(tmp_path / "a.safetensors", "camera", base, {"camera.empty": torch.zeros(1)})
    with suppress(PhaseVeilError):
        assert torch.isfinite(load_camera(path)(torch.full((1, 3, 16, 16), 0.5))).all()


@SHARED
@given(st.text(max_size=80), st.lists(st.text(max_size=20), max_size=2))
def test_any_text_as_configuration_is_refused_or_read(tmp_path: Path, text: str, overrides: list[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, "utf-8", newline="")
    for source, given_overrides in ((path, []), (None, overrides)):
        with suppress(ConfigError):
            assert isinstance(load_config(CameraConfig, source, given_overrides), CameraConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a0: " + bomb_of_yaml(), "a.yaml: .*aliases"),
        ("kind: &a gaussian\nmaterial: *a\n", "aliases"),
        ("kind: !!python/object/apply:os.system [true]\n", "tags"),
        ("num_modes: !!int 8\n", "tags"),
        ("kind: ${oc.env:HOME}\n", "interpolations"),
        ("kind: " + "[" * 100_000, f"more than {MAX_DEPTH} levels"),
        ('"kind: &a [1]"\n', "must be a mapping"),
        ("- kind\n", "must be a mapping"),
        ("kind: gaussian\nkind: gaussian\n", "duplicate"),
        ("frame_width: .nan\n", "frame_width must be a finite number"),
        ("sensor: {exposure: .inf}\n", "exposure must be a finite number"),
        ("frame_width: " + "9" * 5000, "digits"),
        ("frame_width: " + "9" * 400, "too large"),
        ("kind: " + "a" * (1 << 20), "no configuration"),
        ("num_modes: 2000\npupil_samples: 2000\n", "too much memory"),
        ("low_resolution: 99999999999\n", "at most 2048"),
        ("frame_width: 1e30\n", "between 1e-06 and 1e"),
        ("wavelengths: [1e-5, 5e-7, 4e-7]\n", "absorbs at"),
        ("wavelengths: {}\n", "the other way round"),
        ("sensor: [1]\n", "not a subclass of SensorConfig"),
    ],
)
def test_hostile_yaml_is_refused_before_it_does_anything(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as refusal:
        load_camera(path)
    assert len(str(refusal.value)) < 1000


def test_overrides_are_no_less_strict() -> None:
    for override in ("kind=${oc.env:HOME}", "kind=" + "[" * 100, "kind=*a", "kind=!!int 1", ".".join("a" * 50) + "=1"):
        with pytest.raises(ConfigError):
            load_config(CameraConfig, None, [override])
    assert load_config(CameraConfig, None, ["wavelengths=[6e-7,5e-7,4e-7]", "sensor.bits=8"]).sensor.bits == 8


@pytest.mark.parametrize("material", SELLMEIER)
def test_materials_are_refused_where_their_formula_breaks_down(material: str) -> None:
    for nanometres in range(101, 20_000, 7):
        with suppress(ConfigError):
            assert 1 <= refractive_index(material, nanometres * 1e-9) < 100
    assert refractive_index(material, 550e-9) == pytest.approx(1.5, abs=0.1)


def test_huge_networks_are_refused_before_memory_is_asked_for(tiny_weights: Path, tmp_path: Path) -> None:
    for name, load, config in (
        ("face", load_face_networks, FaceConfig(size=4096, width=4096, bottleneck=64, style_width=4096)),
        ("heatmap", load_heatmap_net, HeatmapConfig(size=4096, width=1024)),
    ):
        stored = checkpoint.load(tiny_weights / f"{name}.safetensors")
        path = checkpoint.save(tmp_path / "a.safetensors", name, vars(config), stored.tensors)
        with pytest.raises(CheckpointError, match="do not fit"):
            load(path)
        path = checkpoint.save(path, name, vars(config) | {"width": 2**40}, stored.tensors)
        with pytest.raises(ConfigError):
            load(path)


def test_weights_that_are_no_numbers_are_refused(tiny_weights: Path, tmp_path: Path) -> None:
    stored = checkpoint.load(tiny_weights / "heatmap.safetensors")
    name = "network.stem.1.weight"
    for wrong, message in (
        (torch.full_like(stored.tensors[name], torch.nan), "holds NaN or infinity"),
        (stored.tensors[name].double() * 1e300, "holds NaN or infinity"),
        (stored.tensors[name].to(torch.int64), "do not fit"),
        (stored.tensors[name].to(torch.complex64), "do not fit"),
    ):
        tensors = stored.tensors | {name: wrong}
        path = checkpoint.save(tmp_path / "a.safetensors", "heatmap", stored.config, tensors)
        with pytest.raises(CheckpointError, match=message):
            load_heatmap_net(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "1" * 5000, "{"])
def test_hostile_json_in_a_header_is_refused(tmp_path: Path, text: str) -> None:
    header = {"format": checkpoint.FORMAT, "kind": "camera", "config": text, "metadata": "{}"}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="damaged"):
        load_camera(tmp_path / "a.safetensors")


def test_interpolations_in_a_header_do_not_read_the_environment(tmp_path: Path) -> None:
    config = {"kind": "gaussian", "material": "${oc.env:HOME}"}
    path = checkpoint.save(tmp_path / "a.safetensors", "camera", config, {"camera.empty": torch.zeros(1)})
    with pytest.raises(ConfigError, match="interpolations"):
        load_camera(path)


@pytest.mark.parametrize("name", [name for name in EVIL_NAMES if "\0" not in name])
def test_no_member_of_an_archive_leaves_the_folder(tmp_path: Path, name: str) -> None:
    member = zipfile.ZipInfo("x")
    member.filename = name
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"owned")
    try:
        extract(tmp_path / "a.zip", tmp_path / "deep" / "out")
    except (InputError, OSError):  # names too long for the file system are its own refusal
        assert not (tmp_path / "deep" / "out").exists()
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a.zip"]
    assert all(path.is_relative_to(tmp_path / "deep" / "out") for path in outside)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.zip", "deep"}


def test_bombs_and_doubles_in_archives_are_refused(tmp_path: Path) -> None:
    bomb, doubled = tmp_path / "bomb.zip", tmp_path / "doubled.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(80 << 20))
    with pytest.raises(InputError, match="too large in the archive"):
        extract(bomb, tmp_path / "out")
    with open_zip(bomb) as archive, pytest.raises(InputError, match="too large"):
        read_member(archive, archive.infolist()[0])
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", bytes(30 << 20))
    with pytest.raises(InputError, match=f"{MAX_RATIO} times what is packed"):
        extract(bomb, tmp_path / "out")
    with zipfile.ZipFile(doubled, "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr("b.png", b"2")
    doubled.write_bytes(doubled.read_bytes().replace(b"b.png", b"a.png"))
    with pytest.raises(InputError, match="twice in the archive"):
        extract(doubled, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_in_every_way_of_packing_is_noticed(tmp_path: Path) -> None:
    path, noise = tmp_path / "a.zip", np.random.default_rng(0).bytes(1000)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.bin", noise)
        packed = bytearray(path.read_bytes())
        packed[39:60] = bytes(21)
        path.write_bytes(packed)
        assert first_damaged(path) == "a.bin"
        with open_zip(path) as archive, pytest.raises(InputError, match="damaged"):
            read_member(archive, archive.infolist()[0])


@pytest.mark.parametrize(
    ("form", "old", "new"),
    [
        ("PNG", png_header(64, 32), png_header(60_000, 60_000)),
        ("GIF", struct.pack("<HH", 64, 32), struct.pack("<HH", 60_000, 60_000)),
        ("JPEG", struct.pack(">HH", 32, 64), struct.pack(">HH", 60_000, 60_000)),
        ("TIFF", struct.pack("<HHIH", 256, 4, 1, 64), struct.pack("<HHIH", 256, 4, 1, 60_000)),
        ("BMP", struct.pack("<ii", 64, 32), struct.pack("<ii", 60_000, 60_000)),
        ("PPM", b"64 32", b"60000 60000"),
        ("WEBP", struct.pack("<I", 63 | 31 << 14), struct.pack("<I", 16_383 | 16_383 << 14)),
    ],
)
def test_decompression_bombs_are_refused_by_their_size(form: str, old: bytes, new: bytes) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32)).save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
    assert old in buffer.getvalue()
    with pytest.raises(InputError, match="too large"):
        decode_image(buffer.getvalue().replace(old, new), "bomb")


def test_a_damaged_index_is_one_line(prepared: Path, tmp_path: Path) -> None:
    record = json.loads((prepared / "index.jsonl").read_text().splitlines()[0])
    for wrong, message in (
        ({"file": "/etc/passwd"}, "outside the prepared folder"),
        ({"file": "a/../../b.png"}, "outside the prepared folder"),
        ({"file": 7}, "without file"),
        ({"landmarks": [[1.0, 2.0]]}, "landmarks"),
        ({"landmarks": [[1e300, 2.0]] * 68}, "landmarks"),
        ({"landmarks": [[{}, 2.0]] * 68}, "landmarks"),
        ({"size": 0}, "a crop of 0 pixels"),
        ({"size": "big"}, "a crop of 'big' pixels"),
    ):
        (tmp_path / "index.jsonl").write_text(json.dumps(record | wrong) + "\n")
        with pytest.raises(InputError, match=message):
            load_faces(tmp_path, "train", 16)
    for line in ("[" * 100_000, "[]", "{"):
        (tmp_path / "index.jsonl").write_text(line)
        with pytest.raises(InputError, match="damaged"):
            load_faces(tmp_path, "train", 16)


def test_a_damaged_cache_is_made_anew(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(prepared / "images")
    (tmp_path / "index.jsonl").write_bytes((prepared / "index.jsonl").read_bytes())
    sound = np.array(load_faces(tmp_path, "train", 16).images)
    cache = tmp_path / "cache" / "train-16.npy"
    np.save(tmp_path / "objects.npy", np.array([{}] * 6, dtype=object))
    np.save(tmp_path / "other.npy", np.zeros((6, 8, 8, 3), np.uint8))
    for content in (b"", b"nonsense", *((tmp_path / name).read_bytes() for name in ("objects.npy", "other.npy"))):
        cache.write_bytes(content)
        assert np.array_equal(load_faces(tmp_path, "train", 16).images, sound)


def test_pixels_wider_than_the_pattern_of_the_pupils_samples_are_refused() -> None:
    camera = load_camera("identity")
    wide = replace(camera.config, frame_width=4000.0, psf_support=1e-6, pupil_samples=64)
    with pytest.raises(OpticsError, match=r"wider than the .* repeats; choose a narrower frame or more pupil_s"):
        build_camera(wide).psf(64)


def test_weights_in_a_tar_archive_are_not_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "old.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(InputError, match="damaged or not a PyTorch file"):
        convert_lpips(tmp_path / "old.pth", tmp_path / "old.pth", tmp_path / "out.safetensors")
