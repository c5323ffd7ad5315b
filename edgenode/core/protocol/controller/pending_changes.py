"""Graceful changes of plan that are not part of it yet: requested, queued, answered, and given up.

When the latest record is in force at every member, all queued changes become one new record (`offers`). Until then an
operator learns what its change waits for, and a newer rotation replaces an older one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from edgenode.core.protocol.controller.changes import (
    Admission,
    Change,
    Departure,
    Rekeying,
    Requested,
    Reroute,
    describe,
    extensions,
    refused,
)
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.deadlines import earliest_start, why_too_late
from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Extend, Reply, Rotate, Stop
from edgenode.core.protocol.plan.last_phase import latest_change
from edgenode.core.protocol.status import PendingChange
from edgenode.core.topology.schedule_json import MOST
from edgenode.core.wording import counted
from edgenode.errors import GraphError


class PendingChanges:
    """The changes to come, in the order of their requests."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._replaced: dict[int, str] = {}  # request id -> the older change that the request replaces

    def request(self, change: Requested | Departure) -> list[ClusterAction]:
        """Queue what an operator or a member requests, unless it is impossible."""
        if why_not := self.why_not():
            return refused(change, why_not)
        if self._state.paused and isinstance(change, Departure):
            return refused(change, "the run is paused: a hand-over takes a round")
        if change in self._state.coming and isinstance(change, Departure):
            return []  # a member asks once, and a faulty one again
        try:
            self._check(change)
        except GraphError as exc:
            return refused(change, str(exc))
        self._state.queue.append(change)
        if isinstance(change, Departure):
            return []
        replaced = self.keep_newest_rotation()
        # precaution: an operator's change is persisted before it is offered or answered
        persisted = [self._state.persist()]
        resumed = self._state.halt(False) if isinstance(change, Stop) else []  # its record has to travel
        return [*replaced, *persisted, *resumed]

    def keep_newest_rotation(self) -> list[ClusterAction]:
        """A newer rotation replaces the older ones that are still queued."""
        rotations = [c for c in self._state.queue if isinstance(c, Rotate)]
        if len(rotations) < 2:
            return []
        *older, newest = rotations
        self._state.queue = [c for c in self._state.queue if c is newest or not isinstance(c, Rotate)]
        self._replaced[newest.request_id] = describe(older[-1])
        return [action for c in older for action in refused(c, f"replaced by {describe(newest)}")]

    def replaced_by(self, request_id: int) -> str:
        """The older change that a request replaces, for the one reply that names it. Empty if it replaces none."""
        return self._replaced.pop(request_id, "")

    def why_not(self) -> str:
        """Return why no change can be requested: before the start and after the end. Empty if one can."""
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
        names, run_spec = self._state.known_plan.latest.names, self._state.run_spec
        if not isinstance(change, Departure) and (
            late := why_too_late(self._state, change, earliest_start(self._state))
        ):
            raise GraphError(late)
        match change:
            case Extend(rounds=rounds):
                planned = max([self._state.training_rounds, *extensions(self._state.coming)])
                if rounds <= planned:
                    raise GraphError(
                        f"the run trains for {planned} rounds already, and {rounds} are not more; it can be extended, "
                        "but not shortened: edgenode stop ends it earlier"
                    )
                if rounds % self._state.exchange_rounds:
                    every = self._state.exchange_rounds
                    raise GraphError(f"an exchange takes {every} rounds, so {rounds} must be a multiple of {every}")
                if rounds > MOST:
                    raise GraphError(f"a run has at most {MOST} rounds, not {rounds}")
            case Rotate():
                if fixed := self._state.why_fixed("the graph stays"):
                    raise GraphError(fixed)
                schedule = self._state.rotated(change, 0)
                schedule.check(names)
                run_spec.requirements.check(schedule, names)
            case Departure(node):
                leaving = {c.node for c in self._state.coming if isinstance(c, Departure)} | {node}
                if node not in names:
                    raise GraphError(f"{node} is not a member")
                if fixed := self._state.why_fixed(f"{node} cannot leave"):
                    raise GraphError(fixed)
                if len(set(names) - leaving) < max(1, run_spec.min_nodes):
                    raise GraphError(f"{node} cannot leave: {counted(run_spec.min_nodes, 'node')} must stay")

    # --- waiting ------------------------------------------------------------------------------------

    def pending(self, evicting: Collection[str]) -> tuple[PendingChange, ...]:
        """The changes that are not part of the plan yet, and what each waits for.

        Args:
            evicting: the nodes that a fence evicts now.
        """
        offer, queue = self._state.offer, self._state.queue
        waiting = [(c, self._waits_for(c, evicting), earliest_start(self._state)) for c in queue]
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
                    why, replaces = self._waits_for(change, evicting), self.replaced_by(request_id)
                    replies.append(
                        Reply(request_id, None, waits_for=why, earliest=earliest_start(self._state), replaces=replaces)
                    )
                    self._state.queue[i] = replace(change, request_id=UNREQUESTED)
        return replies

    def _waits_for(self, change: Change, evicting: Collection[str]) -> str:
        """Say what has to happen before a queued change is offered, as in "after ...": step 1."""
        state = self._state
        latest = state.offer.record if state.offer else state.known_plan.latest
        unreported = sorted(set(latest.names) - state.membership.next_rounds.keys())
        waits = [f"the eviction of {', '.join(sorted(evicting))}"] if evicting else []
        if self.is_held(change):
            waits.append("the run resumes")
        if unreported:
            waits.append(f"a report of {', '.join(unreported)}")
        elif state.offer or not state.membership.is_settled(state.known_plan):
            waits.append(f"the change of round {latest.start}")
        elif not waits:
            waits.append("a member connects")
        return " and ".join(waits)

    def is_held(self, change: Change) -> bool:
        """Return whether the pause holds a change back. Only the newest rotation of a pause stays."""
        return self._state.paused and isinstance(change, Rotate)

    # --- giving up and asking for more -----------------------------------------------------------------

    def expire(self, why: str) -> list[ClusterAction]:
        """Forget all changes. Those that requested them get the reason."""
        coming, self._state.queue, self._state.offer = self._state.coming, [], None
        return [a for c in coming if not isinstance(c, Admission | Rekeying | Reroute) for a in refused(c, why)]

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
        if state.has_fixed_members:
            return
        if state.offer is not None or Reroute() in state.queue or not state.membership.is_settled(state.plan):
            return
        wanted = state.adapted(state.plan.latest.names).schedule.without
        if wanted != state.plan.latest.schedule.without and earliest_start(state) <= latest_change(
            state.plan, state.rounds
        ):
            state.queue.append(Reroute())

    def fetched(self, node: str) -> list[ClusterAction]:
        """A newcomer has the model: admit it."""
        membership = self._state.membership
        if node in membership.newcomers and node in membership.sponsored:
            admission = Admission(node, membership.newcomers[node].process)
            if admission not in self._state.coming:  # after a resume a newcomer is sponsored again
                self._state.queue.append(admission)
        return []
