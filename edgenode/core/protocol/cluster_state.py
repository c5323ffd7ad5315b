"""What every part of the controller's state machine reads and writes: leadership, plan and membership."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from edgenode.core.protocol.events import ClusterAction, Persist, Send
from edgenode.core.protocol.membership import Membership
from edgenode.core.protocol.orders import Abort, Join, Leadership, Refuse
from edgenode.core.protocol.plan import Plan
from edgenode.core.protocol.run_spec import RunSpec
from edgenode.core.topology.period import NO_DATA, Epoch


@dataclass
class ClusterState:
    """The facts that the decisions are made from.

    Attributes:
        recover: the last controller's disk is lost, so the plan comes from the members that run.
        plan: None until the run is created.
        paused: an operator requested that no round begins. Never set where the plan came from the members alone.
        ballot: of the newest fence in this term.
        aborted: why the run ends on every node, if training diverged. It is not persisted: the run ends with it.
    """

    run_spec: RunSpec
    leadership: Leadership
    recover: bool
    plan: Plan | None
    paused: bool
    ballot: int = 0
    aborted: str = ""
    membership: Membership = field(default_factory=Membership)

    @property
    def term(self) -> int:
        """Of this controller. Every record it makes carries it."""
        return self.leadership.term

    def lead_in(self, term: int) -> None:
        """Raise the term to at least this one."""
        self.leadership = replace(self.leadership, term=max(self.term, term))

    def leader_of(self, join: Join, plan: Plan) -> Leadership | None:
        """The controller that a running member follows, if this one yields to it; None if this one leads.

        A recovering controller leads: the operator vouches that the other one is lost for good.
        """
        theirs = join.follows or Leadership(plan.latest.term)
        if self.recover:
            self.lead_in(theirs.term + self.leadership.yields_to(theirs))
            return None
        foreign = self.plan is None or self.leadership.yields_to(theirs) or plan.latest.term > self.term
        return theirs if foreign else None

    def outrank(self, plan: Plan) -> None:
        """Lead in a term above that of another controller's plan: members may have promised fences of that term."""
        self.lead_in(plan.latest.term + 1)

    @property
    def epoch(self) -> Epoch:
        """Of the run, or of one that the connected nodes would begin."""
        if self.plan is not None:
            return self.plan.latest.epoch
        return Epoch.of(join.data for join in self.membership.present.values()) if self.membership.present else NO_DATA

    def persist(self) -> Persist:
        """What the next controller must know."""
        assert self.plan is not None
        return Persist(self.term, self.ballot, self.plan, self.paused)

    @property
    def over(self) -> bool:
        """Whether every member has ended well, or the run was aborted."""
        return bool(self.aborted) or (self.plan is not None and not self.membership.running(self.plan))

    def why_over(self) -> str:
        """How the run ended."""
        if self.aborted:
            return f"the run has failed: {self.aborted}"
        end = self.plan.latest.end if self.plan else None
        how = f"completed all {self.run_spec.rounds} rounds" if end is None else f"stopped before round {end}"
        return f"the run is over: its members {how}"

    def abort(self, node: str, reason: str) -> list[ClusterAction]:
        """A member reports that training diverged: order every other one to end. Only the first report counts."""
        if self.plan is None or self.over or node not in self.membership.running(self.plan):
            return []
        self.aborted = reason
        return [Send(n, Abort(reason)) for n in sorted(self.membership.present) if self.membership.takes_part(n)]

    def refuse_all(self, nodes: Iterable[str], reason: str) -> list[ClusterAction]:
        """Turn nodes away."""
        refused = sorted(nodes)
        for node in refused:
            self.membership.disconnect(node)
        return [Send(node, Refuse(reason)) for node in refused]
