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


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress("work") as report:
        report(1, 2)
        report(2, 2)
    captured = capsys.readouterr()
    assert "work" in captured.err
    assert captured.out == ""
