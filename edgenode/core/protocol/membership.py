"""Who is there: who can be told something, who waits to be let in, and which members may still be in a round."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgenode.core.protocol.control import Admit, Joined
from edgenode.core.protocol.messages import AnswerFence
from edgenode.core.protocol.plan import Plan


@dataclass
class Membership:
    """What the controller knows of every node; the plan itself is not its own.

    Attributes:
        present: the nodes with a live link, members and others.
        newcomers: those of them that are in no run yet.
        next_rounds: the next round of each node, as last reported.
        welcomed: members not heard of since: the round to start at, and the process.
        sponsored: newcomers that were sent to a member for its model.
        given_up: members that an operator does not wait for when all are down.
        farewells: of members that have ended well: what they would answer to any fence.
    """

    present: dict[str, Joined] = field(default_factory=dict)
    newcomers: dict[str, Joined] = field(default_factory=dict)
    next_rounds: dict[str, int] = field(default_factory=dict)
    welcomed: dict[str, tuple[int, str]] = field(default_factory=dict)
    sponsored: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    farewells: dict[str, AnswerFence] = field(default_factory=dict)

    def begin(self, plan: Plan, start: int) -> None:
        """All members of a plan begin, from one round: nothing that was heard before counts."""
        self.given_up.clear()
        self.farewells.clear()
        for node in plan.latest.names:
            self.newcomers.pop(node, None)
        self.next_rounds = dict.fromkeys(plan.latest.names, start)
        self.welcomed = {n: (start, self.present[n].process) for n in plan.latest.names}

    def lost(self, node: str) -> None:
        """Its link is gone."""
        self.present.pop(node, None)
        self.newcomers.pop(node, None)
        self.sponsored.discard(node)

    def dead(self, node: str) -> None:
        """It was cut out: its next process, or this one if it never heard, is a newcomer."""
        self.welcomed.pop(node, None)
        self.farewells.pop(node, None)

    def is_ready(self, admit: Admit) -> bool:
        """Whether the process that has the model is still the one that waits here."""
        return admit.node in self.newcomers and self.newcomers[admit.node].process == admit.process

    def takes_part(self, node: str) -> bool:
        """Whether a node is in the run, not done yet, and can be told something."""
        return node in self.present and node not in self.newcomers and node not in self.farewells

    def involved(self, plan: Plan) -> frozenset[str]:
        """Members now and to come, and leavers that are not done."""
        leaving = {leaver for leaver, start in _leavers(plan).items() if self.next_rounds.get(leaver, 0) < start}
        return frozenset(plan.latest.names) | leaving

    def evictable(self, plan: Plan) -> frozenset[str]:
        """Those, and leavers that are done: they may have gone before their last answers came through."""
        # precaution: a leaver that has gone can still be evicted
        return frozenset(plan.latest.names) | _leavers(plan).keys()

    def running(self, plan: Plan) -> frozenset[str]:
        """Everyone who may still be in a round."""
        return self.involved(plan) - set(self.farewells)

    def anyone_runs(self, plan: Plan) -> bool:
        """Whether anybody who may still be in a round is within reach."""
        return any(self.takes_part(node) for node in self.running(plan))

    def waited_for(self, plan: Plan) -> frozenset[str]:
        """Members of a run that nobody is in any more, who must come back before it can go on."""
        if self.anyone_runs(plan):
            return frozenset()
        return self.running(plan) - set(self.newcomers) - self.given_up

    def has_heard_all(self, plan: Plan) -> bool:
        """Whether every member has told what it knows of the plan."""
        return self.next_rounds.keys() >= set(plan.latest.names)

    def is_settled(self, plan: Plan) -> bool:
        """The latest record is in force at every member; one not heard of may know another that we do not."""
        return all(self.next_rounds.get(node, -1) >= plan.latest.start for node in plan.latest.names)


def _leavers(plan: Plan) -> dict[str, int]:
    """Who has left, or will, and was not cut out since: with the round in which each is no member any more."""
    leavers = {leaver: r.start for r in plan.records for leaver, _ in r.handoffs}
    cut = {(dead, r.start) for r in plan.records for dead, _ in r.evictions}
    return {n: start for n, start in leavers.items() if not any(dead == n and r > start for dead, r in cut)}
