"""Directed communication graphs: which node pushes to which, and with what weight. Immutable values only.

A graph's *position* i is the i-th member in sorted order. Presets are defined over positions and adapt to any members.
An edge list names its nodes and does not adapt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from edgenode.core.topology import allreduce
from edgenode.core.wording import listed
from edgenode.errors import GraphError

MAX_EDGES = 1 << 15


@dataclass(frozen=True)
class Digraph:
    """A directed graph over node ids, with (sender, receiver) per edge. Self-loops are implied and never listed.

    Attributes:
        leaving: nodes in their last round. Each has one edge, to its hand-off target, and no self-loop.

    Raises:
        GraphError: an edge names an unknown node, or is a self-loop.
    """

    nodes: tuple[str, ...]
    edges: frozenset[tuple[str, str]]
    leaving: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        nodes = set(self.nodes)
        wrong = [(s, r) for s, r in self.edges if s == r or s not in nodes or r not in nodes]
        for sender, receiver in sorted(wrong):
            for end in (sender, receiver):
                if end not in nodes:
                    raise GraphError(f"edge {sender}->{receiver} names an unknown node {end!r}")
            raise GraphError(f"edge {sender}->{receiver} is a self-loop; every node has one already")

    @cached_property
    def _out(self) -> dict[str, tuple[str, ...]]:
        return _grouped(self.edges)

    @cached_property
    def _in(self) -> dict[str, tuple[str, ...]]:
        return _grouped((receiver, sender) for sender, receiver in self.edges)

    def out_neighbours(self, node: str) -> tuple[str, ...]:
        """Receivers of this node's pushes, sorted. Empty for a node that is not in the graph."""
        return self._out.get(node, ())

    def in_neighbours(self, node: str) -> tuple[str, ...]:
        """Senders that this node waits for, sorted. Empty for a node that is not in the graph."""
        return self._in.get(node, ())

    def weight(self, sender: str) -> float:
        """The weight that a sender gives to itself and to each out-neighbour: 1 / (out-degree + 1), a column of W.

        A leaving node gives everything to its hand-off target.
        """
        if sender in self.leaving:
            return 1.0
        return 1.0 / (len(self.out_neighbours(sender)) + 1)

    def mixing_matrix(self) -> NDArray[np.float64]:
        """W[receiver, sender] over the sorted nodes, [n, n]. Every column sums to 1 (section 8.1, assumption 2)."""
        position = {node: i for i, node in enumerate(self.nodes)}
        matrix = np.zeros((len(self.nodes), len(self.nodes)))
        for sender in self.nodes:
            itself = () if sender in self.leaving else (sender,)
            for receiver in (*itself, *self.out_neighbours(sender)):
                matrix[position[receiver], position[sender]] = self.weight(sender)
        return matrix

    @property
    def balanced(self) -> bool:
        """Return whether the rows of W sum to 1 too. Each node then receives as much as it sends, and u stays 1."""
        return bool(np.allclose(self.mixing_matrix().sum(axis=1), 1.0, rtol=0, atol=1e-9))

    def unreachable_pairs(self) -> list[tuple[str, str]]:
        """Every (from, to) without a directed path. Empty exactly if the graph is strongly connected."""
        everyone = set(self.nodes)
        # If one node reaches all, and all reach it, then every pair has a path through it.
        if not self.nodes or all(_reachable(self.nodes[0], edges) == everyone for edges in (self._out, self._in)):
            return []
        reach = {node: _reachable(node, self._out) for node in self.nodes}
        return [(a, b) for a in self.nodes for b in self.nodes if b not in reach[a]]

    def handing_over(self, handoffs: Mapping[str, str]) -> Digraph:
        """This graph in the last round of some nodes: they receive no push, and push only to a hand-off target."""
        stay = {(s, r) for s, r in self.edges if s not in handoffs and r not in handoffs}
        return Digraph(self.nodes, frozenset(stay | set(handoffs.items())), frozenset(handoffs))

    def lacking(self, links: Iterable[tuple[str, str]]) -> Digraph:
        """This graph without some edges. Those that it does not have do not matter."""
        return replace(self, edges=self.edges - frozenset(links))

    def union(self, other: Digraph) -> Digraph:
        """The graph with the edges of both, over the nodes of this one."""
        return Digraph(self.nodes, self.edges | other.edges)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """First -> the seconds paired with it, sorted."""
    grouped: dict[str, list[str]] = {}
    for first, second in sorted(pairs):
        grouped.setdefault(first, []).append(second)
    return {first: tuple(seconds) for first, seconds in grouped.items()}


def _reachable(start: str, neighbours: Mapping[str, Iterable[str]]) -> set[str]:
    """The nodes to which a path leads from ``start``, itself included."""
    found, ahead = {start}, [start]
    while ahead:
        new = set(neighbours.get(ahead.pop(), ())) - found
        found |= new
        ahead.extend(new)
    return found


def _cycle(order: Sequence[int]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in zip(order, [*order[1:], order[0]], strict=True) if a != b]


def _hops(n: int) -> list[int]:
    return [2**k for k in range(max(n - 1, 1).bit_length())] if n > 1 else []


def _hop(n: int, hop: int) -> list[tuple[int, int]]:
    return [(i, (i + hop) % n) for i in range(n) if hop % n]


def _complete(n: int) -> list[list[tuple[int, int]]]:
    if n * n > MAX_EDGES:
        raise GraphError(f"graph complete over {n} nodes has {n * (n - 1)} edges: at most {MAX_EDGES} are allowed")
    return [[(i, j) for i in range(n) for j in range(n) if i != j]]


