"""``phaseveil anonymize`` with videos: one line for what is wrong, the right exit code, images and videos together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import film, read_frames, write_clip

from phaseveil import cli
from phaseveil.data.image_io import read_image, write_png

FRAMES = film(6, lambda k: {1: (80 + 3 * k, 80, 90)})


@pytest.fixture
def anonymize(capsys: pytest.CaptureFixture[str], tiny_weights: Path) -> Any:
    """Run ``phaseveil anonymize`` with the tiny networks; gives exit code, standard output and standard error."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = cli.run(["anonymize", *map(str, arguments), "--weights", str(tiny_weights)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_images_and_videos_of_one_folder(anonymize: Any, face_crop: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_png(folder / "face.png", face_crop)
    write_clip(folder / "clip.mp4", FRAMES, audio="aac")
    code, out, err = anonymize(folder, "--out", tmp_path / "out", "--seed", "3", "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert (summary["done"], summary["skipped"], summary["faces"]) == (2, 0, 2)
    assert read_image(tmp_path / "out/face.png").shape == face_crop.shape
    assert len(read_frames(tmp_path / "out/clip.mp4")[0]) == 6
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text("utf-8").splitlines()]
    assert [Path(line["input"]).name for line in lines] == ["face.png", "clip.mp4"]


def test_a_bad_video_is_skipped_and_a_good_one_done(anonymize: Any, tmp_path: Path) -> None:
    good = write_clip(tmp_path / "good.mkv", FRAMES)
    (tmp_path / "bad.mp4").write_text("not a film")
    code, out, err = anonymize(tmp_path / "bad.mp4", good, "--out", tmp_path / "out", "--min-face", "40")
    assert code == 1
    assert out.startswith("1 done, 1 skipped")
    assert err.startswith(f"skipped {tmp_path / 'bad.mp4'}: not a video that can be read")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["absent.mp4"], "absent.mp4: no such file or folder"),
        (["webcam:79"], "webcam:79:"),
        (["clip.mp4", "--only", "one"], "--only one: need the persons' numbers"),
        (["clip.mp4", "--keep-others"], "--keep-others needs --only"),
        (["clip.mp4", "--on-miss", "hope"], "--on-miss"),
        (["clip.mp4", "--region", "1,2,64"], "it goes with --acquired"),
        (["clip.mp4", "--acquired", "--region", "middle"], "--region middle: need x,y,side"),
        (["clip.mp4", "--save", "sheet"], "--save keeps pictures of images only"),
        (["clip.mp4", "--size", "64"], "--size and videos exclude each other"),
        (["face.png", "--only", "1"], "concern videos, and there is none among the inputs"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_one_line(
    anonymize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", FRAMES[:1])
    (tmp_path / "face.png").touch()
    code, out, err = anonymize(*arguments, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert part in err
