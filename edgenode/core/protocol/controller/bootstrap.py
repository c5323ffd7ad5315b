"""Starts a run: creates it from its initial members, or resumes it when all of them were down.

1. A new run is created as soon as `nodes` nodes are connected. The plan is one record, from round 0.
2. With no node in the run any more, its members gather again. All of them are waited for, except those that an operator
   gives up. In a run with fixed members these are turned away (`fixed_members`).
3. The run resumes from the newest round that most members have saved, and at least half of them. A member without a
   checkpoint of that round is a newcomer. If no member has saved anything, the run starts again from round 0.
4. Every resumed member gets a new incarnation, so nothing that its old process sent counts.
5. A node that comes while the run is under way fetches the model of a member, its sponsor, before it is admitted. In a
   run of exchanges it fetches it afterwards, when all members are where it starts.
6. A run of exchanges resumes from the newest round that all have saved who were members of it and have saved anything.
   The others join again: those that lost their state, and those that joined later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.eviction import Evictions
from edgenode.core.protocol.controller.pending_changes import PendingChanges
from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Evict, Reply, Rotate, Send
from edgenode.core.protocol.orders import Join, Sponsor, Welcome
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.plan.resume import restore_plan
from edgenode.core.topology.period import Epoch, Period
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError

_ALL_DOWN = "all members went down before that"


class Bootstrap:
    """Creates the run, or resumes it, once every node that it needs is connected. Sends later nodes to a sponsor."""

    def __init__(self, state: ClusterState, changes: PendingChanges, evictions: Evictions) -> None:
        self._state, self._changes, self._evictions = state, changes, evictions

    def remember(self, plan: Plan) -> None:
        """A checkpoint names a run that no node is in any more: the connected nodes may be what is left of it."""
        state = self._state
        if state.plan is None:
            state.membership.newcomers |= state.membership.present
        if state.plan is None or plan.supersedes(state.plan):
            state.learn(plan)

    def create_if_complete(self) -> list[ClusterAction]:
        """Create a run with all initial members. A run to recover is not created: a member has to know it."""
        state = self._state
        if state.recover or state.missing:
            return []
        present = state.membership.present
        members = sorted(self._member(node, 0, join) for node, join in present.items())
        try:
            schedule, epoch = self._first_schedule(present.values())
            rounds = state.training_rounds
            created = create_plan(state.run_spec.cluster, members, schedule, epoch, state.run_id, rounds)
            plan = Plan((state.new_record(created.latest),))
        except GraphError as exc:
            return state.refuse_all(present, str(exc))
        state.learn(plan)
        return self._welcome_all(plan, 0)

    def resume_if_complete(self) -> list[ClusterAction]:
        """Resume a run whose members are all back, and none of which runs: steps 2 to 4.

        A rotation that was not in force by then is requested again, and queued ones stay in the queue. A stop holds if
        a member has ended by it. The run trains for as many rounds as the plan or run.toml says, whichever are more.
        """
        state, membership = self._state, self._state.membership
        if state.plan is None or state.requested is None or membership.waited_for(state.plan):
            return []
        common = self._leave_out_newcomers(state.plan) if state.run_spec.requirements.admits else None
        here = membership.returned(state.plan)
        offers = {n: (j.saved, j.plan) for n, j in here.items() if j.saved and j.plan}
        back = [n for n in membership.involved(state.plan) if n in here]
        if not back and not offers:
            return []  # every member was given up
        requested = state.requested
        # precaution: a run that was extended stays so when all resume
        rounds = max(state.training_rounds, state.run_spec.training_rounds)
        try:
            if not self._have_begun(offers) and not membership.farewells:  # they died before their first round
                members, start = sorted(self._renewed(back)), 0
                first, epoch = self._first_schedule(here[node] for node in back)
                state.requested = replace(first, exchange=state.kept_exchange)
                schedule = state.adapted(tuple(m.node for m in members), start).schedule.with_last_from(rounds)
                plan = create_plan(state.run_spec.cluster, members, schedule, epoch, state.run_id, rounds)
            else:
                members = self._renewed({*back, *offers})
                least = None if state.has_fixed_members else state.run_spec.min_nodes
                usable = {node: (self._usable(saved, common), plan) for node, (saved, plan) in offers.items()}
                schedule_for, out = self._resumed_schedule, membership.out
                plan, start = restore_plan(state.plan, members, usable, least, schedule_for, rounds, out)
        except GraphError as exc:
            state.requested = requested
            return state.refuse_all(membership.newcomers, str(exc))
        number, end = state.plan.latest.number + 1, state.plan.latest.end if membership.farewells else None
        state.plan = Plan((state.signed(replace(plan.latest, number=number, term=state.leadership.term, end=end)),))
        expired = [*self._changes.keep_requests(_ALL_DOWN), *self._evictions.expire(_ALL_DOWN)]
        self._evictions.ballot = None
        if requested.origin > start:
            state.queue.insert(0, Rotate(UNREQUESTED, requested.graphs, Period(requested.every)))
        return [*expired, *self._welcome_all(state.plan, start)]

    def _have_begun(self, offers: Mapping[str, tuple[frozenset[int], Plan]]) -> bool:
        """Return whether the members resume from a checkpoint: if their number is fixed, from one after round 0."""
        newest = max((t for saved, _ in offers.values() for t in saved), default=0)
        return bool(offers) and not (self._state.has_fixed_members and newest == 0)

    def _leave_out_newcomers(self, plan: Plan) -> int | None:
        """Resume a run of exchanges without the members that join again: step 6.

        Returns the round from which the others resume, or None if all start again.
        """
        membership, exchange = self._state.membership, self._state.exchange_rounds
        membership.sponsored.clear()  # the others are about to be other processes
        here = membership.returned(plan)
        held = {
            node: {t for t in join.saved if node in plan.at(t).names and plan.holds(node, t, join.plan)}
            for node, join in here.items()
            if join.saved and join.plan
        }
        counts = Counter(t for rounds in held.values() for t in rounds if t % exchange == 0)
        if not any(counts):
            return None

        def is_common(t: int) -> bool:
            return all(t in held[node] for node in plan.at(t).names if node in held)

        # what members have not sent is lost with the rounds that they resume without
        start = max(counts, key=lambda t: (is_common(t), counts[t], t))
        membership.given_up |= {node for node in here if start not in held.get(node, ())}
        return start

    def _resumed_schedule(self, start: int, members: tuple[str, ...]) -> Schedule:
        """The schedule that was requested by a round, over the members that resume from it."""
        state = self._state
        assert state.requested is not None
        if state.requested.origin > start:
            state.requested = replace(state.known_plan.at(start).schedule, without=())
        state.requested = replace(state.requested, exchange=state.kept_exchange)
        return state.adapted(members, start).schedule

    def _usable(self, saved: frozenset[int], common: int | None) -> frozenset[int]:
        """The rounds from which the members of now can resume: other members than before begin with an exchange."""
        if common is not None:
            return saved & {common}
        state = self._state
        # a checkpoint of an earlier version may lie within an exchange
        exchange = state.exchange_rounds if state.membership.out else 1
        return frozenset(t for t in saved if t % exchange == 0)

    def give_up(self, evict: Evict, plan: Plan) -> list[ClusterAction]:
        """Stop waiting for a node before the others resume: with no node in the run, none can be fenced."""
        state = self._state
        if not evict.force:
            why = f"{evict.node} stays: no member of the run is connected, and the run waits for them"
            return [Reply(evict.request_id, None, why)]
        state.membership.given_up.add(evict.node)
        resumed = self.resume_if_complete()
        return [*resumed, Reply(evict.request_id, (state.plan or plan).latest.start, difference=state.difference)]

    def sponsor_newcomers(self) -> list[ClusterAction]:
        """Send every newcomer that is not held, and whose name is free, to a member for its model.

        It returns as Fetched.
        """
        plan, membership = self._state.plan, self._state.membership
        if plan is None or self._evictions.ballot or plan.latest.end is not None or not self._state.admits:
            return []
        members = {m.node: m for m in plan.latest.members}
        living = [m for n, m in members.items() if membership.takes_part(n)]
        addresses = tuple(member.address for member in members.values())
        sponsor = [Sponsor(m.address, addresses, m.node, tuple(members)) for m in living[:1]]
        actions: list[ClusterAction] = []
        for node in sorted(membership.newcomers.keys() - membership.held):
            if sponsor and node not in members and node not in membership.sponsored:
                membership.sponsored.add(node)
                actions.append(Send(node, sponsor[0]))
        return actions

    def expire(self, why: str) -> list[ClusterAction]:
        """Nothing that was requested will be done."""
        return [*self._changes.expire(why), *self._evictions.expire(why)]

    def _renewed(self, names: Iterable[str]) -> list[Member]:
        """Newcomers as members, each with an incarnation of its own."""
        plan, newcomers = self._state.known_plan, self._state.membership.newcomers
        return [self._member(n, plan.processes.next_incarnation(n), newcomers[n]) for n in names]

    def _member(self, node: str, incarnation: int, join: Join) -> Member:
        mask_key = join.process if self._state.run_spec.masked else ""
        return Member(node, incarnation, join.address, join.key, mask_key)

    def _welcome_all(self, plan: Plan, start: int) -> list[ClusterAction]:
        self._state.membership.begin(plan, start)
        # precaution: a plan is persisted before anyone is welcomed to it
        return [self._state.persist(), *(Send(node, Welcome(plan, start)) for node in plan.latest.names)]

    def _first_schedule(self, joins: Iterable[Join]) -> tuple[Schedule, Epoch]:
        """The schedule of a new run of these nodes, and its epoch."""
        epoch = Epoch.of(join.data for join in joins)
        return self._state.run_spec.schedule.schedule(epoch.rounds), epoch
