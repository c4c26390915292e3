"""Nothing of a source's metadata reaches an output, and no input's name leads anywhere but into the output folder."""

import io
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from phaseveil import PhaseVeil, cli
from phaseveil.apps.anonymize import Batch, Options, latent_styles
from phaseveil.apps.batch import Manifest, Record, json_line
from phaseveil.apps.sources import Acquisitions
from phaseveil.data.align import template_points
from phaseveil.data.image_io import decode_image, read_image, unique_stems, write_png, write_webp
from phaseveil.data.landmarks import FaceDetection
from phaseveil.data.prepare import align_images
from phaseveil.errors import InputError, printable

SECRET = b"S3CRET"
TOLD = SECRET.decode()
CARRIERS = ("JPEG", "PNG", "WEBP", "TIFF")
HOSTILE = [
    "plain.png",
    "-rf.png",
    "...png",
    "new\nline.png",
    "\x1b[2J\x1b]0;S3CRET\x07.png",
    "\u202egnp.exe.png",
    "c1\x9b31m.png",
    "$(id);`id`.png",
    "back\\slash.png",
    os.fsdecode(b"not-utf8-\xff.png"),
]


def marked(pixels: np.ndarray, form: str, place: Path) -> Path:
    """A photograph with every kind of metadata that its format holds."""
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x013B], exif[0x9C9C] = f"{TOLD} make", f"{TOLD} model", f"{TOLD} artist", SECRET
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2), 27: SECRET})
    exif.get_ifd(0x8769)[0x9286] = SECRET
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"sRGB built-in", SECRET + b" built")
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + SECRET + b"</x:xmpmeta>"
    options: dict[str, Any] = {"icc_profile": profile}
    if form == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", TOLD)
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        text.add_text("Thumb::Image", TOLD, zip=True)
        options["pnginfo"] = text
    elif form == "TIFF":
        options["description"] = TOLD
        options["tiffinfo"] = {700: xmp, 270: TOLD, 34377: SECRET}
    else:
        options["xmp"] = xmp
        options |= {"comment": SECRET} if form == "JPEG" else {}
        thumbnail = io.BytesIO()
        image.resize((8, 8)).save(thumbnail, "JPEG", comment=SECRET)
        exif.get_ifd(0x8769)[0x927C] = thumbnail.getvalue()
    path = place / f"marked.{form.lower()}"
    image.save(path, form, **options, **({} if form == "TIFF" else {"exif": exif.tobytes()}))
    assert SECRET in path.read_bytes()
    return path


def assert_bare(path: Path) -> None:
    """An image file holds pixels and nothing else."""
    assert SECRET not in path.read_bytes()
    with Image.open(path) as image:
        image.load()
        assert not image.getexif()
        assert not {"exif", "icc_profile", "xmp", "comment", "XML:com.adobe.xmp", "photoshop"} & image.info.keys()
        assert not getattr(image, "text", {})


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32)


@pytest.mark.parametrize("form", CARRIERS)
@pytest.mark.parametrize("write", [write_png, write_webp])
def test_writers_drop_all_metadata(tmp_path: Path, form: str, write: Callable[..., Path]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    source = marked(pixels, form, tmp_path)
    assert_bare(write(tmp_path / f"out{'.png' if write is write_png else '.webp'}", read_image(source)))


def test_new_faces_acquisitions_and_sheets_are_bare(pipeline: PhaseVeil, face_crop: np.ndarray, tmp_path: Path) -> None:
    sources = [marked(face_crop, form, tmp_path) for form in CARRIERS]
    options = Options(save=frozenset({"acquisition", "heatmap", "sheet"}))
    batch = Batch(pipeline, Acquisitions(pipeline.size), latent_styles(pipeline, None), options, tmp_path / "out")
    summary = batch.run(sources, lambda done, total: None, pytest.fail)
    written = list((tmp_path / "out").rglob("*.png"))
    assert summary.done == 4
    assert len(written) == 4 * 3 + 1
    for path in written:
        assert_bare(path)


def test_captures_and_crops_are_bare(face_crop: np.ndarray, tmp_path: Path) -> None:
    source = marked(face_crop, "JPEG", tmp_path)
    assert cli.run(["capture", str(source), "--out", str(tmp_path / "seen"), "--camera", "gaussian"]) == 0
    assert_bare(tmp_path / "seen" / "marked.png")
    align_images([source], tmp_path / "crops", 64, OneFace())
    assert_bare(tmp_path / "crops" / "marked.png")


class OneFace:
    """A detector that finds faces where an aligned crop has them."""

    def __init__(self, count: int = 1) -> None:
        self._count = count

    def detect(self, image: np.ndarray) -> list[FaceDetection]:
        side = len(image)
        return [FaceDetection((0.0, 0.0, side, side), 1.0, template_points(side))] * self._count


def test_a_further_face_never_takes_another_photographs_name(tmp_path: Path) -> None:
    names = ("a.png", "a_2.png", "A_3.png", "b.png")
    sources = [write_png(tmp_path / name, np.full((64, 64, 3), 40 * i, np.uint8)) for i, name in enumerate(names)]
    report = align_images(sources, tmp_path / "out", 32, OneFace(count=2))
    assert [path.name for path in report.written] == [
        *("a.png", "a_4.png", "a_2.png", "a_2_2.png", "A_3.png", "A_3_2.png", "b.png", "b_2.png")
    ]
    for path, level in zip(report.written, (0, 0, 40, 40, 80, 80, 120, 120), strict=True):
        assert (read_image(path) == level).all()


def test_videos_carry_no_tags_chapters_or_covers(pipeline: PhaseVeil, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    from phaseveil.apps.video_io import VideoReader, VideoWriter
    from phaseveil.apps.video_segments import Segments

    told = dict.fromkeys(("title", "comment", "location", "make", "com.apple.quicktime.location.ISO6709"), TOLD)
    for suffix, audio in ((".mp4", "aac"), (".mov", "aac"), (".mkv", "flac")):
        source, output = tmp_path / f"source{suffix}", tmp_path / f"output{suffix}"
        flags = {"movflags": "use_metadata_tags"} if suffix != ".mkv" else {}
        with av.open(str(source), "w", options=flags) as container:
            container.metadata.update(told | {"creation_time": "2024-05-05T10:00:00Z"})
            chapter = {"id": 1, "start": 0, "end": 100, "time_base": Fraction(1, 1000), "metadata": {"title": TOLD}}
            container.set_chapters([chapter])
            pictures = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
            sound = container.add_stream(audio, rate=48_000)
            for stream in (pictures, sound):
                stream.metadata.update({"title": TOLD, "handler_name": TOLD, "creation_time": "2024-05-05T10:00:00Z"})
            for level in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * level, np.uint8), format="rgb24")
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode())
            form = sound.codec_context.format.name
            silence = av.AudioFrame(format=form, layout=sound.codec_context.layout.name, samples=1024)
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            silence.sample_rate, silence.pts = 48_000, 0
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
        assert source.read_bytes().count(SECRET) >= 8
        with VideoReader(source) as reader:
            segments, writer = Segments(output, {}), None
            for frame in reader.frames():
                writer = writer or VideoWriter(segments.draft, reader.format, 32, 32)
                writer.write(frame.image, frame.pts, frame.duration)
            assert writer is not None
            writer.close()
            segments.commit(0, {})
            segments.join(output, source, reader.format.time_base, reader.start)
        assert SECRET not in output.read_bytes()
        with av.open(str(output)) as container:
            assert len(container.streams) == 2
            assert not container.chapters()
            tags = [container.metadata, *(stream.metadata for stream in container.streams)]
            assert not {"creation_time", *told} & {name.lower() for tag in tags for name in tag}


