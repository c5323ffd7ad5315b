"""The nodes of a run: connected, waiting to join, or possibly still in a round.

A node is in one of three relations to the run. A *newcomer* is connected and in no run yet. A *member* is named by the
newest record. A *leaver* was a member and handed over what it had. Members, and leavers that have not mixed their last
round, are *involved*: they may still be in a round, so an eviction has to fence them. A farewell, the last report of a
member that ended well, is its answer to every fence to come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgenode.core.protocol.orders import Accusation, FenceAnswer, Join
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record


@dataclass
class Membership:
    """The controller's knowledge of every node. The plan is kept elsewhere.

    Attributes:
        present: the nodes with a live link, members and others, each with its first report.
        newcomers: those of them that are in no run yet.
        next_rounds: the next round of each node, as last reported.
        known: the number of the newest record that each node knows, as last reported.
        welcomed: members that have not reported since their welcome: the round to start at, and the process.
        sponsored: newcomers that were sent to a member for its model.
        held: nodes that are sent to no member for its model yet.
        given_up: members that are not waited for when all are down. A run with fixed members goes on without them.
        silent: those of them that are waited for no longer because they were silent. They count again if they are back
            before the others resume.
        farewells: the farewells of members that have ended well, which answer any fence.
        banned: nodes that were evicted for what they pushed, and why. They may not join again.
        fixed: a run resumes with all of its members but those that are given up, or not at all.
    """

    present: dict[str, Join] = field(default_factory=dict)
    newcomers: dict[str, Join] = field(default_factory=dict)
    next_rounds: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    welcomed: dict[str, tuple[int, str]] = field(default_factory=dict)
    sponsored: set[str] = field(default_factory=set)
    held: frozenset[str] = frozenset()
    given_up: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    farewells: dict[str, FenceAnswer] = field(default_factory=dict)
    banned: dict[str, str] = field(default_factory=dict)
    fixed: bool = False

    def begin(self, plan: Plan, start: int) -> None:
        """All members of a plan start at one round. Nothing that was reported before counts."""
        self.given_up.clear()
        self.silent.clear()
        self.farewells.clear()
        for node in plan.latest.names:
            self.newcomers.pop(node, None)
        self.next_rounds = dict.fromkeys(plan.latest.names, start)
        self.known = dict.fromkeys(plan.latest.names, plan.latest.number)
        self.welcomed = {n: (start, self.present[n].process) for n in plan.latest.names}

    def admit(self, node: str, process: str, record: Record) -> bool:
        """Make a newcomer a member by a record; False if its process is not the one that waits here."""
        start = record.start
        self.next_rounds[node], self.known[node] = start, record.number
        self.welcomed[node] = start, process
        if not self.is_waiting(node, process):
            return False
        del self.newcomers[node]
        self.sponsored.discard(node)
        return True

    def disconnect(self, node: str) -> None:
        """Its link ended."""
        self.present.pop(node, None)
        self.newcomers.pop(node, None)
        self.sponsored.discard(node)

    def forget(self, node: str) -> None:
        """It was evicted. Its next process is a newcomer, and so is this one if it never learns of the eviction."""
        self.welcomed.pop(node, None)
        self.farewells.pop(node, None)

    def ban(self, accusation: Accusation) -> None:
        """A member is evicted for what it pushed."""
        node = accusation.member
        self.banned[node] = (
            f"{node} was evicted, because its message of round {accusation.round} raised the poison alarm; "
            "to let it join again, restart the controller"
        )

    def is_waiting(self, node: str, process: str) -> bool:
        """Return whether a process is the one that waits under a name to become a member."""
        return node in self.newcomers and self.newcomers[node].process == process

    def takes_part(self, node: str) -> bool:
        """Return whether a node is in the run, not done yet, and can be sent an order."""
        return node in self.present and node not in self.newcomers and node not in self.farewells

    def involved(self, plan: Plan) -> frozenset[str]:
        """Members now and to come, and leavers that have not mixed their last round."""
        leaving = {leaver for leaver, start in _leavers(plan).items() if self.next_rounds.get(leaver, 0) < start}
        return frozenset(plan.latest.names) | leaving

    def evictable(self, plan: Plan) -> frozenset[str]:
        """Members, and all leavers: one that is done may have gone before its last answers arrived."""
        # precaution: a leaver that has gone can still be evicted
        return frozenset({*plan.latest.names, *_leavers(plan)})

    def running(self, plan: Plan) -> frozenset[str]:
        """Every node that may still be in a round."""
        return self.involved(plan) - set(self.farewells)

    def anyone_runs(self, plan: Plan) -> bool:
        """Return whether a node that may still be in a round can be reached, and is waited for."""
        return any(self.takes_part(node) for node in self.running(plan) - self.out)

    @property
    def out(self) -> frozenset[str]:
        """The members without which a run of fixed members is about to resume."""
        return frozenset(self.given_up - (self.silent & self.newcomers.keys())) if self.fixed else frozenset()

    def to_gather(self, plan: Plan) -> frozenset[str]:
        """The members that have to come back for that. Empty if it is not about to."""
        return frozenset(plan.latest.names) - set(self.newcomers) - self.out if self.out else frozenset()

    def returned(self, plan: Plan) -> dict[str, Join]:
        """The nodes that wait, and can resume: in a run of fixed members, only its members that are not out."""
        names = frozenset(plan.latest.names) - self.out if self.fixed else frozenset(self.newcomers)
        return {node: join for node, join in self.newcomers.items() if node in names}

    def waited_for(self, plan: Plan) -> frozenset[str]:
        """The nodes that must come back before the run can resume, if no node is in it any more."""
        if self.anyone_runs(plan):
            return frozenset()
        if self.fixed:
            return frozenset(plan.latest.names) - set(self.newcomers) - self.given_up
        return self.running(plan) - set(self.newcomers) - self.given_up - self._passed(plan)

    def _passed(self, plan: Plan) -> set[str]:
        """The leavers that all members have passed, judged by the checkpoints that the members bring.

        A controller that was restarted does not know how far a leaver came. To mix a leaver's last round, its
        out-neighbours need all that it had to push and hand over. So once all members have saved a round in common that
        is not before the leave, nothing that counts is missing, and the leaver need not come back.
        """
        here = {node: join for node, join in self.newcomers.items() if node in plan.latest.names}
        if not here.keys() >= set(plan.latest.names) - self.given_up:
            return set()
        saved = [{t for t in j.saved if j.plan and plan.holds(node, t, j.plan)} for node, j in here.items()]
        newest = max(set.intersection(*saved), default=-1) if saved else -1
        return {leaver for leaver, start in _leavers(plan).items() if start <= newest}

    def has_reports_of_all(self, plan: Plan) -> bool:
        """Return whether every member has reported what it knows of the plan."""
        return self.next_rounds.keys() >= set(plan.latest.names)

    def is_settled(self, plan: Plan) -> bool:
        """Return whether the latest record is in force at every member. One without a report may know another record.

        A member can come to the first round of an eviction without its record: the fence holds it there.
        """
        latest = plan.latest
        return all(
            self.next_rounds.get(node, -1) >= latest.start and self.known.get(node, -1) >= latest.number
            for node in latest.names
        )


def _leavers(plan: Plan) -> dict[str, int]:
    """Nodes that left, or will, and were not evicted since, each with the first round without it."""
    leavers = {leaver: r.start for r in plan.records for leaver, _ in r.handoffs}
    evicted = {(node, r.start) for r in plan.records for node, _ in r.evictions}
    return {n: start for n, start in leavers.items() if not any(node == n and r > start for node, r in evicted)}
