"""Members whose training has ended before the run: they leave, or stay without training, and the last ones end the run.

A member that trains no more leaves after a handoff if enough others stay. If too few would stay, it takes part in the
rounds without training, so that the others can train on. Once no member trains any more, the run stops.

A member asks again and again until it has ended. So nothing of this has to outlive the controller.
"""

from __future__ import annotations

from edgenode.core.protocol.controller.changes import Departure
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.pending_changes import PendingChanges
from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Reply, Stop


class IdleMembers:
    """The members that do not train any more."""

    def __init__(self, state: ClusterState, changes: PendingChanges) -> None:
        self._state, self._changes = state, changes
        self._processes: dict[str, str] = {}  # of each idle member, the process that has ended its training

    def training_ended(self, node: str) -> list[ClusterAction]:
        """A member trains no more."""
        state = self._state
        if state.plan is None or self._changes.why_not() or node not in state.plan.latest.names:
            return []
        if not state.membership.takes_part(node):
            return []
        self._processes[node] = state.membership.present[node].process
        leaving = {change.node for change in state.coming if isinstance(change, Departure)}
        stay = set(state.plan.latest.names) - leaving
        if all(map(self._is_idle, stay)):
            # all stay members of the run that stops, so that it can resume as it was
            state.queue = [c for c in state.queue if not (isinstance(c, Departure) and self._is_idle(c.node))]
            return self.stop()
        if state.has_fixed_members or state.paused or node in leaving or len(stay) <= state.run_spec.min_nodes:
            return []
        return self._changes.request(Departure(node))

    def stop(self) -> list[ClusterAction]:
        """A member asks that all stop before the same round. If that comes too late, the run ends by itself."""
        if self._changes.why_not():
            return []
        actions = self._changes.request(Stop(UNREQUESTED))
        return [a for a in actions if not (isinstance(a, Reply) and a.request_id == UNREQUESTED)]

    def _is_idle(self, node: str) -> bool:
        present = self._state.membership.present
        return node in present and self._processes.get(node) == present[node].process
