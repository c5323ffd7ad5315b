"""The host of the controller: which controller runs on it, and what its disk keeps for the next one."""

from __future__ import annotations

from dataclasses import replace

from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import Persist
from edgenode.core.protocol.orders import Leadership
from edgenode.core.protocol.plan.run_spec import RunSpec
from tests.simulation.signer import CONTROLLER_SIGNER


class ControllerHost:
    """One controller after the other, each from what the one before has persisted.

    Args:
        disk_lost: whether a restarted controller finds nothing, and has to recover the run from the nodes.

    Attributes:
        cluster: the state machine of the controller that runs; None while none does.
        revoked: the ids of all revoked keys.
        evicted: node -> the newest incarnation that any controller has evicted, whether or not a node knows of it.
    """

    def __init__(self, run_spec: RunSpec, disk_lost: bool) -> None:
        self._run_spec, self._disk_lost = run_spec, disk_lost
        self.cluster: Cluster | None = Cluster(run_spec, Leadership(0, "c0"), signer=CONTROLLER_SIGNER)
        self.evicted: dict[str, int] = {}
        self.revoked: frozenset[str] = frozenset()
        self._persisted: Persist | None = None
        self._run_created = False
        self._restarts = 0

    def persist(self, action: Persist) -> None:
        """Write what a controller does not lose with its process."""
        self._persisted, self._run_created = action, True
        self.evicted |= {node: action.plan.processes.last_evicted(node) for node, _ in action.plan.latest.evictions}

    def crash(self) -> None:
        """End the controller."""
        self.cluster = None

    def restart(self) -> None:
        """Start the next controller, in a higher term."""
        self._restarts += 1
        saved = None if self._disk_lost else self._persisted
        # precaution: a controller starts in a higher term
        leadership = Leadership(saved.term + 1 if saved else 0, f"c{self._restarts}")
        self._persisted = saved = replace(saved, term=leadership.term) if saved else None
        recover = self._disk_lost and self._run_created
        self.cluster = Cluster(self._run_spec, leadership, saved, recover, CONTROLLER_SIGNER)
