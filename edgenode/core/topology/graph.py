"""Directed communication graphs: which node pushes to which, and with what weight. Immutable values only.

A graph's *position* i is the i-th member in sorted order, or in that of its networks. Presets are defined over
positions and adapt to any members. An edge list names its nodes and does not adapt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from edgenode.core.topology import allreduce, doubling, halving, networks, shapes
from edgenode.core.topology.weights import OUT_DEGREE, RULES, check_given, check_undirected, kept_share, weights_of
from edgenode.core.wording import listed
from edgenode.errors import GraphError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHOWN = 6


@dataclass(frozen=True)
class Digraph:
    """A directed graph over node ids, with (sender, receiver) per edge. Self-loops are implied and never listed.

    Attributes:
        leaving: nodes in their last round. Each has one edge, to its hand-off target, and no self-loop.
        counts: (sender, weight), where groups merge: the weight of its message at itself and at each receiver. Rows of
            W then sum to 1, and columns do not.
        rule: the rule of the other weights, one of `weights.RULES`.
        given: edges with weights of their own, to which no rule applies: all edges but those of leaving nodes, or none.

    Raises:
        GraphError: an edge names an unknown node, or is a self-loop, or the weights do not fit.
    """

    nodes: tuple[str, ...]
    edges: frozenset[tuple[str, str]]
    leaving: frozenset[str] = frozenset()
    counts: tuple[tuple[str, float], ...] = ()
    rule: str = OUT_DEGREE
    given: frozenset[tuple[tuple[str, str], float]] = frozenset()

    def __post_init__(self) -> None:
        nodes = set(self.nodes)
        wrong = [(s, r) for s, r in self.edges if s == r or s not in nodes or r not in nodes]
        if wrong:
            raise GraphError(_refusal(sorted(wrong), nodes))
        check_undirected(self.rule, frozenset(edge for edge in self.edges if edge[0] not in self.leaving))
        check_given(dict(self.given))

    @cached_property
    def _out(self) -> dict[str, tuple[str, ...]]:
        return _grouped(self.edges)

    @cached_property
    def _in(self) -> dict[str, tuple[str, ...]]:
        return _grouped((receiver, sender) for sender, receiver in self.edges)

    @cached_property
    def _counts(self) -> dict[str, float]:
        return dict(self.counts)

    def out_neighbours(self, node: str) -> tuple[str, ...]:
        """Receivers of this node's pushes, sorted. Empty for a node that is not in the graph."""
        return self._out.get(node, ())

    def in_neighbours(self, node: str) -> tuple[str, ...]:
        """Senders that this node waits for, sorted. Empty for a node that is not in the graph."""
        return self._in.get(node, ())

    @cached_property
    def _weights(self) -> dict[tuple[str, str], float]:
        if self.given:
            return dict(self.given)
        return weights_of(self.rule, {node: out for node, out in self._out.items() if node not in self.leaving})

    def weight(self, sender: str, receiver: str | None = None) -> float:
        """W[receiver, sender]: the share of its message that a sender gives to a receiver, or keeps if none is named.

        A leaving node gives everything to its hand-off target. Where groups merge, a message counts as its group does.
        """
        if sender in self.leaving:
            return 1.0
        if sender in self._counts:
            return self._counts[sender]
        if receiver is not None and receiver != sender:
            return self._weights[sender, receiver]
        return kept_share([self._weights[sender, out] for out in self.out_neighbours(sender)])

    def mixing_matrix(self) -> NDArray[np.float64]:
        """W[receiver, sender] over the sorted nodes, [n, n].

        Every column sums to 1 (section 8.1, assumption 2), unless a message counts as its group does.
        """
        import numpy as np  # here, because a relay does without it, and so without 11 MB

        position = {node: i for i, node in enumerate(self.nodes)}
        matrix = np.zeros((len(self.nodes), len(self.nodes)))
        for sender in self.nodes:
            itself = () if sender in self.leaving else (sender,)
            for receiver in (*itself, *self.out_neighbours(sender)):
                matrix[position[receiver], position[sender]] = self.weight(sender, receiver)
        return matrix

    def received_mass(self) -> dict[str, float]:
        """The sum of each row of W: how much a node has after a round in which all nodes had 1."""
        mass = {node: 0.0 if node in self.leaving else self.weight(node) for node in self.nodes}
        for sender, receiver in sorted(self.edges):
            mass[receiver] += self.weight(sender, receiver)
        return mass

    @property
    def is_doubly_stochastic(self) -> bool:
        """Return whether the rows of W sum to 1 too. Each node then receives as much as it sends, and u stays 1."""
        return not self.counts and all(abs(mass - 1) <= 1e-9 for mass in self.received_mass().values())

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
        given = frozenset((edge, weight) for edge, weight in self.given if edge in stay)
        return replace(self, edges=frozenset(stay | set(handoffs.items())), leaving=frozenset(handoffs), given=given)

    def lacking(self, links: Iterable[tuple[str, str]]) -> Digraph:
        """This graph without some edges. Those that it does not have do not matter.

        Raises:
            GraphError: the weights are for an undirected graph, and it would not be one.
        """
        gone = frozenset(links)
        given = frozenset((edge, weight) for edge, weight in self.given if edge not in gone)
        return replace(self, edges=self.edges - gone, given=given)

    def union(self, other: Digraph) -> Digraph:
        """The graph with the edges of both, over the nodes of this one, with the default weights."""
        return Digraph(self.nodes, self.edges | other.edges)


