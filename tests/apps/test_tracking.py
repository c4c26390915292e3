"""Who is where: numbers stay with people, and what is not seen is lost, not guessed."""

import json

import numpy as np
import pytest
from clips import film, scene
from test_motion import points_of

from phaseveil.apps.tracking import Sighting, Tracker
from phaseveil.data.detections import FaceDetection
from phaseveil.data.image_io import ImageArray
from phaseveil.data.landmarks import VideoDetector, crop_box

EVERY = 5


def track(frames: list[ImageArray], tracker: Tracker | None = None, first: int = 0) -> list[list[Sighting]]:
    """Sightings in each frame, searching every fifth."""
    tracker = tracker or Tracker(VideoDetector(640))
    answer = []
    for start in range(0, len(frames), EVERY):
        group = frames[start : start + EVERY]
        answer += tracker.follow(group, [(first + start + number) / 25 for number in range(len(group))])
    return answer


def found(sightings: list[Sighting]) -> dict[int, float]:
    """Middle x of the faces that were found, by number."""
    return {seen.track: (seen.box[0] + seen.box[2]) / 2 for seen in sightings if seen.points is not None}


def lost(sightings: list[Sighting]) -> list[int]:
    return [seen.track for seen in sightings if seen.points is None]


class Scripted:
    """A finder that knows where the faces are, and errs by as much as it is told."""

    def __init__(self, places: list[np.ndarray], error: float = 0.0) -> None:
        self.places, self.noise, self.error = places, np.random.default_rng(1), error
        self.close = True  # whether close-ups show faces

    def find(self, image: ImageArray) -> list[FaceDetection]:
        return [FaceDetection(crop_box(points), 1.0, points) for points in map(self._seen, self.places)]

    def look(self, image: ImageArray, box: object) -> np.ndarray | None:
        return self.glance(image, box, 0.0)

    def glance(self, image: ImageArray, box: object, angle: float) -> np.ndarray | None:
        middle = np.reshape(box, (2, 2)).mean(axis=0)
        near = min(self.places, key=lambda points: np.linalg.norm(points.mean(axis=0) - middle), default=None)
        return self._seen(near) if near is not None and self.close else None

    def _seen(self, points: np.ndarray) -> np.ndarray:
        return points + self.noise.normal(0, self.error, points.shape) if self.error else points


def test_a_moving_face_keeps_its_number_and_its_place() -> None:
    answer = track(film(20, lambda k: {1: (80 + 3 * k, 80, 90)}))
    for number, sightings in enumerate(answer):
        assert lost(sightings) == []
        assert found(sightings) == {1: pytest.approx(79 + 3 * number, abs=3)}


def test_two_people_who_cross_keep_their_numbers() -> None:
    answer = track(film(30, lambda k: {1: (60 + 4 * k, 80, 80), 2: (180 - 4 * k, 80, 80)}))
    left, right = sorted(found(answer[0]), key=lambda number: found(answer[0])[number])
    assert found(answer[-1])[left] == pytest.approx(59 + 4 * 29, abs=5)
    assert found(answer[-1])[right] == pytest.approx(180 - 4 * 29, abs=5)
    assert {seen.track for sightings in answer for seen in sightings} == {left, right}
    hidden = [number for number, sightings in enumerate(answer) if lost(sightings)]
    assert hidden  # the one behind is lost for a while, and waited for
    assert all(lost(answer[number]) == [left] for number in hidden)


def test_a_face_that_is_gone_is_lost_where_it_was_and_given_up_in_the_end() -> None:
    answer = track(film(70, lambda k: {1: (80, 80, 90)} if k < 8 else {}))
    assert all(found(sightings) for sightings in answer[:8])
    assert all(lost(sightings) == [1] for sightings in answer[8:55])
    assert answer[-1] == []
    widths = [seen.box[2] - seen.box[0] for sightings in answer[8:55] for seen in sightings]
    assert widths[0] > 1.25 * (answer[7][0].box[2] - answer[7][0].box[0])
    assert np.diff(widths).min() > -1


