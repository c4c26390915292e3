"""Spoilt weights, cameras, configurations, pictures, archives and videos through the loaders that read them.

    python -m bench.fuzz --count 10000                 # every kind in turn; exit code 1 where a case failed
    python -m bench.fuzz --kind image --case 1234      # one case again, with its traceback

A case passes where the file loads or is refused with an error of our own. It fails where anything else is raised or
written to standard error, where it takes over 30 seconds or 8 GiB, kills the process, starts a program, opens a
connection, unpickles a global, or changes a file outside the case's own folder. Cases run in forked children.
"""

import argparse
import faulthandler
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from bench.fuzz_cases import images, mutate, sound_files

from phaseveil.apps.batch import Manifest
from phaseveil.apps.sweep import Sweep
from phaseveil.apps.video_io import VideoReader
from phaseveil.config import load_config
from phaseveil.data.archive import open_zip, read_member
from phaseveil.data.datasets import load_faces
from phaseveil.data.download import Package, download
from phaseveil.data.fetch import RemoteFile
from phaseveil.data.image_io import read_image
from phaseveil.data.perceptual_weights import convert_lpips
from phaseveil.errors import PhaseVeilError
from phaseveil.models.face import load_face_networks
from phaseveil.models.heatmap import load_heatmap_net
from phaseveil.optics.camera import CameraConfig, load_camera
from phaseveil.training.camera_config import CameraTraining
from phaseveil.training.face_config import FaceTraining

SECONDS = 30
MEMORY = 8 << 30
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
REACHES = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request", "pickle.find_class")
# Of each event the arguments that are paths, with the one that is the folder a relative path starts at.
CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.chmod": ((0, 2),),
    "os.truncate": ((0, None),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((0, None), (1, 2)),
}


class UnsafeError(Exception):
    """A loader did what no file may make it do."""


