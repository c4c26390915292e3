"""Clips for tests: faces that our own generator drew, moving over a textured background, with a tone."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from phaseveil.data.image_io import ImageArray, read_image, resize

CROPS = Path(__file__).parents[2] / "examples" / "crops"
HEIGHT, WIDTH = 160, 240
RATE = 25

Place = tuple[float, float, float] | None
"""Middle (x, y) and side of a face's crop, pixels; ``None`` where it is not there."""


@lru_cache
def drawn_face(number: int, side: int) -> ImageArray:
    """An aligned face that is nobody's."""
    return resize(read_image(CROPS / f"drawn-{number}.png"), side)


@lru_cache
def background(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> ImageArray:
    """Soft blobs without a face."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 4)
    return ((soft - soft.mean()) / soft.std() * 30 + 110).clip(0, 255).astype(np.uint8)


def scene(places: dict[int, Place], seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> ImageArray:
    """A frame with drawn faces by their number, later ones in front. Shape ``(height, width, 3)``."""
    frame = background(seed, height, width).copy()
    for number, place in places.items():
        if place is None:
            continue
        x, y, side = place
        face = drawn_face(number, round(side))
        matrix = np.array([[1.0, 0.0, x - side / 2], [0.0, 1.0, y - side / 2]])
        oval = np.zeros(face.shape[:2], np.float32)
        cv2.ellipse(oval, (len(oval) // 2, len(oval) // 2), (int(0.42 * side), int(0.49 * side)), 0, 0, 360, 1.0, -1)
        moved = cv2.warpAffine(face, matrix, (width, height), flags=cv2.INTER_LINEAR)
        weight = cv2.warpAffine(oval, matrix, (width, height), flags=cv2.INTER_LINEAR)[..., None]
        frame = np.rint(frame * (1 - weight) + moved * weight).astype(np.uint8)
    return frame


def film(count: int, places: Callable[[int], dict[int, Place]], seed: int = 0) -> list[ImageArray]:
    """Frames of a scene that ``places`` sets up for each frame's number, with a little sensor noise."""
    noise = np.random.default_rng(seed)
    frames = (scene(places(number), seed).astype(float) for number in range(count))
    return [(frame + noise.normal(0, 1.5, frame.shape)).clip(0, 255).astype(np.uint8) for frame in frames]


def write_clip(
    path: Path,
    frames: Sequence[ImageArray],
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 12_800),
    audio: str | None = None,
    rotation: int = 0,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
) -> Path:
    """Write frames as a video, with a tone of 440 Hz where an audio codec is named.

    Args:
        path: The suffix chooses the container.
        frames: RGB, as they are stored.
        pts: Time stamps in ``time_base``; 25 frames a second by default.
        time_base: Seconds per tick.
        audio: Codec of the tone.
        rotation: Degrees by which a player turns the frames counterclockwise, by metadata.
        codec: Of the video.
        pix_fmt: Of the video.
    """
    ticks = round(1 / (RATE * time_base))
    pts = [number * ticks for number in range(len(frames))] if pts is None else pts
    with av.open(str(path), "w") as container:
        container.metadata["comment"] = "taken at 48.8583 N, 2.2945 E"
        stream: Any = container.add_stream(codec, rate=RATE, options={"crf": "12", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        tone: Any = container.add_stream(audio, rate=48_000) if audio else None
        for image, stamp in zip(frames, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            seconds = float((pts[-1] + ticks) * time_base)
            container.mux([packet for frame in sound(seconds, tone) for packet in tone.encode(frame)])
            container.mux(tone.encode())
    return path


def sound(seconds: float, stream: Any) -> list[av.AudioFrame]:
    """A tone in frames that an encoder takes."""
    size = stream.codec_context.frame_size or 1024
    wave = np.sin(2 * np.pi * 440 * np.arange(int(seconds * 48_000)) / 48_000)
    frames = []
    for start in range(0, len(wave) - size + 1, size):
        kind = {"s16": "s16", "fltp": "fltp", "flt": "flt"}[stream.codec_context.format.name]
        part = wave[None, start : start + size]
        data = (part * 20_000).astype(np.int16) if kind == "s16" else (0.6 * part).astype(np.float32)
        layout = stream.codec_context.layout.name
        channels = stream.codec_context.layout.nb_channels
        data = np.repeat(data, channels, axis=0) if kind == "fltp" else np.repeat(data, channels, axis=1)
        frame = av.AudioFrame.from_ndarray(data, format=kind, layout=layout)
        frame.sample_rate, frame.pts = 48_000, start
        frames.append(frame)
    return frames


def read_frames(path: Path) -> tuple[list[ImageArray], list[float]]:
    """Decoded frames, as stored, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [float(frame.time) for frame in frames]
