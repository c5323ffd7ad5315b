"""Removing a member that cannot be asked: fence the other members, then commit.

The evicted node may be dead, or alive behind a broken link. Its last actions are settled without it:

1. Fence. Every node that may still be in a round, the evicted apart, promises to accept nothing more from the evicted
   and to begin no further round. It answers with the newest round it has begun, and with the round before which each
   evicted node *must* have mixed all: those that a push of it shows, and one whose push it acknowledged (`lag`). A
   farewell is such an answer given in advance. An answer counts only for its own (term, ballot).
2. Commit. R = 1 + the newest round that any survivor has begun. So no survivor has used the graph of round R yet.
   L = min(round before which an evicted node must have mixed all, that before which R - 1 mixes all), per evicted
   node. In lock-step that is the newest round that it must have begun, and R - 1. One without evidence counts up to the
   round before it became a member. What others mixed of it before they were evicted, in this ballot or in one before,
   is evidence, too (`flood.must_have_mixed`): they may have passed it on to a survivor.
3. At the survivors, what the evicted pushed before it mixed round L counts as far as it was delivered: in lock-step,
   its rounds up to L. Its later pushes are discarded. What a survivor pushed to it in rounds of L or later is taken
   back, acknowledged or not.

Why no mass is lost or doubled: the evicted node had mixed every round before L, and what was pushed to it in those
rounds left with it. Its mix of round L reached no survivor: whatever shows that it mixed that round would be evidence
for L + 1. So nothing that is taken back at the survivors is used anywhere else.

A survivor may know a longer plan than the controller, from a controller before it (`Plan.supersedes`). If it names
further nodes, the fence begins again over those: they may be in a round, too. So may the nodes that join while a fence
is up, by a change that a member had accepted before its promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.offers import Offers
from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Evict, Reply, Send
from edgenode.core.protocol.orders import EvictionCommitted, Fence, FenceAnswer
from edgenode.core.protocol.plan.flood import must_have_mixed
from edgenode.core.protocol.plan.lag import LOCK_STEP, Lag
from edgenode.core.protocol.plan.last_phase import without_evicted
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.topology.schedule import Schedule


@dataclass
class Ballot:
    """One fence of one controller.

    Attributes:
        survivors: the nodes whose promise it needs.
        request_ids: the ids of the requests for the eviction.
    """

    term: int
    number: int
    evicted: frozenset[str]
    survivors: frozenset[str]
    request_ids: list[int]
    lag: Lag = LOCK_STEP
    answers: dict[str, FenceAnswer] = field(default_factory=dict)

    def take(self, node: str, answer: FenceAnswer) -> bool:
        """Note a promise; False if it is of another ballot."""
        # precaution: only a promise of this ballot counts
        if (answer.term, answer.ballot) != (self.term, self.number) or node not in self.survivors:
            return False
        self.answers[node] = answer
        return True

    @property
    def complete(self) -> bool:
        """Return whether every survivor has promised."""
        return set(self.answers) == self.survivors

    @property
    def begun(self) -> int:
        """The newest round that any survivor has begun."""
        return max((a.begun for a in self.answers.values()), default=-1)

    def newest_plan(self, ours: Plan) -> Plan:
        """The chain of records that counts: ours, or a survivor's."""
        newest = ours
        for plan in (Plan(a.records) for a in self.answers.values()):
            newest = plan if plan.supersedes(newest) else newest
        return newest

    def record(
        self,
        plan: Plan,
        term: int,
        schedule_for: Callable[[tuple[str, ...]], Schedule],
        revoked: frozenset[str] = frozenset(),
    ) -> Record:
        """The record without the evicted, from the first round that no survivor has begun: step 2."""
        members = tuple(m for m in plan.latest.members if m.node not in self.evicted)
        names = tuple(m.node for m in members)
        by_all = min((a.begun for node, a in self.answers.items() if node in names), default=-1)
        first = max(self.begun, plan.latest.start) + 1
        schedule, start = without_evicted(plan, schedule_for(names), first, by_all)
        evictions = self.last_rounds(plan, start)
        keys = {member.key for node in self.evicted if (member := plan.member(node))}
        return plan.successor(
            start,
            schedule=schedule,
            members=members,
            evictions=evictions,
            revoked=tuple(sorted(keys & revoked)),
            term=term,
        )

    def last_rounds(self, plan: Plan, start: int) -> tuple[tuple[str, int], ...]:
        """(evicted node, L) for a record that starts at a round."""
        most = self.lag.mixed_before(plan, start - 1)
        # precaution: no round of an evicted node counts that it may not have begun
        # precaution: every round of an evicted node counts that others may have mixed
        mixed = {node: min(self._must_have_mixed(plan, node), most) for node in sorted(self.evicted)}
        # precaution: what an evicted node passed on counts as evidence of where it came from
        mixed = must_have_mixed(plan, mixed, self.lag)
        return tuple(mixed.items())

    def _must_have_mixed(self, plan: Plan, evicted: str) -> int:
        """The round before which an evicted node must have mixed all."""
        member = plan.member(evicted)
        assert member is not None
        mixed = [t for a in self.answers.values() for node, t in a.begun_rounds if node == evicted]
        return max([*mixed, plan.processes.joined(evicted, member.incarnation) - 1])


