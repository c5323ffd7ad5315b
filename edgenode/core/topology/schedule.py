"""Which graph each round uses: a pure function of the round and the members. A period in epochs ends here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

from edgenode.core.topology.graph import Digraph, GraphSpec, describe_unreachable
from edgenode.core.topology.period import Period
from edgenode.errors import GraphError


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule as it is configured, before the rounds of an epoch are known.

    Attributes:
        graphs: used in turn, a period each.
        last: the graph from round ``last_from`` on, if any: that of SCSP's final gossip.
    """

    graphs: tuple[GraphSpec, ...]
    period: Period = Period(1)
    last: GraphSpec | None = None
    last_from: int = 0

    def schedule(self, rounds_per_epoch: int) -> Schedule:
        """The schedule of a run from round 0, where an epoch has that many rounds."""
        return Schedule(self.graphs, self.period.rounds(rounds_per_epoch), last=self.last, last_from=self.last_from)


@dataclass(frozen=True)
class Schedule:
    """Which graph each round uses: ``graphs`` in turn, ``every`` rounds each, counted from round ``origin``.

    From round ``last_from`` on (if any) the graph is ``last`` instead: the graph of SCSP's final gossip.
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
            raise GraphError(f"a rotation changes every n >= 1 rounds, not {self.every}")

    def spec(self, t: int) -> GraphSpec:
        """The named graph in force at a round."""
        if self.last is not None and t >= self.last_from:
            return self.last
        return self.graphs[(t - self.origin) // self.every % len(self.graphs)]

    def graph(self, t: int, members: tuple[str, ...]) -> Digraph:
        """The digraph of one round."""
        spec = self.spec(t)
        period = spec.period(members)
        origin = self.last_from if spec is self.last else self.origin
        return period[(t - origin) % len(period)]

    def next_switch(self, t: int) -> int | None:
        """The first round after this one with another named graph; None if there is none."""
        ahead = [] if self.last is None or t >= self.last_from else [self.last_from]
        if len(set(self.graphs)) > 1 and not (self.last is not None and t >= self.last_from):
            ahead.append(t + self.every - (t - self.origin) % self.every)
        return min(ahead, default=None)

    def over(self, members: tuple[str, ...]) -> Schedule:
        """The schedule over other members: presets re-form by themselves; a list of edges loses those of the absent,
        and gives way to a ring where that leaves it unconnected."""
        try:
            re_formed = replace(self, graphs=tuple(spec.among(members) for spec in self.graphs))
            re_formed.check(members)
        except GraphError:
            re_formed = replace(self, graphs=(GraphSpec("a"),), every=1)
        return re_formed

    def check(self, members: tuple[str, ...]) -> None:
        """Refuse a schedule that cannot carry a run over these members.

        Raises:
            GraphError: no node or an unknown one, or the union over one period is not strongly connected.
        """
        if not members:
            raise GraphError("a schedule needs at least one node")
        base = replace(self, last=None)
        starts = range(self.origin, self.origin + self.every * len(self.graphs), self.every)
        used = []
        for start, spec in zip(starts, self.graphs, strict=True):
            # In as many turns as its period is long, a graph has met every phase that it ever meets.
            period = len(spec.period(members))
            for turn in range(period):
                first = start + turn * self.every * len(self.graphs)
                used += [base.graph(first + k, members) for k in range(min(self.every, period))]
        _require_connected(used, [s.name for s in self.graphs])
        if self.last is not None:
            _require_connected(list(self.last.period(members)), [self.last.name])


def _require_connected(graphs: list[Digraph], names: list[str]) -> None:
    pairs = reduce(Digraph.union, dict.fromkeys(graphs)).unreachable_pairs()
    if pairs:
        raise GraphError(f"{'+'.join(names)} is not strongly connected: no path {describe_unreachable(pairs)}")