def _refusal(edges: Sequence[tuple[str, str]], nodes: set[str]) -> str:
    """Why each of these edges is refused."""
    reasons = []
    for sender, receiver in edges[:_SHOWN]:
        unknown = [repr(end) for end in dict.fromkeys((sender, receiver)) if end not in nodes]
        what = (
            f"names an unknown node {' and '.join(unknown)}"
            if unknown
            else "is a self-loop; every node has one already"
        )
        reasons.append(f"edge {sender}->{receiver} {what}")
    more = f"; and {len(edges) - _SHOWN} more" if len(edges) > _SHOWN else ""
    return "; ".join(reasons) + more


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


@dataclass(frozen=True)
class Preset:
    """A graph for any number of nodes.

    Attributes:
        edges: given n >= 1, one period of edge lists over the positions 0 to n - 1, with one list per round. Raises a
            GraphError for a number of nodes that it does not fit.
        meaning: a line that describes it.
        weights: given n, the weight of each position's message in each round, if groups merge. Only algorithms whose
            exchange takes a period can use that. None is 1 / (out-degree + 1).
    """

    edges: Callable[[int], Sequence[Sequence[tuple[int, int]]]]
    meaning: str
    weights: Callable[[int], Sequence[Mapping[int, float]]] | None = None


PRESETS: dict[str, Preset] = {
    "a": Preset(lambda n: [shapes.cycle(range(n))], "ring, each node pushes to the next"),
    "b": Preset(lambda n: [shapes.cycle(range(n - 1, -1, -1))], "ring, each node pushes to the one before"),
    "c": Preset(
        lambda n: [shapes.cycle([*range(0, n, 2), *range(1, n, 2)])],
        "ring through the even positions, then the odd ones",
    ),
    "two-way": Preset(shapes.two_way, "ring, each node pushes to both its neighbours: undirected, symmetric weights"),
    "chord": Preset(shapes.chord, "ring a plus the edge 0->2: unbalanced, push-sum needed"),
    "exponential": Preset(
        lambda n: [[edge for length in shapes.hops(n) for edge in shapes.hop(n, length)]],
        "each node pushes to the nodes 1, 2, 4, ... further on",
    ),
    "one-peer-exponential": Preset(
        lambda n: [shapes.hop(n, length) for length in shapes.hops(n)] or [[]],
        "one push per round, 1, 2, 4, ... further on in turn: exact if n is a power of two",
    ),
    "halving": Preset(
        halving.edges, "one push per round, into the other half of ever smaller parts: exact for every n"
    ),
    doubling.NAME: Preset(
        doubling.edges,
        "groups merge, one message to each node per round: DiLoCo averages any n exactly",
        doubling.weights,
    ),
    allreduce.NAME: Preset(
        allreduce.edges, "one push per round, ever shorter and then ever longer hops: the last phase sums parts over it"
    ),
    "complete": Preset(shapes.complete, "each node pushes to every other"),
}
"""The graphs that have a name. The shells add those of extensions."""


