"""Frames come in as they were, upright and at their times, and go out so; what cannot be read is told in one line."""

import errno
import os
import re
import runpy
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import film, read_frames, sound, write_clip

from phaseveil.apps import video_io
from phaseveil.apps.video_io import Format, VideoError, VideoReader, VideoWriter
from phaseveil.errors import ConfigError, InputError

FRAMES = film(12, lambda k: {1: (80 + 3 * k, 80, 90)})
VARIABLE = [0, 300, 2_000, 2_100, 5_000, 5_001, 9_000, 12_000, 12_500, 20_000, 20_300, 21_000]
PLAIN = Format(Fraction(1, 25), Fraction(25), Fraction(1), (2, 0, 2, 2))


def write_again(source: Path, target: Path) -> None:
    with VideoReader(source) as reader:
        writer = None
        for frame in reader.frames():
            writer = writer or VideoWriter(target, reader.format, *frame.image.shape[:2])
            writer.write(frame.image, frame.pts, frame.duration)
        assert writer is not None
        writer.close()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mkv", {"time_base": Fraction(1, 1000)}),
        ("a.avi", {"codec": "mpeg4", "time_base": Fraction(1, 25)}),
        ("a.mp4", {"pts": VARIABLE, "time_base": Fraction(1, 30_000)}),
    ],
    ids=["mp4", "mkv", "avi", "variable"],
)
def test_pictures_and_their_times_survive(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    source = write_clip(tmp_path / name, FRAMES, **options)
    write_again(source, tmp_path / "out.mp4")
    before, times = read_frames(source)
    after, new_times = read_frames(tmp_path / "out.mp4")
    assert len(after) == len(FRAMES)
    assert new_times == pytest.approx([time - times[0] for time in times], abs=1e-9)
    difference = np.stack(after).astype(int) - np.stack(before)
    assert np.abs(difference).mean() < 5
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 1.5  # no shift of colour


def test_the_last_frame_is_shown_as_long_as_before(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", FRAMES)
    write_again(source, tmp_path / "out.mp4")
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        assert before.duration == after.duration


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotated_frames_are_turned_upright(tmp_path: Path, rotation: int) -> None:
    stored = [np.ascontiguousarray(np.rot90(frame, -rotation // 90)) for frame in FRAMES[:2]]
    source = write_clip(tmp_path / "a.mp4", stored, rotation=rotation)
    with VideoReader(source) as reader:
        (first, _) = reader.frames()
    assert first.image.shape == FRAMES[0].shape
    assert np.abs(first.image.astype(int) - FRAMES[0]).mean() < 6
    write_again(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    form = Format(Fraction(1, 25), Fraction(25), Fraction(4, 3), (1, 1, 1, 1))
    writer = VideoWriter(tmp_path / "wide.mp4", form, 48, 64)
    writer.write(np.zeros((48, 64, 3), np.uint8), 0, 1)
    writer.close()
    with VideoReader(tmp_path / "wide.mp4") as reader:
        list(reader.frames())
        assert (reader.format.aspect, reader.format.colours) == (form.aspect, form.colours)


def test_reading_goes_on_at_a_frame_with_or_without_seeking(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", FRAMES, VARIABLE, Fraction(1, 30_000))
    with VideoReader(source) as reader:
        whole = list(reader.frames())
    for seek in (True, False):
        with VideoReader(source) as reader:
            rest = list(reader.frames(7, whole[7].pts, seek))
        assert [(frame.number, frame.pts) for frame in rest] == [(frame.number, frame.pts) for frame in whole[7:]]
        assert all(np.array_equal(a.image, b.image) for a, b in zip(rest, whole[7:], strict=True))
    with VideoReader(source) as reader, pytest.raises(VideoError, match="has changed since the run began"):
        list(reader.frames(7, whole[7].pts + 1))


AGAIN = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from phaseveil.apps.video_io import Format, VideoWriter
writer = VideoWriter(Path(sys.argv[2]), Format(Fraction(1, 25), Fraction(25), Fraction(1), (2, 0, 2, 2)), 160, 240)
for number, frame in enumerate(np.load(sys.argv[1])):
    writer.write(frame, number, 1)
writer.close()
"""


def test_bytes_do_not_depend_on_what_is_left_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.stack(FRAMES))
    for name, poison in (("clean", "0"), ("filled", "1")):  # glibc fills new memory with this byte's complement
        command = [sys.executable, "-c", AGAIN, str(tmp_path / "frames.npy"), str(tmp_path / f"{name}.mp4")]
        subprocess.run(command, check=True, env=os.environ | {"MALLOC_PERTURB_": poison})
    assert (tmp_path / "clean.mp4").read_bytes() == (tmp_path / "filled.mp4").read_bytes()


def test_odd_sides_are_made_even(tmp_path: Path) -> None:
    frame = FRAMES[0][:63, :95]
    writer = VideoWriter(tmp_path / "odd.mp4", PLAIN, *frame.shape[:2])
    writer.write(frame, 5, 1)
    writer.close()
    (written,), (time,) = read_frames(tmp_path / "odd.mp4")
    assert written.shape == (64, 96, 3)
    assert time == 0
    assert np.abs(written[:63, :95].astype(int) - frame).mean() < 6
    assert np.abs(written[63].astype(int) - written[62]).mean() < 8


def silent_film(path: Path) -> None:
    with av.open(str(path), "w") as container:
        tone: Any = container.add_stream("aac", rate=48_000)
        container.mux([packet for frame in sound(1.0, tone) for packet in tone.encode(frame)])
        container.mux(tone.encode())


def test_what_is_not_a_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a film")
    (tmp_path / "folder.mp4").mkdir()
    whole = write_clip(tmp_path / "whole.mp4", FRAMES).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    silent_film(tmp_path / "sound.mp4")
    for name, message in {
        "empty": r"the file is empty \(0 bytes\)",
        "text": "not a video that can be read, or cut off",
        "folder": "is a folder, not a video",
        "cut": "not a video that can be read, or cut off",
        "sound": "has no pictures, only sound or data",
        "absent": "no such file or camera",
    }.items():
        with pytest.raises(VideoError, match=rf"{name}\.mp4: {message}"):
            VideoReader(tmp_path / f"{name}.mp4")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.avi", {"codec": "mpeg4", "time_base": Fraction(1, 25)}, r"ends after \d+ of 60 frames"),
        ("a.mkv", {"time_base": Fraction(1, 1000)}, r"ends after 1\.\d of 2\.4 s"),
    ],
)
def test_a_cut_off_video_is_read_as_far_as_it_goes(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    whole = write_clip(tmp_path / name, film(60, lambda k: {1: (60 + k, 80, 90)}), **options).read_bytes()
    (tmp_path / f"cut-{name}").write_bytes(whole[: int(0.75 * len(whole))])
    with VideoReader(tmp_path / name) as reader:
        assert (len(list(reader.frames())), reader.damage) == (60, None)
    with VideoReader(tmp_path / f"cut-{name}") as reader:
        assert 10 < len(list(reader.frames())) < 55
        assert re.fullmatch(message, reader.damage or "")


def test_damage_in_the_middle_is_left_out(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "a.mp4", film(40, lambda k: {1: (60 + k, 80, 90)})).read_bytes())
    middle = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 2
    data[middle : middle + 4000] = bytes(4000)
    (tmp_path / "bad.mp4").write_bytes(data)
    with VideoReader(tmp_path / "bad.mp4") as reader:
        assert len(list(reader.frames())) > 10
        assert reader.damage is not None


def test_a_video_without_one_whole_picture_is_refused(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "a.mp4", FRAMES[:1]).read_bytes())
    start = data.find(b"mdat") + 4
    data[start : data.find(b"moov") - 4] = bytes(data.find(b"moov") - 4 - start)
    (tmp_path / "bad.mp4").write_bytes(data)
    with VideoReader(tmp_path / "bad.mp4") as reader, pytest.raises(VideoError, match="no picture can be decoded"):
        list(reader.frames())


def test_too_large_a_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_io, "MAX_SIDE", 100)
    source = write_clip(tmp_path / "a.mp4", FRAMES[:1])
    with VideoReader(source) as reader, pytest.raises(VideoError, match="240×160 px is too large"):
        list(reader.frames())


def test_stamps_that_do_not_ascend_are_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_clip(tmp_path / "a.mp4", FRAMES[:4])
    pictures = VideoReader._pictures

    def without_stamps(self: VideoReader, packet: Any) -> Any:
        for number, frame in enumerate(pictures(self, packet)):
            frame.pts = None if number % 2 else 0
            yield frame

    monkeypatch.setattr(VideoReader, "_pictures", without_stamps)
    with VideoReader(source) as reader:
        stamps = [frame.pts for frame in reader.frames()]
        assert not reader.trusted
    assert stamps == sorted(set(stamps))
    assert len(stamps) == 4


def test_reading_can_be_stopped(tmp_path: Path) -> None:
    with VideoReader(write_clip(tmp_path / "a.mp4", FRAMES)) as reader:
        frames = reader.frames()
        next(frames)
        reader.stop()
        assert len(list(frames)) < len(FRAMES) - 1
        assert reader.damage is None


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", PLAIN, 48, 64)

    class Full:
        def mux(self, packet: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            return None

    monkeypatch.setattr(writer, "_container", Full())
    writer.write(np.zeros((48, 64, 3), np.uint8), 0, 1)
    with pytest.raises(InputError, match=r"a\.mp4: the disk is full"):
        writer.close()
    astray = VideoWriter(tmp_path / "no" / "such" / "folder.mp4", PLAIN, 48, 64)
    astray.write(np.zeros((48, 64, 3), np.uint8), 0, 1)
    with pytest.raises(InputError, match=r"folder\.mp4: cannot be written"):
        astray.close()


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        ConfigError, match=r"videos need the package av; install it with: pip install 'phaseveil\[video\]'"
    ):
        runpy.run_path(video_io.__file__)
