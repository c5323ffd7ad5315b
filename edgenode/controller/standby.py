"""What connected nodes wait for: more nodes, or the end of their wait after an eviction for their links.

A node that nothing reaches stops the run again each time it returns. So it waits `evict_after_s` after its first
eviction, and twice as long after each further one, up to _LONGEST_S. A node that is not evicted for _LONGEST_S after a
wait begins with the first one again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.links import CHECK
from edgenode.core.protocol.events import Send
from edgenode.core.protocol.orders import Standby

log = structlog.get_logger()

_LONGEST_S = 300.0


class Probation:
    """The nodes that were evicted for their links, and how long they wait.

    Args:
        first_s: the first wait.
    """

    def __init__(self, first_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_s, self._clock = first_s, clock
        self._waits: dict[str, tuple[float, float]] = {}  # by node: seconds, and when they end

    def begin(self, node: str) -> float:
        """A node has to go for its links. Return how many seconds it waits, from now on, before it can join again."""
        now = self._clock()
        wait_s, end = self._waits.get(node, (0.0, now))
        if now < end:
            return wait_s  # it cannot have returned: its eviction was rejected
        again = wait_s > 0 and now - end < _LONGEST_S
        wait_s = min(2 * wait_s, _LONGEST_S) if again else self._first_s
        self._waits[node] = wait_s, now + wait_s
        return wait_s

    def waiting(self) -> dict[str, float]:
        """The nodes that cannot join yet, each with the length of its wait."""
        now = self._clock()
        return {node: wait_s for node, (wait_s, end) in self._waits.items() if now < end}


def standbys(state: ClusterState, waiting: Mapping[str, float]) -> list[Send]:
    """Return the orders that say to connected nodes what they wait for.

    Args:
        waiting: what `Probation.waiting` returns.
    """
    present, waits_for = tuple(sorted(state.membership.present)), state.waits_for
    if waits_for:
        log.info("no member is in the run: waiting for members to return", missing=sorted(waits_for))
    if waits_for or state.plan is None:
        return [Send(node, Standby(present, len(waits_for) or state.missing)) for node in present]
    held = sorted(waiting.keys() & state.membership.newcomers.keys())
    return [Send(node, Standby((), 0, _why(node, waiting[node]))) for node in held]


def _why(node: str, wait_s: float) -> str:
    return f"{node} was evicted for {wait_s:.0f} s, because nothing relays to or from it: check {CHECK}"
