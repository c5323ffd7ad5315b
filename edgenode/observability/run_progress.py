"""The progress, the pace and the bytes of a run, whichever node joins, leaves or restarts.

1. A count never falls, and stops at MOST_COUNTED. A process starts to count at its checkpoint, or at 0 if it joins as a
   newcomer. The count of its node continues where the process before it ended. It is kept when the node leaves the run.
2. The round of the run never falls, with one exception: all nodes were down, and the run resumes from a checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.status import COUNTERS, NodeStatus
from edgenode.net.status_wire import MOST_COUNTED

_POINTS = 60  # of the measured pace
_APART_S = 1.0
_MOST_NODES = 4096  # a run has fewer, whatever names its nodes use


@dataclass
class _Counts:
    """The counts of one node.

    Attributes:
        carried: the counts of earlier processes that the current one does not include.
    """

    process: str = ""
    carried: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    total: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))


class NodeCounts:
    """The counts of every node that ever took part, across its processes."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Counts] = {}

    def add(self, node: str, process: str, status: NodeStatus) -> NodeStatus:
        """The report of a process, with the counts of its node."""
        if node not in self._nodes and len(self._nodes) >= _MOST_NODES:
            return status
        counts = self._nodes.setdefault(node, _Counts(process))
        for counter in COUNTERS:
            reported, total = getattr(status, counter), counts.total[counter]
            if process != counts.process:
                counts.carried[counter] = max(0, total - reported)
            counts.total[counter] = max(total, min(reported + counts.carried[counter], MOST_COUNTED))
        counts.process = process
        return self.continued(node, status)

    def continued(self, node: str, status: NodeStatus) -> NodeStatus:
        """A status with the counts of its node so far."""
        counts: dict[str, Any] = dict(self._nodes[node].total) if node in self._nodes else {}
        return replace(status, **counts)

    def departed(self, counter: str, listed: Iterable[str]) -> int:
        """The sum of a counter over all nodes that are not listed."""
        return min(sum(self._nodes[node].total[counter] for node in self._nodes.keys() - set(listed)), MOST_COUNTED)

    def restore(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Take the counts that an earlier controller recorded. The nodes may have reported to this one already."""
        for node, recorded in counts.items():
            known = self._nodes.setdefault(node, _Counts())
            for counter in COUNTERS:
                more = max(0, min(recorded[counter], MOST_COUNTED) - known.total[counter])
                known.total[counter] += more
                known.carried[counter] += more if known.process else 0


class RunProgress:
    """The progress of one run.

    Attributes:
        reached: the round of the run.
    """

    def __init__(self) -> None:
        self.counts = NodeCounts()
        self.reached = 0
        self._pace = deque[tuple[float, int]](maxlen=_POINTS)  # (monotonic seconds, round)
        self._chain = ""  # the digest of its first record: a run that resumes from a checkpoint has another

    def observe(self, plan: Plan, members: Iterable[NodeStatus], paused: bool, now: float) -> None:
        """Take the members' last reports."""
        if plan.records[0].digest != self._chain:
            self._chain, self.reached = plan.records[0].digest, plan.records[0].start
            self._pace.clear()
        self.reached = max(self.reached, min((status.round for status in members if status.reported), default=0))
        if paused:
            self._pace.clear()
        elif not self._pace or (self.reached > self._pace[-1][1] and now - self._pace[-1][0] >= _APART_S):
            self._pace.append((now, self.reached))

    def restore(self, reached: int, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Take what an earlier controller of this run recorded."""
        self.reached = max(self.reached, reached)
        self._pace.clear()
        self.counts.restore(counts)

    def time_left_s(self, end: int) -> float | None:
        """The seconds until round ``end``, at the pace of the last minute or more. None until the pace is known."""
        if len(self._pace) < 2:
            return None
        (since, first), (until, last) = self._pace[0], self._pace[-1]
        return max(0, end - self.reached) * (until - since) / (last - first)
