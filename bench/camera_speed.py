"""Speed of a frozen camera against the bare pair of Fourier transforms that its convolution needs.

    python bench/camera_speed.py --size 256 --batch 8 --rounds 20

All run in this process, one after the other in every round, so that a busy machine slows them alike; what counts is the
ratio of the medians (target: at most 3). On a machine that other work shares, the processor's time is the steadier of
the two clocks.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from phaseveil.optics.camera import load_camera
from phaseveil.optics.psf import fast_fft_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camera", default="portrait", help="name or file of a camera with a point spread function")
    parser.add_argument("--size", type=int, default=256, help="pixels across a frame")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    camera = load_camera(arguments.camera)
    frozen = camera.frozen(arguments.size)
    image = torch.rand(arguments.batch, 3, arguments.size, arguments.size, generator=torch.Generator().manual_seed(0))
    padded_size = fast_fft_size(arguments.size + camera.config.psf_pixels(arguments.size) - 1)
    padded = torch.rand(arguments.batch, 3, padded_size, padded_size)
    noise = torch.Generator().manual_seed(1)
    contestants: dict[str, Callable[[], torch.Tensor]] = {
        "rfft2 + irfft2": lambda: torch.fft.irfft2(torch.fft.rfft2(padded), s=(padded_size, padded_size)),
        "camera, noiseless": lambda: frozen(image),
        "camera, with noise": lambda: frozen(image, noise),
    }
    medians = race(contestants, arguments.rounds)
    wall, busy = medians["rfft2 + irfft2"]
    print(f"{arguments.batch} frames of {arguments.size} px, grid of {padded_size} px, {arguments.threads} threads")
    for name, (seconds, processor) in medians.items():
        clock = f"{seconds * 1e3:8.1f} ms, ratio {seconds / wall:.2f}"
        print(f"{name:20} {clock}   processor {processor * 1e3:8.1f} ms, ratio {processor / busy:.2f}")


@torch.inference_mode()
def race(contestants: dict[str, Callable[[], torch.Tensor]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each, by the clock and of the processor; each runs once a round, after a round to warm up."""
    laps: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, run in contestants.items():
            began = time.perf_counter(), time.process_time()
            run()
            laps[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return {
        name: (statistics.median(lap[0] for lap in found[1:]), statistics.median(lap[1] for lap in found[1:]))
        for name, found in laps.items()
    }


if __name__ == "__main__":
    main()
