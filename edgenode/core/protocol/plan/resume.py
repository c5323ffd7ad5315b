"""Decides from which round a stopped run resumes, and with which members: the newest that most of them have saved.

If it is to train longer than before, it does so from that round on. A run that had ended continues with what its nodes
had at the end, and its last phase follows again after the new end of training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace

from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError


def restore_plan(
    plan: Plan,
    members: Iterable[Member],
    offers: Mapping[str, tuple[frozenset[int], Plan]],
    least: int | None = None,
    schedule_for: Callable[[int, tuple[str, ...]], Schedule] | None = None,
    rounds: int | None = None,
    without: Set[str] = frozenset(),
) -> tuple[Plan, int]:
    """Return the plan of a run that resumes: one record more, from the newest round that most members have saved.

    Args:
        plan: the newest that is known.
        members: the nodes that are back, with the incarnations and addresses they have now.
        offers: per node, the rounds of its checkpoints, and the plan in the newest of them.
        least: the number of members of that round that is enough, if it is at least half. None means all of them.
        schedule_for: (round, members) -> the schedule from there on; None keeps the one that was in force.
        rounds: the rounds of training, if they are more than the plan had for that round.
        without: members of that round with which it does not resume.

    Raises:
        GraphError: too few of the members have a round in common, or they have done more rounds than that.
    """
    counts = {node: {r for r in rounds if plan.holds(node, r, theirs)} for node, (rounds, theirs) in offers.items()}
    saved = Counter(t for rounds in counts.values() for t in rounds)
    start = max(saved, key=lambda t: (saved[t], t), default=0)
    in_force = plan.at(start)
    names, returned = tuple(n for n in in_force.names if n not in without), sorted(members)
    if least is None and not set(offers) == {m.node for m in returned} == set(names):
        raise GraphError(f"the checkpoints are of {', '.join(names)}, not of {', '.join(sorted(offers))}")
    here = tuple(m for m in returned if m.node in names and start in counts.get(m.node, ()))
    if len(here) < (len(names) if least is None else max(least, (len(names) + 1) // 2)):
        have = "; ".join(f"{n} has {sorted(counts.get(n, ())) or 'none'}" for n in names)
        raise GraphError(f"no checkpoint round is common to enough members: {have}")
    schedule = schedule_for(start, tuple(m.node for m in here)) if schedule_for else in_force.schedule
    if rounds is not None and rounds > (in_force.rounds or 0):
        if rounds <= start:
            raise GraphError(
                f"run.rounds = {rounds}, but the run has done {start} rounds, those of its last phase included: "
                f"to train on, set it above {start}"
            )
        schedule = schedule.with_last_from(rounds)
    else:
        rounds = in_force.rounds
    record = replace(
        in_force,
        number=plan.latest.number + 1,
        parent=plan.latest.digest,
        start=start,
        end=None,
        handoffs=(),
        evictions=(),
        revoked=(),
        signature="",
        schedule=schedule,
        members=here,
        rounds=rounds,
    )
    return Plan((record,)), start
