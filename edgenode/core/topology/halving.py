"""Recursive halving: a graph of several rounds on which push-sum averages any number of nodes exactly."""

from __future__ import annotations

from collections.abc import Sequence


def edges(n: int) -> list[list[tuple[int, int]]]:
    """Push-sum over these rounds averages n nodes exactly, for every n, in log2 n rounds, rounded up.

    1. A part of the nodes with the sums X of x and U of u is divided into halves A and B. Sizes differ by at most one.
    2. Each node pushes once into the other half. It keeps one half of its x and u, and the other half arrives there. So
       A and B have the sums X / 2 and U / 2 each, whatever single nodes have.
    3. The next rounds do the same in A and in B. A part of one node is left with X / 2^k and U / 2^k, so its z = x / u
       is X / U, the average of all.

    If n is a power of two, the nodes of a round exchange in pairs, and every u stays 1.
    """
    rounds, parts = [], [range(n)]
    while any(len(part) > 1 for part in parts):
        halves = [(part[: (len(part) + 1) // 2], part[(len(part) + 1) // 2 :]) for part in parts]
        rounds.append([edge for a, b in halves if b for edge in _across(a, b)])
        parts = [half for pair in halves for half in pair if half]
    return rounds or [[]]


def _across(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """One push of every node into the other half. ``a`` is as long as ``b``, or longer by one."""
    return [(sender, b[i % len(b)]) for i, sender in enumerate(a)] + list(zip(b, a, strict=False))
