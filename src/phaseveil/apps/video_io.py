"""Videos in and out with PyAV (FFmpeg): frames with their own time stamps, upright; H.264.

Time stamps are whole ticks of the source's time base and are never changed, so that a variable frame rate stays what it
is. The encoder makes no B-frames: packets are in the order of display, and segments join without rewriting any.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from phaseveil.data.image_io import MAX_PIXELS, MAX_SIDE, ImageArray, write_problem
from phaseveil.errors import ConfigError, InputError

try:
    import av
    from av.error import FFmpegError
except ModuleNotFoundError as error:
    raise ConfigError("videos need the package av; install it with: pip install 'phaseveil[video]'") from error

CONTAINERS = "asf,avi,flv,h264,hevc,m4v,matroska,mov,mp3,mpeg,mpegts,mpegvideo,ogg,wav,webm"
"""FFmpeg's names of what is read. Playlists, which name further files and addresses, are not among them."""
CODEC = "libx264"
ENCODING = {"crf": "18", "preset": "veryfast", "bf": "0"}

_MISSING = 0.02  # share of the frames that the file announces and that may be missing without a word
_MATRICES = frozenset({1, 4, 7, 9})  # FFmpeg's colour matrices that its scaler tells from BT.601
_BT601 = 5
_AVX512 = 256  # OpenCV's number of the processor's feature, CPU_AVX512_SKX
_BELOW_AVX512 = "asm=avx2,fma3,lzcnt,bmi1,bmi2"
_LIMITED = 1  # FFmpeg's number of the colour range 16 to 235


class VideoError(InputError):
    """This video cannot be used; others can."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        number: Counted from 0.
        pts: Time stamp, ticks of the stream's time base.
        duration: Ticks for which it is shown, 0 where unknown.
        time: Seconds.
        image: Upright. Shape ``(H, W, 3)``, uint8, RGB.
    """

    number: int
    pts: int
    duration: int
    time: float
    image: ImageArray


@dataclass(frozen=True)
class Format:
    """What the frames of a stream have in common, and what their new encoding keeps.

    Attributes:
        time_base: Seconds per tick.
        rate: Frames per second, on average.
        aspect: Width over height of an upright pixel.
        colours: FFmpeg's numbers of matrix, range, primaries and transfer.
    """

    time_base: Fraction
    rate: Fraction
    aspect: Fraction
    colours: tuple[int, int, int, int]


