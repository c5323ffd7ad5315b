"""Tells systemd how a daemon is, by the datagrams of sd_notify(3); where nobody listens, nothing is sent.

The beat comes from the event loop: when that hangs, it stops, and systemd starts the service again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

_BEAT_S = 1.0  # at most: the status is worth reading


class Notifier:
    """The way to the socket that systemd named in our environment, if it started us."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if ours else 0.0

    def send(self, **states: str | int) -> None:
        """One datagram of assignments. A system that does not take it now is no reason to fail."""
        if not self._address:
            return
        text = "\n".join(f"{name}={' '.join(str(value).splitlines())}" for name, value in states.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.setblocking(False)
            with suppress(OSError):
                ours.sendto(text.encode(), self._address)

    async def beat(self, status: Callable[[], str]) -> None:
        """READY now; then the status, and that we live, three times in each watchdog period."""
        if not self._address:
            return
        self.send(READY=1)
        while True:
            self.send(STATUS=status(), **({"WATCHDOG": 1} if self._watchdog_s else {}))
            await asyncio.sleep(min(_BEAT_S, self._watchdog_s / 3 or _BEAT_S))
