"""Runs whose members are fixed, because the state of their algorithm depends on who takes part.

1. All initial members are needed to the end. No other node joins, and none leaves or is evicted: the controller refuses
   such requests with the reason, those of its failure detector included. The graph does not change either.
2. A member that does not answer is waited for. The barrier stops the others.
3. A new process under a member's name proves that the old one is dead, with the state that the others need. So every
   other member is ordered to restart. It ends its rounds, and comes back with its checkpoints. When all are back, they
   resume from the newest round that all have saved, with new incarnations (`bootstrap`). Members that have ended stay
   for this, until all have ended and the controller lets them go.
4. An order is lost with its link, so it is sent again on every link of a process that is still there.
5. A member that ended well may have gone before its last answers arrived. When its eviction is requested, the others
   are told that it has ended. It has mixed all that they pushed to it.
6. A change of plan starts with an exchange. So a run that is stopped has one model, and one that is extended ends with
   an exchange.
"""

from __future__ import annotations

from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.events import ClusterAction, Evict, Reply, Send
from edgenode.core.protocol.orders import Ended, Join, Restart


class FixedMembers:
    """Turns strangers away, and gathers the members when one of them is a new process."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._ordered: dict[str, Join] = {}  # the link on which each member was last ordered to restart
        self._let_go: dict[str, Join] = {}  # the link on which it was told that all have ended

    def refuse(self, evict: Evict) -> list[ClusterAction]:
        """Refuse an eviction. If the member has ended, let the others end: rule 5."""
        membership, names = self._state.membership, self._state.known_plan.latest.names
        why = self._state.why_fixed(f"{evict.node} stays")
        # precaution: nobody waits for the answer of a member that has ended
        ended = [
            Send(n, Ended(evict.node)) for n in names if evict.node in membership.farewells and membership.takes_part(n)
        ]
        return [*ended, Reply(evict.request_id, None, why)]

    def gather(self) -> list[ClusterAction]:
        """Return the orders that follow from the nodes that wait, and from the end of all: rules 1 and 3."""
        state, plan = self._state, self._state.plan
        if not state.has_fixed_members or plan is None or state.aborted:
            return []
        membership, names = state.membership, plan.latest.names
        if state.over:
            return [Send(node, Ended(node)) for node in self._new_links(names, self._let_go)]
        why = f"the members of this run are fixed: {', '.join(names)}"
        refused = state.refuse_all(membership.newcomers.keys() - set(names), why)
        returned = sorted(membership.newcomers)
        if not returned:
            return refused
        # precaution: members that run restart when one of them has lost its state
        others = self._new_links(names, self._ordered)
        reason = f"{', '.join(returned)} restarted, and the members of this run are fixed"
        return [*refused, *(Send(node, Restart(reason)) for node in others)]

    def _new_links(self, names: tuple[str, ...], ordered: dict[str, Join]) -> list[str]:
        """The members that run or have ended, without those that got this order on their present links."""
        membership = self._state.membership
        links = {n: link for n in names if (link := membership.present.get(n)) and n not in membership.newcomers}
        new = [n for n, link in links.items() if ordered.get(n) is not link]
        ordered |= links
        return new
