"""The work on one video: read, follow, draw and write in threads beside each other, segment by segment."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from phaseveil.apps import anonymize
from phaseveil.apps.anonymize import Styles
from phaseveil.apps.footage import AcquiredFootage, CutOut, Footage, Region, Scenes, reach
from phaseveil.apps.redaction import Redaction, Verdict, blur_frame, blur_places
from phaseveil.apps.stages import beside
from phaseveil.apps.tracking import Sighting
from phaseveil.apps.video_io import Frame, VideoError, VideoReader, VideoWriter
from phaseveil.apps.video_ledger import Ledger
from phaseveil.apps.video_segments import Segments
from phaseveil.data.image_io import ImageArray, to_array
from phaseveil.data.landmarks import VideoDetector
from phaseveil.errors import ConfigError, InputError
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import Report
from phaseveil.seeds import face_seed

SEGMENT = 10.0  # seconds
HELD_PIXELS = 64_000_000  # frames kept in memory while a batch fills up
LONGEST_WINDOW = 30  # frames between searches, all held in memory
AHEAD = 4  # decoded frames that may wait
WAITING = 4  # windows that may wait before each stage; fewer of large frames


@dataclass(frozen=True)
class Options:
    """How videos are run.

    Attributes:
        faces: Seed and batch size. Person k of a video has its :func:`~phaseveil.seeds.face_seed` k − 1.
        redaction: Whose faces are replaced, and what happens where none is found.
        detect_every: Frames from one search for faces to the next; between, they are followed.
        min_face: Smallest face that is searched for, pixels; large frames are searched faster if it is larger.
        acquired: The footage is from the real coded camera.
        region: Where its frames show the face.
    """

    faces: anonymize.Options
    redaction: Redaction = field(default_factory=Redaction)
    detect_every: int = 5
    min_face: int = 20
    acquired: bool = False
    region: Region | None = None

    def __post_init__(self) -> None:
        if self.faces.save:
            raise ConfigError("--save keeps pictures of images only; leave it out for videos")
        if self.region is not None and not self.acquired:
            raise ConfigError("--region says where a coded camera's frame shows the face; it goes with --acquired")
        if not 1 <= self.detect_every <= LONGEST_WINDOW or self.min_face < 8:
            raise ConfigError(f"--detect-every must be 1 to {LONGEST_WINDOW}, --min-face at least 8")

    @classmethod
    def of(
        cls,
        faces: anonymize.Options,
        redaction: Redaction,
        detect_every: int,
        min_face: int,
        acquired: bool,
        region: str | None,
    ) -> Self:
        """From the words of a command line; ``region`` is ``x,y,side``.

        Raises:
            ConfigError: A value is impossible, or two contradict each other.
        """
        square = Region.parse(region) if region is not None else None
        return cls(faces, redaction, detect_every, min_face, acquired, square)

    def footage(self, size: int, longest: int) -> Footage:
        """What reads frames whose longer side is given, pixels, for a model of the given size."""
        if self.acquired:
            return AcquiredFootage(size, self.region)
        return Scenes(VideoDetector(reach(longest, self.min_face)), size)


class Place(NamedTuple):
    """A frame to go on after."""

    number: int
    pts: int
    trusted: bool


@dataclass
class Window:
    """Frames from one search to the next, on their way through the stages.

    Attributes:
        frames: The frames.
        sightings: Who is in each.
        cuts: Faces to be replaced in each.
        state: What to go on with, where a segment ends with this window.
        faces: New faces in each, in the order of ``cuts``; ``None`` where there was no face after all.
    """

    frames: list[Frame]
    sightings: list[list[Sighting]]
    cuts: list[list[CutOut]]
    state: dict[str, Any] | None = None
    faces: list[list[ImageArray | None]] | None = None


class Film:
    """The work on one video.

    Args:
        pipeline: The networks.
        styles: Style codes for the seeds of faces.
        options: How to run.
        seed: Of person 1.
        reader: The video.
        segments: Where finished parts are kept.
    """

    def __init__(
        self, pipeline: PhaseVeil, styles: Styles, options: Options, seed: int, reader: VideoReader, segments: Segments
    ) -> None:
        self._pipeline, self._styles, self._options, self._seed = pipeline, styles, options, seed
        self._reader, self._segments = reader, segments
        self._footage = options.footage(pipeline.size, reader.longest)
        self._codes: dict[int, Tensor] = {}
        state = segments.state or {}
        self.ledger = Ledger.restored(state.get("ledger"))
        self._after = Place(*state["after"]) if "after" in state else None
        self._finished = bool(state.get("finished"))
        if "footage" in state:
            self._footage.restore(state["footage"])

    def run(self, report: Report) -> None:
        """Write all segments that are missing.

        Raises:
            VideoError: The video cannot be used.
            InputError: The place is not writable, or the disk is full.
        """
        if self._finished:
            return
        cutter = Cutter(self._reader, self._segments, self._options.redaction, self._footage, self.ledger)
        with ExitStack() as stack:  # the last stage stops first; no thread reads on once the video is closed
            stack.callback(cutter.abandon)
            frames = stack.enter_context(closing(beside(self._read(), AHEAD, "decode")))
            depth = waiting(self._options.detect_every, self._reader.longest)
            windows = stack.enter_context(closing(beside(self._follow(frames), depth, "follow")))
            for window in stack.enter_context(closing(beside(self._draw(windows), depth, "draw"))):
                cutter.write(window)
                report(self.ledger.read, self._reader.expected)
            cutter.finish()

    def _read(self) -> Iterator[Frame]:
        after = self._after
        frames = self._reader.frames(after.number, after.pts, after.trusted) if after else self._reader.frames()
        for frame in frames:
            try:
                yield Frame(frame.number, frame.pts, frame.duration, frame.time, self._footage.view(frame.image))
            except InputError as error:
                raise VideoError(f"{self._reader.name}: {error}") from error

    def _follow(self, frames: Iterator[Frame]) -> Iterator[Window]:
        """Say who is where, window by window, and cut the faces out."""
        if self._after is not None:
            seen = next(frames)
            self._footage.see(seen.image, seen.time)
        begin: float | None = None
        for group in _groups(frames, self._options.detect_every):
            begin = group[0].time if begin is None else begin
            sightings = self._footage.follow([frame.image for frame in group], [frame.time for frame in group])
            cuts = [
                [self._footage.cut_out(frame.image, found) for found in here if self._options.redaction.replaces(found)]
                for frame, here in zip(group, sightings, strict=True)
            ]
            window = Window(group, sightings, cuts)
            if group[-1].time - begin >= SEGMENT:
                place = Place(group[-1].number, group[-1].pts, self._reader.trusted)
                window.state = {"after": list(place), "footage": self._footage.state()}
                begin = None
            yield window

    def _draw(self, windows: Iterator[Window]) -> Iterator[Window]:
        """Draw new faces for several windows at once; groups do not depend on timing, and end with each segment."""
        group: list[Window] = []
        for window in windows:
            group.append(window)
            faces = sum(len(cuts) for member in group for cuts in member.cuts)
            pixels = sum(frame.image.size // 3 for member in group for frame in member.frames)
            full = faces >= self._options.faces.batch_size or not faces or pixels >= HELD_PIXELS
            if full or window.state is not None:
                yield from self._draw_group(group)
                group = []
        yield from self._draw_group(group)

    def _draw_group(self, group: Sequence[Window]) -> list[Window]:
        cuts = [cut for window in group for here in window.cuts for cut in here]
        size = self._options.faces.batch_size
        new = iter([face for i in range(0, len(cuts), size) for face in self._new_faces(cuts[i : i + size])])
        for window in group:
            window.faces = [[next(new) for _ in here] for here in window.cuts]
        return list(group)

    def _new_faces(self, cuts: Sequence[CutOut]) -> list[ImageArray | None]:
        seeds = [face_seed(self._seed, cut.sighting.track - 1) for cut in cuts]
        for seed in seeds:
            if seed not in self._codes:
                self._codes[seed] = self._styles([seed])
        styles = torch.cat([self._codes[seed] for seed in seeds])
        generated = self._footage.draw(self._pipeline, torch.stack([cut.face for cut in cuts]), styles, seeds)
        shown = self._footage.shows(generated)
        return [to_array(face) if there else None for face, there in zip(generated.face, shown, strict=True)]


class Cutter:
    """Puts windows together and encodes them into segments."""

    def __init__(
        self, reader: VideoReader, segments: Segments, redaction: Redaction, footage: Footage, ledger: Ledger
    ) -> None:
        self._reader, self._segments, self._redaction, self._footage = reader, segments, redaction, footage
        self._ledger = ledger
        self._draft: VideoWriter | None = None
        self._offset: int | None = None

    def write(self, window: Window) -> None:
        """Encode a window; commit the segment where it ends one."""
        assert window.faces is not None
        for frame, sightings, cuts, faces in zip(
            window.frames, window.sightings, window.cuts, window.faces, strict=True
        ):
            gone = {cut.sighting.track for cut, face in zip(cuts, faces, strict=True) if face is None}
            seen = [found._replace(points=None) if found.track in gone else found for found in sightings]
            verdict = self._redaction.judge(seen)
            self._ledger.enter(frame, seen, verdict)
            if not verdict.dropped:
                self._encode(frame, self._compose(frame.image, verdict, cuts, faces))
        if window.state is not None:
            self._commit(window.state)

    def finish(self) -> None:
        """Commit what is left."""
        self._commit({"finished": True})

    def abandon(self) -> None:
        """Close the file of a segment that will not be finished."""
        if self._draft is not None:
            with suppress(InputError):
                self._draft.close()
            self._draft = None

    def _compose(
        self, image: ImageArray, verdict: Verdict, cuts: Sequence[CutOut], faces: Sequence[ImageArray | None]
    ) -> ImageArray:
        """A frame of the output: blur first, then the new faces, the largest last."""
        picture = blur_frame(image) if verdict.whole else blur_places(image, verdict.blurred)
        pairs = [(cut, face) for cut, face in zip(cuts, faces, strict=True) if face is not None]
        for cut, face in sorted(pairs, key=lambda pair: pair[0].sighting.box[2] - pair[0].sighting.box[0]):
            picture = self._footage.put(picture, face, cut.matrix)
        return picture

    def _encode(self, frame: Frame, picture: ImageArray) -> None:
        if self._draft is None:
            height, width = picture.shape[:2]
            self._draft = VideoWriter(self._segments.draft, self._reader.format, height, width)
            self._offset = frame.pts
        self._draft.write(picture, frame.pts, frame.duration)

    def _commit(self, state: Mapping[str, Any]) -> None:
        if self._draft is not None:
            self._draft.close()
        self._ledger.damage = self._reader.damage or self._ledger.damage
        self._segments.commit(self._offset, {**state, "ledger": self._ledger.values()})
        self._draft, self._offset = None, None


def waiting(frames: int, longest: int) -> int:
    """Windows that may wait before a stage, so that a slow one stalls nothing.

    Args:
        frames: Of a window.
        longest: Longer side of the frames, pixels.
    """
    return min(WAITING, max(1, HELD_PIXELS // (frames * longest**2)))


def _groups(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    """Frames in groups of ``size``, the last one perhaps smaller."""
    while group := list(itertools.islice(frames, size)):
        yield group
