"""Notifies systemd of a daemon's state with the datagrams of sd_notify(3). Does nothing without systemd.

The watchdog notifications come from the event loop. If the loop hangs, they stop, and systemd restarts the service.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

_BEAT_S = 1.0  # between two statuses, at most


class Notifier:
    """Sends to the socket that systemd names in the environment of the processes it starts."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if ours else 0.0

    def send(self, **states: str | int) -> None:
        """Send one datagram of assignments. Errors are ignored."""
        if not self._address:
            return
        text = "\n".join(f"{name}={' '.join(str(value).splitlines())}" for name, value in states.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.setblocking(False)
            with suppress(OSError):
                ours.sendto(text.encode(), self._address)

    async def beat(self, status: Callable[[], str]) -> None:
        """Send READY, then the status every second or three times per watchdog period, until cancelled."""
        if not self._address:
            return
        self.send(READY=1)
        while True:
            self.send(STATUS=status(), **({"WATCHDOG": 1} if self._watchdog_s else {}))
            await asyncio.sleep(min(_BEAT_S, self._watchdog_s / 3 or _BEAT_S))
