"""Videos: speed against ``deface`` on the same clip, steadiness of a track, memory over many frames.

    python -m bench.video_speed --seconds 10 --deface PATH/TO/deface

The clip is 720p with one drawn face that moves, turns and comes nearer, so that nothing but the repository is needed.
Both commands are timed from start to end, and again on a clip of one frame; the difference is the time for the rest.
``deface`` (PyPI) is left out with a message where it is not installed. Identity and landmarks are dlib's.
"""

import argparse
import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from phaseveil.allocation import keep_freed_memory
from phaseveil.apps.anonymize import Options as Faces
from phaseveil.apps.anonymize import latent_styles
from phaseveil.apps.video import Options, VideoBatch
from phaseveil.apps.video_io import Format, VideoReader, VideoWriter
from phaseveil.data.image_io import ImageArray, read_image
from phaseveil.data.landmarks import DlibDetector, LandmarkPredictor
from phaseveil.metrics.identity import DlibRecogniser
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import Report

CROPS = Path(__file__).parent.parent / "examples" / "crops"
SIZE = (720, 1280)
RATE = 25
FACE = 300  # side of the face's crop, pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip for the race")
    parser.add_argument("--frames", type=int, default=300, help="frames for identity and jitter, 0 for neither")
    parser.add_argument("--seeds", type=int, default=6, help="seeds of which identity is compared, 2 or more")
    parser.add_argument("--memory", type=int, default=2000, help="frames over which memory is watched, 0 for none")
    parser.add_argument("--deface", help="the command; looked for on the path and beside this Python by default")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: distances between seeds need two")
    keep_freed_memory()  # as the command does
    results: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if arguments.seconds:
            results["race"] = race(place, round(arguments.seconds * RATE), arguments.deface)
        if arguments.frames:
            results["steadiness"] = steadiness(place, arguments.frames, arguments.seeds)
        if arguments.memory:
            results["memory"] = memory(place, arguments.memory)
    print(json.dumps(results, indent=1))


def race(place: Path, frames: int, deface: str | None) -> dict[str, Any]:
    """Frames per second of both commands, on the wall's clock and on the processor's."""
    clip, single = write_clip(place / "clip.mp4", frames, moving), write_clip(place / "single.mp4", 1, moving)
    beside = shutil.which("phaseveil", path=str(Path(sys.executable).parent)) or "phaseveil"
    rival = deface or shutil.which("deface") or shutil.which("deface", path=str(Path(sys.executable).parent))
    commands = {"phaseveil": [beside, "anonymize", "{clip}", "--out", str(place / "new"), "--seed", "0"]}
    if rival is None:
        print("deface is not installed and left out of the race; pip install deface", file=sys.stderr)
    else:
        commands["deface"] = [rival, "{clip}", "--output", str(place / "blurred.mp4")]
    figures: dict[str, Any] = {"frames": frames}
    for name, command in commands.items():
        start = timed(command, single)
        whole = timed(command, clip)
        figures[name] = {
            "fps": (frames - 1) / (whole[0] - start[0]),
            "fps with start-up": frames / whole[0],
            "processor ms a frame": 1e3 * (whole[1] - start[1]) / (frames - 1),
        }
    if "deface" in figures:
        figures["ratio"] = figures["phaseveil"]["fps"] / figures["deface"]["fps"]
    return figures


def timed(command: Sequence[str], clip: Path) -> tuple[float, float]:
    """Seconds of a command: wall's and processor's."""
    begin, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    silent = subprocess.DEVNULL
    subprocess.run([part.format(clip=clip) for part in command], check=True, stdout=silent, stderr=silent)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begin, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def steadiness(place: Path, frames: int, seeds: int) -> dict[str, Any]:
    """Whether a person keeps one face, and how much a still head trembles.

    Distances are dlib's, the median over the frames for each seed; those between two seeds are from each frame of one
    to the same frame of the other, for each pair. Jitter is the mean displacement of dlib's 68 landmarks from one frame
    to the next, read in one fixed box, seed 0; pixels.
    """
    pipeline = PhaseVeil.from_pretrained()
    alive, still = write_clip(place / "alive.mp4", frames, moving), write_clip(place / "still.mp4", frames, resting)
    tracks = [embed(anonymize(pipeline, alive, place / f"seed-{seed}", seed)) for seed in range(seeds)]
    half = frames // 2
    apart = [distance(track[:half], track[half : 2 * half]) for track in tracks]
    between = {f"{a} and {b}": distance(tracks[a], tracks[b]) for a, b in itertools.combinations(range(seeds), 2)}
    source, output = jitter(still), jitter(anonymize(pipeline, still, place / "still", 0))
    return {
        "neighbouring frames": [distance(track[:-1], track[1:]) for track in tracks],
        "frames half the clip apart": apart,
        "two seeds": between,
        "median of half the clip apart": float(np.median(apart)),
        "median of two seeds": float(np.median(list(between.values()))),
        "jitter of the source, px": source,
        "jitter of the output, px": output,
        "jitter ratio": output / source,
    }


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Median distance of embeddings, ``(N, 128)`` each, over the frames in which both have a face."""
    return float(np.nanmedian(np.linalg.norm(first - second, axis=1)))


def memory(place: Path, frames: int) -> dict[str, float]:
    """Resident memory, MiB: largest in the second tenth of a long video, and after that."""
    clip = write_clip(place / "long.mp4", frames, moving)
    seen: list[float] = []

    @contextmanager
    def watch(description: str, unit: str) -> Iterator[Report]:
        page = os.sysconf("SC_PAGE_SIZE") / 2**20
        yield lambda done, total: seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)

    anonymize(PhaseVeil.from_pretrained(), clip, place / "long", 0, watch)
    tenth = len(seen) // 10
    early, late = max(seen[tenth : 2 * tenth]), max(seen[2 * tenth :])
    return {"frames": frames, "early": early, "late": late, "growth": late / early - 1}


def anonymize(pipeline: PhaseVeil, clip: Path, out: Path, seed: int, progress: Any = None) -> Path:
    """Run the command's inside; returns the output."""

    @contextmanager
    def silent(description: str, unit: str) -> Iterator[Report]:
        yield lambda done, total: None

    batch = VideoBatch(pipeline, latent_styles(pipeline, None), Options(Faces(seed)), out)
    batch.run([str(clip)], progress or silent, print)
    return out / clip.name


