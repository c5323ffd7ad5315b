"""Graceful changes of plan: what was requested and is not yet part of the plan.

How a change becomes part of the plan, without a vote and without a doubt:

1. Changes queue. When the latest record is in force at every member, all queued changes become one new record. So at
   most one record is not in force, and two records never have one number.
2. The record is offered to a single member, with a start that lies ahead of it by the rounds that a flood from that
   member needs to reach all members (`plan.reach`), plus a margin for the way of the offer.
3. A member that accepts carries the record on its pushes, and so does every node that learns of it. No node finishes a
   round without a push of each in-neighbour, so every node has the record before it starts. The barrier is the
   acknowledgement, and from now on the change does not need the controller.
4. A refusal proves that no node has the record: its number is free, and the changes are offered again with twice the
   margin. A lost answer proves nothing, so the same record is offered again, to the same member. Every report that
   names the record settles the offer, whichever member sends it.

Invariant: between offer and settlement the record on offer does not change, and no other record has its number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgenode.core.protocol.cluster_state import ClusterState
from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Reply, Rotate, Send, Stop
from edgenode.core.protocol.orders import LeaveRefused, Offer, OfferAnswer, Refuse, Welcome
from edgenode.core.protocol.plan import Member, Plan, Record, reach
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import Schedule
from edgenode.core.wording import counted
from edgenode.errors import EdgenodeError, GraphError

_FIRST_MARGIN = 4  # rounds between a member's last report and the offer's arrival; doubled when that was too few
_MAX_MARGIN = 1 << 16


@dataclass(frozen=True)
class Departure:
    """A member hands over what it has, and leaves."""

    node: str


@dataclass(frozen=True)
class Admission:
    """A newcomer has the model and becomes a member, as long as this process waits under its name."""

    node: str
    process: str


Change = Rotate | Stop | Departure | Admission


@dataclass(frozen=True)
class PendingOffer:
    """A record that was offered to one member and is not known to be accepted."""

    record: Record
    node: str
    changes: tuple[Change, ...]


class PendingChanges:
    """The changes to come, in the order of their requests.

    Args:
        evict: begins the eviction of a member whose process is dead.

    Attributes:
        offer: the record on offer, if there is one.
    """

    def __init__(self, state: ClusterState, evict: Callable[[str], list[ClusterAction]]) -> None:
        self._state, self._evict = state, evict
        self.offer: PendingOffer | None = None
        self._queue: list[Change] = []
        self._margin = _FIRST_MARGIN

    @property
    def _coming(self) -> list[Change]:
        return [*self._queue, *(self.offer.changes if self.offer else ())]

    def add(self, change: Change) -> None:
        """Queue a change."""
        self._queue.append(change)

    def request(self, change: Rotate | Stop | Departure) -> list[ClusterAction]:
        """Queue what an operator or a member requests, unless it is impossible."""
        if why_not := self.why_not():
            return _refused(change, why_not)
        if self._state.paused and isinstance(change, Departure):
            return _refused(change, "the run is paused: a hand-over takes a round")
        try:
            self._check(change)
        except GraphError as exc:
            return _refused(change, str(exc))
        self.add(change)
        return []

    def why_not(self) -> str:
        """Why no change can be requested: before the start and after the end. Empty if it can."""
        state = self._state
        if state.plan is None:
            return f"the run has not started: it waits for {counted(missing(state), 'more node')}"
        if state.over:
            return state.why_over()
        stops = state.plan.latest.end is not None or any(isinstance(c, Stop) for c in self._coming)
        return "the run is stopping" if stops else ""

    def _check(self, change: Rotate | Stop | Departure) -> None:
        """Refuse what can never be.

        Raises:
            GraphError: the graph does not carry the run, the leaver is not a member, or too few members would stay.
        """
        assert self._state.plan is not None
        names, run_spec = self._state.plan.latest.names, self._state.run_spec
        match change:
            case Rotate():
                schedule = self._rotated(change, 0)
                schedule.check(names)
                run_spec.requirements.check(schedule, names)
            case Departure(node):
                leaving = {c.node for c in self._coming if isinstance(c, Departure)} | {node}
                if node not in names:
                    raise GraphError(f"{node} is not a member")
                if len(set(names) - leaving) < max(1, run_spec.min_nodes):
                    raise GraphError(f"{node} cannot leave: {counted(run_spec.min_nodes, 'node')} must stay")

    def _rotated(self, change: Rotate, start: int) -> Schedule:
        assert self._state.plan is not None
        every = change.period.rounds(self._state.epoch.rounds)
        return replace(self._state.plan.latest.schedule, graphs=change.graphs, every=every, origin=start)

    # --- offering -----------------------------------------------------------------------------------

    def offer_next(self) -> list[ClusterAction]:
        """Offer all queued changes as one record, if the last one is in force everywhere and a member is connected."""
        plan, membership = self._state.plan, self._state.membership
        if plan is None or self.offer or not self._queue:
            return []
        # precaution: one change is in force before the next is offered
        if not membership.is_settled(plan):
            return []
        node = min((n for n in plan.latest.names if membership.takes_part(n)), default=None)
        if node is None:
            return []
        changes, self._queue = self._queue, []
        void = [c for c in changes if isinstance(c, Departure) and c.node not in plan.latest.names]
        changes = [c for c in changes if c not in void and self._is_possible(c)]
        refused = [action for c in void for action in _refused(c, f"{c.node} is not a member")]
        return [*refused, *(self._offer_to(node, changes) if changes else [])]

    def _is_possible(self, change: Change) -> bool:
        return not isinstance(change, Admission) or self._state.membership.is_waiting(change.node, change.process)

    def _offer_to(self, node: str, changes: list[Change]) -> list[ClusterAction]:
        assert self._state.plan is not None
        try:
            start = self._start(self._state.plan, node)
            if start >= self._state.run_spec.rounds:
                raise GraphError(f"too late: the run ends with round {self._state.run_spec.rounds}")
            record = self._successor(self._state.plan, start, changes)
        except EdgenodeError as exc:
            return [a for change in changes for a in self._give_up(change, str(exc))]
        self.offer = PendingOffer(record, node, tuple(changes))
        return [Send(node, Offer(record))]

    def _start(self, plan: Plan, node: str) -> int:
        """The first round at which a record can be in force that is offered to a member now: step 2."""
        soonest = self._state.membership.next_rounds.get(node, 0) + self._margin
        return soonest + reach(plan, node, soonest) + 2

    def _successor(self, plan: Plan, start: int, changes: list[Change]) -> Record:
        """The record that makes all of these changes at once.

        Raises:
            GraphError: no member would be left.
        """
        rotations = [c for c in changes if isinstance(c, Rotate)]
        schedule = self._rotated(rotations[-1], start) if rotations else plan.latest.schedule
        end = start if any(isinstance(c, Stop) for c in changes) else None
        leavers = [c.node for c in changes if isinstance(c, Departure)]
        stay = [m for m in plan.latest.members if m.node not in leavers]
        if not stay:
            raise GraphError(f"{', '.join(leavers)} cannot leave: no other member is left")
        joiners = [c.node for c in changes if isinstance(c, Admission)]
        newcomers = self._state.membership.newcomers
        new = [Member(node, plan.next_incarnation(node), newcomers[node].address) for node in joiners]
        members = tuple(sorted([*stay, *new]))
        handoffs = tuple((leaver, stay[i % len(stay)].node) for i, leaver in enumerate(sorted(leavers)))
        schedule = schedule.over(tuple(m.node for m in members))
        return plan.successor(
            start, schedule=schedule, end=end, members=members, handoffs=handoffs, term=self._state.term
        )

    def _give_up(self, change: Change, error: str) -> list[ClusterAction]:
        if not isinstance(change, Admission):
            return _refused(change, error)
        self._state.membership.newcomers.pop(change.node, None)
        self._state.membership.present.pop(change.node, None)
        return [Send(change.node, Refuse(error))]

    # --- settling -----------------------------------------------------------------------------------

    def answered(self, node: str, answer: OfferAnswer) -> list[ClusterAction]:
        """A member answered an offer: steps 3 and 4."""
        rounds = self._state.membership.next_rounds
        rounds[node] = max(rounds.get(node, 0), answer.next_round)
        if self.offer is None or self.offer.node != node or self.offer.record.digest != answer.digest:
            return []
        if answer.accepted:
            return self.settle(answer.number, answer.digest)
        self.take_back_offer()
        self._margin = min(2 * self._margin, _MAX_MARGIN)
        return []

    def settle(self, number: int, digest: str) -> list[ClusterAction]:
        """A member knows the record on offer. It is part of the plan, and the nodes that join by it are welcome."""
        offer, state = self.offer, self._state
        if offer is None or state.plan is None or digest != offer.record.digest:
            return []
        self.offer, self._margin = None, _FIRST_MARGIN
        if state.plan.latest.number < number:
            state.plan = state.plan.extend(offer.record)
        start = offer.record.start
        actions: list[ClusterAction] = [state.persist()]
        for change in offer.changes:
            match change:
                case Rotate() | Stop():
                    actions.append(Reply(change.request_id, start))
                case Admission(node, process):
                    if state.membership.admit(node, process, start):
                        actions.append(Send(node, Welcome(state.plan, start)))
                    elif node in state.membership.newcomers:  # another process by now: the member's is dead
                        actions += self._evict(node)
        return actions

    def take_back_offer(self) -> None:
        """No node that lives has the record on offer: its changes are requested again, before all others."""
        if self.offer is not None:
            self._queue, self.offer = [*self.offer.changes, *self._queue], None

    def expire(self, why: str) -> list[ClusterAction]:
        """Forget all changes. Those that requested them get the reason."""
        coming, self._queue, self.offer = self._coming, [], None
        return [a for c in coming if not isinstance(c, Admission) for a in _refused(c, why) if not _unrequested(c)]


def missing(state: ClusterState) -> int:
    """How many nodes the start of the run still waits for."""
    return 0 if state.plan else max(0, state.run_spec.nodes - len(state.membership.present))


def pending_rotation(plan: Plan, after: int) -> Rotate | None:
    """The last rotation of a plan that begins after a round, to be requested again when all resume from that round."""
    promised = [r.schedule for r in plan.records if r.start > after and r.schedule.origin == r.start]
    return Rotate(UNREQUESTED, promised[-1].graphs, Period(promised[-1].every)) if promised else None


def _unrequested(change: Rotate | Stop | Departure) -> bool:
    return isinstance(change, Rotate | Stop) and change.request_id == UNREQUESTED


def _refused(change: Rotate | Stop | Departure, error: str) -> list[ClusterAction]:
    if isinstance(change, Departure):
        return [Send(change.node, LeaveRefused(error))]
    return [Reply(change.request_id, None, error)]