@dataclass(frozen=True)
class GraphSpec:
    """A graph as an operator names it: a preset, or a named list of edges over node ids.

    Attributes:
        name: that of a preset may have networks, as in a@berlin:paris.
        rule: the rule of the weights.
        given: the weight of each edge, in the order of ``edges``. Empty for those of the rule.

    Raises:
        GraphError: no such preset or rule, a duplicate edge, or the weights do not fit.
    """

    name: str
    edges: tuple[tuple[str, str], ...] | None = None
    rule: str = OUT_DEGREE
    given: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in RULES or len(self.given) not in (0, len(self.edges or ())):
            raise GraphError(f"graph {self.name!r} has {len(self.given)} weights and the rule {self.rule!r}")
        if self.edges is None:
            if self.preset not in PRESETS:
                near = get_close_matches(self.preset, PRESETS, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise GraphError(f"no graph named {self.name!r}; {hint}presets are {', '.join(PRESETS)}")
            networks.networks_of(self.name)
            return
        if twice := sorted(edge for edge, count in Counter(self.edges).items() if count > 1):
            edges = listed([f"{s}->{r}" for s, r in twice], _SHOWN)
            raise GraphError(f"graph {self.name!r} lists the edge{'s' if len(twice) > 1 else ''} {edges} twice")
        check_given(dict(zip(self.edges, self.given, strict=False)))

    @property
    def preset(self) -> str:
        """The name of the preset. Empty for a list of edges."""
        return networks.preset_of(self.name) if self.edges is None else ""

    def positions(self, members: tuple[str, ...]) -> tuple[str, ...]:
        """The members of a preset by their positions.

        Raises:
            GraphError: the preset does not fit their number.
        """
        return _positions(self, members)

    def period(self, members: tuple[str, ...]) -> tuple[Digraph, ...]:
        """The digraphs of consecutive rounds, which repeat. A static graph has one.

        Raises:
            GraphError: an edge names a node that is not a member, or the preset does not fit the number of members.
        """
        return _period(self, members)

    def plain(self) -> list[object]:
        """Name and edges as JSON has them, and the weights if they are not the default."""
        weights: list[object] = [list(self.given)] if self.given else [self.rule] if self.rule != OUT_DEGREE else []
        return [self.name, None if self.edges is None else [list(edge) for edge in self.edges], *weights]

    def among(self, members: tuple[str, ...]) -> GraphSpec:
        """This graph without the edges of other nodes. A preset fits any members."""
        if self.edges is None:
            return self
        known = set(members)
        places = [place for place, edge in enumerate(self.edges) if known.issuperset(edge)]
        given = tuple(self.given[place] for place in places) if self.given else ()
        return replace(self, edges=tuple(self.edges[place] for place in places), given=given)


@lru_cache(maxsize=256)
def _period(spec: GraphSpec, members: tuple[str, ...]) -> tuple[Digraph, ...]:
    if spec.edges is not None:
        given = frozenset(zip(spec.edges, spec.given, strict=True)) if spec.given else frozenset()
        return (Digraph(members, frozenset(spec.edges), rule=spec.rule, given=given),)
    preset = PRESETS[spec.preset]
    try:
        node = dict(enumerate(spec.positions(members)))
        period = [frozenset((node[i], node[j]) for i, j in edges) for edges in preset.edges(len(members))]
        if not period:
            raise ValueError("its period has no round")
    except GraphError:
        raise
    except Exception as exc:  # the preset may be an extension's
        reason = f"{type(exc).__name__}: {exc}"
        raise GraphError(f"graph {spec.name} cannot be made for {len(members)} nodes: {reason}") from exc
    if preset.weights is not None:
        weights = [{node[i]: w for i, w in of_round.items()} for of_round in preset.weights(len(members))]
        return tuple(_counting(Digraph(members, e), w) for e, w in zip(period, weights, strict=True))
    try:
        return tuple(Digraph(members, edges, rule=spec.rule) for edges in period)
    except GraphError as exc:
        raise GraphError(f"graph {spec.name}: {exc}") from exc


@lru_cache(maxsize=256)
def _positions(spec: GraphSpec, members: tuple[str, ...]) -> tuple[str, ...]:
    named = networks.networks_of(spec.name)
    return networks.ordered(members, named, PRESETS[spec.preset].edges) if named else members


def _counting(graph: Digraph, weights: Mapping[str, float]) -> Digraph:
    """A graph with the weights of its nodes' messages, as far as they differ from the usual ones."""
    return replace(
        graph, counts=tuple((n, weight) for n, weight in sorted(weights.items()) if weight != graph.weight(n))
    )


def describe_unreachable(pairs: Iterable[tuple[str, str]], limit: int = 6) -> str:
    """The first unreachable pairs as text, and how many more there are."""
    return listed([f"{a}->{b}" for a, b in pairs], limit)