def test_hostile_names_stay_inside_and_say_nothing(
    tiny_weights: Path, face_crop: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "deep" / "out"
    folder.mkdir()
    picture = write_png(tmp_path / "face.png", face_crop).read_bytes()
    for name in HOSTILE:
        (folder / name).write_bytes(picture)
    (folder / "broken\x1b[31m\nerror: forged.png").write_bytes(b"no image")
    before = set(tmp_path.rglob("*"))
    call = ["anonymize", str(folder), str(folder / "...png"), "--out", str(out), "--weights", str(tiny_weights)]
    call.append("--acquired")
    assert cli.run([*call, "--save", "acquisition,sheet"]) == 1
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "deep") for path in new)
    outputs = [path.name for path in out.glob("*.png")]
    assert len(outputs) == len(HOSTILE)
    assert all(name.isprintable() and name[0] != "-" for name in outputs)
    said = capfd.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())
    assert "\nerror:" not in said.err
    text = (out / "manifest.jsonl").read_text("utf-8")
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    assert {Path(json.loads(line)["input"]).name for line in lines} >= {*HOSTILE}
    assert cli.run(call) == 1  # a second run finds its lines again and replaces them
    assert len((out / "manifest.jsonl").read_text("utf-8").splitlines()) == len(lines)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=12), min_size=1, max_size=6))
def test_output_names_are_safe_whatever_the_inputs_are_called(names: list[str]) -> None:
    stems = unique_stems([Path("some") / name for name in names if name not in (".", "..")])
    assert len({stem.casefold() for stem in stems}) == len(stems)
    for stem in stems:
        assert stem.isprintable()
        assert not {"/", "\\"} & set(stem)
        assert stem.strip(".") or not stem.startswith(".")
        assert not stem.startswith("-")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_messages_and_lines_are_printable_and_manifests_keep_what_they_say(text: str) -> None:
    assert str(InputError(text)).isprintable()
    assert printable(printable(text)) == printable(text)
    line = json_line({"input": text, "n": 1})
    assert line.isprintable()
    assert json.loads(line) == {"input": text, "n": 1}


def test_manifests_pass_over_lines_that_are_no_records(tmp_path: Path) -> None:
    lines = ["[" * 100_000, '{"input": []}', "[]", '{"input": "kept.png", "output": null}']
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    Manifest(tmp_path, []).add(Record("new\n.png", "skipped"))
    kept, new = (tmp_path / "manifest.jsonl").read_text("utf-8").splitlines()
    assert json.loads(kept)["input"] == "kept.png"
    assert json.loads(new)["input"] == "new\n.png"


def test_formats_that_start_programs_are_not_read() -> None:
    picture = Image.new("RGB", (8, 8))
    for form in ("EPS", "PDF", "ICO", "PCX", "TGA"):
        buffer = io.BytesIO()
        picture.save(buffer, form)
        with pytest.raises(InputError, match="not an image that can be read"):
            decode_image(buffer.getvalue(), "innocent.png")


def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path(os.devnull)):
        with pytest.raises(InputError, match="is a device or pipe"):
            read_image(path)


def test_a_link_in_the_output_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "out.png").symlink_to(precious)
    write_png(tmp_path / "out.png", np.zeros((4, 4, 3), np.uint8))
    assert precious.read_text() == "mine"
    assert not (tmp_path / "out.png").is_symlink()
