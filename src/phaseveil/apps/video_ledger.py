"""What was done to each person and frame of a video; a file beside the output tells it."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from phaseveil.apps.redaction import Verdict
from phaseveil.apps.tracking import Sighting
from phaseveil.apps.video_io import Frame, writing
from phaseveil.checkpoint import replace_atomically
from phaseveil.seeds import face_seed


@dataclass
class Person:
    """One track.

    Attributes:
        first: Seconds at which the person first appears.
        last: Seconds at which the person is last seen.
        box: Where the face is at first: left, top, right, bottom, pixels.
        frames: Frames in which the face was found.
        lost: Frames in which it was not, and which the person was waited for.
    """

    first: float
    last: float
    box: list[int]
    frames: int = 0
    lost: int = 0


@dataclass
class Ledger:
    """Counts over a video.

    Attributes:
        read: Frames read.
        written: Frames written.
        missed: Frames in which a face was lost or doubtful, or none was found.
        begin: Seconds of the first frame.
        height: Of the frames, pixels.
        width: Of the frames, pixels.
        damage: What was wrong with the video.
        people: By number.
    """

    read: int = 0
    written: int = 0
    missed: int = 0
    begin: float = 0.0
    height: int = 0
    width: int = 0
    damage: str | None = None
    people: dict[int, Person] = field(default_factory=dict)

    @classmethod
    def restored(cls, values: Mapping[str, Any] | None) -> Self:
        """Go on from what :meth:`values` gave; empty where ``None``."""
        if values is None:
            return cls()
        people = {int(number): Person(**person) for number, person in values["people"].items()}
        return cls(**{**values, "people": people})

    def values(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def enter(self, frame: Frame, sightings: Sequence[Sighting], verdict: Verdict) -> None:
        """Take in a frame."""
        if not self.read:
            self.begin = frame.time
            self.height, self.width = frame.image.shape[:2]
        self.read += 1
        self.written += not verdict.dropped
        self.missed += verdict.missed
        for sighting in sightings:
            if sighting.points is None:
                if sighting.track in self.people:
                    self.people[sighting.track].lost += 1
                continue
            box = [round(value) for value in sighting.box]
            person = self.people.setdefault(sighting.track, Person(frame.time, frame.time, box))
            person.frames += 1
            person.last = frame.time

    def persons(self, only: Collection[int]) -> int:
        """How many persons got a new face."""
        return sum(not only or number in only for number in self.people)

    def notes(self, only: Collection[int]) -> list[str]:
        """What a user should know, a sentence each."""
        notes = []
        if self.missed:
            notes.append(f"no face, a lost or a doubtful one in {self.missed} of {self.read} frames")
        if absent := sorted(set(only) - self.people.keys()):
            notes.append(f"person {', '.join(map(str, absent))} was not seen; there are {len(self.people)}")
        if self.height % 2 or self.width % 2:
            even = self.width + self.width % 2, self.height + self.height % 2
            notes.append(f"{self.width}×{self.height} px made even, {even[0]}×{even[1]}, by repeating the last pixels")
        return notes

    def write(self, path: Path, source: str, seed: int) -> None:
        """Write the file that tells the persons' numbers.

        Raises:
            InputError: The place is not writable, or the disk is full.
        """
        people = [
            {"track": number, "seed": face_seed(seed, number - 1), **asdict(person)}
            for number, person in sorted(self.people.items())
        ]
        values = {"input": source, "frames": self.read, "written": self.written, "missed": self.missed}
        with writing(path), replace_atomically(path) as temporary:
            text = json.dumps({**values, "people": people}, indent=1)
            temporary.write_text(text + "\n", "utf-8")
