"""Handles a node that connects: the controller refuses it, or greets it and sends what it may have missed.

It is a newcomer, a member that lost its link, or a process that takes the place of one that died. What it says of the
plan, of other controllers and of fences counts only if a controller of this cluster signed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from edgenode.core.protocol.controller.bootstrap import Bootstrap
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.eviction import Evictions
from edgenode.core.protocol.controller.offers import Offers
from edgenode.core.protocol.events import ClusterAction, Send, StepDown
from edgenode.core.protocol.orders import Abort, EvictionCommitted, Fence, Join, Offer, Refuse, Welcome
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import is_key_id
from edgenode.core.protocol.workloads import refusals
from edgenode.errors import RemoteProtocolError


class Arrivals:
    """Takes the first report of every link.

    Args:
        evict: begins the eviction of members that are known to be dead.
        close: answers everything that comes too late.
    """

    def __init__(
        self,
        state: ClusterState,
        offers: Offers,
        evictions: Evictions,
        bootstrap: Bootstrap,
        evict: Callable[[Iterable[str]], list[ClusterAction]],
        close: Callable[[], list[ClusterAction]],
    ) -> None:
        self._state, self._offers, self._evictions, self._bootstrap = state, offers, evictions, bootstrap
        self._membership, self._evict_all, self._close = state.membership, evict, close

    def joined(self, node: str, join: Join) -> list[ClusterAction]:
        """A node has connected."""
        if join.run_digest != self._state.run_spec.run_digest:
            return [Send(node, Refuse(f"run digest differs: the controller's is {self._state.run_spec.run_digest}, "
                                      f"{node}'s is {join.run_digest}"))]  # fmt: skip
        try:
            self._state.check_join(join)
        except RemoteProtocolError as exc:
            remedy = "if it has checkpoints of another cluster, start it with --fresh"
            return [Send(node, Refuse(f"{node} comes with {exc}; {remedy}"))]
        if self._state.run_spec.masked and not is_key_id(join.process):
            return [Send(node, Refuse(f"{node} comes without the key of its process, which masks need"))]
        if why := self._membership.banned.get(node):
            return [Send(node, Refuse(why))]
        if node in self._membership.present:
            other = self._membership.present[node].address
            return [Send(node, Refuse(f"node id {node!r} is taken by {other}; this one is {join.address}"))]
        refused = refusals(self._membership.present, node, join)
        if node in refused:
            return [Send(node, Refuse(refused[node]))]
        if join.running and join.plan and (leader := self._state.leader_of(join, join.plan)):
            return [StepDown(f"{node} follows the controller at {leader}, not this one, {self._state.leadership}")]
        turned_away = [a for other, why in refused.items() for a in self._state.refuse_all([other], why)]
        admitted = self._admitted(node, join)  # before the greeting, which names the run
        return [*turned_away, Send(node, self._state.greeting()), *admitted]

    def _admitted(self, node: str, join: Join) -> list[ClusterAction]:
        if join.plan is not None and self._state.plan is not None and self._has_resumed(join.plan, self._state.plan):
            self._recover(join.plan)
        if join.running and join.plan:
            return [*self._reconnected(node, join, join.plan), *self._evict_replaced()]
        if join.plan is not None and not (self._state.plan and self._membership.anyone_runs(self._state.plan)):
            self._bootstrap.remember(join.plan)
        self._membership.present[node] = join
        if self._state.plan is None:
            return self._bootstrap.create_if_complete()
        return [*self._newcomer(node, join, self._state.plan), *self._evict_replaced()]

    def _newcomer(self, node: str, join: Join, plan: Plan) -> list[ClusterAction]:
        """A process that is in no run: a member whose welcome was lost, a new node, or one that comes back."""
        start, process = self._membership.welcomed.get(node, (0, None))
        if process == join.process and not self._state.over:
            return [Send(node, Welcome(plan, start)), *self._send_again(node, plan)]
        self._membership.newcomers[node] = join
        if self._state.over:
            return self._close()
        return [] if self._membership.anyone_runs(plan) else self._bootstrap.resume_if_complete()

    def _reconnected(self, node: str, join: Join, plan: Plan) -> list[ClusterAction]:
        """A member of a running run connects again, or for the first time since this controller started."""
        known = self._state.plan
        if known is None:
            self._recover(plan)
        if why := self._why_another_run(node, plan):
            return [Send(node, Refuse(why))]
        self._membership.welcomed.pop(node, None)
        self._membership.present[node] = join
        learned = self._learn(plan, known)
        fenced = self._fenced(join, known)
        promised = self._end_fences(fence for _, fence in fenced.values())
        return [*learned, *self._end_zombies(plan, known), *self._missed(node, join, plan, fenced), *promised]

    def _recover(self, plan: Plan) -> None:
        """Take the run from a member. The nodes that are connected already are newcomers to it."""
        self._state.learn(plan)
        self._state.outrank(plan)
        self._membership.newcomers |= self._membership.present

    def _has_resumed(self, plan: Plan, known: Plan) -> bool:
        """Return whether a run of fixed members has resumed since the plan that is known here.

        A controller whose disk is lost may hear of the run first from a member that was given up, and does not know it.
        """
        # precaution: a controller that lost its disk does not follow a member that was given up
        same = self._state.has_fixed_members and plan.latest.run_id == known.latest.run_id
        return same and plan.records[0].number > known.latest.number

    def _why_another_run(self, node: str, plan: Plan) -> str:
        """Return why a member's plan is not of this run. Empty if it is."""
        known = self._state.known_plan
        ours, theirs = known.records[0].digest, plan.records[0].digest
        if ours != theirs and self._state.has_fixed_members and node not in known.latest.names:
            return f"the run has resumed without {node}"
        return "" if ours == theirs else f"this run began with plan {ours}, {node}'s with {theirs}"

    def _learn(self, plan: Plan, known: Plan | None) -> list[ClusterAction]:
        """Settle the offer by the plan of a member, and take over the records that this controller lacks."""
        state, ballot = self._state, self._evictions.ballot
        actions = self._offers.settle(plan.latest.number, plan.latest.digest)
        if plan.supersedes(state.known_plan):
            state.learn(plan)
            state.outrank(plan)
            actions += self._evictions.fence_again(ballot) if ballot else []
        if state.known_plan is not known and not actions:
            return [state.persist()]  # what is learned must outlive this process, like what is decided
        return actions

    def _end_fences(self, fences: Iterable[Fence]) -> list[ClusterAction]:
        """Evict the members that the fences of a lost controller evict."""
        unended = frozenset[str]().union(*map(self._evictions.left_to_end, fences))
        return self._evict_all(self._membership.involved(self._state.known_plan) & unended)

    def _end_zombies(self, plan: Plan, known: Plan | None) -> list[ClusterAction]:
        """Order the end of evicted nodes that connected before this controller knew of their eviction."""
        news = plan.news(known) if known else ()
        evicted = {node for record in news for node, _ in record.evictions} - set(self._state.known_plan.latest.names)
        order = EvictionCommitted(self._state.known_plan.records)
        return [Send(node, order) for node in sorted(evicted) if self._membership.takes_part(node)]

    def _missed(
        self, node: str, join: Join, plan: Plan, fenced: Mapping[str, tuple[Plan, Fence]]
    ) -> list[ClusterAction]:
        """Return what a member has missed, and what the others behind a fence that ends now wait for."""
        waits = join.fence is not None and node not in fenced
        missed = self._evictions.fences([node]) if waits else self._send_again(node, plan, join.fence is not None)
        for other in sorted(fenced.keys() - {node}):
            missed += self._send_again(other, fenced[other][0], fenced=True)
        return missed

    def _fenced(self, join: Join, known: Plan | None) -> dict[str, tuple[Plan, Fence]]:
        """The members behind a fence of a controller that is lost. This one has to bring it to its end now.

        A fence waits until its newest record is known, or all members are connected and none knows it: that record may
        have members that have not promised: the node that connects, and the members that have waited for it.
        ``known`` is the plan before that.
        """
        plan, membership = self._state.known_plan, self._membership
        before, now = known.latest.number if known else -1, plan.latest.number
        all_here = all(map(membership.takes_part, plan.latest.names))
        shown = {
            n: (j.plan, j.fence, j is join or j.fence.number > before) for n, j in membership.present.items() if j.fence
        }
        # precaution: the fence of a controller before waits until its newest record is known
        return {
            n: (p, fence) for n, (p, fence, due) in shown.items() if p and due and (fence.number <= now or all_here)
        }

    def _send_again(self, node: str, known: Plan, fenced: bool = False) -> list[ClusterAction]:
        """Return the orders that may have been lost with the link: the end, the fence or its outcome, and the offer."""
        if self._state.aborted:
            return [Send(node, Abort(self._state.aborted))]
        if self._evictions.ballot is not None and node in self._evictions.ballot.survivors:
            return self._evictions.fences([node])
        # by digest, not by number: a node that was evicted may know another change of the same number
        theirs = {r.digest for r in known.records}
        news = tuple(r for r in self._state.known_plan.records if r.digest not in theirs)
        ended = [Send(node, EvictionCommitted(news))] if fenced or any(r.evictions for r in news) else []
        offer = self._state.offer
        return [*ended, *([Send(node, Offer(offer.record))] if offer and offer.node == node else [])]

    def _evict_replaced(self) -> list[ClusterAction]:
        """Evict members whose name has a new process or whose key is revoked, once others can be reached: rule 4."""
        if self._state.plan is None or not self._membership.anyone_runs(self._state.plan):
            return []
        if self._state.has_fixed_members:
            return []
        replaced = self._membership.running(self._state.plan) & set(self._membership.newcomers)
        return self._evict_all(replaced | self._state.revoked_members())
