"""The controller's decisions as a state machine: who is a member, and how the plan changes. No I/O, no clock.

A graceful change is a record given to one member; the members' own pushes carry it to the rest, so a controller
that dies right after the offer has done its work. Only one record may be not yet in force; further changes wait.
A silent member is fenced off, then cut out: `edgenode.core.fence`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import assert_never

from edgenode.core.demands import Demands
from edgenode.core.fence import Fencing
from edgenode.core.messages import (
    Abdicate,
    Admit,
    AnswerFence,
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
    Leave,
    Lost,
    Offer,
    OfferAnswered,
    Pause,
    Persist,
    Progressed,
    Refuse,
    Reign,
    Reply,
    Resume,
    Rotate,
    Sponsor,
    Stop,
    Welcome,
)
from edgenode.core.plan import Member, Plan, Record, Schedule, found, reach, resume
from edgenode.errors import EdgenodeError, GraphError

_FIRST_MARGIN = 4  # rounds between a member's last report and the offer's arrival; doubled when that was too few
_MAX_MARGIN = 1 << 16


@dataclass(frozen=True)
class Charter:
    """What a run is founded on.

    Attributes:
        nodes: how many members it waits for.
        run_digest: of the configuration that all must share.
        schedule: its ``every`` counts epochs if ``epochs``, else rounds.
        rounds: of the whole run, gossip included.
        min_nodes: below this no member is evicted, and none may leave.
        demands: what the algorithm demands of the graphs that an operator may want.
    """

    cluster: str
    nodes: int
    run_digest: str
    schedule: Schedule
    epochs: bool
    rounds: int
    min_nodes: int = 1
    demands: Demands = field(default_factory=Demands)


@dataclass
class _Pending:
    """A record on offer: asked of one member, not known to be accepted."""

    record: Record
    asked: str
    changes: list[Change] = field(default_factory=list)


class Cluster:
    """The membership and the plan of one run.

    Args:
        reign: who we are; its term is higher at every start.
        saved: what the last controller persisted, if there was one.
        recover: if that is lost, take the plan from the members that run; without it they are another controller's.

    Attributes:
        plan: None until the run is founded.
        next_rounds: the next round of each node, as last reported.
        present: the nodes with a live link, members and others.
        paused: an operator wants everyone to stand still; never of a run whose plan came from its members alone.
    """

    def __init__(self, charter: Charter, reign: Reign, saved: Persist | None = None, recover: bool = False) -> None:
        self.charter, self.reign, self.recover = charter, reign, recover
        self.plan: Plan | None = saved.plan if saved else None
        self.paused = saved.paused if saved else False
        self.present: dict[str, Joined] = {}
        self.next_rounds: dict[str, int] = {}
        self.rounds_per_epoch = 1
        self._welcomed: dict[str, tuple[int, str]] = {}  # not heard of since: the round to start at, and the process
        self._newcomers: dict[str, Joined] = {}
        self._sponsored: set[str] = set()
        self._given_up: set[str] = set()  # whom an operator does not wait for when all are down
        self._farewells: dict[str, AnswerFence] = {}  # of members that have ended well
        self._queue: list[Change] = []
        self._pending: _Pending | None = None
        self._fencing: Fencing | None = None
        self._ballot = 0
        self._margin = _FIRST_MARGIN

    @property
    def term(self) -> int:
        """Of this controller; every record it makes carries it."""
        return self.reign.term

    def missing(self) -> int:
        """How many nodes the founding still waits for."""
        return 0 if self.plan else max(0, self.charter.nodes - len(self.present))

    def evicting(self) -> frozenset[str]:
        """Who is being cut out."""
        return self._fencing.evicted if self._fencing else frozenset()

    def awaited(self) -> frozenset[str]:
        """Whose promise a fence still waits for."""
        return self._fencing.survivors - set(self._fencing.answers) if self._fencing else frozenset()

    def handle(self, event: ClusterEvent) -> list[ClusterAction]:
        """Take one event; return what is to be done, in this order."""
        actions = self._take(event)
        return [*actions, *self._offer_next(), *self._admit_next()]

    def _take(self, event: ClusterEvent) -> list[ClusterAction]:
        match event:
            case Joined():
                return self._joined(event)
            case Lost(node):
                self.present.pop(node, None)
                self._newcomers.pop(node, None)
                self._sponsored.discard(node)
                return []
            case Progressed():
                self._welcomed.pop(event.node, None)
                self.next_rounds[event.node] = event.next_round
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
                if node in self._newcomers and node in self._sponsored:
                    self._queue.append(Admit(node, self._newcomers[node].process))
                return []
            case FenceAnswered():
                return self._fence_answered(event)
        assert_never(event)

    # --- members ------------------------------------------------------------------------------------

    def _joined(self, event: Joined) -> list[ClusterAction]:
        if event.run_digest != self.charter.run_digest:
            return [Refuse(event.node, f"run digest differs: the controller's is {self.charter.run_digest}, "
                                       f"{event.node}'s is {event.run_digest}")]  # fmt: skip
        if event.node in self.present:
            other = self.present[event.node].address
            return [Refuse(event.node, f"node id {event.node!r} is taken by {other}; this one is {event.address}")]
        if event.running and event.plan and (leader := self._leader(event, event.plan)):
            return [Abdicate(f"{event.node} follows the controller at {leader}, not this one, {self.reign}")]
        self.rounds_per_epoch = max(self.rounds_per_epoch, event.rounds_per_epoch)
        if event.running and event.plan:
            return [Hello(event.node, self.reign, self.paused), *self._returned(event, event.plan)]
        if event.plan is not None and not self._anyone_runs():
            self._remember(event.plan)
        self.present[event.node] = event
        founded = self._newcomer(event, self.plan) if self.plan is not None else self._found_if_complete()
        return [Hello(event.node, self.reign, self.paused), *founded]

    def _leader(self, event: Joined, plan: Plan) -> Reign | None:
        """The controller that a running member must be left to; None if that is us, from now on at least."""
        theirs = event.follows or Reign(plan.latest.term)
        if self.recover:  # whoever led it is gone for good: the operator says so
            self.reign = replace(self.reign, term=max(self.term, theirs.term + self.reign.yields_to(theirs)))
            return None
        foreign = self.plan is None or self.reign.yields_to(theirs) or plan.latest.term > self.term
        return theirs if foreign else None

    def _remember(self, plan: Plan) -> None:
        """A run that nobody is in any more, from a checkpoint: those who gathered here may be what is left of it."""
        if self.plan is None:
            self._newcomers |= self.present
        if self.plan is None or plan.latest.number > self.plan.latest.number:
            self.plan = plan

    def _found_if_complete(self) -> list[ClusterAction]:
        """A new run, once everyone is there; to recover one, somebody must know it."""
        if self.recover or self.missing():
            return []
        members = sorted(Member(j.node, 0, j.address) for j in self.present.values())
        try:
            self.plan = found(self.charter.cluster, members, self._founding_schedule())
        except GraphError as exc:
            return self._refuse_all(str(exc))
        return self._welcome_all(self.plan, 0)

    def _newcomer(self, event: Joined, plan: Plan) -> list[ClusterAction]:
        """A process that is in no run yet: a member whose welcome was lost, or someone new, or someone back."""
        start, process = self._welcomed.get(event.node, (0, None))
        if process == event.process:
            return [Welcome(event.node, plan, start), *self._repeat_to(event.node, plan)]
        self._newcomers[event.node] = event
        if self.over:
            return self._turn_away()
        if not self._anyone_runs():
            return self._resume_if_complete()
        # a new process under a member's name: the proof that the old one is dead
        return self._evict(Evict(-1, event.node, force=True)) if event.node in self._running() else []

    def _parted(self, report: Progressed) -> list[ClusterAction]:
        """A member has ended well: nothing is asked of it any more, and once all have, nobody can join."""
        if report.farewell is None or report.node in self._farewells or report.node not in self._involved():
            return []
        self._farewells[report.node] = report.farewell
        if self.over:
            return self._turn_away()
        if self._fencing is not None and report.node in self._fencing.survivors:
            self._fencing.answers[report.node] = report.farewell
        return self._decree()

    def _turn_away(self) -> list[ClusterAction]:
        """Whoever and whatever comes too late."""
        late, self._newcomers = sorted(self._newcomers), {}
        for node in late:
            del self.present[node]
        return [*(Refuse(node, self._why_over()) for node in late), *self._lapse(self._why_over())]

    def _why_over(self) -> str:
        end = self.plan.latest.end if self.plan else None
        how = f"done all {self.charter.rounds} rounds" if end is None else f"stopped before round {end}"
        return f"the run is over: its members have {how}"

    @property
    def over(self) -> bool:
        """Whether every member has ended well."""
        return self.plan is not None and not self._running()

    def _running(self) -> frozenset[str]:
        """Everyone who may still be in a round."""
        return self._involved() - set(self._farewells)

    def _anyone_runs(self) -> bool:
        return self.plan is not None and any(self._may_carry(node) for node in self._running())

    def waits_for(self) -> frozenset[str]:
        """Members of the run that nobody is in any more, who must come back before it can go on."""
        if self.plan is None or self._anyone_runs():
            return frozenset()
        return self._running() - set(self._newcomers) - self._given_up

    def _returned(self, event: Joined, plan: Plan) -> list[ClusterAction]:
        """A member of a running run reached us again, or for the first time if we are the ones who restarted."""
        known = self.plan
        if self.plan is None:  # those who gathered here in the meantime are newcomers to this run
            self.plan = plan
            self._outrank(plan)
            self._newcomers |= self.present
        if plan.records[0].digest != self.plan.records[0].digest:
            ours, theirs = self.plan.records[0].digest, plan.records[0].digest
            return [Refuse(event.node, f"this run was founded on plan {ours}, {event.node}'s on {theirs}")]
        self._welcomed.pop(event.node, None)
        self.present[event.node] = event
        settled = self._settle(plan.latest.number, plan.latest.digest)
        fenced = self._fencing
        if plan.latest.number > self.plan.latest.number:
            self.plan = plan
            self._outrank(plan)
            settled += self._fence_off(fenced.evicted, fenced.tickets) if fenced else []
        if self.plan is not known and not settled:
            settled = [self._persist()]  # what we have learnt must outlive us, like what we decide
        # proved dead by a new process of its name, or promised away to a controller that is gone
        dead = sorted((self._running() & set(self._newcomers)) | (self._involved() & event.fenced))
        waiting = [action for node in dead for action in self._evict(Evict(-1, node, force=True))]
        return [*settled, *self._repeat_to(event.node, plan, event.fenced), *waiting]

    def _outrank(self, plan: Plan) -> None:
        """A plan that another controller made: its members may have promised it fences that we know nothing of."""
        self.reign = replace(self.reign, term=max(self.term, plan.latest.term + 1))

    def _resume_if_complete(self) -> list[ClusterAction]:
        """All members are back, and none of them runs: on from the newest round that most have saved.

        Those who have not saved it are newcomers. A schedule that was not in force by then is asked for again.
        """
        if self.plan is None or self.waits_for():
            return []
        back = {n: self._newcomers[n] for n in self._involved() if n in self._newcomers}
        members = [Member(n, self._incarnation(n), j.address) for n, j in back.items()]
        offers = {n: (j.saved, j.plan) for n, j in self._newcomers.items() if j.saved and j.plan}
        try:
            if not offers and not self._farewells:  # they died before their first round
                plan, start = found(self.charter.cluster, members, self._founding_schedule()), 0
            else:
                members += [
                    Member(n, self._incarnation(n), self._newcomers[n].address) for n in offers if n not in back
                ]
                plan, start = resume(self.plan, members, offers, self.charter.min_nodes)
        except GraphError as exc:
            return self._refuse_all(str(exc))
        promised = [r.schedule for r in self.plan.records if r.start > start and r.schedule.origin == r.start]
        self.plan = Plan((replace(plan.latest, number=self.plan.latest.number + 1, term=self.term),))
        lapsed = self._lapse("all members went down before that")
        self._queue = [Rotate(-1, schedule.graphs, schedule.every, epochs=False) for schedule in promised[-1:]]
        return [*lapsed, *self._begin(self.plan, start)]

    def _begin(self, plan: Plan, start: int) -> list[ClusterAction]:
        self._fencing = None
        self._given_up.clear()
        self._farewells.clear()
        for node in plan.latest.names:
            del self._newcomers[node]
        return self._welcome_all(plan, start)

    def _lapse(self, why: str) -> list[ClusterAction]:
        """What was asked for will not be done."""
        asked = [c.ticket for c in self._coming()] + (self._fencing.tickets if self._fencing else [])
        self._queue, self._pending = [], None
        return [Reply(ticket, None, why) for ticket in asked if ticket >= 0]

    def _welcome_all(self, plan: Plan, start: int) -> list[ClusterAction]:
        self.next_rounds = dict.fromkeys(plan.latest.names, start)
        self._welcomed = {n: (start, self.present[n].process) for n in plan.latest.names}
        return [self._persist(), *(Welcome(node, plan, start) for node in plan.latest.names)]

    def _refuse_all(self, reason: str) -> list[ClusterAction]:
        refused = [Refuse(node, reason) for node in sorted(self.present)]
        self.present.clear()
        self._newcomers.clear()
        return list(refused)

    def _founding_schedule(self) -> Schedule:
        schedule = self.charter.schedule
        return replace(schedule, every=self._rounds(schedule.every, self.charter.epochs))

    def _rounds(self, every: int, epochs: bool) -> int:
        """A number of epochs in rounds: those of the node with most data."""
        return every * self.rounds_per_epoch if epochs else every

    def _persist(self) -> Persist:
        assert self.plan is not None
        return Persist(self.term, self._ballot, self.plan, self.paused)

    # --- joining a run ------------------------------------------------------------------------------

    def _admit_next(self) -> list[ClusterAction]:
        """Send every newcomer whose name is free to a sponsor; it comes back as Fetched."""
        if self.plan is None or self._fencing or self.plan.latest.end is not None:
            return []
        members = {m.node: m for m in self.plan.latest.members}
        living = [m for n, m in members.items() if self._may_carry(n)]
        actions: list[ClusterAction] = []
        for node in sorted(self._newcomers):
            if living and node not in members and node not in self._sponsored:
                self._sponsored.add(node)
                actions.append(Sponsor(node, living[0], tuple(members.values())))
        return actions

    # --- pausing ------------------------------------------------------------------------------------

    def _pause(self, wish: Pause | Resume) -> list[ClusterAction]:
        """It needs no agreement on a round: the barrier stops everybody as soon as one stands still."""
        if why_not := self._why_not():
            return [_no(wish, why_not)]
        return [*self._halt(isinstance(wish, Pause)), Reply(wish.ticket, max(self.next_rounds.values(), default=0))]

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
        try:
            self._check(change)
        except GraphError as exc:
            return [_no(change, str(exc))]
        self._queue.append(change)
        return self._halt(False) if isinstance(change, Stop) else []  # all stop at one round, and must come to it

    def _why_not(self) -> str:
        """Why nothing can be asked for: before the start and after the end; else empty."""
        if self.plan is None:
            return f"the run has not started: it waits for {self.missing()} more nodes"
        if self.over:
            return self._why_over()
        stops = self.plan.latest.end is not None or any(isinstance(c, Stop) for c in self._coming())
        return "the run is stopping" if stops else ""

    def _check(self, change: Rotate | Stop | Leave) -> None:
        assert self.plan is not None
        names = self.plan.latest.names
        match change:
            case Rotate():
                schedule = self._schedule(change, start=0)
                schedule.check(names)
                self.charter.demands.check(schedule, names)
            case Leave(_, node):
                leaving = {c.node for c in self._coming() if isinstance(c, Leave)} | {node}
                if node not in names:
                    raise GraphError(f"{node} is no member")
                if len(set(names) - leaving) < max(1, self.charter.min_nodes):
                    raise GraphError(f"{node} cannot leave: {self.charter.min_nodes} nodes must stay")

    def _coming(self) -> list[Change]:
        return [*self._queue, *(self._pending.changes if self._pending else [])]

    def _schedule(self, change: Rotate, start: int) -> Schedule:
        assert self.plan is not None
        every = self._rounds(change.every, change.epochs)
        return replace(self.plan.latest.schedule, graphs=change.graphs, every=every, origin=start)

    def _offer_next(self) -> list[ClusterAction]:
        """Offer all queued changes as one record, if the last one is in force everywhere and a member is there."""
        if self.plan is None or self._pending or self._fencing or not self._queue or not self._settled():
            return []
        member = min((n for n in self.plan.latest.names if self._may_carry(n)), default=None)
        if member is None:
            return []
        changes, self._queue = self._queue, []
        names = self.plan.latest.names
        void = [c for c in changes if isinstance(c, Leave) and c.node not in names]
        changes = [c for c in changes if c not in void and (not isinstance(c, Admit) or self._is_ready(c))]
        refused = [_no(c, f"{c.node} is no member") for c in void]
        return [*refused, *(self._offer(member, changes) if changes else [])]

    def _is_ready(self, admit: Admit) -> bool:
        """Whether the process that has the model is still the one that waits here."""
        return admit.node in self._newcomers and self._newcomers[admit.node].process == admit.process

    def _may_carry(self, node: str) -> bool:
        return node in self.present and node not in self._newcomers and node not in self._farewells

    def _settled(self) -> bool:
        """The latest record is in force at every member; one not heard of may know another that we do not."""
        assert self.plan is not None
        start = self.plan.latest.start
        return all(self.next_rounds.get(node, -1) >= start for node in self.plan.latest.names)

    def _offer(self, member: str, changes: list[Change]) -> list[ClusterAction]:
        assert self.plan is not None
        soonest = self.next_rounds.get(member, 0) + self._margin
        try:
            start = soonest + reach(self.plan, member, soonest) + 2
            if start >= self.charter.rounds:
                raise GraphError(f"too late: the run ends with round {self.charter.rounds}")
            record = self._successor(start, changes)
        except EdgenodeError as exc:
            return [a for change in changes for a in self._give_up(change, str(exc))]
        self._pending = _Pending(record, member, changes)
        return [Offer(member, record)]

    def _give_up(self, change: Change, error: str) -> list[ClusterAction]:
        if not isinstance(change, Admit):
            return [_no(change, error)]
        self._newcomers.pop(change.node, None)
        self.present.pop(change.node, None)
        return [Refuse(change.node, error)]

    def _successor(self, start: int, changes: list[Change]) -> Record:
        assert self.plan is not None
        rotations = [c for c in changes if isinstance(c, Rotate)]
        schedule = self._schedule(rotations[-1], start) if rotations else self.plan.latest.schedule
        end = start if any(isinstance(c, Stop) for c in changes) else None
        leavers = [c.node for c in changes if isinstance(c, Leave)]
        stay = [m for m in self.plan.latest.members if m.node not in leavers]
        if not stay:
            raise GraphError(f"{', '.join(leavers)} cannot leave: nobody else is left")
        joiners = [self._newcomers[c.node] for c in changes if isinstance(c, Admit)]
        members = tuple(sorted([*stay, *(Member(j.node, self._incarnation(j.node), j.address) for j in joiners)]))
        heirs = tuple((leaver, stay[i % len(stay)].node) for i, leaver in enumerate(sorted(leavers)))
        schedule = schedule.over(tuple(m.node for m in members))
        return self.plan.successor(start, schedule=schedule, end=end, members=members, heirs=heirs, term=self.term)

    def _incarnation(self, node: str) -> int:
        """One more than any process of this name had."""
        assert self.plan is not None
        return 1 + max((r.incarnations.get(node, -1) for r in self.plan.records), default=-1)

    def _answered(self, event: OfferAnswered) -> list[ClusterAction]:
        pending, answer = self._pending, event.answer
        self.next_rounds[event.node] = max(self.next_rounds.get(event.node, 0), answer.next_round)
        if pending is None or pending.asked != event.node or pending.record.digest != answer.digest:
            return []
        if answer.accepted:
            return self._settle(answer.number, answer.digest)
        # too late: nobody has the record, so another one may take its number
        self._pending = None
        self._margin = min(2 * self._margin, _MAX_MARGIN)
        self._queue = [*pending.changes, *self._queue]
        return []

    def _settle(self, number: int, digest: str) -> list[ClusterAction]:
        """A member knows the record on offer: it is part of the plan, and who joins by it is welcome."""
        pending = self._pending
        if pending is None or self.plan is None or digest != pending.record.digest:
            return []
        self._pending = None
        self._margin = _FIRST_MARGIN
        if self.plan.latest.number < number:
            self.plan = self.plan.extend(pending.record)
        start = pending.record.start
        actions: list[ClusterAction] = [self._persist()]
        for change in pending.changes:
            if not isinstance(change, Admit):
                actions.append(Reply(change.ticket, start))
                continue
            self.next_rounds[change.node] = start
            self._welcomed[change.node] = start, change.process
            if self._is_ready(change):
                del self._newcomers[change.node]
                self._sponsored.discard(change.node)
                actions.append(Welcome(change.node, self.plan, start))
            elif change.node in self._newcomers:  # another process by now: the one that is a member is dead
                actions += self._evict(Evict(-1, change.node, force=True))
        return actions

    def _repeat_to(self, node: str, known: Plan, fenced: frozenset[str] = frozenset()) -> list[ClusterAction]:
        """What was lost with the link: the same offer again, never another; the fence; or how it ended."""
        assert self.plan is not None
        if self._fencing is not None and node in self._fencing.survivors:
            return self._fences([node])
        if self._pending and self._pending.asked == node:
            return [Offer(node, self._pending.record)]
        news = tuple(r for r in self.plan.records if r.number > known.latest.number)
        return [Decree(node, news)] if fenced or any(r.cut for r in news) else []

    # --- removal ------------------------------------------------------------------------------------

    def _evict(self, evict: Evict) -> list[ClusterAction]:
        if self.plan is None or evict.node not in self._involved():
            return [Reply(evict.ticket, None, f"{evict.node} is no member")]
        if self.over:
            return [Reply(evict.ticket, None, self._why_over())]
        if not self._anyone_runs():
            return self._go_on_without(evict, self.plan)
        before = self._fencing.evicted if self._fencing else frozenset[str]()
        evicted = before | {evict.node}
        left = len(set(self.plan.latest.names) - evicted)
        if evict.node in before:
            return []
        few = left < self.charter.min_nodes or 2 * left < len(self.plan.latest.names)
        if left < 1 or (few and not evict.force):
            text = f"{evict.node} stays: without it {left} of {len(self.plan.latest.names)} members would be left"
            return [Reply(evict.ticket, None, text)]
        tickets = [*(self._fencing.tickets if self._fencing else []), evict.ticket]
        return self._fence_off(evicted, tickets)

    def _go_on_without(self, evict: Evict, plan: Plan) -> list[ClusterAction]:
        """Nobody runs, so nobody can be fenced: the others' return does not wait for this one any more."""
        if not evict.force:
            return [Reply(evict.ticket, None, f"{evict.node} stays: no member of the run is here; they are waited for")]
        self._given_up.add(evict.node)
        resumed = self._resume_if_complete()
        return [*resumed, Reply(evict.ticket, (self.plan or plan).latest.start)]

    def _fence_off(self, evicted: frozenset[str], tickets: list[int]) -> list[ClusterAction]:
        """Begin a ballot over everyone who may still be in a round; who is out already needs none."""
        assert self.plan is not None
        evicted &= self._involved()
        self._fencing = None
        if not evicted:
            return [*self._decrees(), *(Reply(t, self.plan.latest.start) for t in tickets if t >= 0)]
        self._ballot += 1
        survivors = self._involved() - evicted
        promised = {node: farewell for node, farewell in self._farewells.items() if node in survivors}
        self._fencing = Fencing(self.term, self._ballot, evicted, survivors, tickets, promised)
        return [self._persist(), *self._fences(sorted(self._fencing.survivors)), *self._decree()]

    def _involved(self) -> frozenset[str]:
        """Everyone who may still be in a round: members now and to come, and leavers that are not done."""
        assert self.plan is not None
        heirs = {leaver: r.start for r in self.plan.records for leaver, _ in r.heirs}
        cut = {(dead, r.start) for r in self.plan.records for dead, _ in r.cut}
        leavers = {
            leaver
            for leaver, start in heirs.items()
            if self.next_rounds.get(leaver, 0) < start and not any(dead == leaver and r > start for dead, r in cut)
        }
        return frozenset(self.plan.latest.names) | leavers

    def _fences(self, nodes: list[str]) -> list[ClusterAction]:
        fencing = self._fencing
        if fencing is None:
            return []
        return [
            Fence(n, fencing.term, fencing.ballot, fencing.evicted)
            for n in nodes
            if n in fencing.survivors and n in self.present
        ]

    def _fence_answered(self, event: FenceAnswered) -> list[ClusterAction]:
        if self._fencing is None or not self._fencing.take(event.node, event.answer):
            return []
        return self._decree()

    def _decree(self) -> list[ClusterAction]:
        """All survivors stand behind the fence: the record that goes on without the evicted."""
        fencing = self._fencing
        if fencing is None or self.plan is None or not fencing.complete:
            return []
        pending, self._pending, self._fencing = self._pending, None, None
        ours, self.plan = self.plan, fencing.newest_plan(self.plan)
        news = {r.digest for r in self.plan.records if r.number > ours.latest.number}
        actions: list[ClusterAction] = []
        if pending is not None and pending.record.digest in news:
            actions += self._accepted(pending)
        elif pending is not None:  # only the dead may have it: its changes are asked for again
            self._queue = [*pending.changes, *self._queue]
        if news - ({pending.record.digest} if pending else set()):  # of a controller before us: others may be involved
            return [*actions, *self._fence_off(fencing.evicted, fencing.tickets)]
        start = max(fencing.begun + 1, self.plan.latest.start + 1)
        members = tuple(m for m in self.plan.latest.members if m.node not in fencing.evicted)
        cut = fencing.cut(self.plan, start)
        schedule = self.plan.latest.schedule.over(tuple(m.node for m in members))
        record = self.plan.successor(start, schedule=schedule, members=members, cut=cut, term=self.term)
        self.plan = self.plan.extend(record)
        for dead in fencing.evicted:
            self._welcomed.pop(dead, None)  # its next process, or this one if it never heard, is a newcomer
            self._farewells.pop(dead, None)
        return [
            *actions,
            self._persist(),
            *self._decrees(),
            *(Reply(ticket, start) for ticket in fencing.tickets if ticket >= 0),
        ]

    def _decrees(self) -> list[ClusterAction]:
        """To everyone in the run: a zombie learns that it is out, a leaver that it need not wait for the dead."""
        assert self.plan is not None
        return [Decree(node, self.plan.records) for node in sorted(self.present) if self._may_carry(node)]

    def _accepted(self, pending: _Pending) -> list[ClusterAction]:
        """A pending record that a survivor knows: as if its acceptance had been heard."""
        self._pending = pending
        return self._settle(pending.record.number, pending.record.digest)


def _no(change: Rotate | Stop | Leave | Pause | Resume, error: str) -> Reply:
    return Reply(change.ticket, None, error)
