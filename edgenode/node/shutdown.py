"""SIGTERM in a run with a controller: hand over what the node has learnt, then exit.

1. The first SIGTERM reports `Leave`. The controller plans the leave, and the run ends for this node with a handoff.
2. A handoff needs the controller and the other members. If the controller is unreachable or refuses, or if the handoff
   takes more than 20 s, the node stops without one. The others evict it.
3. A second SIGTERM stops at once.

To stop is to raise SIGINT, which asyncio turns into a cancellation of the main task.
"""

from __future__ import annotations

import asyncio
import signal

import structlog

from edgenode.core.protocol.orders import Leave
from edgenode.net.control_client import ControlLink

log = structlog.get_logger()

_HANDOFF_S = 20.0
_CHECK_EVERY_S = 0.1


class Shutdown:
    """The shutdown of one node."""

    def __init__(self) -> None:
        self._over = False

    def on_sigterm(self, link: ControlLink) -> None:
        """From now on, leave gracefully at SIGTERM."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.leave, link)

    def leave(self, link: ControlLink) -> None:
        """Ask the controller to let this node leave, and watch over it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
        log.info("leaving after a handoff", hint="a second SIGTERM stops at once")
        link.report(Leave())
        self._check(link, loop.time() + _HANDOFF_S)

    def stop(self, reason: str) -> None:
        """Stop without a handoff, unless the run is over for this node."""
        if self._over:
            return
        self._over = True
        log.warning("stopping without a handoff", reason=reason)
        signal.raise_signal(signal.SIGINT)

    def run_ended(self) -> None:
        """The run is over for this node. From now on nothing stops it."""
        self._over = True

    def _check(self, link: ControlLink, deadline: float) -> None:
        """Stop if the leave cannot succeed, and look again soon if it can."""
        loop = asyncio.get_running_loop()
        if self._over:
            return
        if not link.connected.is_set():
            self.stop("the controller is unreachable")
        elif loop.time() > deadline:
            self.stop(f"the handoff took more than {_HANDOFF_S:g} s")
        else:
            loop.call_later(_CHECK_EVERY_S, self._check, link, deadline)
