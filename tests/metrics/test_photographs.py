from pathlib import Path

import numpy as np
import pytest

from phaseveil.data.image_io import write_png
from phaseveil.errors import ConfigError, InputError
from phaseveil.metrics import photographs
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import Thresholds
from phaseveil.metrics.photographs import (
    PairSet,
    cached,
    link_another,
    link_itself,
    load_pairs,
    oracle_landmarks,
    states,
)


def silent(done: int, total: int | None) -> None:
    pass


def pair_set(people: int = 4) -> PairSet:
    """Two photographs of each person, a genuine pair each, and impostor pairs of all first with all other second."""
    first, second = np.divmod(np.arange(people**2), people)
    pairs = np.stack([2 * first, 2 * second + 1], axis=1)
    count = 2 * people
    return PairSet(
        [Path(str(n)) for n in range(count)],
        np.zeros((count, 2, 3)),
        np.zeros((count, 68, 2)),
        np.arange(count) // 2,
        pairs,
        first == second,
    )


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """Two folders with two photographs each, and one beside the list."""
    root = tmp_path_factory.mktemp("album")
    for name in ("ann/1.png", "ann/2.png", "bob/1.png", "bob/2.png", "alone.png"):
        write_png(root / name, astronaut[:350, 50:400])
    (root / "pairs.csv").write_text("first,second,same\nann/1.png,ann/2.png,1\nann/1.png,bob/2.png,0\n")
    return root


@pytest.fixture(scope="module")
def loaded(album: Path) -> PairSet:
    return load_pairs(album / "pairs.csv", album / "cache", silent)


def test_pairs_are_read_with_the_folders_as_persons(loaded: PairSet) -> None:
    alone, *rest = loaded.persons.tolist()
    assert rest[0] == rest[1] != rest[2] == rest[3]
    assert alone not in rest
    assert loaded.pairs.tolist() == [[1, 2], [1, 4]]
    assert loaded.same.tolist() == [True, False]


def test_crops_hold_the_face_where_its_landmarks_are(loaded: PairSet) -> None:
    crop = loaded.crop(1)
    assert crop.shape == (FRAME, FRAME, 3)
    assert np.abs(oracle_landmarks(crop) - loaded.landmarks[1]).mean() < 3  # found anew in the crop
    eyes = loaded.landmarks[1, 36:48].mean(axis=0)
    assert eyes == pytest.approx([FRAME / 2, 0.34 * FRAME], abs=12)


def test_without_folders_genuine_pairs_make_the_persons(tmp_path: Path, astronaut: np.ndarray) -> None:
    for name in "abcd":
        write_png(tmp_path / f"{name}.png", astronaut[:350, 50:400])
    (tmp_path / "pairs.csv").write_text("first,second,same\nd.png,b.png,1\nb.png,a.png,1\na.png,c.png,0\n")
    persons = load_pairs(tmp_path / "pairs.csv", tmp_path / "cache", silent).persons
    assert persons[0] == persons[1] == persons[3] != persons[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one,two\n", "needs the columns first, second, same"),
        ("first,second,same\nann/1.png,ann/2.png,yes\n", "line 2: same must be 0 or 1"),
        ("first,second,same\nann/1.png,ann/2.png,1\n", "pairs of different persons"),
        ("first,second,same\nann/1.png,ann/2.png,1\nann/1.png,eve/1.png,0\n", "eve/1.png is not in"),
    ],
)
def test_a_list_that_is_none_is_refused(album: Path, text: str, message: str) -> None:
    (album / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_pairs(album / "bad.csv", album / "cache", silent)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as CSV"):
        load_pairs(tmp_path / "pairs.csv", tmp_path, silent)


def test_where_no_detector_finds_a_face_the_middle_stands_in() -> None:
    points = oracle_landmarks(np.full((200, 200, 3), 128, np.uint8))
    assert points.mean(axis=0) == pytest.approx([100, 110], abs=25)


@pytest.fixture
def every_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "SAVE_EVERY", 2)


@pytest.mark.usefixtures("every_two")
def test_an_interrupted_cache_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    asked: list[int] = []

    def compute(place: int, last: int) -> np.ndarray:
        if place > last:
            raise KeyboardInterrupt
        asked.append(place)
        return np.array([place, 2.0 * place])

    names, file = list("abcde"), tmp_path / "cache.npz"
    with pytest.raises(KeyboardInterrupt):
        cached(file, names, lambda place: compute(place, last=2), silent)
    values = cached(file, names, lambda place: compute(place, last=9), silent)
    assert asked == [0, 1, 2, 2, 3, 4]
    assert values.tolist() == [[n, 2 * n] for n in range(5)]
    cached(file, names, lambda place: compute(place, last=-1), silent)


def test_a_cache_of_other_names_or_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "cache.npz"
    cached(file, ["a"], lambda place: np.array([1.0]), silent)
    assert cached(file, ["b"], lambda place: np.array([2.0]), silent).tolist() == [[2.0]]
    whole = file.read_bytes()
    for damaged in (b"no archive", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        assert cached(file, ["b"], lambda place: np.array([3.0]), silent).tolist() == [[3.0]]


def test_states_change_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_text("1")
    before = states([file])
    file.write_text("22")
    assert states([file]) != before


def test_linking_another_photograph_finds_who_is_alike() -> None:
    data, everything = pair_set(), np.arange(16)
    codes = np.eye(4)[data.persons]
    strict = Thresholds(-0.5, None)
    perfect = link_another(data, codes, codes, everything, strict)
    assert (perfect.verification.auc.value, perfect.verification.tar.value, perfect.rank_one.value) == (1, 1, 1)
    assert (perfect.gallery, perfect.chance) == (4, 0.25)
    assert (perfect.verification.genuine_pairs, perfect.verification.impostor_pairs) == (4, 12)
    blind = link_another(data, np.ones((8, 4)), codes, everything, strict)
    assert blind.verification.auc.value == 0.5


def test_linking_the_photograph_itself_compares_it_with_its_own_clear_version() -> None:
    data, everything = pair_set(), np.arange(16)
    generator = np.random.default_rng(0)
    clear = generator.normal(size=(8, 16))  # photographs of one person are nothing alike here
    itself = link_itself(data, clear, clear, everything, Thresholds(-1e-9, None))
    another = link_another(data, clear, clear, everything, Thresholds(-1e-9, None))
    assert itself.verification.auc.value == itself.rank_one.value == 1
    assert another.verification.auc.value < 1
    assert another.verification.tar.value == 0


def test_linking_needs_genuine_pairs() -> None:
    data = pair_set()
    with pytest.raises(ConfigError, match="genuine and impostor"):
        link_another(data, np.ones((8, 4)), np.ones((8, 4)), np.flatnonzero(~data.same), Thresholds(0.0, None))


def test_pairs_among_some_persons() -> None:
    data = pair_set()
    assert set(data.persons[data.pairs[data.among(np.array([0, 2]))]].ravel()) == {0, 2}
    assert len(data.among(np.array([0, 2]))) == 4
