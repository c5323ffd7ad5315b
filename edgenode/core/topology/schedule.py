"""The graph of each round: a pure function of the round and the members.

A `ScheduleSpec` may count in training epochs. A `Schedule` counts in rounds only, so all nodes that have it agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from edgenode.core.topology.graph import Digraph, GraphSpec, describe_unreachable
from edgenode.core.topology.period import Period
from edgenode.core.topology.shapes import MAX_EDGES
from edgenode.errors import GraphError

_EVERY_ROUND = Period(1)
MAX_GRAPHS = 64
MAX_WORK = MAX_EDGES  # of edges and nodes, over one period of each graph
MAX_WITHOUT = 256
MAX_EXCHANGE = 64

Link = tuple[str, str]
"""A sender and a receiver."""


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule as configured, before the number of rounds of an epoch is known.

    Attributes:
        graphs: used in turn, for one period each.
        last: the graph from round ``last_from`` on, if any. SCSP's final gossip uses it.
    """

    graphs: tuple[GraphSpec, ...]
    period: Period = _EVERY_ROUND
    last: GraphSpec | None = None
    last_from: int = 0

    def schedule(self, rounds_per_epoch: int) -> Schedule:
        """The schedule from round 0, where an epoch has that many rounds."""
        return Schedule(self.graphs, self.period.rounds(rounds_per_epoch), last=self.last, last_from=self.last_from)


@dataclass(frozen=True)
class Schedule:
    """The graph of each round: ``graphs`` in turn, ``every`` rounds each, counted from round ``origin``.

    If ``last`` is given, it is the graph from round ``last_from`` on. SCSP's final gossip uses it.

    Attributes:
        without: links that do not work, sorted. The graphs are used without these edges. ``last`` keeps them: it is
            short, and averages with all of its edges only.
        exchange: the rounds of an exchange, if a period takes them all, however few members there are. A shorter
            period follows after rounds without edges. 0 leaves periods as they are.

    Raises:
        GraphError: there are no graphs, ``every`` is below 1, too many links are left out, or an exchange has too many
            rounds.
    """

    graphs: tuple[GraphSpec, ...]
    every: int
    origin: int = 0
    last: GraphSpec | None = None
    last_from: int = 0
    without: tuple[Link, ...] = ()
    exchange: int = 0

    def __post_init__(self) -> None:
        if not self.graphs:
            raise GraphError("a schedule needs at least one graph")
        if len(self.graphs) > MAX_GRAPHS:
            raise GraphError(f"a schedule of {len(self.graphs)} graphs: at most {MAX_GRAPHS} are allowed")
        if self.every < 1:
            raise GraphError(f"a schedule must use each graph for 1 or more rounds, not {self.every}")
        if len(self.without) > MAX_WITHOUT or list(self.without) != sorted(set(self.without)):
            raise GraphError(f"a schedule leaves out at most {MAX_WITHOUT} links, sorted and named once each")
        if not 0 <= self.exchange <= MAX_EXCHANGE:
            raise GraphError(f"an exchange of {self.exchange} rounds: at most {MAX_EXCHANGE} are allowed")

    @property
    def name(self) -> str:
        """The names of its graphs, as an operator lists them."""
        return "+".join(spec.name for spec in self.graphs)

    @property
    def named(self) -> frozenset[str]:
        """The nodes that its lists of edges name. Presets name none."""
        return frozenset(end for spec in self.graphs for edge in spec.edges or () for end in edge)

    def with_last_from(self, t: int) -> Schedule:
        """The same schedule, where the last graph is used from round t on, if there is one."""
        return replace(self, last_from=t) if self.last else self

    def spec(self, t: int) -> GraphSpec:
        """The named graph in force at a round."""
        if self.last is not None and t >= self.last_from:
            return self.last
        return self.graphs[(t - self.origin) // self.every % len(self.graphs)]

    def graph(self, t: int, members: tuple[str, ...]) -> Digraph:
        """The digraph of one round."""
        spec = self.spec(t)
        is_last = spec is self.last and t >= self.last_from
        phases = spec.period(members) if is_last else self.period(spec, members)
        origin = self.last_from if is_last else self.origin
        return phases[(t - origin) % len(phases)]

    def period(self, spec: GraphSpec, members: tuple[str, ...]) -> tuple[Digraph, ...]:
        """The digraphs of consecutive rounds of one of its graphs, without the links that do not work."""
        period = _lacking(spec, members, self.without) if self.without else spec.period(members)
        idle = self.exchange - len(period)
        return (Digraph(members, frozenset()),) * idle + period if idle > 0 else period

    def _check_work(self, members: tuple[str, ...]) -> None:
        """Refuse graphs that take long to check. Every node checks a record that a peer sends."""
        work = 0
        for spec in dict.fromkeys([*self.graphs, *([self.last] if self.last else [])]):
            work += sum(len(members) + len(graph.edges) for graph in dict.fromkeys(spec.period(members)))
            if work > MAX_WORK:
                raise GraphError(
                    f"the graphs over {len(members)} nodes are too large: {work} edges and nodes, at most {MAX_WORK}"
                )

    def next_switch(self, t: int) -> int | None:
        """The first round after round t with another named graph, or None if there is none."""
        if self.last is not None and t >= self.last_from:
            return None
        ahead = [] if self.last is None else [self.last_from]
        if len(set(self.graphs)) > 1:
            ahead.append(t + self.every - (t - self.origin) % self.every)
        return min(ahead, default=None)

    def check(self, members: tuple[str, ...]) -> None:
        """Refuse a schedule that cannot carry a run over these members.

        Raises:
            GraphError: there are no members, an edge names an unknown one, the union of the graphs is not strongly
                connected, or a period is longer than an exchange.
        """
        if not members:
            raise GraphError("a schedule needs at least one node")
        self._check_work(members)
        used = dict[tuple[GraphSpec, int], Digraph]()
        for at, spec in enumerate(self.graphs):
            if self.exchange and (rounds := len(spec.period(members))) > self.exchange:
                raise GraphError(
                    f"{spec.name} takes {rounds} rounds with {len(members)} nodes, and an exchange of this run has "
                    f"{self.exchange}"
                )
            # After as many turns as it has phases, a graph has used every phase that it will ever use.
            phases = self.period(spec, members)
            firsts = [(at + turn * len(self.graphs)) * self.every for turn in range(len(phases))]
            for phase in {(t + k) % len(phases) for t in firsts for k in range(min(self.every, len(phases)))}:
                used[spec, phase] = phases[phase]
        _require_connected(list(used.values()), [s.name for s in self.graphs])
        if self.last is not None:
            _require_connected(list(self.last.period(members)), [self.last.name])


@lru_cache(maxsize=256)
def _lacking(spec: GraphSpec, members: tuple[str, ...], links: tuple[Link, ...]) -> tuple[Digraph, ...]:
    return tuple(graph.lacking(links) for graph in spec.period(members))


def _require_connected(graphs: list[Digraph], names: list[str]) -> None:
    edges = frozenset[tuple[str, str]]().union(*(graph.edges for graph in graphs))
    if pairs := Digraph(graphs[0].nodes, edges).unreachable_pairs():
        raise GraphError(f"{'+'.join(names)} is not strongly connected: no path {describe_unreachable(pairs)}")
