import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from phaseveil.apps.attack_data import (
    BUDGETS,
    Budget,
    choose_genuine,
    draw_impostors,
    embed_photographs,
    prepare_study,
    split_persons,
)
from phaseveil.attacks.deconvolution import METHODS
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics.identity import thresholds_on
from phaseveil.metrics.photographs import PairSet


def photographs(persons: int = 100, each: int = 3) -> PairSet:
    """A list without files: every person's photographs in all pairs, and 4,000 impostor pairs."""
    owners = np.repeat(np.arange(persons), each)
    genuine = [(each * p + i, each * p + j) for p in range(persons) for i in range(each) for j in range(i + 1, each)]
    random = np.random.default_rng(0)
    impostor = [pair for pair in random.integers(len(owners), size=(8000, 2)) if owners[pair[0]] != owners[pair[1]]]
    pairs = np.array([*genuine, *impostor[:4000]])
    same = owners[pairs[:, 0]] == owners[pairs[:, 1]]
    count = len(owners)
    files = [Path(f"{place}.png") for place in range(count)]
    return PairSet(files, np.zeros((count, 2, 3)), np.zeros((count, 68, 2)), owners, pairs, same)


def test_attacker_and_test_share_nobody_and_depend_on_the_seed() -> None:
    attacker, test = split_persons(np.repeat(np.arange(101), 3), 0)
    assert len(attacker) == 50
    assert sorted([*attacker, *test]) == list(range(101))
    assert not np.array_equal(attacker, split_persons(np.arange(101), 1)[0])
    assert np.array_equal(attacker, split_persons(np.arange(101), 0)[0])
    with pytest.raises(InputError, match="show 3 persons"):
        split_persons(np.arange(3), 0)


def test_everybodys_first_pair_comes_before_anybodys_second() -> None:
    listed = photographs()
    test = np.arange(50)
    assert len(np.unique(listed.persons[choose_genuine(listed, test, 50, 0)[:, 0]])) == 50
    more = choose_genuine(listed, test, 70, 0)
    assert np.bincount(listed.persons[more[:, 0]]).max() == 2
    everything = choose_genuine(listed, test, None, 0)
    assert len(everything) == 150
    assert (listed.persons[everything] < 50).all()
    assert (np.diff(listed.persons[everything], axis=1) == 0).all()
    with pytest.raises(InputError, match="fewer than two persons of the test half"):
        choose_genuine(listed, np.array([4]), None, 0)


def test_impostors_pair_probes_with_other_peoples_gallery_photographs() -> None:
    listed = photographs()
    genuine = choose_genuine(listed, np.arange(50), 40, 0)
    pairs = draw_impostors(listed.persons, genuine, 1200, 0)
    assert len(pairs) == 1200 == len(np.unique(pairs, axis=0))
    assert (listed.persons[pairs[:, 0]] != listed.persons[pairs[:, 1]]).all()
    assert set(pairs[:, 0]) <= set(genuine[:, 0])
    assert set(pairs[:, 1]) <= set(genuine[:, 1])
    assert len(draw_impostors(listed.persons, genuine, 10**6, 0)) == 40 * 39
    with pytest.raises(InputError, match="gives 90 pairs of different persons"):
        draw_impostors(listed.persons, genuine[:10], 1200, 0)


def test_a_study_is_scored_on_the_test_and_its_thresholds_come_from_the_whole_list() -> None:
    listed = photographs()
    clear = np.random.default_rng(1).normal(size=(len(listed), 4))
    study = prepare_study(listed, clear, 64, BUDGETS["quick"], 7)
    persons = listed.persons
    assert not set(persons[study.attacker]) & set(persons[study.probes])
    assert len(study.attacker) == 150
    assert set(study.photographs.pairs[:, 0]) == set(study.probes)
    first, second = persons[study.photographs.pairs].T
    assert np.array_equal(study.photographs.same, first == second)
    assert study.clean_impostors == 4000
    clean = listed.score(clear, clear, np.flatnonzero(~listed.same)).impostor
    assert study.thresholds == thresholds_on(clean)
    rows = study.by_place(study.probes, clear[study.probes])
    assert np.array_equal(rows[study.probes], clear[study.probes])
    assert np.isnan(rows[study.attacker]).all()


class Counter:
    """A recogniser that counts its calls and embeds a picture's mean."""

    name = "counter"

    def __init__(self) -> None:
        self.images = 0

    def embed(self, images: Sequence[np.ndarray], landmarks: object) -> np.ndarray:
        self.images += len(images)
        return np.array([[float(image.mean())] for image in images])


def test_clear_photographs_are_embedded_once_for_each_recogniser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{place}.png" for place in range(120)]
    for file in files:
        file.touch()
    listed = dataclasses.replace(photographs(persons=40), files=files)
    monkeypatch.setattr(PairSet, "crop", lambda self, place: np.full((2, 2, 3), place % 256, np.uint8))
    recogniser = Counter()
    first = embed_photographs(listed, recogniser, "a", tmp_path / "cache", lambda done, total: None)
    assert np.array_equal(first[:, 0], np.arange(len(listed)) % 256)
    assert recogniser.images == len(listed)
    again = embed_photographs(listed, recogniser, "a", tmp_path / "cache", lambda done, total: None)
    assert np.array_equal(first, again)
    assert recogniser.images == len(listed)
    embed_photographs(listed, recogniser, "b", tmp_path / "cache", lambda done, total: None)
    assert recogniser.images == 2 * len(listed)


def test_budgets_name_methods_that_exist() -> None:
    assert set(BUDGETS["full"].sweep) == set(METHODS)
    assert set(BUDGETS["quick"].sweep) <= set(METHODS)
    with pytest.raises(ConfigError, match="at least 2 probes"):
        Budget("x", probes=1, impostors=2000, tuning=2, captures=1, sweep=(), trained_on=())
    with pytest.raises(ConfigError, match="tuning must be at least 2"):
        Budget("x", probes=2, impostors=2000, tuning=1, captures=1, sweep=(), trained_on=())