@dataclass
class Guard:
    """Watches what the interpreter does (PEP 578) while a case runs.

    Attributes:
        allowed: Folder that may be changed; ``None`` while nothing is watched.
        seen: What was done that must not be. Loaders may swallow an exception; this list remembers.
    """

    allowed: Path | None = None
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Audit hook; raises as well, so that nothing comes of it."""
        if self.allowed is None:
            return
        if event in STARTS or event in REACHES:
            self._refuse(f"{event} {arguments!r}")
        if event == "open" and _writes(arguments):
            self._require_inside(event, arguments[0], -1)
        for path, folder in CHANGES.get(event, ()):
            self._require_inside(event, arguments[path], -1 if folder is None else arguments[folder])

    def _require_inside(self, event: str, path: Any, folder: int) -> None:
        if isinstance(path, bytes | str | os.PathLike) and self.allowed is not None:
            base = f"/proc/self/fd/{folder}" if folder >= 0 else ""
            place = os.path.realpath(os.path.join(base, os.fsdecode(path)))  # noqa: PTH118 (runs thousands of times)
            if not Path(place).is_relative_to(self.allowed):
                self._refuse(f"{event} {place!r}")

    def _refuse(self, what: str) -> None:
        self.seen.append(what)
        raise UnsafeError(what)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return True
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


GUARD = Guard()


def load_case(kind: str, data: bytes, folder: Path) -> None:
    """Read a file of a kind as PhaseVeil does.

    Args:
        kind: Key of :data:`LOADERS`.
        data: The file.
        folder: Empty; all that may be written to.

    Raises:
        PhaseVeilError: It is refused.
    """
    LOADERS[kind](data, folder)


def _camera(data: bytes, folder: Path) -> None:
    """What loads must also work: its acquisition of a frame is finite, unless the optics are refused."""
    _acquire(_file(folder / "a.safetensors", data))


def _camera_config(data: bytes, folder: Path) -> None:
    _acquire(_file(folder / "a.yaml", data))


@torch.no_grad()
def _acquire(path: Path) -> None:
    acquisition = load_camera(path)(torch.full((1, 3, 32, 32), 0.5), torch.Generator().manual_seed(0))
    if not bool(torch.isfinite(acquisition).all()):
        raise UnsafeError("a camera that loaded gives no numbers")


def _networks(load: Callable[[Path], torch.nn.Module]) -> Callable[[bytes, Path], None]:
    def run(data: bytes, folder: Path) -> None:
        networks = load(_file(folder / "a.safetensors", data))
        if not all(bool(torch.isfinite(tensor).all()) for tensor in networks.state_dict().values()):
            raise UnsafeError("networks that loaded hold NaN or infinity")

    return run


def _pytorch(data: bytes, folder: Path) -> None:
    convert_lpips(_file(folder / "trunk.pth", data), SHARED / "heads.pth", folder / "out" / "lpips.safetensors")


def _training_config(data: bytes, folder: Path) -> None:
    path = _file(folder / "a.yaml", data)
    _any(*(partial(load_config, schema, path) for schema in (CameraTraining, FaceTraining, Sweep)))


def _overrides(data: bytes, folder: Path) -> None:
    overrides = data.decode("utf-8", "surrogateescape").splitlines()
    _any(*(partial(load_config, schema, None, overrides) for schema in (CameraTraining, CameraConfig)))


def _image(data: bytes, folder: Path) -> None:
    pixels = read_image(_file(folder / "a.png", data))
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype.name != "uint8":
        raise UnsafeError(f"an image that loaded has the shape {pixels.shape}, {pixels.dtype}")


def _archive(data: bytes, folder: Path) -> None:
    path = _file(folder / "a.zip", data)
    catalogue = {"some": Package("", "", "", (RemoteFile("https://localhost/some.zip", "some.zip"),))}
    with suppress(PhaseVeilError), open_zip(path) as archive:  # as prepare reads it, member by member
        _any(*(partial(read_member, archive, member) for member in archive.infolist()))
    download("some", folder / "out", path, catalogue=catalogue)


def _prepared(data: bytes, folder: Path) -> None:
    for domain in ("female", "male"):
        _file(folder / f"{domain}.png", PICTURES[0])
    _file(folder / "index.jsonl", data)
    load_faces(folder, "train", 32)


def _manifest(data: bytes, folder: Path) -> None:
    _file(folder / "manifest.jsonl", data)
    Manifest(folder, [])


def _video(data: bytes, folder: Path) -> None:
    with VideoReader(_file(folder / "a.mp4", data)) as reader:
        for _, frame in zip(range(50), reader.frames(), strict=False):
            if frame.image.ndim != 3:
                raise UnsafeError("a frame without three channels")


def _any(*loads: Callable[[], object]) -> None:
    """All of several ways to read a file; refused where all refuse it."""
    refusals = []
    for load in loads:
        try:
            load()
        except PhaseVeilError as error:
            _require_one_line(error)
            refusals.append(error)
    if loads and len(refusals) == len(loads):
        raise refusals[-1]


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


LOADERS: dict[str, Callable[[bytes, Path], None]] = {
    "camera": _camera,
    "heatmap": _networks(load_heatmap_net),
    "face": _networks(load_face_networks),
    "pytorch": _pytorch,
    "camera config": _camera_config,
    "training config": _training_config,
    "overrides": _overrides,
    "image": _image,
    "archive": _archive,
    "prepared": _prepared,
    "manifest": _manifest,
    "video": _video,
}
PICTURES = images()
SHARED = Path()  # folder of what several cases read, set by Fuzzer


class Fuzzer:
    """Makes and runs cases; the same kind, seed and number give the same file.

    Args:
        scratch: Folder for all that cases write.
        seed: Of all cases.
    """

    def __init__(self, scratch: Path, seed: int = 0) -> None:
        global SHARED
        self._scratch, self._seed = scratch.resolve(), seed
        SHARED = self._scratch / "shared"
        SHARED.mkdir(parents=True)
        self.samples = sound_files(SHARED)
        for kind, samples in self.samples.items():  # what is imported late is imported now, unwatched
            for sample in samples:
                with self._place() as folder, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        load_case(kind, sample, folder)
                    except PhaseVeilError as error:
                        if kind != "image":  # among the pictures are some that must be refused
                            raise AssertionError(f"a sound {kind} was refused: {error}") from error

    def case(self, kind: str, number: int) -> bytes:
        """The spoilt file of a case."""
        random_ = random.Random(f"{self._seed} {kind} {number}")
        return mutate(random_, kind, random_.choice(self.samples[kind]))

    def run(self, kind: str, number: int) -> str:
        """Outcome of a case: ``loaded``, ``refused``, or what went wrong."""
        data = self.case(kind, number)
        with self._place() as folder:
            return judge(lambda: load_case(kind, data, folder), folder)

    @contextmanager
    def _place(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def judge(load: Callable[[], None], folder: Path) -> str:
    """Run a loader under guard: ``loaded``, ``refused``, or what went wrong.

    Args:
        load: What to run.
        folder: The only one that it may change.
    """
    GUARD.seen.clear()
    said = io.StringIO()
    try:
        with redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("default")  # a warning is text that a user would see
            GUARD.allowed = folder
            try:
                load()
            finally:
                GUARD.allowed = None
        outcome = "loaded"
    except PhaseVeilError as error:
        outcome = "refused"
        if not _is_one_line(error):
            return f"message not in one printable line: {str(error)[:200]!r}"
    except (Exception, KeyboardInterrupt) as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = next((frame for frame in reversed(place) if "phaseveil" in frame.filename), place[-1])
        return f"{type(error).__name__}: {str(error)[:150]!r} ({Path(ours.filename).name}:{ours.lineno})"
    if GUARD.seen:
        return f"unsafe: {GUARD.seen[0]}"
    return f"said {said.getvalue()[:200]!r}" if said.getvalue() else outcome


def _is_one_line(error: PhaseVeilError) -> bool:
    message = str(error)
    return bool(message) and message.isprintable() and len(message) < 2000


def _require_one_line(error: PhaseVeilError) -> None:
    if not _is_one_line(error):
        raise UnsafeError(f"message not in one printable line: {str(error)[:200]!r}")


def _child(fuzzer: Fuzzer, cases: Sequence[tuple[str, int]], pipe: Connection) -> None:
    """Run cases, telling each before it begins and what became of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    faulthandler.enable()
    with Path(os.devnull).open("w") as nowhere:  # C libraries write past Python
        os.dup2(nowhere.fileno(), 2)
    signal.signal(signal.SIGALRM, _too_slow)
    for kind, number in cases:
        pipe.send((kind, number))
        signal.alarm(SECONDS)
        begin = time.perf_counter()
        outcome = fuzzer.run(kind, number)
        signal.alarm(0)
        pipe.send((outcome, time.perf_counter() - begin))
    pipe.send(None)


