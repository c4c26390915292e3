"""Inputs are told apart: images, videos, cameras, and folders that hold several kinds."""

import sys
from pathlib import Path

import pytest

from phaseveil.apps.video_inputs import is_camera, plan_clips, sort_inputs
from phaseveil.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_and_videos_are_told_apart(tmp_path: Path) -> None:
    names = ["both/a.png", "both/b.MP4", "films/c.mkv", "films/.c.work/0.mp4", "faces/d.jpg", "e.mov", "f.txt"]
    touch(*(tmp_path / name for name in names))
    given = [str(tmp_path / name) for name in ("both", "films", "faces", "e.mov", "f.txt", "films/*", "faces/*.png")]
    images, videos = sort_inputs([*given, "webcam:0"])
    assert images == [given[0], given[2], given[4], given[6]]
    assert videos == [given[0], given[1], given[3], given[5], "webcam:0"]
    clips = plan_clips(videos[:-1], tmp_path / "out")
    assert [clip.job.name for clip in clips] == ["b", "c", "e"]
    assert all(clip.device is None for clip in clips)


def test_missing_inputs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.mp4: no such file or folder"):
        sort_inputs([str(tmp_path / "absent.mp4")])


def test_a_video_is_never_replaced_by_an_output(tmp_path: Path) -> None:
    touch(tmp_path / "out" / "a.mp4")
    with pytest.raises(InputError, match="lies in the output folder"):
        plan_clips([str(tmp_path / "out" / "a.mp4")], tmp_path / "out")


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="no device files here")
def test_cameras_are_known_by_name_or_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert is_camera("webcam:0")
    assert is_camera("/dev/null")
    assert not is_camera(str(tmp_path))
    (by_path, again) = plan_clips(["webcam:/dev/null", "/dev/null"], tmp_path)
    assert (by_path.device, by_path.job.name) == ("/dev/null", "webcam-dev-null")
    assert again.device == "/dev/null"
    with pytest.raises(InputError, match=r"webcam:77: no such camera \(/dev/video77\); plug one in"):
        plan_clips(["webcam:77"], tmp_path)


def test_cameras_need_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="cameras can be read on Linux only"):
        plan_clips(["webcam:0"], tmp_path)
