import sys

import pytest

from phaseveil import progress as module
from phaseveil.progress import progress


def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 11.0, 11.0, 12.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("work") as report:
        for done in (1, 2, 3):
            report(done, 3)
    captured = capsys.readouterr()
    assert captured.err == "work: 2 of 3\n"
    assert captured.out == ""


def test_speed_and_time_left_are_told_with_a_unit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 11.0, 30.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("film.mp4", "frames") as report:
        for done, total in ((100, 400), (200, 400), (500, None)):
            report(done, total)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["film.mp4: 200 of 400, 10.0 frames/s, 20 s left", "film.mp4: 500, 13.8 frames/s"]


@pytest.mark.parametrize("unit", [None, "frames"])
def test_a_terminal_gets_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unit: str | None
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress("work", unit) as report:
        report(1, 2)
        report(2, 2)
    captured = capsys.readouterr()
    assert "work" in captured.err
    assert captured.out == ""
