"""From file to file: people keep their new faces, sound and times stay, misses are hidden, a stopped run goes on."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from clips import drawn_face, film, read_frames, sound, write_clip

from phaseveil import PhaseVeil
from phaseveil.apps import anonymize
from phaseveil.apps import film as film_module
from phaseveil.apps.anonymize import latent_styles
from phaseveil.apps.batch import Summary
from phaseveil.apps.film import Cutter
from phaseveil.apps.footage import AcquiredFootage, Region
from phaseveil.apps.video import Options, Redaction, VideoBatch
from phaseveil.apps.video_io import VideoReader
from phaseveil.errors import ConfigError, InputError
from phaseveil.progress import Report

PAIR = film(15, lambda k: {1: (60 + 2 * k, 80, 80), 2: (185, 80, 80)})
VANISHING = film(20, lambda k: {1: (100, 80, 90)} if k < 10 else {})


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32)


class Run:
    """A batch in this process, with what it said and the seeds that it drew faces for."""

    def __init__(self, pipeline: PhaseVeil, out: Path, seed: int | None = 7, **options: Any) -> None:
        self.said: list[str] = []
        self.reported: list[tuple[int, int | None]] = []
        self.out = out
        styles = latent_styles(pipeline, None)
        faces = anonymize.Options(seed, batch_size=options.pop("batch_size", 4))
        self.batch = VideoBatch(pipeline, styles, Options(faces, **options), out)

    def __call__(self, *inputs: Path | str) -> Summary:
        return self.batch.run([str(given) for given in inputs], self._progress, self.said.append)

    @contextmanager
    def _progress(self, description: str, unit: str) -> Iterator[Report]:
        yield lambda done, total: self.reported.append((done, total))

    def people(self, name: str) -> list[dict[str, Any]]:
        return json.loads((self.out / f"{name}.tracks.json").read_text("utf-8"))["people"]

    def manifest(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "manifest.jsonl").read_text("utf-8").splitlines()]


def difference(first: np.ndarray, second: np.ndarray, x: int, y: int = 80, half: int = 15) -> float:
    """Mean difference of two frames around a place."""
    place = slice(y - half, y + half), slice(x - half, x + half)
    return float(np.abs(first[place].astype(int) - second[place]).mean())


def detail(frame: np.ndarray, x: int, y: int = 80, half: int = 20) -> float:
    """How much neighbouring pixels differ around a place."""
    part = frame[y - half : y + half, x - half : x + half].astype(int)
    return float(np.abs(np.diff(part, axis=1)).mean())


def test_people_get_faces_of_their_own_and_the_rest_stays(
    pipeline: PhaseVeil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip(tmp_path / "pair.mp4", PAIR, audio="aac")
    drawn: list[int] = []
    generate = PhaseVeil.generate

    def spy(self: PhaseVeil, images: torch.Tensor, styles: torch.Tensor, seeds: Sequence[int]) -> Any:
        drawn.extend(seeds)
        return generate(self, images, styles, seeds)

    monkeypatch.setattr(PhaseVeil, "generate", spy)
    run = Run(pipeline, tmp_path / "out")
    summary = run(source)
    assert (summary.done, summary.skipped, summary.faces) == (1, 0, 2)
    assert sorted(drawn) == [6] * 15 + [7] * 15
    assert [(person["track"], person["seed"], person["frames"], person["lost"]) for person in run.people("pair")] == [
        (1, 7, 15, 0),
        (2, 6, 15, 0),
    ]
    before, times = read_frames(source)
    after, new_times = read_frames(tmp_path / "out/pair.mp4")
    assert new_times == times
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        assert difference(old, new, 58 + 2 * number) > 15
        assert difference(old, new, 185) > 15
        assert difference(old, new, 120, y=15, half=10) < 8
    with av.open(str(tmp_path / "out/pair.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
    (record,) = run.manifest()
    assert (record["status"], record["frames"], record["missed"], record["seed"]) == ("done", 15, 0, 7)
    assert run.said == []
    assert run.reported[-1] == (15, 15)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.jsonl",
        "pair.mp4",
        "pair.tracks.json",
    ]


def test_one_person_can_be_replaced_and_the_others_blurred_or_kept(pipeline: PhaseVeil, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "pair.mp4", PAIR[:5])
    run = Run(pipeline, tmp_path / "all")
    run(source)
    number = next(person["track"] for person in run.people("pair") if person["box"][0] < 60)
    Run(pipeline, tmp_path / "blurred", redaction=Redaction(only=frozenset({number})))(source)
    Run(pipeline, tmp_path / "kept", redaction=Redaction(only=frozenset({number}), keep_others=True))(source)
    old, blurred, kept, both = (
        read_frames(folder / "pair.mp4")[0][2]
        for folder in (tmp_path, *map(tmp_path.joinpath, ("blurred", "kept", "all")))
    )
    assert difference(blurred, both, 60) < 3
    assert difference(kept, both, 60) < 3
    assert detail(blurred, 185) < 0.35 * detail(old, 185)
    assert difference(kept, old, 185) < 4
    absent = Run(pipeline, tmp_path / "absent", redaction=Redaction(only=frozenset({9})))
    absent(source)
    assert absent.said == [f"{source}: person 9 was not seen; there are 2"]


@pytest.mark.parametrize("on_miss", ["blur", "keep", "drop"])
def test_frames_in_which_a_face_is_lost(pipeline: PhaseVeil, tmp_path: Path, on_miss: str) -> None:
    source = write_clip(tmp_path / "gone.mkv", VANISHING, time_base=Fraction(1, 1000))
    run = Run(pipeline, tmp_path / on_miss, redaction=Redaction(on_miss))
    run(source)
    before, times = read_frames(source)
    after, new_times = read_frames(tmp_path / on_miss / "gone.mkv")
    assert run.said == [f"{source}: no face, a lost or a doubtful one in 10 of 20 frames"]
    assert all(difference(old, new, 100) > 15 for old, new in zip(before[:10], after[:10], strict=True))
    if on_miss == "drop":
        assert new_times == times[:10]
        return
    assert new_times == times
    for old, new in zip(before[10:], after[10:], strict=True):
        if on_miss == "keep":
            assert difference(old, new, 100) < 6
        else:
            assert detail(new, 100) < 0.35 * detail(old, 100)
            assert difference(old, new, 220, y=20, half=10) < 6


def test_frames_without_anybody_are_blurred_as_a_whole(pipeline: PhaseVeil, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "empty.mp4", film(6, lambda k: {}))
    run = Run(pipeline, tmp_path / "out")
    assert run(source).faces == 0
    (old, *_), (new, *_) = read_frames(source)[0], read_frames(tmp_path / "out/empty.mp4")[0]
    assert all(detail(new, x, y) < 0.2 * detail(old, x, y) for x in (30, 120, 200) for y in (30, 120))
    dropped = Run(pipeline, tmp_path / "drop", redaction=Redaction("drop"))
    assert dropped(source).skipped == 1
    assert "no frame is left" in dropped.said[0]
    assert not list(dropped.out.glob(".*"))


def test_a_killed_run_goes_on_and_gives_the_same(
    pipeline: PhaseVeil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film_module, "SEGMENT", 0.35)
    source = write_clip(
        tmp_path / "pair.mp4", film(40, lambda k: {1: (50 + 3 * k, 80, 80), 2: (190, 80, 80)}), audio="aac"
    )
    whole = Run(pipeline, tmp_path / "whole")
    whole(source)
    killed = Run(pipeline, tmp_path / "killed")
    write, written = Cutter.write, 0

    def die(self: Cutter, window: Any) -> None:
        nonlocal written
        written += 1
        if written in (4, 7):
            raise KeyboardInterrupt
        write(self, window)

    monkeypatch.setattr(Cutter, "write", die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt) as stop:
            killed(source)
        assert stop.tb is not None  # while the frames of the dead run are still held, its threads are gone
        assert not {"decode", "follow", "draw"} & {thread.name for thread in threading.enumerate()}
        assert sorted(path.name for path in killed.out.iterdir()) == [".pair.mp4.work", "manifest.jsonl"]
    killed(source)
    assert sum("goes on after frame" in line for line in killed.said) == 2
    assert (tmp_path / "killed/pair.mp4").read_bytes() == (tmp_path / "whole/pair.mp4").read_bytes()
    assert killed.people("pair") == whole.people("pair")
    assert not list(killed.out.glob(".*"))


def test_a_finished_run_that_was_not_joined_is_joined(
    pipeline: PhaseVeil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip(tmp_path / "pair.mp4", PAIR[:6])
    run = Run(pipeline, tmp_path / "out")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("phaseveil.apps.video_segments._mux", full)
    with pytest.raises(InputError, match=r"pair\.mp4: the disk is full"):
        run(source)
    monkeypatch.undo()
    monkeypatch.setattr(VideoReader, "frames", lambda *_: pytest.fail("all frames are done"))
    assert run(source).done == 1
    assert len(read_frames(tmp_path / "out/pair.mp4")[0]) == 6


def test_another_run_does_not_go_on_with_what_is_there(
    pipeline: PhaseVeil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film_module, "SEGMENT", 0.1)
    source = write_clip(tmp_path / "pair.mp4", PAIR)
    monkeypatch.setattr(Cutter, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Run(pipeline, tmp_path / "out")(source)
    monkeypatch.undo()
    other = Run(pipeline, tmp_path / "out", seed=8)
    other(source)
    assert other.said == []
    assert [person["seed"] for person in other.people("pair")] == [8, 9]


def test_batches_do_not_change_the_result_by_more_than_rounding(pipeline: PhaseVeil, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "pair.mp4", PAIR[:10])
    for size in (1, 16):
        Run(pipeline, tmp_path / str(size), batch_size=size)(source)
    one, many = (read_frames(tmp_path / size / "pair.mp4")[0] for size in ("1", "16"))
    assert np.abs(np.stack(one).astype(int) - np.stack(many)).mean() < 0.2


def test_rotated_odd_and_variable_video(pipeline: PhaseVeil, tmp_path: Path) -> None:
    pts = [0, 500, 3_000, 3_100, 9_000]
    sideways = [np.ascontiguousarray(np.rot90(frame, -1)) for frame in PAIR[:5]]
    source = write_clip(tmp_path / "phone.mov", sideways, pts, Fraction(1, 30_000), audio="pcm_s16le", rotation=90)
    odd = write_clip(tmp_path / "odd.mkv", [frame[:159, :239] for frame in PAIR[:5]], pix_fmt="yuv444p")
    run = Run(pipeline, tmp_path / "out")
    assert run(source, odd).done == 2
    frames, times = read_frames(tmp_path / "out/phone.mov")
    assert frames[0].shape == PAIR[0].shape
    assert times == [stamp / 30_000 for stamp in pts]
    assert len(run.people("phone")) == 2
    with av.open(str(tmp_path / "out/phone.mov")) as container:
        assert container.streams.audio[0].codec_context.name == "pcm_s16le"
        assert next(container.decode(video=0)).rotation == 0
    assert read_frames(tmp_path / "out/odd.mkv")[0][0].shape == (160, 240, 3)
    assert run.said == [f"{odd}: 239×159 px made even, 240×160, by repeating the last pixels"]


def test_bad_videos_are_skipped_in_their_place(pipeline: PhaseVeil, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a film")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        tone: Any = container.add_stream("aac", rate=48_000)
        container.mux([packet for frame in sound(0.5, tone) for packet in tone.encode(frame)])
        container.mux(tone.encode())
    whole = write_clip(folder / "whole.mkv", film(60, lambda k: {1: (60 + k, 80, 90)}), time_base=Fraction(1, 1000))
    (folder / "cut.mkv").write_bytes(whole.read_bytes()[: int(0.6 * whole.stat().st_size)])
    whole.unlink()
    write_clip(folder / "single.mp4", PAIR[:1])
    run = Run(pipeline, tmp_path / "out")
    summary = run(folder)
    assert (summary.done, summary.skipped) == (1, 4)
    lines = {Path(line["input"]).name: line for line in run.manifest()}
    assert [lines[name]["status"] for name in sorted(lines)] == ["partial", "skipped", "done", "skipped", "skipped"]
    assert "0 bytes" in lines["empty.mp4"]["reason"]
    assert "not a video" in lines["text.mp4"]["reason"]
    assert "no pictures" in lines["sound.mp4"]["reason"]
    assert lines["cut.mkv"]["reason"].startswith("ends after")
    assert lines["single.mp4"]["frames"] == 1
    assert len(run.said) == 4
    assert all("\n" not in line for line in run.said)
    assert len(read_frames(tmp_path / "out/cut.mkv")[0]) == lines["cut.mkv"]["frames"] > 10
    assert not list((tmp_path / "out").glob(".*"))


def test_an_older_output_is_replaced_and_a_folder_in_its_place_refused(pipeline: PhaseVeil, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "single.mp4", PAIR[:1])
    run = Run(pipeline, tmp_path / "out")
    run.out.mkdir()
    (run.out / "single.mp4").write_bytes(b"older")
    run(source)
    assert len(read_frames(run.out / "single.mp4")[0]) == 1
    (tmp_path / "busy" / "single.mp4").mkdir(parents=True)
    with pytest.raises(InputError, match=r"single\.mp4: is a folder"):
        Run(pipeline, tmp_path / "busy")(source)


def test_footage_of_the_coded_camera_becomes_the_new_face(
    pipeline: PhaseVeil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [np.pad(drawn_face(1, 96), ((10, 22), (30, 34), (0, 0))) for _ in range(6)]
    source = write_clip(tmp_path / "raw.mkv", frames, time_base=Fraction(1, 1000))
    refused = Run(pipeline, tmp_path / "out", acquired=True)
    assert refused(source).skipped == 1
    assert not list(refused.out.glob(".*"))
    assert refused.said == [
        f"skipped {source}: the frame is not square (160×128 px); say where the face is with --region"
    ]
    seen = iter([True] * 4 + [False] * 2)
    monkeypatch.setattr(AcquiredFootage, "shows", lambda self, made: [next(seen) for _ in made.face])
    run = Run(pipeline, tmp_path / "out", acquired=True, region=Region(30, 10, 96))
    run(source)
    after, _ = read_frames(tmp_path / "out/raw.mkv")
    assert after[0].shape == (96, 96, 3)
    assert np.abs(after[0].astype(int) - drawn_face(1, 96)).mean() > 15
    assert detail(after[5], 48, 48) < 0.35 * detail(drawn_face(1, 96), 48, 48)
    assert run.people("raw")[0]["frames"] == 4
    assert run.manifest()[0]["missed"] == 2


def test_a_camera_is_recorded_until_it_is_interrupted(
    pipeline: PhaseVeil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip(tmp_path / "stand-in.mkv", PAIR, time_base=Fraction(1, 1000))
    write = Cutter.write

    def interrupted(self: Cutter, window: Any) -> None:
        write(self, window)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("phaseveil.apps.video_inputs._device", lambda given: str(source))
    monkeypatch.setattr("phaseveil.apps.video.CAMERA_FORMAT", "matroska")
    monkeypatch.setattr(Cutter, "write", interrupted)
    run, before = Run(pipeline, tmp_path / "out", detect_every=1), signal.getsignal(signal.SIGINT)
    assert run("webcam:0").done == 1
    name = run.manifest()[0]["output"]
    assert 1 <= len(read_frames(Path(name))[0]) < len(PAIR)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("frames", "longest", "windows"), [(5, 1280, 4), (5, 1920, 3), (5, 3840, 1), (30, 3840, 1)])
def test_fewer_windows_of_large_frames_wait(frames: int, longest: int, windows: int) -> None:
    assert film_module.waiting(frames, longest) == windows


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow(pipeline: PhaseVeil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "SEGMENT", 1.0)
    source = write_clip(tmp_path / "long.mp4", [frame[:, 120:] for frame in PAIR[:10]] * 22)
    run = Run(pipeline, tmp_path / "out", detect_every=10)
    page, sizes = os.sysconf("SC_PAGE_SIZE"), []

    @contextmanager
    def measured(description: str, unit: str) -> Iterator[Report]:
        yield lambda done, total: sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20)

    run.batch.run([str(source)], measured, print)
    assert len(sizes) == 22
    assert max(sizes[-5:]) < 1.05 * max(sizes[5:10])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Options(anonymize.Options(save=frozenset({"sheet"}))), "--save keeps pictures of images only"),
        (lambda: Options(anonymize.Options(), region=Region(0, 0, 64)), "it goes with --acquired"),
        (lambda: Options(anonymize.Options(), detect_every=0), "--detect-every must be 1 to 30"),
    ],
)
def test_impossible_options_are_refused(make: Callable[[], Options], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
