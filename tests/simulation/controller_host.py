"""The controller's seat: who holds it, and what its disk keeps for the next one."""

from __future__ import annotations

from dataclasses import replace

from edgenode.core.protocol.cluster import Cluster
from edgenode.core.protocol.events import Persist
from edgenode.core.protocol.orders import Leadership
from edgenode.core.protocol.run_spec import RunSpec


class ControllerHost:
    """One controller after the other, each from what the one before has persisted.

    Args:
        disk_lost: whether a successor finds nothing, and has to recover the run from the nodes.

    Attributes:
        cluster: the machine of the one who runs; None while none does.
        cut_out: node -> the newest incarnation that any of them has cut out, whoever has heard of it.
    """

    def __init__(self, run_spec: RunSpec, disk_lost: bool) -> None:
        self._charter, self._disk_lost = run_spec, disk_lost
        self.cluster: Cluster | None = Cluster(run_spec, Leadership(0, "c0"))
        self.cut_out: dict[str, int] = {}
        self._persisted: Persist | None = None
        self._founded = False
        self._successors = 0

    def persist(self, action: Persist) -> None:
        """What a controller does not lose with its process."""
        self._persisted, self._founded = action, True
        self.cut_out |= {dead: action.plan.last_evicted(dead) for dead, _ in action.plan.latest.evictions}

    def vacate(self) -> None:
        """The controller vanishes."""
        self.cluster = None

    def succeed(self) -> None:
        """The next one begins, with a higher term."""
        self._successors += 1
        saved = None if self._disk_lost else self._persisted
        # precaution: a controller starts in a higher term
        leadership = Leadership(saved.term + 1 if saved else 0, f"c{self._successors}")
        self._persisted = saved = replace(saved, term=leadership.term) if saved else None
        self.cluster = Cluster(self._charter, leadership, saved, recover=self._disk_lost and self._founded)