class VideoReader:
    """The frames of a video file or camera.

    Args:
        source: A file, or what the input format calls a device.
        name: What error messages call it; the file's where ``None``.
        device: FFmpeg's input format of a device, such as ``v4l2``; ``None`` for a file.

    Raises:
        VideoError: Unreadable, empty, not a video, or without pictures.
    """

    def __init__(self, source: str | Path, name: str | None = None, device: str | None = None) -> None:
        self.name = name or str(source)
        self._source, self._device = str(source), device
        self.trusted = True  # whether every frame so far had a time stamp of its own, by which seeking finds it again
        self._damaged = 0  # packets that could not be decoded
        self._cut_short: str | None = None
        self._seen, self._reached = 0, 0.0  # frames, seconds
        self._stopped = False
        self._size: tuple[int, int] | None = None
        self._turns = 0
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    @property
    def format(self) -> Format:
        """How the frames are encoded; known once the first one was read."""
        stream = self._stream
        aspect = stream.sample_aspect_ratio or Fraction(1)
        colours = stream.colorspace, stream.color_range, stream.color_primaries, stream.color_trc
        return Format(
            time_base=stream.time_base,
            rate=_rate(stream),
            aspect=1 / aspect if self._turns % 2 else aspect,
            colours=tuple(int(value) for value in colours),  # type: ignore[arg-type]
        )

    @property
    def start(self) -> float:
        """Seconds at which the file's first stream begins, 0 where that is before 0 or unknown."""
        return max(0.0, (self._container.start_time or 0) / av.time_base)

    @property
    def longest(self) -> int:
        """Longer side of the frames, pixels."""
        return max(self._stream.width, self._stream.height)

    @property
    def expected(self) -> int | None:
        """About how many frames there are, ``None`` where nothing tells."""
        seconds = self._duration()
        return self._stream.frames or (round(seconds * _rate(self._stream)) if seconds else None)

    @property
    def damage(self) -> str | None:
        """What was wrong with the video as far as it was read, ``None`` where nothing was."""
        if self._cut_short:
            return self._cut_short
        return f"{self._damaged} damaged packets were left out" if self._damaged else None

    def stop(self) -> None:
        """End the video after the frame that is being read; may be called from another thread."""
        self._stopped = True

    def frames(self, number: int = 0, pts: int | None = None, seek: bool = True) -> Iterator[Frame]:
        """Decode in the order of display. Damage does not raise, see :attr:`damage`.

        Args:
            number: Of the frame to begin with.
            pts: Its time stamp, if it was read before.
            seek: Whether time stamps can be trusted to find it; else all frames before it are decoded again.

        Raises:
            VideoError: No frame can be decoded, the wanted one is not there, or a frame is too large.
        """
        found = self._sought(number, pts) if seek and number and pts is not None else None
        for decoded, count, stamp in found or self._numbered(0):
            if count == number and pts not in (None, stamp):
                raise VideoError(
                    f"{self.name}: has changed since the run began; remove the work folder beside the output"
                )
            if count >= number:
                yield self._frame(decoded, count, stamp)
        if not self._seen:
            detail = f" ({self.damage})" if self.damage else ""
            raise VideoError(f"{self.name}: no picture can be decoded{detail}; export it again")
        self._check_length()

    def _begin(self) -> None:
        """Open, or open again."""
        self._container: Any = _open(self._source, self.name, self._device)
        pictures = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not pictures:
            self._container.close()
            raise VideoError(f"{self.name}: has no pictures, only sound or data; give a video")
        self._stream: Any = pictures[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise VideoError(f"{self.name}: its codec cannot be decoded here; convert it to H.264 first")
        self._stream.thread_type = "AUTO"

    def _sought(self, number: int, pts: int) -> Iterator[tuple[Any, int, int]] | None:
        """Frames from a time stamp on; ``None`` where seeking does not lead to exactly that frame."""
        try:
            self._container.seek(pts, stream=self._stream, backward=True)
            for decoded in self._decoded():
                if decoded.pts is not None and decoded.pts >= pts:
                    if decoded.pts == pts and not decoded.is_corrupt:
                        return self._numbered(number, decoded)
                    break
        except FFmpegError:
            pass
        self._container.close()
        self._begin()
        return None

    def _numbered(self, number: int, first: Any = None) -> Iterator[tuple[Any, int, int]]:
        """Decoded frames with their numbers and time stamps, which ascend even where the file's do not."""
        last: int | None = None
        tick = max(1, round(1 / (_rate(self._stream) * self._stream.time_base)))
        for decoded in _chain(first, self._decoded()):
            stamp = decoded.pts
            if stamp is None or (last is not None and stamp <= last):
                self.trusted = False
                stamp = 0 if last is None else last + (tick if stamp is None else 1)
            yield decoded, number, stamp
            number, last = number + 1, stamp
            self._seen, self._reached = number, float(stamp * self._stream.time_base)

    def _decoded(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                yield from self._pictures(packet)
                if self._stopped:
                    return
        except FFmpegError as error:
            self._cut_short = f"cannot be read on after frame {self._seen} ({reason(error)})"
            yield from self._pictures(None)

    def _pictures(self, packet: Any) -> Iterator[Any]:
        try:
            yield from self._stream.decode(packet)
        except FFmpegError:
            self._damaged += 1

    def _frame(self, decoded: Any, number: int, stamp: int) -> Frame:
        if self._size is None:
            self._size = decoded.width, decoded.height
            self._turns = round(decoded.rotation / 90)
            if decoded.width * decoded.height > MAX_PIXELS or max(self._size) > MAX_SIDE:
                raise VideoError(f"{self.name}: {decoded.width}×{decoded.height} px is too large; reduce it first")
        width, height = self._size
        image = decoded.to_ndarray(format="rgb24", width=width, height=height)
        upright = np.ascontiguousarray(np.rot90(image, self._turns))
        return Frame(number, stamp, decoded.duration or 0, float(stamp * self._stream.time_base), upright)

    def _check_length(self) -> None:
        """Notice a file that ends long before it says it does."""
        if self._stopped or self._cut_short or self._device is not None:
            return
        frames, seconds = self._stream.frames, _tagged_duration(self._stream)
        if frames and self._seen < (1 - _MISSING) * frames - 2:
            self._cut_short = f"ends after {self._seen} of {frames} frames"
        elif seconds and self._reached < (1 - _MISSING) * seconds - 0.5:
            self._cut_short = f"ends after {self._reached:.1f} of {seconds:.1f} s"

    def _duration(self) -> float | None:
        if self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        return self._container.duration / av.time_base if self._container.duration else None


class VideoWriter:
    """A video of H.264 without sound, its first frame at time 0. The same frames give the same bytes.

    Args:
        path: File to write; the suffix chooses the container.
        form: Of the source.
        height: Of the frames, pixels; where odd, the last row is repeated, since 4:2:0 colour needs even sides.
        width: The same across.

    Raises:
        InputError: The place is not writable, or the disk is full (also :meth:`write` and :meth:`close`).
    """

    def __init__(self, path: Path, form: Format, height: int, width: int) -> None:
        self._path, self._form = path, form
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        self._first: int | None = None
        self._durations: dict[int, int] = {}
        with writing(path):
            self._container: Any = av.open(str(path), "w")
            self._stream: Any = self._container.add_stream(CODEC, rate=form.rate, options=_options())
        context: Any = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context.time_base, context.sample_aspect_ratio = form.time_base, form.aspect
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = form.colours

    def write(self, image: ImageArray, pts: int, duration: int) -> None:
        """Encode a frame.

        Args:
            image: Shape ``(H, W, 3)``, uint8, RGB.
            pts: Time stamp, ticks; greater than the last frame's.
            duration: Ticks for which it is shown, 0 where unknown.
        """
        self._first = pts if self._first is None else self._first
        matrix, colour_range, primaries, transfer = self._form.colours
        picture = av.VideoFrame.from_ndarray(np.pad(image, self._padding, mode="edge"), format="rgb24")
        frame: Any = picture.reformat(
            format="yuv420p",
            dst_colorspace=matrix if matrix in _MATRICES else _BT601,
            dst_color_range=colour_range or _LIMITED,
        )
        frame.colorspace, frame.color_range = matrix, colour_range
        frame.color_primaries, frame.color_trc = primaries, transfer
        frame.time_base, frame.pts = self._form.time_base, pts - self._first
        self._durations[frame.pts] = duration
        self._mux(frame)

    def close(self) -> None:
        """Encode what is still waiting, and finish the file."""
        if self._first is not None:
            self._mux(None)
        with writing(self._path):
            self._container.close()

    def _mux(self, frame: Any) -> None:
        with writing(self._path):
            for packet in self._stream.encode(frame):
                packet.duration = self._durations.pop(packet.pts, 0)
                self._container.mux(packet)


def _options() -> dict[str, str]:
    """x264's, without AVX-512, whose macroblock tree reads memory that nobody wrote.

    It does where a row is not a multiple of eight macroblocks, so that two runs may differ. AVX2 is as fast.
    """
    return ENCODING | ({"x264-params": _BELOW_AVX512} if cv2.checkHardwareSupport(_AVX512) else {})


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is written into an error with the way out.

    Raises:
        InputError: The place is not writable, the disk is full, or FFmpeg cannot write it.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {write_problem(error)}") from error
    except FFmpegError as error:
        raise InputError(f"{path}: cannot be written ({reason(error)}); choose another output folder") from error


def open_file(path: Path) -> Any:
    """A container on this computer for reading; what it holds cannot make FFmpeg open another file or an address.

    Raises:
        FFmpegError: Not such a file, or damaged.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    # An absolute path, since FFmpeg takes "tcp:..." or "concat:..." in front of a relative one for a protocol.
    return av.open(str(path.absolute()), options=options, metadata_errors="replace")


def _open(source: str, name: str, device: str | None) -> Any:
    """A container for reading."""
    path = Path(source)
    if device is None and path.is_dir():
        raise VideoError(f"{name}: is a folder, not a video")
    try:
        if device is None and path.stat().st_size == 0:
            raise VideoError(f"{name}: the file is empty (0 bytes)")
        return av.open(source, format=device) if device is not None else open_file(path)
    except FileNotFoundError as error:
        raise VideoError(f"{name}: no such file or camera") from error
    except OSError as error:
        way_out = "check its permissions" if isinstance(error, PermissionError) else "give a video file or a camera"
        raise VideoError(f"{name}: cannot be read ({error.strerror}); {way_out}") from error
    except FFmpegError as error:
        raise VideoError(
            f"{name}: not a video that can be read, or cut off ({reason(error)}); export it again"
        ) from error


def _is_cover(stream: Any) -> bool:
    """Whether a picture stream is a sound file's cover."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _rate(stream: Any) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _tagged_duration(stream: Any) -> float | None:
    """Seconds that Matroska's tags announce for a stream, ``HH:MM:SS.fraction``."""
    parts = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
    return int(parts[1]) * 3600 + int(parts[2]) * 60 + float(parts[3]) if parts else None


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
    yield from rest


def reason(error: FFmpegError) -> str:
    """FFmpeg's words for an error, for the middle of a message."""
    return (error.strerror or type(error).__name__).lower()
