"""The last report of every node, with the time when it arrived. Decides nothing.

Which nodes are connected is a fact of the cluster, and is not kept here.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from edgenode.controller.liveness import LastReport
from edgenode.core.protocol.events import ClusterAction, Persist, Send
from edgenode.core.protocol.orders import Refuse
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.errors import RemoteProtocolError
from edgenode.net.faults import Faults
from edgenode.observability.model_sketch import BUCKETS, distance
from edgenode.observability.run_progress import RunProgress

log = structlog.get_logger()

_SKETCHES_KEPT = 8


def within(rounds: int, status: NodeStatus) -> NodeStatus:
    """Hold a status against the number of rounds of the run. A node may know sooner than its controller that it grew.

    Raises:
        RemoteProtocolError: the run does not have a round that the node has done.
    """
    for t in (status.round, status.sketch_round):
        if t > rounds:
            raise RemoteProtocolError(f"a report of round {t} of a run of {rounds} rounds")
    return replace(status, rounds=min(status.rounds, rounds))


def removed(actions: Sequence[ClusterAction]) -> set[str]:
    """The nodes that actions evict or refuse."""
    removed = {action.node for action in actions if isinstance(action, Send) and isinstance(action.order, Refuse)}
    for action in actions:
        if isinstance(action, Persist):
            removed |= {node for node, _ in action.plan.latest.evictions}
    return removed


@dataclass
class NodeEntry:
    """The state of one node.

    Attributes:
        process: "" for a member that has not connected to this controller.
        last_seen: the monotonic time of the last report. The creation of the entry counts as one.
        sketches: the newest model sketches, by round.
    """

    address: str
    process: str = ""
    last_seen: float = field(default_factory=time.monotonic)
    status: NodeStatus = field(default_factory=NodeStatus)
    sketches: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def update(self, status: NodeStatus) -> None:
        """Take a new report, and keep its sketch: the other nodes' sketches of that round may come later."""
        self.status, self.last_seen = status, time.monotonic()
        if len(status.sketch) == BUCKETS:
            self.sketches[status.sketch_round] = status.sketch
            for old in sorted(self.sketches)[:-_SKETCHES_KEPT]:
                del self.sketches[old]

    def last_report(self, now: float) -> LastReport:
        """Return the report that the failure detector decides from."""
        status = self.status
        return LastReport(now - self.last_seen, status.waiting_for, status.waiting_s, status.state.ended_well)


class NodeRegistry(dict[str, NodeEntry]):
    """The nodes by name.

    Attributes:
        progress: the progress of the run, with nodes that are forgotten.
        faults: the protocol violations in nodes' reports.
    """

    def __init__(self) -> None:
        self.progress = RunProgress()
        self.faults = Faults()

    def add_members(self, plan: Plan | None) -> None:
        """Add members that have not connected yet. They may be dead: their silence counts from now."""
        for member in plan.latest.members if plan else ():
            if member.node not in self:
                self._add(member.node, NodeEntry(member.address))

    def connected(self, node: str, address: str, process: str) -> None:
        """A node connected."""
        self._add(node, NodeEntry(address, process))

    def _add(self, node: str, entry: NodeEntry) -> None:
        entry.status = self.progress.counts.continued(node, entry.status)
        self[node] = entry

    def restore(self, reached: int, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Take the round of the run and the counts of its nodes that an earlier controller recorded."""
        self.progress.restore(reached, counts)
        for node, entry in self.items():
            entry.status = self.progress.counts.continued(node, entry.status)

    def status(self, node: str) -> NodeStatus:
        """The last report of a node. Faults under its own name are messages that the controller rejected."""
        status = self[node].status
        others = tuple(fault for fault in status.faults if fault.peer != node)
        return replace(status, faults=others + self.faults.of(node))

    def disconnected(self, node: str, plan: Plan | None) -> None:
        """The link of a node ended. Before the run starts, the registry forgets the node."""
        if node not in self:
            return
        if plan is None:
            del self[node]
        elif not self[node].status.state.ended:
            log.warning("node disconnected", node=node)

    def reported(self, node: str, status: NodeStatus, is_member: bool = True) -> None:
        """A node reported its status. An evicted one reports a failure, which is none of the run."""
        if node not in self:
            return
        if status.state is NodeState.FAILED and self[node].status.state is not status.state:
            if is_member:
                log.error("node failed", node=node, reason=status.error)
            else:
                log.info("a node that is no member any more has ended", node=node, reason=status.error)
        if status.save_error and not self[node].status.save_error:
            log.warning("node cannot save", node=node, since_s=round(status.save_error_s), reason=status.save_error)
        elif self[node].status.save_error and not status.save_error:
            log.info("node saves again", node=node)
        self[node].update(self.progress.counts.add(node, self[node].process, status))

    def forget(self, nodes: Iterable[str]) -> None:
        """Remove nodes that are neither members nor connected."""
        for node in nodes:
            self.pop(node, None)

    def members(self, plan: Plan | None) -> list[NodeEntry]:
        """The entries of the plan's members."""
        return [self[name] for name in (plan.latest.names if plan else ()) if name in self]

    def is_abandoned(self, plan: Plan, present: Container[str]) -> bool:
        """Return whether the run cannot continue: some members ended, and the others are disconnected and too few.

        Args:
            present: the connected nodes.
        """
        members = self.members(plan)
        left = [name for name in plan.latest.names if name in self and not self[name].status.state.ended]
        failed = any(m.status.state is NodeState.FAILED for m in members)
        few = len(left) < len(members) and 2 * len(left) <= len(members)
        return (few or failed) and not any(name in present for name in left)

    def consensus_distance(self, plan: Plan | None) -> tuple[int, float] | None:
        """The newest round with sketches of all members, and the distance of their models in that round."""
        members = self.members(plan)
        rounds = set[int].intersection(*(set(m.sketches) for m in members)) if members else set[int]()
        if not rounds:
            return None
        newest = max(rounds)
        return newest, distance([m.sketches[newest] for m in members])

    def last_reports(self) -> dict[str, LastReport]:
        """Return the reports that the failure detector decides from, by node."""
        now = time.monotonic()
        return {node: entry.last_report(now) for node, entry in self.items()}
