import threading
import time

import cv2
import numpy as np
import pytest
import skimage

from phaseveil.data.image_io import ImageArray
from phaseveil.data.libfacedetection import FaceLibrary, face_library

yuface = pytest.importorskip("yuface", reason="the run-time detector has no wheel for this Python")


@pytest.fixture(scope="module")
def frames() -> list[ImageArray]:
    """The astronaut at several places, in part outside."""
    portrait = np.ascontiguousarray(skimage.data.astronaut()[..., ::-1])
    return [
        cv2.warpAffine(portrait, np.array([[scale, 0, left], [0, scale, top]]), (480, 400))
        for scale in (0.4, 0.7, 1.2)
        for left, top in ((0, 0), (-150, 20), (120, -60))
    ]


@pytest.fixture(params=["foreign", "own"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FaceLibrary:
    if request.param == "own":
        monkeypatch.setattr("phaseveil.data.libfacedetection._SYMBOL", "not_in_this_build")
    return FaceLibrary()


def test_it_finds_what_yufaces_own_function_finds(library: FaceLibrary, frames: list[ImageArray]) -> None:
    found = 0
    for frame in frames:
        scores, boxes, points = yuface.detect(frame, conf=0.0)
        faces = library.detect(frame)
        np.testing.assert_array_equal(faces, np.column_stack([scores, boxes, points]))
        found += int((faces[:, 0] > 60).sum())
    assert found >= 5


def test_threads_do_not_disturb_each_other(frames: list[ImageArray]) -> None:
    library = face_library()
    wanted = [library.detect(frame) for frame in frames]
    wrong: list[int] = []

    def search(first: int) -> None:
        for k in range(2 * len(frames)):
            n = (first + k) % len(frames)
            if not np.array_equal(library.detect(frames[n], share=0.5), wanted[n]):
                wrong.append(n)

    threads = [threading.Thread(target=search, args=(3 * n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_threads_go_on_while_it_searches(frames: list[ImageArray]) -> None:
    library, frame = face_library(), np.tile(frames[0], (2, 2, 1))
    ticks: list[float] = []
    begun, done = threading.Event(), threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            begun.set()
            time.sleep(1e-4)

    thread = threading.Thread(target=tick)
    thread.start()
    begun.wait()
    try:
        within = 0
        for _ in range(10):
            start = time.perf_counter()
            library.detect(frame, share=0.5)
            end = time.perf_counter()
            within += any(start + 0.2 * (end - start) < moment < end - 0.2 * (end - start) for moment in list(ticks))
    finally:
        done.set()
        thread.join()
    assert within >= 5  # none with the lock held
