"""A slow line between two networks: a program that holds both ends as network devices, and passes on what they get.

    python -m benchmarks.line 1e6 10e6 0.03

It makes the devices `home` and `internet`, prints a line when they are there, and runs until it is ended. What waits
for its turn longer than a second is dropped, as a router with a full queue does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import sys
from contextlib import suppress

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_LONGEST_FRAME, _MOST_WAIT_S = 1 << 16, 1.0


def device(name: str) -> int:
    """The descriptor of a new network device, whose frames are read and written."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


class Direction:
    """Carries frames from one device to the other.

    Args:
        delay_s: the time from the end of a frame at one end of the line to its end at the other.
    """

    def __init__(self, source: int, target: int, bits_per_s: float, delay_s: float) -> None:
        self._source, self._target, self._bits_per_s, self._delay_s = source, target, bits_per_s, delay_s
        self._loop, self._free_at = asyncio.get_running_loop(), 0.0
        self._loop.add_reader(source, self._carry)

    def _carry(self) -> None:
        frame, now = os.read(self._source, _LONGEST_FRAME), self._loop.time()
        begins = max(now, self._free_at)
        if begins - now < _MOST_WAIT_S:
            self._free_at = begins + 8 * len(frame) / self._bits_per_s
            self._loop.call_at(self._free_at + self._delay_s, self._deliver, frame)

    def _deliver(self, frame: bytes) -> None:
        with suppress(OSError):  # a device that is down
            os.write(self._target, frame)


async def run(up: float, down: float, delay_s: float) -> None:
    home, internet = device("home"), device("internet")
    directions = Direction(home, internet, up, delay_s), Direction(internet, home, down, delay_s)
    print(f"{len(directions)} directions", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(*map(float, sys.argv[1:])))