def embed(clip: Path) -> np.ndarray:
    """dlib's embedding of the face in every frame, NaN where dlib finds none. Shape ``(N, 128)``."""
    detector, predictor = DlibDetector(), LandmarkPredictor()
    crops, points, found = [], [], []
    for image in images(clip):
        small = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        faces = detector.detect(np.asarray(small))
        found.append(bool(faces))
        if faces:
            crops.append(np.asarray(small))
            points.append(predictor.predict(np.asarray(small), faces[0].box))
    print(f"{clip.parent.name}: dlib finds a face in {len(crops)} of {len(found)} frames", file=sys.stderr)
    embeddings = np.full((len(found), 128), np.nan)
    embeddings[found] = DlibRecogniser().embed(crops, np.array(points))
    return embeddings


def jitter(clip: Path) -> float:
    """Mean displacement of 68 landmarks from frame to frame, pixels, in the box of the first frame's face."""
    predictor = LandmarkPredictor()
    half = 0.4 * FACE
    box = (SIZE[1] / 2 - half, SIZE[0] / 2 - half, SIZE[1] / 2 + half, SIZE[0] / 2 + half)
    points = np.array([predictor.predict(image, box) for image in images(clip)])
    return float(np.linalg.norm(np.diff(points, axis=0), axis=-1).mean())


def images(clip: Path) -> Iterator[ImageArray]:
    with VideoReader(clip) as reader:
        yield from (frame.image for frame in reader.frames())


def moving(number: int) -> tuple[float, float, float, float]:
    """Where the face is in a frame: offset (x, y) in pixels, turn in degrees, scale."""
    seconds = number / RATE
    return (
        150 * math.sin(seconds),
        40 * math.sin(1.7 * seconds),
        8 * math.sin(2.3 * seconds),
        1 + 0.1 * math.sin(seconds),
    )


def resting(number: int) -> tuple[float, float, float, float]:
    """A head that does not move."""
    return 0.0, 0.0, 0.0, 1.0


def write_clip(path: Path, frames: int, pose: Any) -> Path:
    """Write a clip of the drawn face over soft blobs, with sensor noise."""
    random = np.random.default_rng(0)
    blobs = cv2.GaussianBlur(random.uniform(0, 255, (*SIZE, 3)).astype(np.float32), (0, 0), 20)
    backdrop = ((blobs - blobs.mean()) / blobs.std() * 25 + 110).clip(0, 255)
    face = read_image(CROPS / "drawn-1.png").astype(np.float32)
    oval = np.zeros(face.shape[:2], np.float32)
    cv2.ellipse(oval, (128, 128), (108, 125), 0, 0, 360, 1.0, -1)
    oval = cv2.GaussianBlur(oval, (0, 0), 4)
    noise = [random.normal(0, 2, (*SIZE, 1)).astype(np.float32) for _ in range(8)]
    form = Format(Fraction(1, RATE * 512), Fraction(RATE), Fraction(1), (2, 0, 2, 2))
    writer = VideoWriter(path, form, *SIZE)
    for number in range(frames):
        x, y, turn, scale = pose(number)
        matrix = cv2.getRotationMatrix2D((127.5, 127.5), turn, scale * FACE / 256)
        matrix[:, 2] += (SIZE[1] / 2 - 127.5 + x, SIZE[0] / 2 - 127.5 + y)
        weight = cv2.warpAffine(oval, matrix, SIZE[::-1])[..., None]
        picture = backdrop * (1 - weight) + cv2.warpAffine(face, matrix, SIZE[::-1]) * weight
        picture += noise[random.integers(8)]
        writer.write(np.rint(picture).clip(0, 255).astype(np.uint8), number * 512, 512)
    writer.close()
    return path


if __name__ == "__main__":
    main()
