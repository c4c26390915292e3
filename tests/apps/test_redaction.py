"""Nothing that should be hidden is shown: lost faces, other people, frames without a face."""

from typing import Any

import numpy as np
import pytest
from clips import scene
from test_motion import points_of

from phaseveil.apps.redaction import Redaction, blur_frame, blur_places
from phaseveil.apps.tracking import Sighting
from phaseveil.data.landmarks import crop_box
from phaseveil.errors import ConfigError

POINTS = points_of(60, 80, 80)
SEEN = Sighting(1, crop_box(POINTS), POINTS)
LOST = Sighting(2, (120.0, 20.0, 180.0, 80.0), None)
DOUBTFUL = Sighting(0, (10.0, 10.0, 30.0, 30.0), None)


def test_by_default_all_are_replaced_and_the_lost_are_blurred() -> None:
    verdict = Redaction().judge([SEEN, LOST, DOUBTFUL])
    assert verdict.replaced == (SEEN,)
    assert verdict.blurred == (LOST.box, DOUBTFUL.box)
    assert (verdict.missed, verdict.whole, verdict.dropped) == (True, False, False)
    assert not Redaction().judge([SEEN]).missed


@pytest.mark.parametrize("sightings", [[], [DOUBTFUL]])
def test_a_frame_without_a_person_is_a_miss_as_a_whole(sightings: list[Sighting]) -> None:
    assert Redaction().judge(sightings).whole
    assert Redaction("drop").judge(sightings).dropped
    kept = Redaction("keep").judge(sightings)
    assert (kept.blurred, kept.missed, kept.whole, kept.dropped) == ((), True, False, False)


def test_frames_with_a_lost_face_can_be_kept_or_dropped() -> None:
    assert Redaction("keep").judge([SEEN, LOST]).blurred == ()
    assert Redaction("drop").judge([SEEN, LOST]).dropped
    assert not Redaction("drop").judge([SEEN]).dropped


def test_other_people_are_blurred_unless_they_are_to_be_kept() -> None:
    other = SEEN._replace(track=3)
    verdict = Redaction(only=frozenset({1})).judge([SEEN, other, LOST])
    assert verdict.replaced == (SEEN,)
    assert verdict.blurred == (other.box, LOST.box)
    assert not verdict.missed
    kept = Redaction(only=frozenset({1}), keep_others=True).judge([SEEN, other, LOST])
    assert (kept.replaced, kept.blurred) == ((SEEN,), ())
    assert Redaction(only=frozenset({2}), keep_others=True).judge([SEEN, LOST]).blurred == (LOST.box,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("maybe", "", False), "--on-miss maybe: unknown; choose from blur,keep,drop"),
        (("blur", "0", False), "numbered from 1"),
        (("blur", "one", False), "--only one: need the persons' numbers"),
        (("blur", "", True), "--keep-others needs --only"),
    ],
)
def test_impossible_words_are_refused(words: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Redaction.of(*words)


def test_words_of_the_command_line() -> None:
    assert Redaction.of("drop", " 1, 12", True) == Redaction("drop", frozenset({1, 12}), True)


def test_the_blur_hides_its_place_and_leaves_the_rest() -> None:
    frame = scene({1: (60, 80, 80)})
    left, top, right, bottom = 20, 40, 100, 120
    blurred = blur_places(frame, [(left, top, right, bottom)])
    inside = blurred[top : bottom + 1, left : right + 1].astype(float)
    steps = np.abs(np.diff(inside, axis=1)).max()
    assert steps <= 12  # no edge is left, only slopes from cell to cell
    assert np.array_equal(blurred[:, right + 20 :], frame[:, right + 20 :])
    assert np.array_equal(blurred[:20], frame[:20])
    assert np.array_equal(frame, scene({1: (60, 80, 80)}))


@pytest.mark.parametrize("box", [(-50.0, -50.0, 20.0, 20.0), (230.0, 150.0, 400.0, 400.0), (300.0, 0.0, 400.0, 50.0)])
def test_places_may_reach_beyond_the_frame(box: Any) -> None:
    frame = scene({})
    blurred = blur_places(frame, [box])
    assert blurred.shape == frame.shape
    assert np.array_equal(blurred, frame) == (box[0] >= 300)


def test_a_whole_frame_is_blurred_beyond_any_face() -> None:
    frame = scene({1: (120, 80, 160)})
    blurred = blur_frame(frame).astype(float)
    assert blurred.shape == frame.shape
    assert max(np.abs(np.diff(blurred, axis=axis)).max() for axis in (0, 1)) <= 8
    assert blur_frame(frame[:3, :2]).shape == (3, 2, 3)
