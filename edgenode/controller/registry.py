"""Who is there, as the controller sees it: what each node said last, and when. Nothing here decides anything."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from edgenode.controller.evidence import NodeEvidence
from edgenode.core.protocol.plan import Plan
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.observability.model_sketch import BUCKETS, distance

log = structlog.get_logger()

_SKETCHES_KEPT = 8


@dataclass
class NodeEntry:
    """What the controller last heard of a node."""

    address: str
    process: str = ""  # unknown of a member that has not called yet
    connected: bool = True
    seen: float = field(default_factory=time.monotonic)
    status: NodeStatus = field(default_factory=NodeStatus)
    sketches: dict[int, tuple[float, ...]] = field(default_factory=dict)  # by round

    @property
    def ended(self) -> bool:
        return self.status.state.ended

    def sketched(self) -> None:
        """Keep the newest sketches: the others' of the same round may come later."""
        if len(self.status.sketch) == BUCKETS:
            self.sketches[self.status.sketch_round] = self.status.sketch
            for old in sorted(self.sketches)[:-_SKETCHES_KEPT]:
                del self.sketches[old]

    def heard(self, now: float) -> NodeEvidence:
        """As evidence."""
        status = self.status
        return NodeEvidence(now - self.seen, status.waiting_for, status.waiting_s, status.state.ended_well)


class NodeRegistry(dict[str, NodeEntry]):
    """The nodes by name."""

    def expect(self, plan: Plan | None) -> None:
        """A member that has not called since we started may be dead: its silence counts from then."""
        for member in plan.latest.members if plan else ():
            self.setdefault(member.node, NodeEntry(member.address, connected=False))

    def joined(self, node: str, address: str, process: str) -> None:
        """A node called."""
        self[node] = NodeEntry(address, process)

    def lost(self, node: str, plan: Plan | None) -> None:
        """Its link ended. Before the founding, that is all there was of it."""
        if node not in self:
            return
        self[node].connected = False
        if plan is None:
            del self[node]
        elif not self[node].ended:
            log.warning("lost sight of a node", node=node)

    def reported(self, node: str, status: NodeStatus) -> None:
        """A node said how it is."""
        if node not in self:
            return
        entry = self[node]
        if status.state is NodeState.FAILED and entry.status.state is not status.state:
            log.error("a node failed", node=node, reason=status.error)
        entry.status, entry.seen = status, time.monotonic()
        entry.sketched()

    def forget(self, nodes: Iterable[str]) -> None:
        """They are members no more, and not here."""
        for node in nodes:
            self.pop(node, None)

    def members(self, plan: Plan | None) -> list[NodeEntry]:
        """Those of the plan that are known."""
        return [self[name] for name in (plan.latest.names if plan else ()) if name in self]

    def are_abandoned(self, plan: Plan) -> bool:
        """Whether some members have ended, and the others are not here, and too few to go on without those."""
        members = self.members(plan)
        left = [m for m in members if not m.ended]
        failed = any(m.status.state is NodeState.FAILED for m in members)
        few = len(left) < len(members) and 2 * len(left) <= len(members)
        return (few or failed) and not any(m.connected for m in left)

    def consensus(self, plan: Plan | None) -> tuple[int, float] | None:
        """The newest round of which all members have said their sketches, and how far apart the models were then."""
        members = self.members(plan)
        rounds = set[int].intersection(*(set(m.sketches) for m in members)) if members else set[int]()
        if not rounds:
            return None
        newest = max(rounds)
        return newest, distance([m.sketches[newest] for m in members])

    def heard(self) -> dict[str, NodeEvidence]:
        """What is known of everyone, as evidence."""
        now = time.monotonic()
        return {node: entry.heard(now) for node, entry in self.items()}