def _too_slow(number: int, frame: object) -> None:
    raise KeyboardInterrupt(f"over {SECONDS} s")


@dataclass
class Tally:
    """Outcomes by kind, failures, and the slowest case."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def add(self, kind: str, number: int, outcome: str, seconds: float) -> None:
        """Take in a case."""
        passed = outcome in ("loaded", "refused")
        self.counts.setdefault(kind, Counter())[outcome if passed else "FAILED"] += 1
        self.slowest = max(self.slowest, (seconds, f"{kind} {number}"))
        if not passed:
            self.failures.append(f"--kind {kind!r} --case {number}: {outcome}")
            print(self.failures[-1], file=sys.stderr, flush=True)


def run_forked(fuzzer: Fuzzer, cases: Sequence[tuple[str, int]], tally: Tally) -> None:
    """Run cases in a child; where one kills it, go on with another after that case."""
    fork = multiprocessing.get_context("fork")
    done = 0
    while done < len(cases):
        receiver, sender = fork.Pipe(duplex=False)
        child = fork.Process(target=_child, args=(fuzzer, cases[done:], sender))
        child.start()
        sender.close()
        try:
            while (case := receiver.recv()) is not None:
                outcome, seconds = receiver.recv()
                tally.add(*case, outcome, seconds)
                done += 1
        except EOFError:
            child.join()
            tally.add(*cases[done], f"killed the process (exit code {child.exitcode})", 0.0)
            done += 1
        child.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="cases, over all kinds")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=LOADERS, help="this kind only; may be repeated")
    parser.add_argument("--case", type=int, help="show one case of one --kind")
    arguments = parser.parse_args()
    kinds = arguments.kind or list(LOADERS)
    with tempfile.TemporaryDirectory() as scratch:
        fuzzer = Fuzzer(Path(scratch), arguments.seed)
        if arguments.case is not None:
            return _show(fuzzer, kinds[0], arguments.case, Path(scratch))
        sys.addaudithook(GUARD.hook)
        last = arguments.first + arguments.count
        cases = [(kinds[number % len(kinds)], number) for number in range(arguments.first, last)]
        tally = Tally()
        run_forked(fuzzer, cases, tally)
    print(f"{'kind':<18}{'loaded':>8}{'refused':>9}{'FAILED':>8}")
    for kind, counts in tally.counts.items():
        print(f"{kind:<18}{counts['loaded']:>8}{counts['refused']:>9}{counts['FAILED']:>8}")
    total = sum((counts for counts in tally.counts.values()), Counter())
    print(f"{'all':<18}{total['loaded']:>8}{total['refused']:>9}{total['FAILED']:>8}")
    print(f"slowest: {tally.slowest[1]}, {tally.slowest[0]:.1f} s; seed {arguments.seed}")
    return 1 if tally.failures else 0


def _show(fuzzer: Fuzzer, kind: str, number: int, scratch: Path) -> int:
    """Run one case without a guard, its traceback shown."""
    data = fuzzer.case(kind, number)
    print(f"{len(data)} bytes: {data[:400]!r}")
    folder = scratch / "case"
    folder.mkdir()
    try:
        load_case(kind, data, folder)
    except PhaseVeilError as error:
        print(f"refused: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
