"""What connected nodes wait for: more nodes, or the end of their wait after an eviction.

A node that nothing reaches, or that is too slow, holds the run up again each time it returns. So it waits
`evict_after_s` after its first eviction, and twice as long after each further one, up to _LONGEST_S. A node that is not
evicted for _LONGEST_S after a wait begins with the first one again. A node that died waits for nothing.
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
NO_LINKS = f"nothing relays to or from it: check {CHECK}"
TOO_SLOW = "it is too slow: give it less to do, or a smaller batch"


class Probation:
    """The nodes that were evicted though they live, and how long they wait.

    Args:
        first_s: the first wait.
    """

    def __init__(self, first_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_s, self._clock = first_s, clock
        self._waits: dict[str, tuple[float, float, str]] = {}  # by node: seconds, when they end, and why it waits

    def begin(self, node: str, why: str) -> float:
        """A node has to go. Return how many seconds it waits, from now on, before it can join again."""
        now = self._clock()
        wait_s, end, _ = self._waits.get(node, (0.0, now, ""))
        if now < end:
            return wait_s  # it cannot have returned: its eviction was rejected
        again = wait_s > 0 and now - end < _LONGEST_S
        wait_s = min(2 * wait_s, _LONGEST_S) if again else self._first_s
        self._waits[node] = wait_s, now + wait_s, why
        return wait_s

    def waiting(self) -> dict[str, str]:
        """The nodes that cannot join yet, each with the length of its wait and the reason."""
        now = self._clock()
        return {
            node: f"{node} was evicted for {wait_s:.0f} s, because {why}"
            for node, (wait_s, end, why) in self._waits.items()
            if now < end
        }


def standbys(state: ClusterState, waiting: Mapping[str, str]) -> list[Send]:
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
    return [Send(node, Standby((), 0, waiting[node])) for node in held]
