"""The offers that make queued changes part of the plan, without a vote and without a doubt.

1. When the latest record is in force at every member, all queued changes become one new record. So at most one record
   is not in force, and two records never have one number.
2. The record is offered to a single member, with a start that lies ahead of it by the rounds that a flood from that
   member needs to reach all members (`flood.reach`), plus a margin for the way of the offer.
3. A member that accepts carries the record on its pushes, and so does every node that learns of it. No node finishes a
   round without a push of each in-neighbour, so every node has the record before it starts. The barrier is the
   acknowledgement, and from now on the change does not need the controller.
4. A refusal proves that no node has the record: its number is free, and the changes are offered again with twice the
   margin. A lost answer proves nothing, so the same record is offered again, to the same member. Every report that
   names the record settles the offer, whichever member sends it.

Invariant: between offer and settlement the record on offer does not change, and no other record has its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from edgenode.core.protocol.controller.changes import (
    Admission,
    Change,
    Departure,
    PendingOffer,
    Rekeying,
    Reroute,
    extensions,
    refused,
)
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.deadlines import FIRST_MARGIN, LEAD, why_too_late
from edgenode.core.protocol.controller.pending_changes import PendingChanges
from edgenode.core.protocol.events import ClusterAction, Extend, Reply, Rotate, Send, Stop
from edgenode.core.protocol.orders import Offer, OfferAnswer, Refuse, Welcome
from edgenode.core.protocol.plan.flood import reach
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import EdgenodeError, GraphError

_MAX_MARGIN = 1 << 16


class Offers:
    """The record on offer, if there is one.

    Args:
        evict: begins the eviction of a member whose process is dead.
    """

    def __init__(
        self, state: ClusterState, changes: PendingChanges, evict: Callable[[str], list[ClusterAction]]
    ) -> None:
        self._state, self._changes, self._evict = state, changes, evict
        self._margin = FIRST_MARGIN

    def make_next(self) -> list[ClusterAction]:
        """Offer all queued changes as one record, if the last one is in force everywhere and a member is connected."""
        state = self._state
        plan, membership = state.plan, state.membership
        if plan is None or state.offer or not state.queue or plan.latest.end is not None:
            return []
        # precaution: one change is in force before the next is offered
        if not membership.is_settled(plan):
            return []
        node = min((n for n in plan.latest.names if membership.takes_part(n)), default=None)
        if node is None:
            return []
        rejected = self._changes.keep_newest_rotation()
        changes, state.queue = state.queue, [c for c in state.queue if self._changes.is_held(c)]
        void = [c for c in changes if isinstance(c, Departure) and c.node not in plan.latest.names]
        rejected += [action for c in void for action in refused(c, f"{c.node} is not a member")]
        done = [c for c in changes if isinstance(c, Extend) and c.rounds <= state.training_rounds]
        rejected += [Reply(c.request_id, plan.latest.start) for c in done]
        changes = [c for c in changes if c not in void + done and not self._changes.is_held(c) and self._is_possible(c)]
        return [*rejected, *(self._offer_to(node, changes) if changes else [])]

    def _is_possible(self, change: Change) -> bool:
        match change:
            case Admission(node, process):
                return self._state.membership.is_waiting(node, process)
            case Rekeying(node, incarnation):
                return self._state.known_plan.latest.incarnations.get(node) == incarnation
        return True

    def _offer_to(self, node: str, changes: list[Change]) -> list[ClusterAction]:
        late: list[ClusterAction] = []
        try:
            start = self._start(self._state.known_plan, node)
            for change in [c for c in changes if why_too_late(self._state, c, start)]:
                late += self._give_up(change, why_too_late(self._state, change, start))
                changes.remove(change)
            record = self._successor(self._state.known_plan, start, changes) if changes else None
        except EdgenodeError as exc:
            return [*late, *(a for change in changes for a in self._give_up(change, str(exc)))]
        if record is None:
            return late
        self._state.offer = PendingOffer(record, node, tuple(changes))
        return [*late, Send(node, Offer(record))]

    def _start(self, plan: Plan, node: str) -> int:
        """The first round at which a record can be in force that is offered to a member now: step 2."""
        soonest = self._state.membership.next_rounds.get(node, 0) + self._margin
        known = soonest + reach(plan, node, soonest, self._state.run_spec.lag.overlap) + LEAD
        # precaution: a change of plan starts with an exchange
        return self._state.next_exchange(known)

    def _successor(self, plan: Plan, start: int, changes: list[Change]) -> Record:
        """The record that makes all of these changes at once.

        Raises:
            GraphError: no member would be left, or the record would be too large.
        """
        end = start if any(isinstance(c, Stop) for c in changes) else None
        leavers = [c.node for c in changes if isinstance(c, Departure)]
        keys = {c.node: c.key for c in changes if isinstance(c, Rekeying)}
        stay = [replace(m, key=keys.get(m.node, m.key)) for m in plan.latest.members if m.node not in leavers]
        if not stay:
            raise GraphError(f"{', '.join(leavers)} cannot leave: no other member is left")
        joiners = [c.node for c in changes if isinstance(c, Admission)]
        newcomers = self._state.membership.newcomers
        new = [Member(n, plan.processes.next_incarnation(n), newcomers[n].address, newcomers[n].key) for n in joiners]
        members = tuple(sorted([*stay, *new]))
        handoffs = tuple((leaver, stay[i % len(stay)].node) for i, leaver in enumerate(sorted(leavers)))
        schedule = self._state.fitted(self._requested(changes, start), tuple(m.node for m in members)).schedule
        record = plan.successor(
            start,
            schedule=schedule,
            end=end,
            members=members,
            handoffs=handoffs,
            term=self._state.leadership.term,
            rounds=max([self._state.training_rounds, *extensions(changes)]),
        )
        return self._state.new_record(record)

    def _requested(self, changes: Iterable[Change], start: int) -> Schedule:
        """The schedule that is requested once these changes are in force."""
        assert self._state.requested is not None
        rotation = next((c for c in changes if isinstance(c, Rotate)), None)
        # precaution: a change of members adapts the requested graph, not the one in use
        schedule = self._state.rotated(rotation, start) if rotation else self._state.requested
        # precaution: an exchange keeps its rounds when members join
        if self._state.has_fixed_members and any(isinstance(c, Admission) for c in changes):
            schedule = replace(schedule, exchange=self._state.exchange_rounds)
        return schedule.with_last_from(max([self._state.known_plan.latest.schedule.last_from, *extensions(changes)]))

    def _give_up(self, change: Change, error: str) -> list[ClusterAction]:
        if isinstance(change, Rekeying | Reroute):
            return []  # the member asks again, and the links are looked at again
        if not isinstance(change, Admission):
            return refused(change, error)
        self._state.membership.newcomers.pop(change.node, None)
        self._state.membership.present.pop(change.node, None)
        return [Send(change.node, Refuse(error))]

    def answered(self, node: str, answer: OfferAnswer) -> list[ClusterAction]:
        """A member answered an offer: steps 3 and 4."""
        rounds = self._state.membership.next_rounds
        rounds[node] = max(rounds.get(node, 0), answer.next_round)
        offer = self._state.offer
        if offer is None or offer.node != node or offer.record.digest != answer.digest:
            return []
        if answer.accepted:
            return self.settle(answer.number, answer.digest)
        self.take_back()
        self._margin = min(2 * self._margin, _MAX_MARGIN)
        return []

    def settle(self, number: int, digest: str) -> list[ClusterAction]:
        """A member knows the record on offer. It is part of the plan, and the nodes that join by it are welcome."""
        state, offer = self._state, self._state.offer
        if offer is None or state.plan is None or digest != offer.record.digest:
            return []
        state.offer, self._margin = None, FIRST_MARGIN
        if state.plan.latest.number < number:
            state.plan = state.plan.extend(offer.record)
        start = offer.record.start
        state.requested = self._requested(offer.changes, start)
        actions: list[ClusterAction] = [state.persist()]
        dead: list[str] = []
        for change in offer.changes:
            match change:
                case Rotate(request_id):
                    replaces = self._changes.replaced_by(request_id)
                    actions.append(Reply(request_id, start, replaces=replaces, difference=state.difference))
                case Stop(request_id) | Extend(request_id):
                    actions.append(Reply(request_id, start))
                case Admission(node, process):
                    if state.membership.admit(node, process, offer.record):
                        actions.append(Send(node, Welcome(state.plan, start)))
                    # another process has the name: the member is dead. If members are fixed, all restart for it
                    elif node in state.membership.newcomers and not state.has_fixed_members:
                        dead.append(node)
        # precaution: nodes that join are welcomed before a fence asks them for a promise
        return [*actions, *(action for node in dead for action in self._evict(node))]

    def take_back(self) -> None:
        """No node that lives has the record on offer: its changes are requested again, before all others."""
        state = self._state
        if state.offer is not None:
            state.queue, state.offer = [*state.offer.changes, *state.queue], None
