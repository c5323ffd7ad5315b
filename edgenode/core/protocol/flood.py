"""What the pushes of a plan carry: forwards, when all members know what one knows, and backwards, who must be where."""

from __future__ import annotations

from edgenode.core.protocol.plan import Plan
from edgenode.errors import GraphError

_MAX_PERIOD = 1 << 20


def reach(plan: Plan, origin: str, first_round: int) -> int:
    """How many rounds a flood from ``origin``, on the pushes of ``first_round`` on, needs to cover all members.

    Raises:
        GraphError: the graphs never carry it to every member.
    """
    informed = {origin}
    everyone = set(plan.at(first_round).names)
    for count in range(_MAX_PERIOD):
        if informed >= everyone:
            return count
        edges = plan.graph(first_round + count).edges
        informed |= {receiver for sender, receiver in edges if sender in informed}
    raise GraphError(f"a record can never reach {', '.join(sorted(everyone - informed))} from {origin}")


def must_have_pushed(plan: Plan, node: str, t: int, other: str, since: int) -> bool:
    """Whether ``other`` must have pushed a round from ``since`` on, if ``node`` has begun round t.

    A node that has begun round t has mixed round t - 1, so its in-neighbours have pushed that round, and have begun it,
    and so on backwards. Nothing follows from a process that was not a member of a round, or was evicted from it.
    """
    begun = {node}
    for s in range(t - 1, since - 1, -1):
        graph, evicted = plan.graph(s), plan.evicted_later(s)
        begun = {n for n in begun if n in graph.nodes and n not in evicted}
        pushed = {sender for n in begun for sender in graph.in_neighbours(n) if sender not in evicted}
        if other in pushed or not begun:
            return other in pushed
        begun |= pushed
    return False
