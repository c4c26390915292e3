"""How the C library keeps memory that was freed."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next arrays, in one place for all threads; to be called first of all.

    Otherwise every large array is new pages of the system, which it has to fill with zeros: with arrays of some MB that
    come and go, that takes as long as the arithmetic. Does nothing with another C library, or where the environment
    says how memory is to be kept (``MALLOC_...``, ``GLIBC_TUNABLES``).
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