def _halving(n: int) -> list[list[tuple[int, int]]]:
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


@dataclass(frozen=True)
class Preset:
    """A graph for any number of nodes.

    Attributes:
        edges: given n >= 1, one period of edge lists over the positions 0 to n - 1, with one list per round. Raises a
            GraphError for a number of nodes that it does not fit.
        meaning: a line that describes it.
    """

    edges: Callable[[int], Sequence[Sequence[tuple[int, int]]]]
    meaning: str


def _two_way(n: int) -> list[list[tuple[int, int]]]:
    return [sorted({*_cycle(range(n)), *_cycle(range(n - 1, -1, -1))})]


def _chord(n: int) -> list[list[tuple[int, int]]]:
    return [[*_cycle(range(n)), *([(0, 2)] if n > 3 else [(0, n - 1)] if n == 3 else [])]]


PRESETS: dict[str, Preset] = {
    "a": Preset(lambda n: [_cycle(range(n))], "ring, each node pushes to the next"),
    "b": Preset(lambda n: [_cycle(range(n - 1, -1, -1))], "ring, each node pushes to the one before"),
    "c": Preset(
        lambda n: [_cycle([*range(0, n, 2), *range(1, n, 2)])], "ring through the even positions, then the odd ones"
    ),
    "two-way": Preset(_two_way, "ring, each node pushes to both its neighbours: undirected, symmetric weights"),
    "chord": Preset(_chord, "ring a plus the edge 0->2: unbalanced, push-sum needed"),
    "exponential": Preset(
        lambda n: [[edge for hop in _hops(n) for edge in _hop(n, hop)]],
        "each node pushes to the nodes 1, 2, 4, ... further on",
    ),
    "one-peer-exponential": Preset(
        lambda n: [_hop(n, hop) for hop in _hops(n)] or [[]],
        "one push per round, 1, 2, 4, ... further on in turn: exact if n is a power of two",
    ),
    "halving": Preset(_halving, "one push per round, into the other half of ever smaller parts: exact for every n"),
    allreduce.NAME: Preset(
        allreduce.edges, "one push per round, ever shorter and then ever longer hops: the last phase sums parts over it"
    ),
    "complete": Preset(_complete, "each node pushes to every other"),
}
"""The graphs that have a name. The shells add those of extensions."""


@dataclass(frozen=True)
class GraphSpec:
    """A graph as an operator names it: a preset, or a named list of edges over node ids.

    Raises:
        GraphError: no such preset, or a duplicate edge.
    """

    name: str
    edges: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if self.edges is None:
            if self.name not in PRESETS:
                near = get_close_matches(self.name, PRESETS, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise GraphError(f"no graph named {self.name!r}; {hint}presets are {', '.join(PRESETS)}")
            return
        seen: set[tuple[str, str]] = set()
        for sender, receiver in self.edges:
            if (sender, receiver) in seen:
                raise GraphError(f"graph {self.name!r} lists the edge {sender}->{receiver} twice")
            seen.add((sender, receiver))

    def period(self, members: tuple[str, ...]) -> tuple[Digraph, ...]:
        """The digraphs of consecutive rounds, which repeat. A static graph has one.

        Raises:
            GraphError: an edge names a node that is not a member, or the preset does not fit the number of members.
        """
        return _period(self, members)

    def plain(self) -> list[object]:
        """Name and edges as JSON has them."""
        return [self.name, None if self.edges is None else [list(edge) for edge in self.edges]]

    def among(self, members: tuple[str, ...]) -> GraphSpec:
        """This graph without the edges of other nodes. A preset fits any members."""
        if self.edges is None:
            return self
        return replace(self, edges=tuple((s, r) for s, r in self.edges if s in members and r in members))


@lru_cache(maxsize=256)
def _period(spec: GraphSpec, members: tuple[str, ...]) -> tuple[Digraph, ...]:
    if spec.edges is not None:
        return (Digraph(members, frozenset(spec.edges)),)
    node = dict(enumerate(members))
    try:
        period = [frozenset((node[i], node[j]) for i, j in edges) for edges in PRESETS[spec.name].edges(len(members))]
        if not period:
            raise ValueError("its period has no round")
    except GraphError:
        raise
    except Exception as exc:  # the preset may be an extension's
        reason = f"{type(exc).__name__}: {exc}"
        raise GraphError(f"graph {spec.name} cannot be made for {len(members)} nodes: {reason}") from exc
    return tuple(Digraph(members, edges) for edges in period)


def parse_edges(name: str, text: str) -> GraphSpec:
    """Parse an edge list: one ``sender receiver`` (or ``sender -> receiver``) per line. # starts a comment.

    Raises:
        GraphError: a malformed line, with its number, a duplicate edge, or no edge at all.
    """
    edges = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace("->", " ").replace(",", " ").split()
        if not words:
            continue
        if len(words) != 2:
            raise GraphError(f"{name}, line {number}: expected 'sender receiver', got {line.strip()!r}")
        edges.append((words[0], words[1]))
    if not edges:
        raise GraphError(f"{name} lists no edge")
    return GraphSpec(name, tuple(edges))


def describe_unreachable(pairs: Iterable[tuple[str, str]], limit: int = 6) -> str:
    """The first unreachable pairs as text, and how many more there are."""
    return listed([f"{a}->{b}" for a, b in pairs], limit)
