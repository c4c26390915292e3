import errno
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phaseveil.apps import batch
from phaseveil.apps.batch import Job, Manifest, Record, ahead, combine, plan, summarise
from phaseveil.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text("utf-8").splitlines()]


def test_outputs_of_equal_stems_stay_apart(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "face.png", tmp_path / "b" / "face.jpg", tmp_path / "b" / "Face.webp")
    jobs = plan([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    names = [job.name.casefold() for job in jobs]
    assert len(jobs) == 3
    assert len(set(names)) == 3
    assert jobs[0].name == "face"


def test_earlier_outputs_inside_an_input_folder_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "one.png", tmp_path / "out" / "one.png")
    assert [job.path for job in plan([tmp_path], tmp_path / "out")] == [tmp_path / "one.png"]


@pytest.mark.parametrize("given", ["out", "out/one.png", "out/*.png"])
def test_an_input_is_never_replaced_by_an_output(tmp_path: Path, given: str) -> None:
    touch(tmp_path / "out" / "one.png")
    with pytest.raises(InputError, match=r"one\.png: lies in the output folder"):
        plan([tmp_path / given], tmp_path / "out")


def test_nothing_but_earlier_outputs_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "out" / "one.png")
    with pytest.raises(InputError, match="no images but earlier outputs"):
        plan([tmp_path], tmp_path / "out")


def test_work_ahead_keeps_order_and_depth() -> None:
    release, begun = threading.Event(), []

    def work(number: int) -> int:
        begun.append(number)
        release.wait(10)
        return number * number

    def numbers() -> object:
        for number in range(6):
            if number == 3:
                assert len(begun) <= 3
                release.set()
            yield number

    with ThreadPoolExecutor(2) as pool:
        assert list(ahead(work, numbers(), pool, depth=4)) == [0, 1, 4, 9, 16, 25]  # type: ignore[arg-type]


def test_the_manifest_has_a_line_an_input(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, [])
    manifest.add(Record("é.png", "done", str(tmp_path / "é.png"), faces=1, seconds=0.123456, seed=4))
    manifest.add(Record("b.png", "skipped", seconds=0.1, reason="no face found"))
    done, skipped = lines(tmp_path)
    assert done == {
        "input": "é.png",
        "status": "done",
        "output": str(tmp_path / "é.png"),
        "faces": 1,
        "seconds": 0.1235,
        "seed": 4,
    }
    assert skipped["status"] == "skipped"
    assert skipped["output"] is None
    assert skipped["reason"] == "no face found"


def test_a_video_has_its_frames_in_the_manifest_and_a_partial_one_counts_as_skipped(tmp_path: Path) -> None:
    records = [
        Record("a.mp4", "done", str(tmp_path / "a.mp4"), 2, 1.0, 4, frames=100, missed=0),
        Record("b.mp4", "partial", str(tmp_path / "b.mp4"), 1, 1.0, 4, "ends early", frames=10, missed=3),
    ]
    manifest = Manifest(tmp_path, [], (".mp4",))
    for record in records:
        manifest.add(record)
    first, second = lines(tmp_path)
    assert (first["frames"], first["missed"], "reason" in first) == (100, 0, False)
    assert (second["status"], second["reason"]) == ("partial", "ends early")
    videos = summarise(records, 2.0, manifest.path)
    assert (videos.done, videos.skipped, videos.faces) == (1, 1, 3)
    images = summarise([Record("c.png", "done", faces=1)], 3.0, manifest.path, [tmp_path / "page.png"])
    both = combine([images, videos])
    assert (both.done, both.skipped, both.faces, both.seconds) == (2, 1, 4, 5.0)
    assert (both.manifest, both.sheets) == (str(manifest.path), [str(tmp_path / "page.png")])
    Manifest(tmp_path, [Job(Path("other/b.avi"), "b")], (".mkv", ".mp4"))
    assert [line["input"] for line in lines(tmp_path)] == ["a.mp4"]


def test_lines_of_earlier_runs_stay_unless_taken_up_again(tmp_path: Path) -> None:
    first = Manifest(tmp_path, [])
    for name in ("a", "b", "c"):
        first.add(Record(f"{name}.png", "done", str(tmp_path / f"{name}.png")))
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('[1]\n{"input": "torn')
    again = Manifest(tmp_path, [Job(Path("b.png"), "b"), Job(Path("other/c.png"), "c")])
    again.add(Record("b.png", "done", str(tmp_path / "b.png")))
    assert [line["input"] for line in lines(tmp_path)] == ["a.png", "b.png"]


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "file")
    with pytest.raises(InputError, match="is a file, not a folder; choose another --out"):
        Manifest(tmp_path / "file", [])
    with pytest.raises(InputError, match="choose another output folder"):
        Manifest(tmp_path / "file" / "below", [])


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest(tmp_path, [])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match="the disk is full"):
        manifest.add(Record("a.png", "done"))
    monkeypatch.undo()
    monkeypatch.setattr(batch, "replace_atomically", full)
    with pytest.raises(InputError, match="the disk is full"):
        Manifest(tmp_path, [])


def test_a_summary_adds_up() -> None:
    records = [Record("a", "done", "o", faces=2), Record("b", "skipped", reason="r"), Record("c", "done", "p", faces=1)]
    values = summarise(records, 1.5, Path("out/manifest.jsonl")).as_dict()
    assert (values["done"], values["skipped"], values["faces"], values["images_per_second"]) == (2, 1, 3, 2.0)
    assert summarise([], 0.0, Path("m")).as_dict()["images_per_second"] == 0.0
