import os
import platform
import subprocess
import sys

import pytest

PROBE = """
import ctypes, resource, sys
import numpy as np
from phaseveil.allocation import keep_freed_memory
PR_SET_THP_DISABLE = 41  # with transparent huge pages a fault may bring 4 KiB or 2 MiB, as memory lies free
assert ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    np.ones(48 * 2**20, np.uint8)  # above 32 MiB, the most that glibc keeps by itself
work()
before = faults()
for _ in range(5):
    work()
print(faults() - before)
"""


def faults(how: str, **environment: str) -> int:
    """Page faults of arrays that come and go, in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROBE, how]
    return int(subprocess.run(command, env=clean | environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_memory_is_used_again_unless_the_environment_says_otherwise() -> None:
    fresh = faults("fresh")
    assert faults("kept") < fresh / 10
    assert faults("kept", MALLOC_MMAP_THRESHOLD_="65536") > fresh / 2
