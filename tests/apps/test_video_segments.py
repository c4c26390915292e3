"""Segments are kept, joined with the sound, and thrown away; nothing half-written gets the final name."""

import errno
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import film, read_frames, write_clip

from phaseveil.apps import video_segments
from phaseveil.apps.video_io import Format, VideoError, VideoWriter
from phaseveil.apps.video_segments import Segments, output_suffix
from phaseveil.errors import InputError

TIME_BASE = Fraction(1, 12_800)
FRAMES = film(6, lambda k: {1: (80 + 3 * k, 80, 90)})


def fill(segments: Segments, numbers: range, start: int = 0) -> None:
    """Write frames with these numbers as one segment."""
    writer = VideoWriter(segments.draft, Format(TIME_BASE, Fraction(25), Fraction(1), (2, 0, 2, 2)), 160, 240)
    for number in numbers:
        writer.write(FRAMES[number], start + number * 512, 512)
    writer.close()
    segments.commit(start + numbers[0] * 512, {"next": numbers[-1] + 1})


def packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.pts is not None]


@pytest.mark.parametrize(
    ("name", "codec", "suffix"),
    [
        ("a.mp4", "aac", ".mp4"),
        ("a.mov", "pcm_s16le", ".mov"),
        ("a.mkv", "libopus", ".mkv"),
        ("a.avi", "pcm_s16le", ".mkv"),
    ],
)
def test_segments_are_joined_and_the_sound_is_copied(tmp_path: Path, name: str, codec: str, suffix: str) -> None:
    options = {"codec": "mpeg4", "time_base": Fraction(1, 25)} if name.endswith("avi") else {}
    source = write_clip(tmp_path / name, FRAMES, audio=codec, **options)
    assert output_suffix(source) == suffix
    output = tmp_path / f"out{suffix}"
    segments = Segments(output, {"run": 1})
    fill(segments, range(0, 2))
    fill(segments, range(2, 6))
    segments.join(output, source, TIME_BASE, 0.0)
    frames, times = read_frames(output)
    assert times == pytest.approx([number / 25 for number in range(6)], abs=1e-3)
    assert all(np.abs(a.astype(int) - b).mean() < 6 for a, b in zip(frames, FRAMES, strict=True))
    before, after = packets(source), packets(output)
    assert [data for _, data in after] == [data for _, data in before]
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=2e-3)
    with av.open(str(output)) as container:
        assert "comment" not in {key.lower() for key in container.metadata}
    segments.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, output.name])


def test_sound_that_the_container_cannot_hold_goes_to_matroska(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mov", FRAMES, audio="pcm_s16le")
    renamed = source.rename(tmp_path / "a.m4v")
    assert output_suffix(renamed) == ".mkv"


def test_a_late_start_becomes_the_beginning(tmp_path: Path) -> None:
    segments = Segments(tmp_path / "out.mp4", {})
    fill(segments, range(0, 6), start=128_000)
    segments.join(tmp_path / "out.mp4", None, TIME_BASE, 10.0)
    assert read_frames(tmp_path / "out.mp4")[1][:2] == [0.0, 0.04]


def test_a_run_goes_on_after_its_last_whole_segment(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    first = Segments(output, {"seed": 1})
    assert first.state is None
    fill(first, range(0, 2))
    first.draft.write_bytes(b"begun")
    again = Segments(output, {"seed": 1})
    assert (again.count, again.state) == (1, {"next": 2})
    fill(again, range(2, 6))
    again.join(output, None, TIME_BASE, 0.0)
    assert len(read_frames(output)[0]) == 6
    other = Segments(output, {"seed": 2})
    assert (other.count, other.state) == (0, None)
    assert [path.name for path in other.folder.iterdir()] == ["run.json"]


def test_a_segment_without_its_state_does_not_count(tmp_path: Path) -> None:
    segments = Segments(tmp_path / "out.mp4", {})
    fill(segments, range(0, 2))
    (segments.folder / "000000.json").unlink()
    (segments.folder / "run.json").write_text(json.dumps(json.loads((segments.folder / "run.json").read_text())))
    assert Segments(tmp_path / "out.mp4", {}).count == 0


def test_segments_without_a_frame_are_passed_over(tmp_path: Path) -> None:
    segments = Segments(tmp_path / "out.mkv", {})
    segments.commit(None, {})
    with pytest.raises(VideoError, match=r"a\.mkv: no frame is left, since no face was found in any"):
        segments.join(tmp_path / "out.mkv", tmp_path / "a.mkv", TIME_BASE, 0.0)
    fill(segments, range(3, 6))
    segments.commit(None, {})
    segments.join(tmp_path / "out.mkv", None, TIME_BASE, 0.0)
    assert read_frames(tmp_path / "out.mkv")[1] == pytest.approx([0.12, 0.16, 0.2], abs=1e-3)


def test_a_full_disk_leaves_the_old_output_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"older")
    segments = Segments(output, {})
    fill(segments, range(0, 6))

    def full(container: Any, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video_segments, "_mux", full)
    with pytest.raises(InputError, match=r"out\.mp4: the disk is full"):
        segments.join(output, None, TIME_BASE, 0.0)
    assert output.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mp4.work", "out.mp4"]
    monkeypatch.undo()
    Segments(output, {}).join(output, None, TIME_BASE, 0.0)
    assert len(read_frames(output)[0]) == 6
