"""Removing a member that nothing can be asked of: fence the others, then cut. Values in, values out.

Every survivor promises to accept nothing more from the evicted and to begin no further round, and says how far it
has come, and which round the evicted must have begun. Once all have promised, what the evicted did is settled without
asking it: its rounds up to ``last`` count, as far as they were delivered; what was pushed to it in that round or later
is taken back. So no message stays in doubt: it had mixed everything before round ``last``, since it had begun that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgenode.core.protocol.messages import AnswerFence
from edgenode.core.protocol.plan import Plan, Record


@dataclass
class EvictionBallot:
    """One ballot of one controller.

    Attributes:
        survivors: whose promise it needs.
        tickets: of the operators who asked.
    """

    term: int
    ballot: int
    evicted: frozenset[str]
    survivors: frozenset[str]
    request_ids: list[int]
    answers: dict[str, AnswerFence] = field(default_factory=dict)

    def take(self, node: str, answer: AnswerFence) -> bool:
        """Note a promise; False if it is of another ballot."""
        # precaution: only a promise of this ballot counts
        if (answer.term, answer.ballot) != (self.term, self.ballot) or node not in self.survivors:
            return False
        self.answers[node] = answer
        return True

    @property
    def complete(self) -> bool:
        """Whether everyone has promised."""
        return set(self.answers) == self.survivors

    @property
    def begun(self) -> int:
        """The newest round any survivor has begun."""
        return max((a.begun for a in self.answers.values()), default=-1)

    def newest_plan(self, ours: Plan) -> Plan:
        """The longest chain among ours and the survivors'."""
        chains = [ours, *(Plan(a.records) for a in self.answers.values())]
        return max(chains, key=lambda plan: plan.latest.number)

    def record(self, plan: Plan, term: int) -> Record:
        """What goes on without the evicted, from the first round that nobody has begun."""
        start = max(self.begun, plan.latest.start) + 1
        members = tuple(m for m in plan.latest.members if m.node not in self.evicted)
        schedule = plan.latest.schedule.over(tuple(m.node for m in members))
        return plan.successor(
            start, schedule=schedule, members=members, evictions=self.evictions(plan, start), term=term
        )

    def evictions(self, plan: Plan, start: int) -> tuple[tuple[str, int], ...]:
        """(evicted, last) for a record that starts at ``start``: the newest round that each must have begun.

        One that nobody heard of since it became a member counts up to the round before that.
        """
        # precaution: no round of an evicted node counts that it may not have begun
        # precaution: every round of an evicted node counts that others may have mixed
        return tuple((dead, min(self._held(plan, dead), start - 1)) for dead in sorted(self.evicted))

    def _held(self, plan: Plan, dead: str) -> int:
        member = next(m for r in reversed(plan.records) for m in r.members if m.node == dead)
        held = [last for a in self.answers.values() for node, last in a.begun_rounds if node == dead]
        return max([*held, plan.joined(dead, member.incarnation) - 1])
