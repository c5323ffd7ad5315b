"""The end of a node before the end of its run, with a controller.

SIGTERM: hand over what the node has learnt, then exit.

1. The first SIGTERM reports `Leave`. The controller plans the leave, and the run ends for this node with a handoff.
2. A handoff needs the controller and the other members. If the controller is unreachable or refuses, or if the handoff
   takes more than 20 s, the node stops without one. The others evict it.
3. A second SIGTERM stops at once.

A training loop of the user's own that has ended is not in a hurry. Its node asks the controller, until it has ended, to
let it leave. Until then, and if too few other nodes would stay, it takes part without training.

To stop is to cancel the node's task. In the main thread, SIGINT does that.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import structlog

from edgenode.core.protocol.orders import Leave, StopRun, TrainingEnded
from edgenode.net.control_client import ControlLink

log = structlog.get_logger()

_HANDOFF_S = 20.0
_CHECK_EVERY_S = 0.1
_ASK_EVERY_S = 2.0


class Shutdown:
    """The shutdown of one node.

    Args:
        interrupt: stops the node at once, with a reason.
    """

    def __init__(self, interrupt: Callable[[str], object]) -> None:
        self._over, self._interrupt = False, interrupt
        self._go: Callable[[], object] = lambda: None
        self._asks = set[TrainingEnded | StopRun]()  # what the controller is asked again and again
        self._why_stays = ""

    def on_sigterm(self, link: ControlLink) -> None:
        """Leave gracefully at SIGTERM from now on. Call it in the main thread."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._sigterm, link)

    def _sigterm(self, link: ControlLink) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._interrupt, "a second SIGTERM")
        self.leave(link)

    def leave(self, link: ControlLink) -> None:
        """Ask the controller to let this node leave, and watch over it."""
        if self._over:
            self._go()
            return
        log.info("leaving after a handoff", hint="a second SIGTERM stops at once")
        link.report(Leave())
        self._check(link, asyncio.get_running_loop().time() + _HANDOFF_S)

    def ask(self, link: ControlLink, what: TrainingEnded | StopRun) -> None:
        """Ask the controller until the run is over for this node: a report can be lost, or come in a pause."""
        if what in self._asks:
            return
        self._asks.add(what)
        self._ask(link, what)

    def _ask(self, link: ControlLink, what: TrainingEnded | StopRun) -> None:
        if self._over:
            return
        if link.connected.is_set():
            link.report(what)
        asyncio.get_running_loop().call_later(_ASK_EVERY_S, self._ask, link, what)

    def leave_refused(self, reason: str) -> None:
        """The controller refuses to let this node leave."""
        if TrainingEnded() not in self._asks:
            self.stop(reason)
        elif reason != self._why_stays:
            self._why_stays = reason
            log.info("this node stays in the run without training", reason=reason)

    def stop(self, reason: str) -> None:
        """Stop without a handoff, unless the run is over for this node."""
        if self._over:
            return
        self._over = True
        log.warning("stopping without a handoff", reason=reason)
        self._interrupt(f"stopped without a handoff: {reason}")

    def run_ended(self, go: Callable[[], object]) -> None:
        """The run is over for this node. From now on nothing stops it, and ``go`` lets it exit sooner."""
        self._over, self._go = True, go

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
