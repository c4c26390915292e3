"""People in a video: who is where in each frame, by detection now and then and optical flow between.

Frames come in stretches that end with a frame that is searched. Within a stretch each known face is carried along by
:func:`phaseveil.apps.motion.follow`; at its end it has to be found again. What is not found counts as lost, also in the
frames since it was last seen, unless a close-up shows it there; a new face is traced back to where it came from. Nobody
is recognised: a face keeps its number as long as it can be followed, and a person who comes back gets a new one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from phaseveil.apps import motion
from phaseveil.apps.motion import Grey
from phaseveil.apps.smoothing import OneEuro
from phaseveil.data.detections import Box, FaceDetection, Points, iou, widen
from phaseveil.data.image_io import ImageArray
from phaseveil.data.landmarks import crop_box, tilt

HOLD = 2.0  # seconds for which a lost face is waited for

_SAME = 0.25  # intersection over union with its expected place, at which a detection is the face
_TWICE = 0.4  # that of two detections of one face
_CONFIRMED = 0.5  # that of a face in a close-up with where the flow has it
_AGREED = 0.65  # that of a detection with where the flow has the face, from which on the flow was right all along
_WIDE, _WIDEST = 1.3, 2.5  # how much wider than the crop a lost face's place is, at first and at last
_WIDENING = 1.5  # by how much that grows in a second
_UNTRACED = 0.1  # seconds that count for each frame through which a face could not be traced back
_BLINK = 0.02  # seconds; a velocity over less would be noise
_COAST = 1.0  # seconds for which a lost face goes on as it moved


class Sighting(NamedTuple):
    """Somebody in a frame.

    Attributes:
        track: Number of the person, from 1; 0 for what a detector took for a face and a close-up did not.
        box: Left, top, right, bottom, pixels: the aligned crop's square, or the wider place where a lost face may be.
        points: Eyes, nose tip, mouth corners, shape ``(5, 2)``, pixels; ``None`` where the face was lost.
    """

    track: int
    box: Box
    points: Points | None


class Finder(Protocol):
    """Detector for frames, see :class:`phaseveil.data.landmarks.CloseUpDetector`."""

    def find(self, image: ImageArray) -> list[FaceDetection]:
        """All faces, with coarse points."""
        ...

    def look(self, image: ImageArray, box: Box) -> Points | None:
        """Fine points of the face in a box."""
        ...

    def glance(self, image: ImageArray, box: Box, angle: float) -> Points | None:
        """Points of the face in a box, its tilt known."""
        ...


@dataclass
class Track:
    """A person.

    Attributes:
        number: From 1, in the order of appearance.
        points: Where the face is, or is thought to be, shape ``(5, 2)``, pixels.
        filter: Smooths the points.
        velocity: Of the face when it was last seen, pixels per second, x and y.
        lost: Seconds since the face was last seen by a detector; 0 while it is not lost.
        hidden: A lost face behind another one: the flow would follow that.
    """

    number: int
    points: Points
    filter: OneEuro = field(default_factory=OneEuro)
    velocity: Points = field(default_factory=lambda: np.zeros(2))
    lost: float = 0.0
    hidden: bool = False


class _Step(NamedTuple):
    """Where a face is thought to be in one frame, and whether the flow has carried it there without a break."""

    points: Points
    held: bool
    doubt: float  # seconds since its place was sure


@dataclass
class _Stretch:
    """Frames up to one that is searched, with the steps of every known face."""

    begin: float | None
    images: list[ImageArray] = field(default_factory=list)
    greys: list[Grey] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    steps: dict[int, list[_Step]] = field(default_factory=dict)


class Tracker:
    """Follows faces through a video, stretch by stretch.

    Args:
        finder: Finds faces in single frames.
        hold: Seconds for which a lost face's place is kept before it is given up.
    """

    def __init__(self, finder: Finder, hold: float = HOLD) -> None:
        self._finder, self._hold = finder, hold
        self._tracks: list[Track] = []
        self._count = 0
        self._previous: tuple[Grey, float] | None = None

    def follow(self, images: Sequence[ImageArray], times: Sequence[float]) -> list[list[Sighting]]:
        """Say who is where in the next frames; the last one is searched.

        Args:
            images: At least one, each of shape ``(H, W, 3)``, uint8, RGB.
            times: Of each, seconds, ascending.

        Returns:
            A list of sightings for each frame, lost faces among them.
        """
        answer: list[list[Sighting]] = []
        stretch = _Stretch(self._previous[1] if self._previous else None)
        for image, time in zip(images, times, strict=True):
            now = motion.grey(image)
            moves = {track.number: self._move(track, stretch, now, time) for track in self._tracks}
            still_held = any(move.held for move in moves.values())
            if self._previous and not still_held and motion.is_cut(self._previous[0], now):
                answer += self._settle(stretch)
                self._tracks, moves = [], {}
                stretch = _Stretch(None)
            for number, move in moves.items():
                stretch.steps.setdefault(number, []).append(move)
            stretch.images.append(image)
            stretch.greys.append(now)
            stretch.times.append(time)
            self._previous = now, time
        return answer + self._settle(stretch)

    def see(self, image: ImageArray, time: float) -> None:
        """Take a frame as the previous one, to go on from :meth:`state` after it."""
        self._previous = motion.grey(image), time

    def state(self) -> dict[str, Any]:
        """What is known after the last stretch, the last frame apart, as plain values."""
        tracks = [
            {
                "number": track.number,
                "points": track.points.tolist(),
                "derivative": track.filter.derivative.tolist(),
                "velocity": track.velocity.tolist(),
                "lost": track.lost,
                "hidden": track.hidden,
            }
            for track in self._tracks
        ]
        return {"count": self._count, "tracks": tracks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave; :meth:`see` the last frame as well."""
        self._count = state["count"]
        self._tracks = [
            Track(
                number=track["number"],
                points=np.array(track["points"]),
                filter=OneEuro(np.array(track["derivative"])),
                velocity=np.array(track["velocity"]),
                lost=track["lost"],
                hidden=track["hidden"],
            )
            for track in state["tracks"]
        ]

    def _move(self, track: Track, stretch: _Stretch, now: Grey, time: float) -> _Step:
        """One frame on: with the flow as long as that holds, then as the face last moved."""
        assert self._previous is not None
        before, then = self._previous
        steps = stretch.steps.get(track.number)
        last = steps[-1] if steps else _Step(track.points, track.lost == 0, track.lost)
        unbroken = not steps or last.held or (track.lost > 0 and not track.hidden)
        flowed = motion.follow(before, now, last.points) if unbroken and not track.hidden else None
        if flowed is not None:
            held = last.held and track.lost == 0
            return _Step(flowed, held, 0.0 if held else last.doubt + time - then)
        doubt = last.doubt + time - then
        coasting = track.velocity * (time - then) if doubt < _COAST else 0.0
        return _Step(last.points + coasting, False, doubt)

    def _settle(self, stretch: _Stretch) -> list[list[Sighting]]:
        """Search the last frame of a stretch, and say what that means for all of its frames."""
        if not stretch.images:
            return []
        ends, fresh, weak = self._search(stretch)
        answer: list[list[Sighting]] = [[] for _ in stretch.images]
        for track in self._tracks:
            self._conclude(track, ends.get(track.number), stretch, answer)
        for points in fresh:
            self._count += 1
            track = Track(self._count, points)
            self._retrace(track, points, [], stretch, answer)
            self._tracks.append(track)
        for sightings in answer:
            sightings += [Sighting(0, widen(box, _WIDE), None) for box in weak]
        self._give_up(stretch.images[-1])
        return answer

    def _search(self, stretch: _Stretch) -> tuple[dict[int, Points], list[Points], list[Box]]:
        """Detect faces in the last frame: points of known faces by number, points of new ones, boxes of doubtful."""
        image = stretch.images[-1]
        places = {track.number: stretch.steps[track.number][-1] for track in self._tracks}
        faces = self._finder.find(image)
        found = [(face.box, face.points) for face in faces if face.points is not None and _usable(face.points)]
        weak = [face.box for face in faces if face.points is None or not _usable(face.points)]
        pairs = associate(places, [crop_box(points) for _, points in found])
        ends: dict[int, Points] = {}
        for number, index in pairs.items():
            box, coarse = found[index]
            place = places[number]
            fine = self._near(self._finder.glance(image, box, tilt(place.points)), coarse, _SAME)
            rough = place.points if place.held else coarse
            ends[number] = rough if fine is None else fine
        for number, place in places.items():
            seen = self._glance(image, place.points, _SAME) if number not in ends else None
            if seen is not None and not _known(seen, ends.values()):
                ends[number] = seen
        fresh: list[Points] = []
        for index, (box, coarse) in enumerate(found):
            if index in pairs.values() or _known(coarse, ends.values()):
                continue
            fine = self._near(self._finder.look(image, box), coarse, _SAME)
            if fine is None:
                weak.append(crop_box(coarse))
            elif not _known(fine, [*ends.values(), *fresh]):
                fresh.append(fine)
        return ends, fresh, weak

    def _conclude(self, track: Track, end: Points | None, stretch: _Stretch, answer: list[list[Sighting]]) -> None:
        """Sightings of a known face in every frame of a stretch, and its state after it."""
        steps = stretch.steps[track.number]
        assert stretch.begin is not None
        interval = stretch.times[-1] - stretch.begin
        if end is None:
            self._retrace(track, None, steps, stretch, answer)
            track.points, track.lost = steps[-1].points, track.lost + interval
            return
        before = np.mean(track.points, axis=0)
        if steps[-1].held and iou(crop_box(steps[-1].points), crop_box(end)) > _AGREED:
            corrected = track.filter.update(steps[-1].points, end, interval)
            drift = corrected - steps[-1].points
            for number, step in enumerate(steps):  # spread over the stretch: no jump at its end
                points = step.points + drift * (number + 1) / len(steps)
                answer[number].append(Sighting(track.number, crop_box(points), points))
            track.points = corrected
            track.velocity = (np.mean(corrected, axis=0) - before) / max(interval, _BLINK)
        else:
            self._retrace(track, end, steps, stretch, answer)
            track.points, track.filter, track.velocity = end, OneEuro(), np.zeros(2)
        track.lost, track.hidden = 0.0, False

    def _retrace(
        self,
        track: Track,
        end: Points | None,
        steps: Sequence[_Step],
        stretch: _Stretch,
        answer: list[list[Sighting]],
    ) -> None:
        """Sightings of a face that was lost or not yet known somewhere in a stretch; it is at ``end`` in the end.

        In each frame before, flow says where it should be, and a close-up whether it is there; if not, it is lost.
        """
        last = len(stretch.images) - 1
        ahead = nearest = end
        untraced = 0.0
        for number in range(last, -1, -1):
            if number < last and ahead is not None:
                ahead = motion.follow(stretch.greys[number + 1], stretch.greys[number], ahead)
            if ahead is not None:
                nearest = ahead
            elif end is not None:
                untraced += _UNTRACED
            step = steps[number] if steps else None
            place = ahead if ahead is not None else (step.points if step is not None and step.held else None)
            sure = place is not None and (
                (number == last and end is not None)
                or self._glance(stretch.images[number], place, _CONFIRMED) is not None
            )
            if sure:
                assert place is not None
                sighting = Sighting(track.number, crop_box(place), place)
            else:
                known = [points for points in (step.points if step else None, nearest) if points is not None]
                doubt = untraced + (step.doubt if step else 0.0)
                sighting = Sighting(track.number, _place(known, doubt), None)
            answer[number].append(sighting)

    def _glance(self, image: ImageArray, points: Points, least: float) -> Points | None:
        """Points of the face that a close-up shows where one is expected, if it does."""
        return self._near(self._finder.glance(image, crop_box(points), tilt(points)), points, least)

    @staticmethod
    def _near(seen: Points | None, expected: Points, least: float) -> Points | None:
        """What was seen, if it overlaps what was expected."""
        if seen is None or not _usable(seen) or iou(crop_box(seen), crop_box(expected)) < least:
            return None
        return seen

    def _give_up(self, image: ImageArray) -> None:
        """Forget faces that are lost for too long or have left the frame; mark those behind another one."""
        height, width = image.shape[:2]
        frame = (0.0, 0.0, float(width), float(height))
        seen = [crop_box(track.points) for track in self._tracks if track.lost == 0]
        kept = []
        for track in self._tracks:
            box = _place([track.points], track.lost)
            if track.lost == 0 or (track.lost <= self._hold and iou(box, frame) > 0):
                track.hidden = track.lost > 0 and any(iou(crop_box(track.points), other) > _SAME for other in seen)
                kept.append(track)
        self._tracks = kept