def is_blind(state: ClusterState) -> bool:
    """Return whether a controller that lost its disk may not know of all members, as it lacks reports of some."""
    # precaution: a recovering controller that has not heard everyone needs a majority
    return state.recover and not state.membership.has_reports_of_all(state.known_plan)


def are_few(state: ClusterState, left: int) -> bool:
    """Return whether so few members would be left that only an operator may evict more.

    There is one controller, so half of the members is enough. But a blind one may be the second to choose a half: it
    needs more than half.
    """
    gone = len(state.known_plan.latest.names) - left
    return left < state.run_spec.min_nodes or left < gone + is_blind(state)


class Evictions:
    """The fence that is up, if one is, and how it ends.

    Attributes:
        ballot: None without a fence.
    """

    def __init__(self, state: ClusterState, offers: Offers) -> None:
        self._state, self._offers = state, offers
        self.ballot: Ballot | None = None

    @property
    def evicted(self) -> frozenset[str]:
        """The nodes that the fence evicts."""
        return self.ballot.evicted if self.ballot else frozenset()

    @property
    def awaited(self) -> frozenset[str]:
        """The survivors that have not promised yet."""
        return self.ballot.survivors - set(self.ballot.answers) if self.ballot else frozenset()

    def request(self, evict: Evict, plan: Plan) -> list[ClusterAction]:
        """Fence off a member, unless too few would be left."""
        state = self._state
        if self.ballot and evict.node in self.ballot.evicted:
            self.ballot.request_ids.append(evict.request_id)
            return []
        evicted = self.evicted | {evict.node}
        left = len(set(plan.latest.names) - evicted)
        # A member whose key is revoked reports nothing. It may have been the survivor of an eviction that is lost.
        revoked = evict.request_id == UNREQUESTED and evict.node in state.revoked_members()
        # precaution: a recovering controller needs a majority against a revoked member, too
        force = evict.force and not (is_blind(state) and revoked)
        if left < 1 or (are_few(state, left) and not force):
            return [Reply(evict.request_id, None, self._stays(evict.node, left))]
        request_ids = [*(self.ballot.request_ids if self.ballot else []), evict.request_id]
        return self._fence_off(evicted, request_ids)

    def _stays(self, names: str, left: int) -> str:
        of = len(self._state.plan.latest.names) if self._state.plan else 0
        return f"{names} stays: without it {left} of {of} members would be left"

    def fence_again(self, ballot: Ballot) -> list[ClusterAction]:
        """Repeat a fence over the members of a plan that has just become known."""
        return self._fence_off(ballot.evicted, ballot.request_ids)

    def cover_newcomers(self) -> list[ClusterAction]:
        """Repeat the fence if nodes have joined since it began: they may be in a round, and have promised nothing."""
        ballot, plan = self.ballot, self._state.plan
        if ballot is None or plan is None:
            return []
        covered = ballot.survivors | ballot.evicted
        # precaution: a fence covers the nodes that join while it is up
        return [] if self._state.membership.involved(plan) <= covered else self.fence_again(ballot)

    def _fence_off(self, evicted: frozenset[str], request_ids: list[int]) -> list[ClusterAction]:
        """Begin a ballot over every node that may still be in a round. A node that is out already needs none."""
        state = self._state
        involved = state.membership.involved(state.known_plan)
        evicted &= state.membership.evictable(state.known_plan)
        self.ballot = None
        if not evicted:
            start = state.known_plan.latest.start
            return [*self._committed(), *(Reply(i, start) for i in request_ids if i != UNREQUESTED)]
        state.ballot += 1
        survivors = involved - evicted
        promised = {node: farewell for node, farewell in state.membership.farewells.items() if node in survivors}
        lag = state.run_spec.lag
        self.ballot = Ballot(state.leadership.term, state.ballot, evicted, survivors, request_ids, lag, promised)
        return [state.persist(), *self.fences(sorted(survivors)), *self._commit()]

    def fences(self, nodes: Iterable[str]) -> list[ClusterAction]:
        """The fence as an order to those of the nodes that survive and are connected."""
        if self.ballot is None:
            return []
        latest = self._state.known_plan.latest
        fence = Fence(self.ballot.term, self.ballot.number, self.ballot.evicted, latest.number, latest.run_id)
        fence = replace(fence, signature=self._state.signer.sign(fence.statement))
        return [Send(n, fence) for n in nodes if n in self.ballot.survivors and n in self._state.membership.present]

    def answered(self, node: str, answer: FenceAnswer) -> list[ClusterAction]:
        """A survivor promised."""
        return self._commit() if self.ballot and self.ballot.take(node, answer) else []

    def ended_well(self, node: str, farewell: FenceAnswer) -> list[ClusterAction]:
        """A survivor ended: its farewell is its promise."""
        if self.ballot is not None and node in self.ballot.survivors:
            self.ballot.answers[node] = farewell
        return self._commit()

    def _commit(self) -> list[ClusterAction]:
        """End the fence once all survivors have promised: step 2."""
        state, ballot = self._state, self.ballot
        if ballot is None or state.plan is None or not ballot.complete:
            return []
        self.ballot = None
        actions, longer = self._learn(ballot.newest_plan(state.plan), state.plan)
        if longer:  # by a controller before: others may be involved
            return [*actions, *self._fence_off(ballot.evicted | self.evicted, ballot.request_ids)]
        if ballot.evicted >= set(state.plan.latest.names):  # all others have left
            stays = self._stays(", ".join(sorted(ballot.evicted)), 0)
            return [*actions, *self._committed(), *(Reply(i, None, stays) for i in ballot.request_ids)]
        actions += self._evict(ballot, state.plan)
        # A node that joins by the settled offer may have died, and its fence is up. It begins again over those that are
        # left: the end of this fence has freed them from their promise, and the evicted would never give one.
        return [*actions, *(self.fence_again(self.ballot) if self.ballot else [])]

    def _learn(self, newest: Plan, known: Plan) -> tuple[list[ClusterAction], bool]:
        """Learn the plan of all survivors that counts, and settle the offer or take it back.

        Returns what follows, and whether the plan has other new records than the one on offer.
        """
        offer = self._state.offer
        news = {record.digest for record in newest.news(known)}
        self._state.learn(newest)
        if offer is None or offer.record.digest not in news:
            self._offers.take_back()  # only an evicted node may have it
            return [], bool(news)
        settled = self._offers.settle(offer.record.number, offer.record.digest)  # as if its acceptance had arrived
        return settled, len(news) > 1

    def _evict(self, ballot: Ballot, plan: Plan) -> list[ClusterAction]:
        """Make the record without the evicted part of the plan, and let everyone know."""
        state = self._state
        record = ballot.record(
            plan, state.leadership.term, lambda members: state.adapted(members).schedule, state.revoked
        )
        record = state.signed(record)
        state.plan = plan.extend(record)
        for node in ballot.evicted:
            state.membership.forget(node)
        ids = [i for i in ballot.request_ids if i != UNREQUESTED]
        replies = [Reply(i, record.start, difference=state.difference) for i in ids]
        return [state.persist(), *self._committed(), *replies]

    def _committed(self) -> list[ClusterAction]:
        """Send the outcome to every node in the run: a zombie learns of its eviction, and a leaver stops waiting."""
        order, membership = EvictionCommitted(self._state.known_plan.records), self._state.membership
        return [Send(node, order) for node in sorted(membership.present) if membership.takes_part(node)]

    def left_to_end(self, fence: Fence) -> frozenset[str]:
        """The members that an earlier controller's fence evicts, and no record has evicted since."""
        plan = self._state.plan
        if plan is None or fence.term >= self._state.leadership.term or fence.run_id != self._state.run_id:
            return frozenset()
        since = {node for record in plan.records if record.number > fence.number for node, _ in record.evictions}
        return fence.evicted - since

    def expire(self, why: str) -> list[ClusterAction]:
        """Operators get the reason why no fence will end."""
        request_ids = self.ballot.request_ids if self.ballot else []
        return [Reply(i, None, why) for i in request_ids if i != UNREQUESTED]
