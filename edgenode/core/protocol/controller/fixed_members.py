"""Runs whose members are fixed, because the state of their algorithm depends on who takes part.

1. All members are needed to the end. No other node joins (but see rule 8), and none leaves or is evicted (but see rule
   7): the controller refuses such requests with the reason, those of its failure detector included. The graph does not
   change either.
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
7. Between two exchanges all members have one model and one momentum. So a run of exchanges can go on without a member:
   all restart, and the others resume together from the newest checkpoint between two exchanges that all of them have.
   The changes of the one that is out are lost from there on, and nothing else. An exchange keeps the number of its
   rounds (`Schedule.exchange`), so the run keeps its length. The process that is out is turned away, or waits until it
   can join. It cannot go on beside the others: an exchange needs messages of all its members, and when the others
   resume, none of them is in a round of before. If it is alive, it ends at most the exchange in flight.
8. So a run of exchanges also admits nodes when an exchange begins, by a record. The exchange waits for them. A member
   that comes back without its state restarts the others, which resume without it, and joins.
9. If nodes can join, the failure detector may evict a silent member. If it is back before the others resume, it resumes
   with them. Later it joins. As in other runs, at least half of the members must be left. And others must wait for it:
   one that is in a round, or all that were ordered to restart. If all members went down together, all are waited for.
   An operator can force less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edgenode.core.algorithm.masked_sum import FEWEST
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.eviction import are_few
from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Evict, Reply, Send
from edgenode.core.protocol.orders import Ended, FenceAnswer, Join, Restart
from edgenode.core.protocol.plan.plan import Plan


class FixedMembers:
    """Turns strangers away, and gathers the members when one of them is a new process, or is given up.

    Args:
        resume: resumes the run if all members that it waits for are back.
    """

    def __init__(self, state: ClusterState, resume: Callable[[], list[ClusterAction]]) -> None:
        self._state, self._resume = state, resume
        self._ordered: dict[str, Join] = {}  # the link on which each member was last ordered to restart
        self._let_go: dict[str, Join] = {}  # the link on which it was told that all have ended
        self._requests: dict[str, list[int]] = {}  # the ids of the requests to go on without a member
        self._written_off: set[str] = set()  # members that were evicted when all others had ended
        self._gathers = ""  # digest of the first record of the run whose members were ordered to restart

    def evict(self, evict: Evict) -> list[ClusterAction]:
        """Go on without a member, if that is possible: rules 7 and 9. If it has ended, let others end: rule 5."""
        membership, names, node = self._state.membership, self._state.known_plan.latest.names, evict.node
        back = membership.newcomers.keys() & set(names)
        if node in membership.farewells and not back:
            # precaution: nobody waits for the answer of a member that has ended
            told = [Send(n, Ended(node)) for n in names if membership.takes_part(n)]
            return [*told, Reply(evict.request_id, None, self._state.why_fixed(f"{node} stays"))]
        if why := self._why_not_without(evict):
            return [Reply(evict.request_id, None, why)]
        if not (membership.out or back) and membership.running(self._state.known_plan) <= {node}:
            membership.farewells[node] = FenceAnswer(0, 0, -1, (), self._state.known_plan.records)
            self._written_off.add(node)
            return [Reply(evict.request_id, None, self._state.why_over())]
        membership.given_up.add(node)
        if evict.request_id == UNREQUESTED and not evict.force:
            membership.silent.add(node)
        else:
            membership.silent.discard(node)
        if evict.request_id != UNREQUESTED:
            self._requests.setdefault(node, []).append(evict.request_id)
        return [] if membership.anyone_runs(self._state.known_plan) else self._resume()

    def _why_not_without(self, evict: Evict) -> str:
        """Return why the run cannot go on without a member. Empty if it can."""
        state, names = self._state, self._state.known_plan.latest.names
        why = state.why_fixed(f"{evict.node} stays")
        if not state.run_spec.requirements.spans_period:
            return why
        if not evict.force and not state.admits:
            return f"{why}; to go on without it, add --force"
        left = set(names) - state.membership.out - {evict.node}
        few = f"{evict.node} stays: without it {len(left)} of {len(names)} members would be left"
        if state.run_spec.masked and len(left) < FEWEST:
            return f"{few}, and masked messages need {FEWEST}"
        if not left or (are_few(state, len(left)) and not evict.force):
            return few
        if evict.force or evict.node in self.awaited or self._others_run(evict.node):
            return ""
        return f"{evict.node} stays: no other member of the run is in a round; to go on without it, add --force"

    def _others_run(self, node: str) -> bool:
        """Return whether another member can be reached, and may still be in a round."""
        membership = self._state.membership
        return any(map(membership.takes_part, membership.running(self._state.known_plan) - membership.out - {node}))

    @property
    def awaited(self) -> frozenset[str]:
        """The members that must come back before those that were ordered to restart can resume. None in a pause."""
        state = self._state
        gathers = state.plan is not None and state.plan.records[0].digest == self._gathers
        return state.waits_for if gathers and not state.paused else frozenset()

    def gather(self) -> list[ClusterAction]:
        """Return the orders that follow from the nodes that wait, and from the end of all: rules 1, 3 and 7."""
        state, plan = self._state, self._state.plan
        if not state.has_fixed_members or plan is None or state.aborted:
            return []
        membership, names = state.membership, plan.latest.names
        replies = self._settled(plan)
        if state.over:
            let_go = self._new_links(names, self._let_go)
            return [*replies, *(Send(n, _evicted([n]) if n in self._written_off else Ended(n)) for n in let_go)]
        why = f"the members of this run are fixed: {', '.join(names)}"
        refused = [] if state.admits else state.refuse_all(membership.newcomers.keys() - set(names), why)
        out = sorted(membership.out & set(names))
        for node in [] if state.admits else out:
            why = f"{node} was evicted, and the others resume"
            refused += state.refuse_all(membership.newcomers.keys() & {node}, why)
        returned = sorted(membership.newcomers.keys() & set(names))
        if not returned and not out:
            return [*replies, *refused]
        # precaution: members that run restart when one of them has lost its state
        others = self._new_links(names, self._ordered)
        self._gathers = plan.records[0].digest if others else self._gathers
        order = _evicted(out) if out else Restart(f"{', '.join(returned)} restarted, and the others do")
        return [*replies, *refused, *(Send(node, order) for node in others)]

    def _settled(self, plan: Plan) -> list[ClusterAction]:
        """Answer the requests to go on without members, once the others have resumed."""
        gone = self._requests.keys() - set(plan.latest.names)
        ids = [i for node in sorted(gone) for i in self._requests.pop(node)]
        return [Reply(i, plan.latest.start) for i in ids]

    def _new_links(self, names: tuple[str, ...], ordered: dict[str, Join]) -> list[str]:
        """The members that run or have ended, without those that got this order on their present links."""
        membership = self._state.membership
        links = {n: link for n in names if (link := membership.present.get(n)) and n not in membership.newcomers}
        new = [n for n, link in links.items() if ordered.get(n) is not link]
        ordered |= links
        return new


def _evicted(nodes: Iterable[str]) -> Restart:
    return Restart(f"{', '.join(nodes)} was evicted, and the others restart")
