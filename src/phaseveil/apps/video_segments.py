"""A video in the making: finished segments in a work folder beside the output, joined with the sound at the end.

A segment counts once the state after it is on disk. A run that was stopped in any way goes on after the last such
segment; since segments are encoded apart from each other, the result is the one of an uninterrupted run.
"""

import hashlib
import heapq
import json
import shutil
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from phaseveil.apps.video_io import VideoError, open_file, writing
from phaseveil.checkpoint import replace_atomically

MP4_SOUND = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})
PARENTS = {".mp4": ".mp4", ".m4v": ".mp4", ".mov": ".mov"}  # output containers; .mkv, which holds anything, for others


def output_suffix(source: Path) -> str:
    """Container of the output: the source's own where it can hold H.264 and the sound, else Matroska.

    Args:
        source: Video file.
    """
    suffix = PARENTS.get(source.suffix.lower(), ".mkv")
    if suffix == ".mkv":
        return suffix
    with open_file(source) as container:
        sound = [stream.codec_context.name for stream in container.streams.audio if stream.codec_context]
    fits = all(name in MP4_SOUND or (suffix == ".mov" and name.startswith("pcm_")) for name in sound)
    return suffix if fits else ".mkv"


class Segments:
    """The work folder of one output.

    Args:
        output: The output; the folder is called ``.NAME.work`` and lies beside it.
        run: Plain values that say what the run is about; work of another run is thrown away.

    Raises:
        InputError: The folder cannot be made.
    """

    def __init__(self, output: Path, run: Mapping[str, Any]) -> None:
        self.folder = output.parent / f".{output.name}.work"
        self._key = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
        if self._read("run").get("key") != self._key:
            self.remove()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write("run", {"key": self._key})
        self.count = 0
        while self._state_file(self.count).is_file():
            self.count += 1

    @property
    def state(self) -> dict[str, Any] | None:
        """What was committed with the last segment; ``None`` before the first."""
        return self._read(f"{self.count - 1:06d}").get("state") if self.count else None

    @property
    def draft(self) -> Path:
        """File for the segment in the making."""
        return self.folder / "draft.mp4"

    def commit(self, offset: int | None, state: Mapping[str, Any]) -> None:
        """Take the draft as the next segment.

        Args:
            offset: Time stamp of its first frame, ticks; ``None`` where no frame was written and there is no draft.
            state: Plain values to go on with after it.

        Raises:
            InputError: The disk is full.
        """
        with writing(self.folder):
            if offset is not None:
                self.draft.replace(self._segment_file(self.count))
            self._write(f"{self.count:06d}", {"offset": offset, "state": dict(state)})
        self.count += 1

    def join(self, output: Path, source: Path | None, time_base: Fraction, start: float) -> None:
        """Write the segments and the source's sound into one file, atomically.

        Args:
            output: File to write.
            source: Video whose sound is copied; none where ``None``.
            time_base: Seconds per tick of the time stamps.
            start: Seconds in the source that become the output's beginning.

        Raises:
            VideoError: No frame was written.
            InputError: The place is not writable, or the disk is full.
        """
        segments = [
            (self._segment_file(number), offset)
            for number in range(self.count)
            if (offset := self._read(f"{number:06d}")["offset"]) is not None
        ]
        if not segments:
            raise VideoError(f"{source}: no frame is left, since no face was found in any; try --on-miss blur")
        options = {"movflags": "+faststart"} if output.suffix in (".mp4", ".mov") else {}
        with (
            writing(output),
            replace_atomically(output) as temporary,
            av.open(str(temporary), "w", options=options) as container,
        ):
            _mux(container, segments, source, time_base, start)

    def remove(self) -> None:
        """Throw the work away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _segment_file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.mp4"

    def _state_file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def _read(self, name: str) -> dict[str, Any]:
        try:
            values = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        with replace_atomically(self.folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(values), "utf-8")


def _mux(
    container: Any, segments: list[tuple[Path, int]], source: Path | None, time_base: Fraction, start: float
) -> None:
    """Copy pictures and sound into a container, in the order of time."""
    with av.open(str(segments[0][0])) as first:
        pictures = container.add_stream_from_template(first.streams.video[0])
    original = open_file(source) if source is not None else None
    try:
        sound = {}
        for stream in original.streams.audio if original is not None else ():
            if stream.codec_context is not None:
                sound[stream.index] = container.add_stream_from_template(stream)
        streams = [_pictures(segments, pictures, time_base, start), _sound(original, sound, start)]
        for _, packet in heapq.merge(*streams, key=lambda timed: timed[0]):
            container.mux(packet)
    finally:
        if original is not None:
            original.close()


def _pictures(
    segments: list[tuple[Path, int]], stream: Any, time_base: Fraction, start: float
) -> Iterator[tuple[float, Any]]:
    """Packets of the segments with their place in time, seconds."""
    for path, offset in segments:
        with av.open(str(path)) as segment:
            for packet in segment.demux(video=0):
                if packet.pts is None:
                    continue
                shift = round((offset * time_base - Fraction(start)) / packet.time_base)
                packet.pts += shift
                packet.dts = packet.pts
                packet.stream = stream
                yield float(packet.pts * packet.time_base), packet


def _sound(original: Any, streams: Mapping[int, Any], start: float) -> Iterator[tuple[float, Any]]:
    """Audio packets as they are with their place in time, seconds; damage ends them."""
    if not streams:
        return
    try:
        for packet in original.demux([original.streams[index] for index in streams]):
            if packet.pts is None:
                continue
            shift = round(start / packet.time_base)
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = streams[packet.stream.index]
            yield float(packet.pts * packet.time_base), packet
    except FFmpegError:
        return
