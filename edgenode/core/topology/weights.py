"""The weights of a graph's edges, W[receiver, sender]: which share of its message a sender gives to whom.

What a sender does not give, it keeps. So every column of W sums to 1, whatever the weights are. With an undirected
graph, the rules METROPOLIS and UNIFORM make W symmetric, and its rows sum to 1, too: W is doubly stochastic.

    OUT_DEGREE    1 / (out-degree + 1) of the sender: it gives as much to each receiver as it keeps
    METROPOLIS    1 / (largest degree of the two ends + 1) (Xiao, Boyd and Kim 2007)
    UNIFORM       1 / (largest degree of all nodes + 1): one weight for all edges
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgenode.core.wording import listed
from edgenode.errors import GraphError

OUT_DEGREE, METROPOLIS, UNIFORM = "out-degree", "metropolis", "uniform"
RULES = (OUT_DEGREE, METROPOLIS, UNIFORM)

Edge = tuple[str, str]
"""A sender and a receiver."""

_SHOWN = 6


def weights_of(rule: str, receivers: Mapping[str, Sequence[str]]) -> dict[Edge, float]:
    """The weight of each edge by a rule.

    Args:
        receivers: the receivers of every sender that has any.
    """
    if rule == OUT_DEGREE:
        return {(s, r): 1.0 / (len(out) + 1) for s, out in receivers.items() for r in out}
    degree = {sender: len(out) for sender, out in receivers.items()}
    most = max(degree.values(), default=0)
    if rule == UNIFORM:
        return {(s, r): 1.0 / (most + 1) for s, out in receivers.items() for r in out}
    return {(s, r): 1.0 / (max(degree[s], degree[r]) + 1) for s, out in receivers.items() for r in out}


def kept_share(given: Sequence[float]) -> float:
    """The share that a sender keeps, whose receivers get these shares."""
    if given and given.count(given[0]) == len(given) and given[0] == 1.0 / (len(given) + 1):
        return given[0]  # as much as each receiver gets, to the bit
    return 1.0 - math.fsum(given)


def check_undirected(rule: str, edges: frozenset[Edge]) -> None:
    """Refuse a directed graph for a rule that is for undirected ones.

    Raises:
        GraphError: an edge has no opposite. The text names all that have none.
    """
    if rule != OUT_DEGREE and (alone := sorted((s, r) for s, r in edges if (r, s) not in edges)):
        raise GraphError(
            f"{rule} weights need an undirected graph, and {listed([f'{s}->{r}' for s, r in alone], _SHOWN)} "
            f"{'has' if len(alone) == 1 else 'have'} no edge back; an edge list names both at once as a -- b"
        )


def check_given(weights: Mapping[Edge, float]) -> None:
    """Refuse weights that leave a sender nothing, or are none.

    Raises:
        GraphError: the text names every edge and every sender at fault.
    """
    wrong = [f"{s}->{r} has weight {w:g}" for (s, r), w in sorted(weights.items()) if not 0 < w < 1]
    given: dict[str, list[float]] = {}
    for (sender, _), weight in weights.items():
        given.setdefault(sender, []).append(weight)
    if not wrong:
        wrong = [f"{s} gives {math.fsum(out):g} in all" for s, out in sorted(given.items()) if math.fsum(out) >= 1]
    if wrong:
        raise GraphError(f"a weight is above 0, and a node keeps a part: {listed(wrong, _SHOWN)}")
