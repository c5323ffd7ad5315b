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

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from edgenode.core.protocol.controller.changes import (
    Admission,
    Change,
    Departure,
    PendingOffer,
    Rekeying,
    Requested,
    Reroute,
    describe,
)
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.deadlines import why_too_late
from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Extend, Reply, Rotate, Send, Stop
from edgenode.core.protocol.orders import LeaveRefused, Offer, OfferAnswer, Refuse, Welcome
from edgenode.core.protocol.plan.flood import reach
from edgenode.core.protocol.plan.last_phase import latest_change
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.protocol.status import PendingChange
from edgenode.core.topology.schedule import Schedule
from edgenode.core.topology.schedule_json import MOST
from edgenode.core.wording import counted
from edgenode.errors import EdgenodeError, GraphError

_FIRST_MARGIN = 4  # rounds between a member's last report and the offer's arrival; doubled when that was too few
_MAX_MARGIN = 1 << 16


class PendingChanges:
    """The changes to come, in the order of their requests.

    Args:
        evict: begins the eviction of a member whose process is dead.
    """

    def __init__(self, state: ClusterState, evict: Callable[[str], list[ClusterAction]]) -> None:
        self._state, self._evict = state, evict
        self._margin = _FIRST_MARGIN
        self._replaced: dict[int, str] = {}  # request id -> the older change that the request replaces

    def request(self, change: Requested | Departure) -> list[ClusterAction]:
        """Queue what an operator or a member requests, unless it is impossible."""
        if why_not := self.why_not():
            return _refused(change, why_not)
        if self._state.paused and isinstance(change, Departure):
            return _refused(change, "the run is paused: a hand-over takes a round")
        if change in self._state.coming and isinstance(change, Departure):
            return []  # a member asks once, and a faulty one again
        try:
            self._check(change)
        except GraphError as exc:
            return _refused(change, str(exc))
        self._state.queue.append(change)
        if isinstance(change, Departure):
            return []
        replaced = self._keep_newest_rotation()
        # precaution: an operator's change is persisted before it is offered or answered
        persisted = [self._state.persist()]
        resumed = self._state.halt(False) if isinstance(change, Stop) else []  # its record has to travel
        return [*replaced, *persisted, *resumed]

    def _keep_newest_rotation(self) -> list[ClusterAction]:
        """A newer rotation replaces the older ones that are still queued."""
        rotations = [c for c in self._state.queue if isinstance(c, Rotate)]
        if len(rotations) < 2:
            return []
        *older, newest = rotations
        self._state.queue = [c for c in self._state.queue if c is newest or not isinstance(c, Rotate)]
        self._replaced[newest.request_id] = describe(older[-1])
        return [action for c in older for action in _refused(c, f"replaced by {describe(newest)}")]

    def why_not(self) -> str:
        """Why no change can be requested: before the start and after the end. Empty if it can."""
        state = self._state
        if state.plan is None:
            return f"the run has not started: it waits for {counted(state.missing, 'more node')}"
        if state.over:
            return state.why_over()
        stops = state.plan.latest.end is not None or any(isinstance(c, Stop) for c in state.coming)
        return "the run is stopping" if stops else ""

    def _check(self, change: Requested | Departure) -> None:
        """Refuse what can never be.

        Raises:
            GraphError: the graph does not carry the run, the leaver is not a member, or too few members would stay.
        """
        assert self._state.plan is not None
        names, run_spec = self._state.plan.latest.names, self._state.run_spec
        if not isinstance(change, Departure) and (late := why_too_late(self._state, change, self._earliest())):
            raise GraphError(late)
        match change:
            case Extend(rounds=rounds):
                planned = max([self._state.training_rounds, *_extensions(self._state.coming)])
                if rounds <= planned:
                    raise GraphError(
                        f"the run trains for {planned} rounds already, and {rounds} are not more; it can be extended, "
                        "but not shortened: edgenode stop ends it earlier"
                    )
                if rounds > MOST:
                    raise GraphError(f"a run has at most {MOST} rounds, not {rounds}")
            case Rotate():
                schedule = self._state.rotated(change, 0)
                schedule.check(names)
                run_spec.requirements.check(schedule, names)
            case Departure(node):
                leaving = {c.node for c in self._state.coming if isinstance(c, Departure)} | {node}
                if node not in names:
                    raise GraphError(f"{node} is not a member")
                if len(set(names) - leaving) < max(1, run_spec.min_nodes):
                    raise GraphError(f"{node} cannot leave: {counted(run_spec.min_nodes, 'node')} must stay")

    # --- waiting ------------------------------------------------------------------------------------

    def pending(self, evicting: Collection[str]) -> tuple[PendingChange, ...]:
        """The changes that are not part of the plan yet, and what each waits for.

        Args:
            evicting: the nodes that a fence evicts now.
        """
        offer, queue = self._state.offer, self._state.queue
        waiting = [(c, self._waits_for(c, evicting), self._earliest()) for c in queue]
        if offer:
            waiting = [*((c, f"the answer of {offer.node}", offer.record.start) for c in offer.changes), *waiting]
        return tuple(PendingChange(describe(c), why, start) for c, why, start in waiting)

    def answer_queued(self, evicting: Collection[str]) -> list[ClusterAction]:
        """Reply to the operators whose change has to wait. From now on none waits for it."""
        replies: list[ClusterAction] = []
        for i, change in enumerate(self._state.queue):
            match change:
                case Rotate(request_id, wait=False) | Stop(request_id, wait=False) | Extend(request_id, wait=False) if (
                    request_id != UNREQUESTED
                ):
                    why, replaces = self._waits_for(change, evicting), self._replaced.pop(request_id, "")
                    replies.append(Reply(request_id, None, waits_for=why, earliest=self._earliest(), replaces=replaces))
                    self._state.queue[i] = replace(change, request_id=UNREQUESTED)
        return replies

    def _waits_for(self, change: Change, evicting: Collection[str]) -> str:
        """What has to happen before a queued change is offered, as in "after ...": step 1."""
        state = self._state
        assert state.plan is not None
        latest = state.offer.record if state.offer else state.plan.latest
        unreported = sorted(set(latest.names) - state.membership.next_rounds.keys())
        waits = [f"the eviction of {', '.join(sorted(evicting))}"] if evicting else []
        if self._is_held(change):
            waits.append("the run resumes")
        if unreported:
            waits.append(f"a report of {', '.join(unreported)}")
        elif state.offer or not state.membership.is_settled(state.plan):
            waits.append(f"the change of round {latest.start}")
        elif not waits:
            waits.append("a member connects")
        return " and ".join(waits)

    def _is_held(self, change: Change) -> bool:
        """Whether the pause holds a change back. So the newest rotation of a pause is the only one."""
        return self._state.paused and isinstance(change, Rotate)

    def _earliest(self) -> int:
        """No change that is not offered yet can take effect before this round."""
        state = self._state
        assert state.plan is not None
        latest = state.offer.record if state.offer else state.plan.latest
        rounds = (state.membership.next_rounds.get(node, 0) for node in state.plan.latest.names)
        return max(min(rounds), latest.start) + _FIRST_MARGIN + 2

    # --- offering -----------------------------------------------------------------------------------

    def offer_next(self) -> list[ClusterAction]:
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
        refused = self._keep_newest_rotation()
        changes, state.queue = state.queue, [c for c in state.queue if self._is_held(c)]
        void = [c for c in changes if isinstance(c, Departure) and c.node not in plan.latest.names]
        refused += [action for c in void for action in _refused(c, f"{c.node} is not a member")]
        done = [c for c in changes if isinstance(c, Extend) and c.rounds <= state.training_rounds]
        refused += [Reply(c.request_id, plan.latest.start) for c in done]
        changes = [c for c in changes if c not in void + done and not self._is_held(c) and self._is_possible(c)]
        return [*refused, *(self._offer_to(node, changes) if changes else [])]

    def _is_possible(self, change: Change) -> bool:
        match change:
            case Admission(node, process):
                return self._state.membership.is_waiting(node, process)
            case Rekeying(node, incarnation):
                assert self._state.plan is not None
                return self._state.plan.latest.incarnations.get(node) == incarnation
        return True

    def _offer_to(self, node: str, changes: list[Change]) -> list[ClusterAction]:
        assert self._state.plan is not None
        late: list[ClusterAction] = []
        try:
            start = self._start(self._state.plan, node)
            for change in [c for c in changes if why_too_late(self._state, c, start)]:
                late += self._give_up(change, why_too_late(self._state, change, start))
                changes.remove(change)
            record = self._successor(self._state.plan, start, changes) if changes else None
        except EdgenodeError as exc:
            return [*late, *(a for change in changes for a in self._give_up(change, str(exc)))]
        if record is None:
            return late
        self._state.offer = PendingOffer(record, node, tuple(changes))
        return [*late, Send(node, Offer(record))]

    def _start(self, plan: Plan, node: str) -> int:
        """The first round at which a record can be in force that is offered to a member now: step 2."""
        soonest = self._state.membership.next_rounds.get(node, 0) + self._margin
        return soonest + reach(plan, node, soonest, self._state.run_spec.lag.overlap) + 2

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
            term=self._state.term,
            rounds=max([self._state.training_rounds, *_extensions(changes)]),
        )
        return self._state.new_record(record)

    def _requested(self, changes: Iterable[Change], start: int) -> Schedule:
        """The schedule that is requested once these changes are in force."""
        assert self._state.requested is not None and self._state.plan is not None
        rotation = next((c for c in changes if isinstance(c, Rotate)), None)
        # precaution: a change of members adapts the requested graph, not the one in use
        schedule = self._state.rotated(rotation, start) if rotation else self._state.requested
        return schedule.with_last_from(max([self._state.plan.latest.schedule.last_from, *_extensions(changes)]))

    def _give_up(self, change: Change, error: str) -> list[ClusterAction]:
        if isinstance(change, Rekeying | Reroute):
            return []  # the member asks again, and the links are looked at again
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
        offer = self._state.offer
        if offer is None or offer.node != node or offer.record.digest != answer.digest:
            return []
        if answer.accepted:
            return self.settle(answer.number, answer.digest)
        self.take_back_offer()
        self._margin = min(2 * self._margin, _MAX_MARGIN)
        return []

    def settle(self, number: int, digest: str) -> list[ClusterAction]:
        """A member knows the record on offer. It is part of the plan, and the nodes that join by it are welcome."""
        state, offer = self._state, self._state.offer
        if offer is None or state.plan is None or digest != offer.record.digest:
            return []
        state.offer, self._margin = None, _FIRST_MARGIN
        if state.plan.latest.number < number:
            state.plan = state.plan.extend(offer.record)
        start = offer.record.start
        state.requested = self._requested(offer.changes, start)
        actions: list[ClusterAction] = [state.persist()]
        dead: list[str] = []
        for change in offer.changes:
            match change:
                case Rotate(request_id):
                    replaces = self._replaced.pop(request_id, "")
                    actions.append(Reply(request_id, start, replaces=replaces, difference=state.difference))
                case Stop(request_id) | Extend(request_id):
                    actions.append(Reply(request_id, start))
                case Admission(node, process):
                    if state.membership.admit(node, process, offer.record):
                        actions.append(Send(node, Welcome(state.plan, start)))
                    elif node in state.membership.newcomers:  # another process by now: the member's is dead
                        dead.append(node)
        # precaution: nodes that join are welcomed before a fence asks them for a promise
        return [*actions, *(action for node in dead for action in self._evict(node))]

    def take_back_offer(self) -> None:
        """No node that lives has the record on offer: its changes are requested again, before all others."""
        state = self._state
        if state.offer is not None:
            state.queue, state.offer = [*state.offer.changes, *state.queue], None

    def expire(self, why: str) -> list[ClusterAction]:
        """Forget all changes. Those that requested them get the reason."""
        coming, self._state.queue, self._state.offer = self._state.coming, [], None
        return [a for c in coming if not isinstance(c, Admission | Rekeying | Reroute) for a in _refused(c, why)]

    def keep_requests(self, why: str) -> list[ClusterAction]:
        """Forget all changes but the rotations and extensions, which stay in the queue."""
        kept: list[Change] = [c for c in self._state.coming if isinstance(c, Rotate | Extend)]
        self._state.queue = [c for c in self._state.coming if not isinstance(c, Rotate | Extend)]
        self._state.offer = None
        expired = self.expire(why)
        self._state.queue = kept
        return expired

    def new_key(self, node: str, key: str) -> list[ClusterAction]:
        """A member asks to be known by another key. It asks again until the plan names the key."""
        state = self._state
        if state.plan is None or self.why_not() or not state.membership.takes_part(node) or key in state.revoked:
            return []
        member = next((m for m in state.plan.latest.members if m.node == node), None)
        if member is None or member.key == key:
            return []
        change = Rekeying(node, member.incarnation, key)
        if change not in state.coming:
            older = [c for c in state.queue if not (isinstance(c, Rekeying) and c.node == node)]
            state.queue = [*older, change]
        return []

    def reroute(self) -> None:
        """Change the graphs if links that they use do not work, or links that they do without work again."""
        state = self._state
        if state.plan is None or state.over or state.paused or state.plan.latest.end is not None:
            return
        if state.offer is not None or Reroute() in state.queue or not state.membership.is_settled(state.plan):
            return
        wanted = state.adapted(state.plan.latest.names).schedule.without
        if wanted != state.plan.latest.schedule.without and self._earliest() <= latest_change(state.plan, state.rounds):
            state.queue.append(Reroute())

    def fetched(self, node: str) -> list[ClusterAction]:
        """A newcomer has the model: admit it."""
        membership = self._state.membership
        if node in membership.newcomers and node in membership.sponsored:
            self._state.queue.append(Admission(node, membership.newcomers[node].process))
        return []


def _answered(change: Change) -> bool:
    """Whether no operator waits for a reply to it."""
    return isinstance(change, Requested) and change.request_id == UNREQUESTED


def _extensions(changes: Iterable[Change]) -> list[int]:
    """The rounds of training that changes request."""
    return [change.rounds for change in changes if isinstance(change, Extend)]


def _refused(change: Requested | Departure, error: str) -> list[ClusterAction]:
    if isinstance(change, Departure):
        return [Send(change.node, LeaveRefused(error))]
    return [Reply(change.request_id, None, f"{describe(change)}: {error}" if _answered(change) else error)]
