"""What is finished survives whoever is killed, and nothing else counts as finished."""

import json
from pathlib import Path
from typing import Any

import pytest

from phaseveil.apps.batch import Record
from phaseveil.apps.cluster_ledger import DeadLetter, Ledger, Result, Unit
from phaseveil.errors import ConfigError, InputError

PLANNED = {f"/in/{name}.jpg": f"{name}.png" for name in "abc"}
A, B, C = PLANNED


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "out")
    with ledger.open({"seed": 1}):
        pass
    return ledger


def done(ledger: Ledger, path: str, name: str | None = None) -> Result:
    """A result whose output is in place."""
    place = ledger.out / (name or PLANNED[path])
    place.write_bytes(b"png")
    return Result(Record(path, "done", str(place), 1, 0.5, 7))


def bad(path: str) -> Result:
    return Result(Record(path, "skipped", reason="not an image"), (DeadLetter(path, None, "not an image"),))


def unit(*paths: str) -> Unit:
    return Unit("images", tuple((path, Path(path).stem) for path in paths))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_units_keep_names_that_are_not_text() -> None:
    given = Unit("tar", (("/in/caf\udce9.tar", "caf\udce9"),))
    assert given.text.isascii()
    assert Unit.parse(given.text) == given
    assert given.key != unit(A).key


def test_what_workers_recorded_is_folded_once_and_in_the_order_of_the_inputs(ledger: Ledger) -> None:
    ledger.record(unit(C), [done(ledger, C)])
    ledger.record(unit(A, B), [done(ledger, A), bad(B)])
    assert ledger.has(unit(C))
    assert not ledger.has(unit(A))
    for _ in range(2):
        assert list(ledger.fold(PLANNED)) == [A, B, C]
        assert [line["input"] for line in lines(ledger.manifest)] == [A, B, C]
        assert lines(ledger.dead_letters) == [{"input": B, "sample": None, "reason": "not an image"}]
    assert not ledger.has(unit(C))


def test_a_fold_that_was_interrupted_doubles_nothing(ledger: Ledger) -> None:
    ledger.record(unit(A, B), [done(ledger, A), bad(B)])
    ledger.fold(PLANNED)
    ledger.record(unit(A, B), [done(ledger, A), bad(B)])  # as if the unit's file had not been removed
    ledger.fold(PLANNED)
    assert [line["input"] for line in lines(ledger.manifest)] == [A, B]
    assert len(lines(ledger.dead_letters)) == 1


def test_an_output_that_is_gone_or_called_otherwise_is_not_finished(ledger: Ledger) -> None:
    ledger.record(unit(A, B, C), [done(ledger, A), done(ledger, B, "elsewhere.png"), done(ledger, C)])
    (ledger.out / "a.png").unlink()
    assert list(ledger.fold(PLANNED)) == [C]


def test_an_input_that_was_repaired_leaves_the_dead_letters(ledger: Ledger) -> None:
    ledger.record(unit(B), [bad(B)])
    ledger.fold(PLANNED)
    ledger.record(unit(B, A), [done(ledger, B), done(ledger, A)])
    assert ledger.fold(PLANNED)[B].record.status == "done"
    assert lines(ledger.dead_letters) == []


def test_lines_of_earlier_inputs_stay_while_their_outputs_are_theirs(ledger: Ledger) -> None:
    ledger.record(unit(A, B), [done(ledger, A), done(ledger, B)])
    ledger.fold(PLANNED)
    ledger.fold({"/other/b.jpg": "b.png"})
    assert [line["input"] for line in lines(ledger.manifest)] == [A]


def test_temporary_files_of_killed_workers_are_swept_up_and_others_are_not(ledger: Ledger) -> None:
    ours, foreign = ledger.out / ".a.png.x1_zq90b.png", ledger.out / ".notes.png.x1_zq90b.png"
    with ledger.scratch() as scratch:
        kept = scratch.with_name("killed.part")
        kept.touch()
    for path in (ours, foreign):
        path.touch()
    ledger.fold(PLANNED)
    assert not scratch.exists()
    assert not kept.exists()
    assert not ours.exists()
    assert foreign.exists()


def test_a_folder_is_for_one_driver_and_one_configuration(ledger: Ledger) -> None:
    with ledger.open({"seed": 1}), pytest.raises(ConfigError, match="another run works in this folder"):
        ledger.open({"seed": 1}).__enter__()
    with pytest.raises(ConfigError, match="begun with another seed; choose another --out"):
        ledger.open({"seed": 2}).__enter__()


def test_a_manifest_of_the_plain_command_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "manifest.jsonl").write_text(Record(A, "done", str(tmp_path / "a.png")).line() + "\n")
    ledger = Ledger(tmp_path)
    with ledger.open({"seed": 1}):
        assert ledger.fold(PLANNED) == {}


def test_a_damaged_manifest_is_named(ledger: Ledger) -> None:
    ledger.manifest.write_text('{"input": "a"\n')
    with pytest.raises(InputError, match=r"manifest\.jsonl: line 1 is damaged; remove the file"):
        ledger.fold(PLANNED)


def test_beginnings_are_counted_until_the_next_run(ledger: Ledger) -> None:
    assert [ledger.begin(unit(A)), ledger.begin(unit(A)), ledger.begin(unit(B))] == [1, 2, 1]
    ledger.fold(PLANNED)
    assert ledger.begin(unit(A)) == 1


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="out: "):
        Ledger(tmp_path / "out").open({}).__enter__()
