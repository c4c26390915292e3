"""Data sets through Ray: nothing lost and nothing done twice when workers and driver are killed; speed of two workers.

    python -m bench.ray_drill --images 5000
    python -m bench.ray_drill --images 600 --pairs 3      # how much faster two workers are than one

The faces are the drawn ones of ``examples/crops``, each moved and lit a little differently. One worker is killed, its
successor too, then the driver; the same command is given again. Processes are found by way of ``/proc`` (Linux).
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from phaseveil.data.image_io import read_image, resize, write_webp

CROPS = Path(__file__).parent.parent / "examples" / "crops"
SIDE = 128  # pixels
BAD = 3  # inputs that are no images
PATIENCE = 1800.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=0, help="measure speed instead, so many times one against two")
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        place = Path(folder)
        draw_faces(place / "in", arguments.images)
        options = ["--batch-size", str(arguments.batch_size)]
        if arguments.pairs:
            result = race(place, arguments.pairs, options)
        else:
            result = drill(place, arguments.images, [*options, "--workers", str(arguments.workers)])
    print(json.dumps({"images": arguments.images, "cores": os.cpu_count(), **result}, indent=1))


def draw_faces(folder: Path, count: int) -> None:
    """Write different aligned faces, SIDE × SIDE px."""
    crops = [read_image(path) for path in sorted(CROPS.glob("drawn-*.png"))]
    random = np.random.default_rng(0)
    for number in range(count):
        crop = crops[number % len(crops)]
        matrix = cv2.getRotationMatrix2D((128, 128), random.uniform(-3, 3), random.uniform(0.97, 1.03))
        matrix[:, 2] += random.uniform(-3, 3, 2)
        moved = cv2.warpAffine(crop, matrix, crop.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
        lit = (moved * random.uniform(0.85, 1.0)).astype(np.uint8)
        write_webp(folder / f"face-{number:06d}.webp", resize(lit, SIDE))


def drill(place: Path, count: int, options: list[str]) -> dict[str, Any]:
    """Kill a worker twice and the driver once, go on, and count what there is.

    Raises:
        AssertionError: An output is missing, surplus or unreadable, or a record is.
    """
    for number in range(BAD):
        (place / "in" / f"bad-{number}.png").write_text("not an image")
    out = place / "out"
    begin = time.perf_counter()
    driver = start(place / "in", out, options)
    dead: list[int] = []
    for share in (0.15, 0.3):
        wait(lambda share=share: written(out) >= share * count, driver)
        wait(lambda: len(workers(driver.pid)) > 1, driver)
        victim = max(workers(driver.pid))  # the youngest: the second time, the successor of the first
        os.kill(victim, signal.SIGKILL)
        dead.append(victim)
        wait(lambda: dead[-1] not in workers(driver.pid), driver)
    wait(lambda: written(out) >= 0.5 * count, driver)
    family = descendants(driver.pid)
    driver.kill()
    driver.wait()
    wait(lambda: not any(alive(pid) for pid in family))
    at_death = written(out)
    second = start(place / "in", out, options)
    answer, code = json.loads(second.communicate(timeout=PATIENCE)[0]), second.returncode
    seconds = time.perf_counter() - begin
    check(place / "in", out, count)
    again = json.loads(start(place / "in", out, options).communicate(timeout=PATIENCE)[0])
    assert code == 1, "bad inputs must show in the exit code"
    assert again["before"] == again["done"] == count
    return {
        "workers killed": dead,
        "outputs when the driver was killed": at_death,
        "of them not done again": answer["before"],
        "outputs": written(out),
        "dead letters": BAD,
        "seconds": round(seconds, 1),
    }


def check(inputs: Path, out: Path, count: int) -> None:
    """One readable output for each face, one dead letter for each bad input, one line of the manifest for each."""
    names = sorted(path.stem for path in inputs.glob("*.webp"))
    outputs = sorted(out.glob("[!.]*.png"))
    assert [path.stem for path in outputs] == names, f"{len(outputs)} outputs for {len(names)} inputs"
    assert len(outputs) == count
    assert all(read_image(path).shape == (SIDE, SIDE, 3) for path in outputs)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text("utf-8").splitlines()]
    assert len({line["input"] for line in lines}) == len(lines) == count + BAD
    assert len({line["output"] for line in lines if line["output"]}) == count
    assert len((out / "dead-letters.jsonl").read_text("utf-8").splitlines()) == BAD
    half_written = [path.name for path in out.glob(".*") if path.name != ".ledger"]
    assert not half_written, half_written


def race(place: Path, pairs: int, options: list[str]) -> dict[str, Any]:
    """Images a second of one worker and of two, in turn; without start and end of a run."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for pair in range(pairs):
        for count in (1, 2) if pair % 2 == 0 else (2, 1):
            out = place / f"{pair}-{count}"
            start(place / "in", out, [*options, "--workers", str(count)]).communicate(timeout=PATIENCE)
            times = sorted(path.stat().st_mtime for path in out.glob("[!.]*.png"))
            first, last = len(times) // 5, len(times) * 9 // 10
            rates[count].append((last - first) / (times[last] - times[first]))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {"one worker": rates[1], "two workers": rates[2], "ratios": ratios, "median": statistics.median(ratios)}


def start(inputs: Path, out: Path, options: list[str]) -> "subprocess.Popen[str]":
    """Start the command."""
    command = [sys.executable, "-m", "phaseveil", "anonymize", str(inputs), "--out", str(out), "--engine", "ray"]
    return subprocess.Popen([*command, "--json", *options], stdout=subprocess.PIPE, text=True)


def written(out: Path) -> int:
    return len(list(out.glob("[!.]*.png")))


def wait(condition: Callable[[], bool], driver: "subprocess.Popen[str] | None" = None) -> None:
    """Wait for a condition while the driver runs.

    Raises:
        RuntimeError: The driver ended, or it took too long.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end or (driver is not None and driver.poll() is not None):
            raise RuntimeError("the run ended before the drill was over; give more --images")
        time.sleep(0.05)


def workers(driver: int) -> list[int]:
    """Processes of the actors that hold the networks."""
    return [pid for pid in descendants(driver) if "MapWorker" in command_line(pid)]


def descendants(ancestor: int) -> list[int]:
    """All living processes below one."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(status.parent.name)] = int(fields[1])
    found = {ancestor}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return sorted(found - {ancestor})


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].lstrip().startswith("Z")
    except OSError:
        return False


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
