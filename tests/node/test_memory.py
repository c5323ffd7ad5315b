"""The C library keeps what is freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# allocates and frees 64 MiB a few times, as a training step does, and prints what page faults that cost
_FAULTS = """
import resource
from edgenode.node.memory import keep_freed_memory
{call}
def touch():
    for _ in range(5):
        [bytearray(8 * 2**20) for _ in range(8)]
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    """Page faults of a process that allocates the same buffer again and again."""
    script = _FAULTS.format(call=call)
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_kept_for_the_same_again() -> None:
    assert faults("keep_freed_memory()") < 0.1 * faults("")
