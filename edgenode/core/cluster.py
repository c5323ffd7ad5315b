"""The controller's decisions as a state machine: who founds a run, and how its plan changes. No I/O, no clock.

A change is a record given to one member; the members' own pushes carry it to the rest, so a controller that dies
right after the offer has done its work. Only one record may be not yet in force; further changes wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import assert_never

from edgenode.core.messages import (
    Change,
    ClusterAction,
    ClusterEvent,
    Joined,
    Lost,
    Offer,
    OfferAnswered,
    Progressed,
    Refuse,
    Reply,
    Rotate,
    Stop,
    Welcome,
)
from edgenode.core.plan import Member, Plan, Record, Schedule, found, reach, resume
from edgenode.errors import EdgenodeError, GraphError

_FIRST_MARGIN = 4  # rounds between a member's last report and the offer's arrival; doubled when that was too few
_MAX_MARGIN = 1 << 16


@dataclass(frozen=True)
class Charter:
    """What a run is founded on.

    Attributes:
        nodes: how many members it waits for.
        run_digest: of the configuration that all must share.
        every: length of one graph's turn, in epochs if ``epochs``, else in rounds.
        rounds: of the whole run, gossip included.
    """

    cluster: str
    nodes: int
    run_digest: str
    schedule: Schedule
    epochs: bool
    rounds: int


@dataclass
class _Pending:
    """A record on offer: asked of one member, not known to be accepted."""

    record: Record
    asked: str
    changes: list[Change] = field(default_factory=list)


class Cluster:
    """The membership and the plan of one run.

    Attributes:
        plan: None until the run is founded.
        next_rounds: the next round of each node, as last reported.
    """

    def __init__(self, charter: Charter) -> None:
        self.charter = charter
        self.plan: Plan | None = None
        self.present: dict[str, Joined] = {}
        self.next_rounds: dict[str, int] = {}
        self.rounds_per_epoch = 1
        self._silent: dict[str, int] = {}  # welcomed and not heard of since, with the round to start at
        self._queue: list[Change] = []
        self._pending: _Pending | None = None
        self._margin = _FIRST_MARGIN

    def missing(self) -> int:
        """How many nodes the founding still waits for."""
        return 0 if self.plan else max(0, self.charter.nodes - len(self.present))

    def handle(self, event: ClusterEvent) -> list[ClusterAction]:
        """Take one event; return what is to be done, in this order."""
        match event:
            case Joined():
                return [*self._joined(event), *self._offer_next()]
            case Lost(node):
                self.present.pop(node, None)
                return []
            case Progressed():
                self._silent.pop(event.node, None)
                return self._progressed(event)
            case OfferAnswered():
                return self._answered(event)
            case Rotate() | Stop():
                return self._asked(event)
        assert_never(event)

    # --- members ------------------------------------------------------------------------------------

    def _joined(self, event: Joined) -> list[ClusterAction]:
        if event.run_digest != self.charter.run_digest:
            return [Refuse(event.node, f"run digest differs: the controller's is {self.charter.run_digest}, "
                                       f"{event.node}'s is {event.run_digest}")]  # fmt: skip
        if event.node in self.present:
            other = self.present[event.node].address
            return [Refuse(event.node, f"node id {event.node!r} is taken by {other}; this one is {event.address}")]
        if event.running and event.plan:
            return self._returned(event, event.plan)
        if self.plan:
            return self._late(event, self.plan)
        self.present[event.node] = event
        self.rounds_per_epoch = max(self.rounds_per_epoch, event.rounds_per_epoch)
        return [] if self.missing() else self._found()

    def _late(self, event: Joined, plan: Plan) -> list[ClusterAction]:
        """Too late to take part, unless it is a member whose welcome was lost with its link."""
        address = {m.node: m.address for m in plan.latest.members}.get(event.node)
        if event.node in self._silent and event.address == address:
            self.present[event.node] = event
            return [Welcome(event.node, plan, self._silent[event.node])]
        return [_started(event.node, plan)]

    def _returned(self, event: Joined, plan: Plan) -> list[ClusterAction]:
        """A member of a running run reached us again, or for the first time if we are the ones who restarted."""
        refused: list[ClusterAction] = []
        if self.plan is None:  # those who gathered here in the meantime wait for a founding that will not be
            refused = [_started(node, plan) for node in self.present]
            self.present.clear()
            self.plan = plan
        if plan.records[0].digest != self.plan.records[0].digest:
            ours, theirs = self.plan.records[0].digest, plan.records[0].digest
            return [Refuse(event.node, f"this run was founded on plan {ours}, {event.node}'s on {theirs}")]
        if plan.latest.number > self.plan.latest.number:
            self.plan = plan
        self._silent.pop(event.node, None)
        self.present[event.node] = event
        self.rounds_per_epoch = max(self.rounds_per_epoch, event.rounds_per_epoch)
        settled = self._settle(plan.latest.number, plan.latest.digest)
        return [*refused, *settled, *self._repeat_to(event.node)]

    def _found(self) -> list[ClusterAction]:
        """Everyone is here: a new run, or the continuation of the one all have saved."""
        members = [Member(j.node, 0, j.address) for j in self.present.values()]
        saved = {j.node: (j.saved, j.plan) for j in self.present.values() if j.saved and j.plan}
        start = 0
        try:
            if not saved:
                self.plan = found(self.charter.cluster, members, self._founding_schedule())
            elif absent := sorted(set(self.present) - set(saved)):
                raise GraphError(f"cannot resume: no checkpoint on {', '.join(absent)}")
            else:
                self.plan, start = resume(members, saved)
        except GraphError as exc:
            refused = [Refuse(node, str(exc)) for node in self.present]
            self.present.clear()
            return list(refused)
        self.next_rounds = dict.fromkeys(self.present, start)
        self._silent = dict(self.next_rounds)
        return [Welcome(node, self.plan, start) for node in sorted(self.present)]

    def _founding_schedule(self) -> Schedule:
        schedule = self.charter.schedule
        return replace(schedule, every=self._rounds(schedule.every, self.charter.epochs))

    def _rounds(self, every: int, epochs: bool) -> int:
        """A number of epochs in rounds: those of the node with most data."""
        return every * self.rounds_per_epoch if epochs else every

    # --- changes ------------------------------------------------------------------------------------

    def _asked(self, change: Change) -> list[ClusterAction]:
        if self.plan is None:
            return [_no(change, f"the run has not started: it waits for {self.missing()} more nodes")]
        if any(isinstance(c, Stop) for c in self._coming()) or self.plan.latest.end is not None:
            return [_no(change, "the run is stopping")]
        if isinstance(change, Rotate):
            try:
                self._schedule(change, start=0).check(self.plan.latest.names)
            except GraphError as exc:
                return [_no(change, str(exc))]
        self._queue.append(change)
        return self._offer_next()

    def _coming(self) -> list[Change]:
        return [*self._queue, *(self._pending.changes if self._pending else [])]

    def _schedule(self, change: Rotate, start: int) -> Schedule:
        assert self.plan is not None
        every = self._rounds(change.every, change.epochs)
        return replace(self.plan.latest.schedule, graphs=change.graphs, every=every, origin=start)

    def _offer_next(self) -> list[ClusterAction]:
        """Offer all queued changes as one record, if the last one is in force everywhere and a member is there."""
        if self.plan is None or self._pending or not self._queue or not self._settled():
            return []
        member = min((n for n in self.plan.latest.names if n in self.present), default=None)
        if member is None:
            return []
        changes, self._queue = self._queue, []
        return self._offer(member, changes)

    def _settled(self) -> bool:
        """The latest record is in force at every member; one not heard of may know another that we do not."""
        assert self.plan is not None
        start = self.plan.latest.start
        return all(self.next_rounds.get(node, -1) >= start for node in self.plan.latest.names)

    def _offer(self, member: str, changes: list[Change]) -> list[ClusterAction]:
        assert self.plan is not None
        soonest = self.next_rounds.get(member, 0) + self._margin
        try:
            start = soonest + reach(self.plan, member, soonest) + 1
            if start >= self.charter.rounds:
                raise GraphError(f"too late: the run ends with round {self.charter.rounds}")
            record = self._successor(start, changes)
        except EdgenodeError as exc:
            return [_no(change, str(exc)) for change in changes]
        self._pending = _Pending(record, member, changes)
        return [Offer(member, record)]

    def _successor(self, start: int, changes: list[Change]) -> Record:
        assert self.plan is not None
        rotations = [c for c in changes if isinstance(c, Rotate)]
        schedule = self._schedule(rotations[-1], start) if rotations else self.plan.latest.schedule
        end = start if any(isinstance(c, Stop) for c in changes) else None
        return self.plan.successor(start, schedule=schedule, end=end)

    def _answered(self, event: OfferAnswered) -> list[ClusterAction]:
        pending, answer = self._pending, event.answer
        self.next_rounds[event.node] = max(self.next_rounds.get(event.node, 0), answer.next_round)
        if pending is None or pending.asked != event.node or pending.record.digest != answer.digest:
            return []
        if answer.accepted:
            return self._settle(answer.number, answer.digest)
        # too late: nobody has the record, so another one may take its number
        self._pending = None
        self._margin = min(2 * self._margin, _MAX_MARGIN)
        return [*self._offer(event.node, pending.changes), *self._offer_next()]

    def _settle(self, number: int, digest: str) -> list[ClusterAction]:
        """A member knows the record on offer: it is part of the plan."""
        pending = self._pending
        if pending is None or self.plan is None or digest != pending.record.digest:
            return []
        self._pending = None
        self._margin = _FIRST_MARGIN
        if self.plan.latest.number < number:
            self.plan = self.plan.extend(pending.record)
        return [*(Reply(c.ticket, pending.record.start) for c in pending.changes), *self._offer_next()]

    def _repeat_to(self, node: str) -> list[ClusterAction]:
        """The answer to an offer was lost with the link: the same record again, never another."""
        if self._pending and self._pending.asked == node:
            return [Offer(node, self._pending.record)]
        return []

    def _progressed(self, event: Progressed) -> list[ClusterAction]:
        self.next_rounds[event.node] = event.next_round
        return [*self._settle(event.number, event.digest), *self._offer_next()]


def _started(node: str, plan: Plan) -> Refuse:
    return Refuse(node, f"the run has started with {', '.join(plan.latest.names)}")


def _no(change: Change, error: str) -> Reply:
    return Reply(change.ticket, None, error)