def associate(places: Mapping[int, _Step], found: Sequence[Box]) -> dict[int, int]:
    """Which detection is which known face: by overlap, those whose place is sure first.

    Args:
        places: Where each face is expected, by its number; the search widens with its doubt.
        found: Boxes of the detections, as :func:`crop_box` gives them.

    Returns:
        Index of a detection for the numbers that have one, no index twice.
    """
    scores = []
    for number, place in places.items():
        factor = 1 + min(place.doubt, HOLD) / 2
        expected = widen(crop_box(place.points), factor)
        for index, box in enumerate(found):
            overlap = iou(expected, widen(box, factor))
            if overlap >= _SAME:
                scores.append((not place.held, -overlap, number, index))
    pairs: dict[int, int] = {}
    for _, _, number, index in sorted(scores):
        if number not in pairs and index not in pairs.values():
            pairs[number] = index
    return pairs


def _place(known: Sequence[Points], doubt: float) -> Box:
    """Box around where a lost face was seen before and after, wider the longer ago."""
    boxes = np.array([crop_box(points) for points in known])
    around = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
    return widen(around, min(_WIDE + _WIDENING * doubt, _WIDEST))


def _known(points: Points, others: Iterable[Points]) -> bool:
    """Whether a face is among others."""
    return any(iou(crop_box(points), crop_box(other)) > _TWICE for other in others)


def _usable(points: Points) -> bool:
    """Whether five points span a face."""
    return bool(np.isfinite(points).all()) and float(np.ptp(points, axis=0).min()) > 2
