"""Follows pushes forwards, to the round in which all members know a fact, and backwards, to what must have happened."""

from __future__ import annotations

from edgenode.core.protocol.plan.lag import LOCK_STEP, Lag
from edgenode.core.protocol.plan.plan import Plan
from edgenode.errors import GraphError

_MAX_PERIOD = 1 << 20


def reach(plan: Plan, origin: str, first_round: int, overlap: int = 0) -> int:
    """Return how many rounds a flood from ``origin``, on the pushes of ``first_round`` on, takes to cover all members.

    A receiver of round t has mixed it before it begins round t + overlap + 1. From then on its pushes carry what came.

    Raises:
        GraphError: the graphs never carry it to every member.
    """
    carries = {origin: first_round}  # the first round whose push carries it
    everyone = set(plan.at(first_round).names)
    for t in range(first_round, first_round + _MAX_PERIOD):
        if carries.keys() >= everyone:
            return max(carries[node] for node in everyone) - first_round
        for sender, receiver in plan.graph(t).edges:
            if sender in carries and carries[sender] <= t:
                # precaution: a record takes as much longer for a hop as a message waits to be mixed
                carries.setdefault(receiver, t + overlap + 1)
    raise GraphError(f"a record can never reach {', '.join(sorted(everyone - carries.keys()))} from {origin}")


def must_have_pushed(plan: Plan, node: str, t: int, other: str, since: int, lag: Lag = LOCK_STEP) -> bool:
    """Return whether ``other`` has pushed a round from ``since`` on, given that ``node`` has mixed all before round t.

    If a node has mixed round t - 1, its in-neighbours have pushed that round. So they have mixed what is to be mixed
    before it begins, and so on backwards. Nothing follows from a process that was not a member of a round, or was
    evicted from it.
    """
    mixed = {node: t}  # node -> the round before which it has mixed all
    for s in range(t - 1, since - 1, -1):
        graph, evicted = plan.graph(s), plan.evicted_later(s)
        mixed = {n: before for n, before in mixed.items() if n in graph.nodes and n not in evicted}
        receivers = [n for n, before in mixed.items() if before > s]
        pushed = {sender for n in receivers for sender in graph.in_neighbours(n) if sender not in evicted}
        if other in pushed or not mixed:
            return other in pushed
        mixed = dict.fromkeys(pushed, lag.mixed_before(plan, s)) | mixed
    return False
