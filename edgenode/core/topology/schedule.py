"""Which graph each round uses: a pure function of the round and the members.

A `ScheduleSpec` may count in training epochs. A `Schedule` counts in rounds only, so all nodes that have it agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

from edgenode.core.topology.graph import Digraph, GraphSpec, describe_unreachable
from edgenode.core.topology.period import Period
from edgenode.errors import GraphError

_EVERY_ROUND = Period(1)


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
    """Which graph each round uses: ``graphs`` in turn, ``every`` rounds each, counted from round ``origin``.

    If ``last`` is given, it is the graph from round ``last_from`` on. SCSP's final gossip uses it.

    Raises:
        GraphError: there are no graphs, or ``every`` is below 1.
    """

    graphs: tuple[GraphSpec, ...]
    every: int
    origin: int = 0
    last: GraphSpec | None = None
    last_from: int = 0

    def __post_init__(self) -> None:
        if not self.graphs:
            raise GraphError("a schedule needs at least one graph")
        if self.every < 1:
            raise GraphError(f"a schedule must use each graph for 1 or more rounds, not {self.every}")

    @property
    def name(self) -> str:
        """The names of its graphs, as an operator lists them."""
        return "+".join(spec.name for spec in self.graphs)

    @property
    def named(self) -> frozenset[str]:
        """The nodes that its lists of edges name. Presets name none."""
        return frozenset(end for spec in self.graphs for edge in spec.edges or () for end in edge)

    def spec(self, t: int) -> GraphSpec:
        """The named graph in force at a round."""
        if self.last is not None and t >= self.last_from:
            return self.last
        return self.graphs[(t - self.origin) // self.every % len(self.graphs)]

    def graph(self, t: int, members: tuple[str, ...]) -> Digraph:
        """The digraph of one round."""
        spec = self.spec(t)
        phases = spec.period(members)
        origin = self.last_from if spec is self.last else self.origin
        return phases[(t - origin) % len(phases)]

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
            GraphError: there are no members, an edge names an unknown one, or the union of the graphs is not strongly
                connected.
        """
        if not members:
            raise GraphError("a schedule needs at least one node")
        base = replace(self, last=None)
        starts = range(self.origin, self.origin + self.every * len(self.graphs), self.every)
        used = []
        for start, spec in zip(starts, self.graphs, strict=True):
            # After as many turns as it has phases, a graph has used every phase that it will ever use.
            phases = len(spec.period(members))
            for turn in range(phases):
                first = start + turn * self.every * len(self.graphs)
                used += [base.graph(first + k, members) for k in range(min(self.every, phases))]
        _require_connected(used, [s.name for s in self.graphs])
        if self.last is not None:
            _require_connected(list(self.last.period(members)), [self.last.name])


def _require_connected(graphs: list[Digraph], names: list[str]) -> None:
    pairs = reduce(Digraph.union, dict.fromkeys(graphs)).unreachable_pairs()
    if pairs:
        raise GraphError(f"{'+'.join(names)} is not strongly connected: no path {describe_unreachable(pairs)}")
