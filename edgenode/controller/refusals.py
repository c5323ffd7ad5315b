"""Members' reports that they refused the average of the last phase.

They come when the run is over. So they are noted, and pause nothing: some members may still be in the last rounds, and
would wait for an operator there.
"""

from __future__ import annotations

from edgenode.core.protocol.events import Accused, ClusterEvent, Reported
from edgenode.core.protocol.orders import Accusation
from edgenode.core.protocol.plan.last_phase import phase_at
from edgenode.core.protocol.plan.plan import Plan


class Refusals:
    """Notes the first report of each member."""

    def __init__(self) -> None:
        self._noted = set[str]()

    def take(self, event: ClusterEvent, plan: Plan | None) -> list[Accused] | None:
        """Return what to note of an event, or None if it is not about the average of an allreduce."""
        match event:
            case Reported(node, Accusation(member="", round=t) as accusation) if plan is not None and t > 0:
                phase = phase_at(plan, t - 1)
                if phase is None or t > phase.end:
                    return None
                is_new = node in plan.latest.names and node not in self._noted
                self._noted |= {node} if is_new else set()
                return [Accused(node, accusation)] if is_new else []
        return None
