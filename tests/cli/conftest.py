"""Command lines, run in this process."""

from pathlib import Path
from typing import Any

import pytest
from outcome import Outcome

from phaseveil import cli


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process."""

    def call(*arguments: str | Path) -> Outcome:
        code = cli.run([str(argument) for argument in arguments])
        return Outcome(code, capsys.readouterr())

    return call


@pytest.fixture
def anonymize(run: Any, tiny_weights: Path) -> Any:
    """Run ``phaseveil anonymize`` with the tiny networks."""
    return lambda *arguments: run("anonymize", *arguments, "--weights", tiny_weights)
