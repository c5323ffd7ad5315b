"""Handles poison alarms: the controller notes them, pauses the run, or evicts the accused.

A member may lie when it accuses, as it may lie in what it pushes. So

1. only a receiver accuses a sender: the accused must be an in-neighbour of the accuser in the round that it names,
2. an eviction needs as many accusers as the failure detector needs stuck nodes (`liveness`): two of the same process,
   or one in a run of fewer than four members,
3. a pause at on_poison = "pause" needs one, because it does no harm that an operator cannot undo,
4. a collapsed evaluation names no member, so nobody is evicted for it. At "evict", as many reports of a collapse as an
   eviction needs pause the run, for something has passed the alarm.

In a graph where the accused has one receiver, it has one accuser, and stays. It does no more harm: where on_poison is
not "report", a receiver does not mix what raises the alarm.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Set

from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.eviction import Evictions
from edgenode.core.protocol.events import UNREQUESTED, Accused, ClusterAction, Evict, Send
from edgenode.core.protocol.orders import Accusation
from edgenode.core.protocol.plan.plan import Plan

_PAUSED_BY = "after a poison alarm"


def is_sound(accuser: str, accusation: Accusation, plan: Plan) -> bool:
    """Return whether a member makes an accusation that it can know to be true: rule 1."""
    member, t = accusation.member, accusation.round
    if accuser not in plan.latest.names or t < plan.records[0].start:
        return False
    if not member:
        return True
    record = plan.at(t)
    receives = accuser in record.names and member in plan.graph(t).in_neighbours(accuser)
    # what an earlier process of a name did is not held against its next one
    return receives and accusation.incarnation == record.incarnations[member] == plan.latest.incarnations.get(member)


class Accusations:
    """The accusations of one run, and what follows from them.

    Args:
        evict: evicts a member, unless too few would be left.
    """

    def __init__(
        self, state: ClusterState, evictions: Evictions, evict: Callable[[Evict], list[ClusterAction]]
    ) -> None:
        self._state, self._evictions, self._evict = state, evictions, evict
        self._accusers: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)

    def take(self, accuser: str, accusation: Accusation) -> list[ClusterAction]:
        """A member accuses another, or reports that its own evaluation collapsed.

        Of repeats, the second, fourth, eighth, ... are noted.
        """
        state, plan = self._state, self._state.plan
        if plan is None or not is_sound(accuser, accusation, plan):
            return []
        accusers = self._accusers[accusation.member, accusation.incarnation]
        accusers[accuser] += 1
        noted: list[ClusterAction] = [Accused(accuser, accusation)] if accusers[accuser].bit_count() == 1 else []
        match state.run_spec.on_poison:
            case "pause":
                return [*noted, *state.halt(True, _PAUSED_BY)]
            case "evict" if self._are_enough(accusers.keys(), plan):
                return [*noted, *(self._expel(accusation) if accusation.member else state.halt(True, _PAUSED_BY))]
        return noted

    def _are_enough(self, accusers: Set[str], plan: Plan) -> bool:
        members = frozenset(plan.latest.names)
        return len(accusers & members) >= (2 if len(members) >= 4 else 1)

    def _expel(self, accusation: Accusation) -> list[ClusterAction]:
        """Evict a member for what it pushed. It would start again at once, so it may not join again."""
        if accusation.member in self._evictions.evicted:
            return []
        actions = self._evict(Evict(UNREQUESTED, accusation.member))
        evicted = any(isinstance(action, Send) for action in actions)  # not if it stays
        if evicted:
            self._state.membership.ban(accusation)
        return actions
