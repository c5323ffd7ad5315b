"""Follows pushes forwards, to the round in which all members know a fact, and backwards, to what must have happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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


def must_have_mixed(plan: Plan, gone: Mapping[str, int], lag: Lag = LOCK_STEP) -> dict[str, int]:
    """Return how far members that are evicted together must have mixed, by what they and others passed on.

    A process that mixed round s has the pushes of that round of all its in-neighbours, so these have mixed what is to
    be mixed before it. That holds for one that was evicted before, because it did not know of this eviction. Its pushes
    may have reached a survivor, who has no evidence of its own about where their content came from.

    Args:
        gone: member -> the round before which it must have mixed all, as far as the survivors have evidence: at least
            the round before it became a member.

    Returns:
        The same for each of them, and none is earlier.
    """
    before, mixed = tuple(_evicted_before(plan)), dict(gone)
    newest = {node: _incarnation(plan, node) for node in gone}
    while True:
        receivers = [*before, *((node, newest[node], t) for node, t in mixed.items())]
        later = {node: max(_mixed_by(plan, node, t, *by, lag) for by in receivers) for node, t in mixed.items()}
        if later == mixed:
            return mixed
        mixed = later


def _incarnation(plan: Plan, node: str) -> int:
    member = plan.member(node)
    assert member is not None
    return member.incarnation


def _evicted_before(plan: Plan) -> Iterator[tuple[str, int, int]]:
    """(name, incarnation, the round before which it must have mixed all) of every process that was evicted."""
    incarnations: dict[str, int] = {}
    for record in plan.records:
        yield from ((node, incarnations[node], mixed) for node, mixed in record.evictions if node in incarnations)
        incarnations.update(record.incarnations)


def _mixed_by(plan: Plan, sender: str, known: int, receiver: str, incarnation: int, mixed: int, lag: Lag) -> int:
    """The round before which a sender must have mixed all, as far as a receiver has mixed it; at least ``known``."""
    for s in range(mixed - 1, known, -1):
        if plan.at(s).incarnations.get(receiver) != incarnation:
            break  # its process was not a member yet
        if sender in plan.graph(s).in_neighbours(receiver):
            return max(known, lag.mixed_before(plan, s))
    return known