def test_a_face_that_comes_back_soon_is_the_same_person() -> None:
    answer = track(film(25, lambda k: {1: (80, 80, 90)} if k < 8 or k > 16 else {}))
    assert all(set(found(sightings)) == {1} for sightings in answer[:8] + answer[17:])
    assert all(lost(sightings) == [1] for sightings in answer[8:17])


def test_a_new_face_is_traced_back_to_where_it_appeared() -> None:
    answer = track(film(10, lambda k: {1: (80 + k, 80, 90)} if k >= 6 else {}))
    assert answer[:5] == [[]] * 5
    assert lost(answer[5]) == [1]
    assert all(set(found(sightings)) == {1} for sightings in answer[6:])


def test_after_a_cut_people_are_new_from_the_first_frame_on() -> None:
    before, after = film(12, lambda k: {1: (80, 80, 90)}), film(8, lambda k: {3: (90, 80, 90)}, seed=5)
    answer = track(before + after)
    assert [set(found(sightings)) for sightings in answer] == [{1}] * 12 + [{2}] * 8


def test_nobody_is_nobody() -> None:
    assert track(film(6, lambda k: {})) == [[]] * 6


def test_what_no_close_up_confirms_has_no_number() -> None:
    finder = Scripted([points_of(80, 80, 90)])
    finder.close = False
    (*_, last) = Tracker(finder).follow(film(3, lambda k: {1: (80, 80, 90)}), [0, 1 / 25, 2 / 25])
    assert [(seen.track, seen.points) for seen in last] == [(0, None)]


def test_a_face_that_left_the_frame_is_not_waited_for() -> None:
    tracker = Tracker(Scripted([points_of(100, 80, 90)]))
    tracker.follow([scene({1: (100, 80, 90)})], [0.0])
    state = tracker.state()
    state["tracks"][0] |= {"points": points_of(300, 80, 60).tolist(), "lost": 0.2}
    away = Tracker(Scripted([]))
    away.restore(state)
    away.see(scene({}), 0.0)
    assert lost(away.follow([scene({})], [0.04])[0]) == [1]
    assert away.state()["tracks"] == []


def test_a_run_goes_on_as_if_it_had_not_stopped() -> None:
    frames = film(20, lambda k: {1: (60 + 4 * k, 80, 80), 2: (180 - 4 * k, 80, 80)})
    whole = track(frames)
    first, second = Tracker(VideoDetector(640)), Tracker(VideoDetector(640))
    track(frames[:10], first)
    second.restore(json.loads(json.dumps(first.state())))
    second.see(frames[9], 9 / 25)
    rest = track(frames[10:], second, 10)
    for expected, got in zip(whole[10:], rest, strict=True):
        assert [(seen.track, seen.box) for seen in got] == [(seen.track, seen.box) for seen in expected]


def test_a_still_head_is_steadier_than_its_detections() -> None:
    true, error = points_of(100, 80, 90), 0.8
    frames = film(60, lambda k: {1: (100, 80, 90)})
    seen = np.array([sightings[0].points for sightings in track(frames, Tracker(Scripted([true], error)))])
    assert np.abs(np.diff(seen, axis=0)).mean() < 0.15 * error
    assert np.abs(seen[-1] - true).mean() < error


def test_a_detector_that_gives_nonsense_is_not_believed() -> None:
    finder = Scripted([])
    finder.find = lambda image: [FaceDetection((10, 10, 50, 50), 1.0, np.zeros((5, 2)))]  # type: ignore[method-assign]
    (sightings,) = Tracker(finder).follow([scene({})], [0.0])
    assert [(seen.track, seen.points) for seen in sightings] == [(0, None)]
    assert sightings[0].box[0] < 10 < 50 < sightings[0].box[2]
