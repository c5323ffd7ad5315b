"""Exchanges by recursive doubling, for every number of nodes: who sends to whom, and how much a message counts.

1. Before each round the nodes are in groups, at first of one node each. The nodes of a group hold equal numbers.
2. In a round, two groups of a and b nodes merge. Each node of one receives what a node of the other sends, C[A] or
   C[B], and all a + b nodes then hold (a C[A] + b C[B]) / (a + b). So a message counts as the nodes of its group do.
   What it leaves out has the weight m / n in the mean of all n nodes, where m is the size of the group.
3. The last round merges the even positions with the odd ones, the round before it the even and the odd positions of
   each of these, and so on. So the sizes of two groups that merge differ by one at most. If they differ, a node of the
   smaller group sends twice, and one of the larger sends nothing.
4. Groups are halved until they have one node, which takes ceil(log2 n) rounds. A node that has no partner in the first
   round compresses its numbers all the same, and what it leaves out is kept like that of the others.

With 2, 4, 8, ... nodes the edges are those of ``halving``, and so are the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NAME = "doubling"

Positions = Sequence[int]


def edges(n: int) -> list[list[tuple[int, int]]]:
    """The edges of each round over the positions 0 to n - 1."""
    return [[edge for a, b in merged for edge in [*_into(b, a), *_into(a, b)]] for merged in _merged(n)] or [[]]


def weights(n: int) -> list[Mapping[int, float]]:
    """The weight of the message of each position in each round. It keeps its own with the same weight."""
    return [
        {i: len(group) / (len(a) + len(b)) for a, b in merged for group in (a, b) for i in group}
        for merged in _merged(n)
    ] or [{}]


def _merged(n: int) -> list[list[tuple[Positions, Positions]]]:
    """The groups that merge in each round, in pairs."""
    rounds = list[list[tuple[Positions, Positions]]]()
    groups: list[Positions] = [range(n)]
    while pairs := [(group[::2], group[1::2]) for group in groups if len(group) > 1]:
        rounds.append(pairs)
        groups = [half for pair in pairs for half in pair]
    return rounds[::-1]


def _into(receivers: Positions, senders: Positions) -> list[tuple[int, int]]:
    """One edge into each receiver."""
    return [(senders[i % len(senders)], receiver) for i, receiver in enumerate(receivers)]
