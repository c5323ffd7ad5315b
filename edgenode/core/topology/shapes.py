"""The edges of the plain presets, over the positions 0 to n - 1."""

from __future__ import annotations

from collections.abc import Sequence

from edgenode.errors import GraphError

MAX_EDGES = 1 << 15
Edges = list[tuple[int, int]]


def cycle(order: Sequence[int]) -> Edges:
    """The edges of a ring through these positions."""
    return [(a, b) for a, b in zip(order, [*order[1:], order[0]], strict=True) if a != b]


def hops(n: int) -> list[int]:
    """1, 2, 4, ..., as far as they are shorter than n."""
    return [2**k for k in range(max(n - 1, 1).bit_length())] if n > 1 else []


def hop(n: int, length: int) -> Edges:
    """An edge of that length from each position."""
    return [(i, (i + length) % n) for i in range(n) if length % n]


def complete(n: int) -> list[Edges]:
    """Every edge, in one round.

    Raises:
        GraphError: there would be more than MAX_EDGES.
    """
    if n * n > MAX_EDGES:
        raise GraphError(f"graph complete over {n} nodes has {n * (n - 1)} edges: at most {MAX_EDGES} are allowed")
    return [[(i, j) for i in range(n) for j in range(n) if i != j]]


def two_way(n: int) -> list[Edges]:
    """A ring in both directions, in one round."""
    return [sorted({*cycle(range(n)), *cycle(range(n - 1, -1, -1))})]


def chord(n: int) -> list[Edges]:
    """A ring with one edge more, in one round."""
    return [[*cycle(range(n)), *([(0, 2)] if n > 3 else [(0, n - 1)] if n == 3 else [])]]
