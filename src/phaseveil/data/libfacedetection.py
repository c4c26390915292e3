"""libfacedetection, which the package ``yuface`` brings, called without Python's global lock.

yuface's own function keeps the lock, so that every other thread of the process waits: 50 ms for a frame of 720 × 720
px on one core. A foreign function call lets go of it.
"""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Faces = NDArray[np.int16]

_SYMBOL = "_Z14facedetect_cnnPhS_iii"  # unsigned char *buffer, unsigned char *bgr, int width, int height, int step
_BUFFER = 0x20000  # bytes, at least 4 + 1024 faces of 32
_COLUMNS = 16  # score, x, y, width, height, five points, one unused


class FaceLibrary:
    """The detector's library.

    Raises:
        ImportError: The package ``yuface`` is missing.
    """

    def __init__(self) -> None:
        from yuface import yuface

        self._module = yuface
        self._detect, self._set_threads, self._most_threads = _functions(yuface.__file__)
        yuface.detect(np.zeros((32, 32, 3), np.uint8))  # the library sets itself up in its first call, under the lock

    def detect(self, bgr: NDArray[np.uint8], share: float = 1.0) -> Faces:
        """All that may be a face.

        Args:
            bgr: Shape ``(H, W, 3)``, uint8, contiguous.
            share: Of the cores, more than 0, at most 1; at least one is used.

        Returns:
            Shape ``(N, 15)``: score in percent; left, top, width, height; x and y of five points; pixels.
        """
        if self._detect is None:
            return np.asarray(self._module.detect(bgr), dtype=np.int16)[:, :-1]
        if self._set_threads is not None:
            self._set_threads(max(1, round(share * self._most_threads)))
        buffer = np.zeros(_BUFFER, np.uint8)
        height, width = bgr.shape[:2]
        self._detect(buffer.ctypes.data, bgr.ctypes.data, width, height, bgr.strides[0])
        count = int(buffer[:4].view(np.int32)[0])
        return buffer[4:].view(np.int16)[: count * _COLUMNS].reshape(count, _COLUMNS)[:, :-1]


@lru_cache(maxsize=1)
def face_library() -> FaceLibrary:
    """The library, loaded and set up once a process; see :class:`FaceLibrary`."""
    return FaceLibrary()


def _functions(module: str) -> tuple[Any, Any, int]:
    """The detector, what sets the threads of its own OpenMP in the calling thread, and how many there are at most.

    ``None`` for what the platform's build does not show.
    """
    library = ctypes.CDLL(module)  # finds symbols of what the module is linked to, too
    detect, threads = getattr(library, _SYMBOL, None), getattr(library, "omp_set_num_threads", None)
    if detect is not None:
        detect.restype = ctypes.c_void_p
        detect.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    return detect, threads, library.omp_get_max_threads() if threads is not None else 1
