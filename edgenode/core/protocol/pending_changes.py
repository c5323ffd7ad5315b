"""What is asked for, until it is part of the plan: a queue, and the one record on offer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgenode.core.protocol.control import Admit, Change, Leave, Rotate, Stop
from edgenode.core.protocol.membership import Membership
from edgenode.core.protocol.plan import Member, Plan, Record, reach
from edgenode.core.protocol.run_spec import RunSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError

_FIRST_MARGIN = 4  # rounds between a member's last report and the offer's arrival; doubled when that was too few
_MAX_MARGIN = 1 << 16


@dataclass(frozen=True)
class PendingOffer:
    """A record on offer: asked of one member, not known to be accepted."""

    record: Record
    asked: str
    changes: tuple[Change, ...]


@dataclass
class PendingChanges:
    """The changes to come, in the order in which they were asked for."""

    queue: list[Change] = field(default_factory=list)
    pending: PendingOffer | None = None
    _margin: int = _FIRST_MARGIN

    @property
    def coming(self) -> list[Change]:
        """All that was asked for and is not known to be in the plan."""
        return [*self.queue, *(self.pending.changes if self.pending else ())]

    def lapse(self) -> list[int]:
        """Forget them all; return the tickets of those who asked."""
        request_ids = [change.request_id for change in self.coming]
        self.queue, self.pending = [], None
        return request_ids

    def put_back(self) -> None:
        """Nobody who lives has the record on offer: its changes are asked for again, before all others."""
        if self.pending is not None:
            self.queue, self.pending = [*self.pending.changes, *self.queue], None

    def too_late(self) -> None:
        """The record on offer came too late, so nobody has it: another one may take its number."""
        self.put_back()
        self._margin = min(2 * self._margin, _MAX_MARGIN)

    def settle(self) -> None:
        """The record on offer is part of the plan."""
        self.pending, self._margin = None, _FIRST_MARGIN

    def start(self, plan: Plan, member: str, next_round: int) -> int:
        """The round from which a record could be in force that is offered to a member now."""
        soonest = next_round + self._margin
        return soonest + reach(plan, member, soonest) + 2


def rotated(plan: Plan, change: Rotate, start: int, rounds_per_epoch: int) -> Schedule:
    """The schedule that a rotation makes of the latest one."""
    every = change.every * rounds_per_epoch if change.epochs else change.every
    return replace(plan.latest.schedule, graphs=change.graphs, every=every, origin=start)


def rotation(plan: Plan, after: int) -> Rotate | None:
    """The last rotation of a plan that begins after a round, to be asked for again on nobody's ticket."""
    promised = [r.schedule for r in plan.records if r.start > after and r.schedule.origin == r.start]
    return Rotate(-1, promised[-1].graphs, promised[-1].every, epochs=False) if promised else None


def check(change: Change, coming: list[Change], plan: Plan, run_spec: RunSpec, rounds_per_epoch: int) -> None:
    """Refuse what can never be.

    Raises:
        GraphError: the graph does not carry the run, or the leaver is no member, or too few would stay.
    """
    names = plan.latest.names
    match change:
        case Rotate():
            schedule = rotated(plan, change, 0, rounds_per_epoch)
            schedule.check(names)
            run_spec.requirements.check(schedule, names)
        case Leave(_, node):
            leaving = {c.node for c in coming if isinstance(c, Leave)} | {node}
            if node not in names:
                raise GraphError(f"{node} is no member")
            if len(set(names) - leaving) < max(1, run_spec.min_nodes):
                raise GraphError(f"{node} cannot leave: {run_spec.min_nodes} nodes must stay")


def successor(
    plan: Plan, start: int, changes: list[Change], membership: Membership, term: int, rounds_per_epoch: int
) -> Record:
    """The record that makes all of these changes at once.

    Raises:
        GraphError: nobody would be left.
    """
    rotations = [c for c in changes if isinstance(c, Rotate)]
    schedule = rotated(plan, rotations[-1], start, rounds_per_epoch) if rotations else plan.latest.schedule
    end = start if any(isinstance(c, Stop) for c in changes) else None
    leavers = [c.node for c in changes if isinstance(c, Leave)]
    stay = [m for m in plan.latest.members if m.node not in leavers]
    if not stay:
        raise GraphError(f"{', '.join(leavers)} cannot leave: nobody else is left")
    joiners = [membership.newcomers[c.node] for c in changes if isinstance(c, Admit)]
    members = tuple(sorted([*stay, *(Member(j.node, plan.next_incarnation(j.node), j.address) for j in joiners)]))
    handoffs = tuple((leaver, stay[i % len(stay)].node) for i, leaver in enumerate(sorted(leavers)))
    schedule = schedule.over(tuple(m.node for m in members))
    return plan.successor(start, schedule=schedule, end=end, members=members, handoffs=handoffs, term=term)
