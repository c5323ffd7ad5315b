"""What operators requested and were promised, and whether the controllers keep to it.

1. The schedule that was requested last is used as it is whenever it fits the members: after evictions, joins, leaves,
   restarts of the controller, and a resume of all.
2. A rotation that was accepted, at once or into the queue, takes effect, is replaced by a later one, or is dropped with
   a reason. A controller that lost its disk need not know of it.
3. A run that was extended stays so. An operator was given the round for it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from edgenode.core.protocol.controller.changes import describe
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import UNREQUESTED, Extend, OperatorRequest, Persist, Reply, Rotate
from edgenode.core.topology import allreduce
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError
from tests.simulation.invariants import require


class RequestRecord:
    """The requests and replies of one run.

    Attributes:
        replies: request id -> the last reply to an operator.

    Raises:
        LocalProtocolError: by `persisted` and `check_end`; a promise is broken.
    """

    def __init__(self, happened: Counter[str]) -> None:
        self.replies: dict[int, Reply] = {}
        self._happened = happened
        self._kinds: dict[int, str] = {}
        self._rotations: list[Rotate] = []  # in the order of their requests
        self._promised = -1  # position of the newest accepted rotation
        self._extensions: dict[int, int] = {}  # request id -> rounds of training
        self._extended = 0  # the most that was granted
        self._dropped: set[str] = set()  # descriptions
        self._substituted: Schedule | None = None  # the requested schedule, while a substitute is used

    def requested(self, request: OperatorRequest, kind: str) -> None:
        """An operator requests something of a controller that runs."""
        self._kinds[request.request_id] = kind
        if isinstance(request, Rotate):
            self._rotations.append(request)
        if isinstance(request, Extend):
            self._extensions[request.request_id] = request.rounds

    def replied(self, reply: Reply) -> None:
        """A controller replies, or reports what became of a queued change."""
        if reply.request_id == UNREQUESTED:
            self._dropped.add(reply.error.partition(":")[0])
            return
        self.replies[reply.request_id] = reply
        accepted = reply.start is not None or reply.waits_for
        if accepted and reply.request_id in self._kinds:
            self._happened[self._kinds[reply.request_id]] += 1
        if reply.start is not None:
            self._extended = max(self._extended, self._extensions.get(reply.request_id, 0))
        self._happened["queued"] += bool(reply.waits_for)
        self._happened["replaced in the queue"] += bool(reply.replaces)
        ids = [rotation.request_id for rotation in self._rotations]
        if accepted and reply.request_id in ids:
            self._promised = max(self._promised, ids.index(reply.request_id))

    def persisted(self, persist: Persist) -> None:
        """A controller persists its plan."""
        record, requested = persist.plan.latest, persist.requested
        require(requested is not None, "a plan without a requested schedule")
        assert requested is not None
        if requested.last and requested.last.preset == allreduce.NAME:
            # it begins again when a member is evicted: `invariants`
            requested = replace(requested, last_from=record.schedule.last_from)
        # whatever links are left out (`blocked_links`)
        requested = replace(requested, without=record.schedule.without)
        if _fits(requested, record.names):
            require(record.schedule == requested, f"{record.schedule.name} is used, although {requested.name} fits")
            self._happened["returned to the requested graph"] += requested == self._substituted
            self._substituted = None
        else:
            self._happened["substitute"] += self._substituted is None
            self._substituted = requested

    def check_end(self, cluster: Cluster | None) -> None:
        """The run is over: what was accepted last was used, or something later, or there is a reason."""
        if cluster is None or cluster.state.plan is None or cluster.state.requested is None:
            return
        rounds = cluster.state.plan.latest.rounds or 0
        require(self._extended <= rounds, f"extended to {self._extended} rounds, but {rounds} are planned")
        if self._promised < 0:
            return
        kept = {rotation.graphs for rotation in self._rotations[self._promised :]}
        words = {describe(rotation) for rotation in self._rotations[self._promised :]}
        pending = {change.change for change in cluster.pending()}
        require(
            cluster.state.requested.graphs in kept or bool(words & (pending | self._dropped)),
            f"accepted {sorted(words)}, but {cluster.state.requested.name} is used, {sorted(pending)} is pending",
        )


def _fits(schedule: Schedule, members: tuple[str, ...]) -> bool:
    try:
        schedule.check(members)
    except GraphError:
        return False
    return True
