"""Which inputs are videos or cameras, and what their outputs are called."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseveil.apps.batch import Job, plan
from phaseveil.data.image_io import IMAGE_SUFFIXES, find_files
from phaseveil.errors import InputError

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm"}
    | {".wmv"}
)
OUTPUT_SUFFIXES = (".mp4", ".mov", ".mkv")
CAMERA = "webcam:"
CAMERA_FORMAT = "v4l2"


@dataclass(frozen=True)
class Clip:
    """A video to work on.

    Attributes:
        job: The file, or the camera as it was given, and the stem of its outputs.
        device: The camera's path; ``None`` for a file.
    """

    job: Job
    device: str | None = None


def is_camera(given: str) -> bool:
    """Whether an input names a camera: ``webcam:0``, ``webcam:/dev/video0`` or a device's path."""
    return given.startswith(CAMERA) or Path(given).is_char_device()


def sort_inputs(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell images from videos; a folder or pattern may be both.

    Returns:
        Inputs for the images, among them all that are neither, so that they are reported; inputs for the videos.

    Raises:
        InputError: An input does not exist.
    """
    images: list[str] = []
    videos: list[str] = []
    for given in inputs:
        if is_camera(given):
            videos.append(given)
            continue
        found = find_files(given, VIDEO_SUFFIXES)
        if any(path.suffix.lower() in VIDEO_SUFFIXES for path in found):
            videos.append(given)
            if Path(given).expanduser().is_file() or not find_files(given, IMAGE_SUFFIXES):
                continue
        images.append(given)
    return images, videos


def plan_clips(inputs: Sequence[str], out: Path) -> list[Clip]:
    """Name the outputs of videos and cameras, no two alike and none an input.

    Raises:
        InputError: A file or camera does not exist, or lies in the output folder.
    """
    files = [given for given in inputs if not is_camera(given)]
    clips = [Clip(job) for job in plan(files, out, VIDEO_SUFFIXES, "videos")] if files else []
    for given in dict.fromkeys(given for given in inputs if is_camera(given)):
        clips.append(Clip(Job(Path(given), "webcam-" + re.sub(r"\W+", "-", _device(given)).strip("-")), _device(given)))
    return clips


def _device(given: str) -> str:
    """Path of a camera.

    Raises:
        InputError: There is none, or none can be reached on this system.
    """
    if not sys.platform.startswith("linux"):
        raise InputError(f"{given}: cameras can be read on Linux only (v4l2); record a file and give that")
    place = given.removeprefix(CAMERA)
    path = Path(f"/dev/video{place}" if place.isdigit() else place)
    if not path.exists():
        raise InputError(f"{given}: no such camera ({path}); plug one in, or give the path of its device")
    return str(path)
