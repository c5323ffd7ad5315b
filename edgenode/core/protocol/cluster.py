"""The controller's decisions as a state machine: who is a member, and how the plan changes. No I/O, no clock.

A graceful change is a record given to one member; the members' own pushes carry it to the rest, so a controller
that dies right after the offer has done its work. Only one record may be not yet in force; further changes wait.
A silent member is fenced off, then cut out: `edgenode.core.protocol.eviction`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import assert_never

from edgenode.core.protocol.control import (
    Admit,
    Change,
    ClusterAction,
    ClusterEvent,
    Decree,
    Evict,
    Fence,
    FenceAnswered,
    Fetched,
    Halt,
    Hello,
    Joined,
    Leadership,
    Leave,
    Lost,
    Offer,
    OfferAnswered,
    Pause,
    Persist,
    Progressed,
    Refuse,
    Reply,
    Resume,
    Rotate,
    Sponsor,
    StepDown,
    Stop,
    Welcome,
)
from edgenode.core.protocol.eviction import EvictionBallot
from edgenode.core.protocol.membership import Membership
from edgenode.core.protocol.pending_changes import PendingChanges, PendingOffer, check, rotation, successor
from edgenode.core.protocol.plan import Member, Plan, create_plan, restore_plan
from edgenode.core.protocol.run_spec import RunSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import EdgenodeError, GraphError


class Cluster:
    """The membership and the plan of one run.

    Args:
        reign: who we are; its term is higher at every start.
        saved: what the last controller persisted, if there was one.
        recover: if that is lost, take the plan from the members that run; without it they are another controller's.

    Attributes:
        plan: None until the run is founded.
        paused: an operator wants everyone to stand still; never of a run whose plan came from its members alone.
    """

    def __init__(
        self, run_spec: RunSpec, leadership: Leadership, saved: Persist | None = None, recover: bool = False
    ) -> None:
        self.run_spec, self.leadership, self.recover = run_spec, leadership, recover
        self.plan: Plan | None = saved.plan if saved else None
        self.paused = saved.paused if saved else False
        self.rounds_per_epoch = 1
        self._membership = Membership()
        self._changes = PendingChanges()
        self._ballot_open: EvictionBallot | None = None
        self._ballot = 0

    @property
    def term(self) -> int:
        """Of this controller; every record it makes carries it."""
        return self.leadership.term

    @property
    def present(self) -> Mapping[str, Joined]:
        """The nodes with a live link, members and others."""
        return self._membership.present

    @property
    def next_rounds(self) -> Mapping[str, int]:
        """The next round of each node, as last reported."""
        return self._membership.next_rounds

    def missing(self) -> int:
        """How many nodes the founding still waits for."""
        return 0 if self.plan else max(0, self.run_spec.nodes - len(self.present))

    def evicting(self) -> frozenset[str]:
        """Who is being cut out."""
        return self._ballot_open.evicted if self._ballot_open else frozenset()

    def awaited(self) -> frozenset[str]:
        """Whose promise a fence still waits for."""
        return self._ballot_open.survivors - set(self._ballot_open.answers) if self._ballot_open else frozenset()

    def handle(self, event: ClusterEvent) -> list[ClusterAction]:
        """Take one event; return what is to be done, in this order."""
        actions = self._take(event)
        if self.plan is not None and self.plan.latest.end is not None:
            actions += self._halt(False)  # all stop at one round, and must come to it
        return [*actions, *self._offer_next(), *self._admit_next()]

    def _take(self, event: ClusterEvent) -> list[ClusterAction]:
        match event:
            case Joined():
                return self._joined(event)
            case Lost(node):
                self._membership.lost(node)
                return []
            case Progressed():
                self._membership.welcomed.pop(event.node, None)
                self._membership.next_rounds[event.node] = event.next_round
                return [*self._settle(event.number, event.digest), *self._parted(event)]
            case OfferAnswered():
                return self._answered(event)
            case Rotate() | Stop() | Leave():
                return self._asked(event)
            case Pause() | Resume():
                return self._pause(event)
            case Evict():
                return self._evict(event)
            case Fetched(node):
                if node in self._membership.newcomers and node in self._membership.sponsored:
                    self._changes.queue.append(Admit(node, self._membership.newcomers[node].process))
                return []
            case FenceAnswered():
                return self._fence_answered(event)
        assert_never(event)

    # --- members ------------------------------------------------------------------------------------

    def _joined(self, event: Joined) -> list[ClusterAction]:
        if event.run_digest != self.run_spec.run_digest:
            return [Refuse(event.node, f"run digest differs: the controller's is {self.run_spec.run_digest}, "
                                       f"{event.node}'s is {event.run_digest}")]  # fmt: skip
        if event.node in self.present:
            other = self.present[event.node].address
            return [Refuse(event.node, f"node id {event.node!r} is taken by {other}; this one is {event.address}")]
        if event.running and event.plan and (leader := self._leader(event, event.plan)):
            return [StepDown(f"{event.node} follows the controller at {leader}, not this one, {self.leadership}")]
        self.rounds_per_epoch = max(self.rounds_per_epoch, event.rounds_per_epoch)
        hello = Hello(event.node, self.leadership, self.paused)
        if event.running and event.plan:
            return [hello, *self._returned(event, event.plan), *self._cut_replaced()]
        if event.plan is not None and not (self.plan and self._membership.anyone_runs(self.plan)):
            self._remember(event.plan)
        self._membership.present[event.node] = event
        if self.plan is None:
            return [hello, *self._found_if_complete()]
        return [hello, *self._newcomer(event, self.plan), *self._cut_replaced()]

    def _leader(self, event: Joined, plan: Plan) -> Leadership | None:
        """The controller that a running member must be left to; None if that is us, from now on at least."""
        theirs = event.follows or Leadership(plan.latest.term)
        if self.recover:  # whoever led it is gone for good: the operator says so
            self.leadership = replace(
                self.leadership, term=max(self.term, theirs.term + self.leadership.yields_to(theirs))
            )
            return None
        foreign = self.plan is None or self.leadership.yields_to(theirs) or plan.latest.term > self.term
        return theirs if foreign else None

    def _remember(self, plan: Plan) -> None:
        """A run that nobody is in any more, from a checkpoint: those who gathered here may be what is left of it."""
        if self.plan is None:
            self._membership.newcomers |= self.present
        if self.plan is None or plan.latest.number > self.plan.latest.number:
            self.plan = plan

    def _found_if_complete(self) -> list[ClusterAction]:
        """A new run, once everyone is there; to recover one, somebody must know it."""
        if self.recover or self.missing():
            return []
        members = sorted(Member(j.node, 0, j.address) for j in self.present.values())
        try:
            self.plan = create_plan(self.run_spec.cluster, members, self._founding_schedule())
        except GraphError as exc:
            return self._refuse_all(self.present, str(exc))
        return self._welcome_all(self.plan, 0)

    def _newcomer(self, event: Joined, plan: Plan) -> list[ClusterAction]:
        """A process that is in no run yet: a member whose welcome was lost, or someone new, or someone back."""
        start, process = self._membership.welcomed.get(event.node, (0, None))
        if process == event.process:
            return [Welcome(event.node, plan, start), *self._repeat_to(event.node, plan)]
        self._membership.newcomers[event.node] = event
        if self.over:
            return self.close()
        return [] if self._membership.anyone_runs(plan) else self._resume_if_complete()

    def _cut_replaced(self) -> list[ClusterAction]:
        """A new process under a member's name proves that the old one is dead, once others are there to do without."""
        if self.plan is None or not self._membership.anyone_runs(self.plan):
            return []
        return self._evict_all(self._membership.running(self.plan) & set(self._membership.newcomers))

    def _evict_all(self, nodes: Iterable[str]) -> list[ClusterAction]:
        """On the cluster's own account, however many are left."""
        return [action for node in sorted(nodes) for action in self._evict(Evict(-1, node, force=True))]

    def _parted(self, report: Progressed) -> list[ClusterAction]:
        """A member has ended well: nothing is asked of it any more, and once all have, nobody can join."""
        node = report.node
        if self.plan is None or report.farewell is None or node not in self._membership.running(self.plan):
            return []
        self._membership.farewells[node] = report.farewell
        if self.over:
            return self.close()
        if self._ballot_open is not None and node in self._ballot_open.survivors:
            self._ballot_open.answers[node] = report.farewell
        return self._decree()

    def close(self) -> list[ClusterAction]:
        """Whoever and whatever comes too late is told so; to be done last, if not all members have ended."""
        why = self._why_over()
        return [*self._refuse_all(self._membership.newcomers, why), *self._lapse(why)]

    def _why_over(self) -> str:
        end = self.plan.latest.end if self.plan else None
        how = f"done all {self.run_spec.rounds} rounds" if end is None else f"stopped before round {end}"
        return f"the run is over: its members have {how}"

    @property
    def over(self) -> bool:
        """Whether every member has ended well."""
        return self.plan is not None and not self._membership.running(self.plan)

    def waits_for(self) -> frozenset[str]:
        """Members of the run that nobody is in any more, who must come back before it can go on."""
        return self._membership.waited_for(self.plan) if self.plan else frozenset()

    def _returned(self, event: Joined, plan: Plan) -> list[ClusterAction]:
        """A member of a running run reached us again, or for the first time if we are the ones who restarted."""
        known = self.plan
        if self.plan is None:  # those who gathered here in the meantime are newcomers to this run
            self.plan = plan
            self._outrank(plan)
            self._membership.newcomers |= self.present
        if plan.records[0].digest != self.plan.records[0].digest:
            ours, theirs = self.plan.records[0].digest, plan.records[0].digest
            return [Refuse(event.node, f"this run was founded on plan {ours}, {event.node}'s on {theirs}")]
        self._membership.welcomed.pop(event.node, None)
        self._membership.present[event.node] = event
        settled = self._settle(plan.latest.number, plan.latest.digest)
        fenced, out = self._ballot_open, set[str]()
        if plan.latest.number > self.plan.latest.number:
            out = {dead for r in plan.records if r.number > self.plan.latest.number for dead, _ in r.evictions}
            self.plan = plan
            self._outrank(plan)
            settled += self._fence_off(fenced.evicted, fenced.request_ids) if fenced else []
        if self.plan is not known and not settled:
            settled = [self._persist()]  # what we have learnt must outlive us, like what we decide
        # promised away to a controller that is gone
        waiting = self._evict_all(self._membership.involved(self.plan) & event.fenced)
        zombies = [
            n for n in sorted(out - set(self.plan.latest.names)) if self._membership.takes_part(n)
        ]  # here before we knew
        told = [Decree(node, self.plan.records) for node in zombies]
        return [*settled, *told, *self._repeat_to(event.node, plan, event.fenced), *waiting]

    def _outrank(self, plan: Plan) -> None:
        """A plan that another controller made: its members may have promised it fences that we know nothing of."""
        self.leadership = replace(self.leadership, term=max(self.term, plan.latest.term + 1))

    def _resume_if_complete(self) -> list[ClusterAction]:
        """All members are back, and none of them runs: on from the newest round that most have saved.

        Those who have not saved it are newcomers. A schedule that was not in force by then is asked for again; a stop
        holds if a member has ended by it.
        """
        if self.plan is None or self.waits_for():
            return []
        here = self._membership.newcomers
        offers = {n: (j.saved, j.plan) for n, j in here.items() if j.saved and j.plan}
        back = [n for n in self._membership.involved(self.plan) if n in here]
        try:
            if not offers and not self._membership.farewells:  # they died before their first round
                plan, start = create_plan(self.run_spec.cluster, self._renewed(back), self._founding_schedule()), 0
            else:
                plan, start = restore_plan(self.plan, self._renewed({*back, *offers}), offers, self.run_spec.min_nodes)
        except GraphError as exc:
            return self._refuse_all(self._membership.newcomers, str(exc))
        promised = rotation(self.plan, after=start)
        number, end = self.plan.latest.number + 1, self.plan.latest.end if self._membership.farewells else None
        self.plan = Plan((replace(plan.latest, number=number, term=self.term, end=end),))
        lapsed = self._lapse("all members went down before that")
        self._ballot_open = None
        self._changes.queue += [promised] if promised else []
        return [*lapsed, *self._welcome_all(self.plan, start)]

    def _renewed(self, names: Iterable[str]) -> list[Member]:
        """Newcomers as members, each with an incarnation of its own."""
        assert self.plan is not None
        return [Member(n, self.plan.next_incarnation(n), self._membership.newcomers[n].address) for n in names]

    def _lapse(self, why: str) -> list[ClusterAction]:
        """What was asked for will not be done."""
        asked = self._changes.lapse() + (self._ballot_open.request_ids if self._ballot_open else [])
        return [Reply(request_id, None, why) for request_id in asked if request_id >= 0]

    def _welcome_all(self, plan: Plan, start: int) -> list[ClusterAction]:
        self._membership.begin(plan, start)
        # precaution: a plan is persisted before anyone is welcomed to it
        return [self._persist(), *(Welcome(node, plan, start) for node in plan.latest.names)]

    def _refuse_all(self, nodes: Iterable[str], reason: str) -> list[ClusterAction]:
        refused = sorted(nodes)
        for node in refused:
            self._membership.lost(node)
        return [Refuse(node, reason) for node in refused]

    def _founding_schedule(self) -> Schedule:
        schedule = self.run_spec.schedule
        turns = self.rounds_per_epoch if self.run_spec.epochs else 1  # epochs are those of the node with most data
        return replace(schedule, every=schedule.every * turns)

    def _persist(self) -> Persist:
        assert self.plan is not None
        return Persist(self.term, self._ballot, self.plan, self.paused)

    # --- joining a run ------------------------------------------------------------------------------

    def _admit_next(self) -> list[ClusterAction]:
        """Send every newcomer whose name is free to a sponsor; it comes back as Fetched."""
        if self.plan is None or self._ballot_open or self.plan.latest.end is not None:
            return []
        members = {m.node: m for m in self.plan.latest.members}
        living = [m for n, m in members.items() if self._membership.takes_part(n)]
        actions: list[ClusterAction] = []
        for node in sorted(self._membership.newcomers):
            if living and node not in members and node not in self._membership.sponsored:
                self._membership.sponsored.add(node)
                actions.append(Sponsor(node, living[0], tuple(members.values())))
        return actions

    # --- pausing ------------------------------------------------------------------------------------

    def _pause(self, request: Pause | Resume) -> list[ClusterAction]:
        """It needs no agreement on a round: the barrier stops everybody as soon as one stands still."""
        if why_not := self._why_not():
            return [_no(request, why_not)]
        return [
            *self._halt(isinstance(request, Pause)),
            Reply(request.request_id, max(self.next_rounds.values(), default=0)),
        ]

    def _halt(self, paused: bool) -> list[ClusterAction]:
        if paused == self.paused:
            return []
        self.paused = paused
        return [self._persist(), *(Halt(node, paused) for node in sorted(self.present))]

    # --- graceful changes ---------------------------------------------------------------------------

    def _asked(self, change: Rotate | Stop | Leave) -> list[ClusterAction]:
        if why_not := self._why_not():
            return [_no(change, why_not)]
        if self.paused and isinstance(change, Leave):
            return [_no(change, "the run is paused: handing over takes a round")]
        assert self.plan is not None
        try:
            check(change, self._changes.coming, self.plan, self.run_spec, self.rounds_per_epoch)
        except GraphError as exc:
            return [_no(change, str(exc))]
        self._changes.queue.append(change)
        return self._halt(False) if isinstance(change, Stop) else []  # its record has to travel, too

    def _why_not(self) -> str:
        """Why nothing can be asked for: before the start and after the end; else empty."""
        if self.plan is None:
            return f"the run has not started: it waits for {self.missing()} more nodes"
        if self.over:
            return self._why_over()
        stops = self.plan.latest.end is not None or any(isinstance(c, Stop) for c in self._changes.coming)
        return "the run is stopping" if stops else ""

    def _offer_next(self) -> list[ClusterAction]:
        """Offer all queued changes as one record, if the last one is in force everywhere and a member is there."""
        if self.plan is None or self._ballot_open or self._changes.pending or not self._changes.queue:
            return []
        # precaution: one change is in force before the next is offered
        if not self._membership.is_settled(self.plan):
            return []
        names = self.plan.latest.names
        member = min((n for n in names if self._membership.takes_part(n)), default=None)
        if member is None:
            return []
        changes, self._changes.queue = self._changes.queue, []
        void = [c for c in changes if isinstance(c, Leave) and c.node not in names]
        changes = [c for c in changes if c not in void and (not isinstance(c, Admit) or self._membership.is_ready(c))]
        refused = [_no(c, f"{c.node} is no member") for c in void]
        return [*refused, *(self._offer(member, changes) if changes else [])]

    def _offer(self, member: str, changes: list[Change]) -> list[ClusterAction]:
        assert self.plan is not None
        try:
            start = self._changes.start(self.plan, member, self.next_rounds.get(member, 0))
            if start >= self.run_spec.rounds:
                raise GraphError(f"too late: the run ends with round {self.run_spec.rounds}")
            record = successor(self.plan, start, changes, self._membership, self.term, self.rounds_per_epoch)
        except EdgenodeError as exc:
            return [a for change in changes for a in self._give_up(change, str(exc))]
        self._changes.pending = PendingOffer(record, member, tuple(changes))
        return [Offer(member, record)]

    def _give_up(self, change: Change, error: str) -> list[ClusterAction]:
        if not isinstance(change, Admit):
            return [_no(change, error)]
        self._membership.newcomers.pop(change.node, None)
        self._membership.present.pop(change.node, None)
        return [Refuse(change.node, error)]

    def _answered(self, event: OfferAnswered) -> list[ClusterAction]:
        pending, answer = self._changes.pending, event.answer
        self._membership.next_rounds[event.node] = max(self.next_rounds.get(event.node, 0), answer.next_round)
        if pending is None or pending.asked != event.node or pending.record.digest != answer.digest:
            return []
        if answer.accepted:
            return self._settle(answer.number, answer.digest)
        self._changes.too_late()
        return []

    def _settle(self, number: int, digest: str) -> list[ClusterAction]:
        """A member knows the record on offer: it is part of the plan, and who joins by it is welcome."""
        pending = self._changes.pending
        if pending is None or self.plan is None or digest != pending.record.digest:
            return []
        self._changes.settle()
        if self.plan.latest.number < number:
            self.plan = self.plan.extend(pending.record)
        start = pending.record.start
        actions: list[ClusterAction] = [self._persist()]
        for change in pending.changes:
            if not isinstance(change, Admit):
                actions.append(Reply(change.request_id, start))
                continue
            self._membership.next_rounds[change.node] = start
            self._membership.welcomed[change.node] = start, change.process
            if self._membership.is_ready(change):
                del self._membership.newcomers[change.node]
                self._membership.sponsored.discard(change.node)
                actions.append(Welcome(change.node, self.plan, start))
            elif change.node in self._membership.newcomers:  # another process by now: the one that is a member is dead
                actions += self._evict(Evict(-1, change.node, force=True))
        return actions

    def _repeat_to(self, node: str, known: Plan, fenced: frozenset[str] = frozenset()) -> list[ClusterAction]:
        """What was lost with the link: the fence, or how it ended; and the same offer again, never another."""
        assert self.plan is not None
        if self._ballot_open is not None and node in self._ballot_open.survivors:
            return self._fences([node])
        theirs = {r.digest for r in known.records}  # not their numbers: one who was cut out may know of another change
        news = tuple(r for r in self.plan.records if r.digest not in theirs)
        ended = [Decree(node, news)] if fenced or any(r.evictions for r in news) else []
        offered = self._changes.pending
        return [*ended, *([Offer(node, offered.record)] if offered and offered.asked == node else [])]

    # --- removal ------------------------------------------------------------------------------------

    def _evict(self, evict: Evict) -> list[ClusterAction]:
        if self.plan is None or evict.node not in self._membership.evictable(self.plan):
            return [Reply(evict.request_id, None, f"{evict.node} is no member")]
        if self.over:
            return [Reply(evict.request_id, None, self._why_over())]
        if not self._membership.anyone_runs(self.plan):
            return self._go_on_without(evict, self.plan)
        if self._ballot_open and evict.node in self._ballot_open.evicted:
            self._ballot_open.request_ids.append(evict.request_id)
            return []
        evicted = self.evicting() | {evict.node}
        left = len(set(self.plan.latest.names) - evicted)
        gone = len(self.plan.latest.names) - left
        # half is enough, as there is one controller; but one that has lost its disk may have chosen the other half
        # precaution: a recovering controller that has not heard everyone needs a majority
        blind = self.recover and not self._membership.has_heard_all(self.plan)
        few = left < self.run_spec.min_nodes or left < gone + blind
        if left < 1 or (few and not evict.force):
            return [Reply(evict.request_id, None, self._stays(evict.node, left))]
        request_ids = [*(self._ballot_open.request_ids if self._ballot_open else []), evict.request_id]
        return self._fence_off(evicted, request_ids)

    def _stays(self, names: str, left: int) -> str:
        of = len(self.plan.latest.names) if self.plan else 0
        return f"{names} stays: without it {left} of {of} members would be left"

    def _go_on_without(self, evict: Evict, plan: Plan) -> list[ClusterAction]:
        """Nobody runs, so nobody can be fenced: the others' return does not wait for this one any more."""
        if not evict.force:
            return [
                Reply(evict.request_id, None, f"{evict.node} stays: no member of the run is here; they are waited for")
            ]
        self._membership.given_up.add(evict.node)
        resumed = self._resume_if_complete()
        return [*resumed, Reply(evict.request_id, (self.plan or plan).latest.start)]

    def _fence_off(self, evicted: frozenset[str], request_ids: list[int]) -> list[ClusterAction]:
        """Begin a ballot over everyone who may still be in a round; who is out already needs none."""
        assert self.plan is not None
        involved = self._membership.involved(self.plan)
        evicted &= self._membership.evictable(self.plan)
        self._ballot_open = None
        if not evicted:
            return [*self._decrees(), *(Reply(t, self.plan.latest.start) for t in request_ids if t >= 0)]
        self._ballot += 1
        promised = {
            node: farewell for node, farewell in self._membership.farewells.items() if node in involved - evicted
        }
        self._ballot_open = EvictionBallot(self.term, self._ballot, evicted, involved - evicted, request_ids, promised)
        return [self._persist(), *self._fences(sorted(self._ballot_open.survivors)), *self._decree()]

    def _fences(self, nodes: list[str]) -> list[ClusterAction]:
        ballot_open = self._ballot_open
        if ballot_open is None:
            return []
        return [
            Fence(n, ballot_open.term, ballot_open.ballot, ballot_open.evicted)
            for n in nodes
            if n in ballot_open.survivors and n in self.present
        ]

    def _fence_answered(self, event: FenceAnswered) -> list[ClusterAction]:
        if self._ballot_open is None or not self._ballot_open.take(event.node, event.answer):
            return []
        return self._decree()

    def _decree(self) -> list[ClusterAction]:
        """All survivors stand behind the fence: the record that goes on without the evicted."""
        ballot_open = self._ballot_open
        if ballot_open is None or self.plan is None or not ballot_open.complete:
            return []
        pending, self._ballot_open = self._changes.pending, None
        ours, self.plan = self.plan, ballot_open.newest_plan(self.plan)
        news = {r.digest for r in self.plan.records if r.number > ours.latest.number}
        actions: list[ClusterAction] = []
        if pending is not None and pending.record.digest in news:  # as if its acceptance had been heard
            actions += self._settle(pending.record.number, pending.record.digest)
        else:  # only the dead may have it
            self._changes.put_back()
        if news - ({pending.record.digest} if pending else set()):  # of a controller before us: others may be involved
            return [*actions, *self._fence_off(ballot_open.evicted, ballot_open.request_ids)]
        if ballot_open.evicted >= set(self.plan.latest.names):  # meanwhile all others have left
            stays = self._stays(", ".join(sorted(ballot_open.evicted)), 0)
            return [
                *actions,
                *self._decrees(),
                *(Reply(request_id, None, stays) for request_id in ballot_open.request_ids),
            ]
        record = ballot_open.record(self.plan, self.term)
        self.plan = self.plan.extend(record)
        for dead in ballot_open.evicted:
            self._membership.dead(dead)
        return [
            *actions,
            self._persist(),
            *self._decrees(),
            *(Reply(request_id, record.start) for request_id in ballot_open.request_ids if request_id >= 0),
        ]

    def _decrees(self) -> list[ClusterAction]:
        """To everyone in the run: a zombie learns that it is out, a leaver that it need not wait for the dead."""
        assert self.plan is not None
        return [Decree(node, self.plan.records) for node in sorted(self.present) if self._membership.takes_part(node)]


def _no(change: Rotate | Stop | Leave | Pause | Resume, error: str) -> Reply:
    return Reply(change.request_id, None, error)
