"""The requirements of an algorithm on the graphs of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgenode.core.topology.graph import Digraph
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError


@dataclass(frozen=True)
class Requirements:
    """The conditions of an algorithm's paper, in addition to the conditions of every schedule.

    Attributes:
        algorithm: its name, for the errors.
        balanced: W is doubly stochastic: its rows sum to 1 as its columns do.
        fixed: the run uses a single graph.
        spans_period: it uses a single graph for one period after the other, after each of which all nodes agree.
        averaging_rate: eta, for ``check_graph``.
        check_graph: refuses a graph, given its name and eta. None takes any.
    """

    algorithm: str = "sp"
    balanced: bool = False
    fixed: bool = False
    spans_period: bool = False
    averaging_rate: float = 1.0
    check_graph: Callable[[str, Digraph, float], None] | None = None

    def check(self, schedule: Schedule, members: tuple[str, ...]) -> None:
        """Refuse a schedule that does not meet the requirements over these members. The gossip graph is not checked.

        Raises:
            GraphError: a graph does not meet them. The text names it and the reason.
        """
        if not (self.balanced or self.fixed or self.spans_period or self.check_graph):
            return  # any schedule is allowed, and building its graphs may be expensive
        graphs = [(spec.name, graph) for spec in schedule.graphs for graph in schedule.period(spec, members)]
        names = ", ".join(dict.fromkeys(name for name, _ in graphs))
        periods = {schedule.period(spec, members) for spec in schedule.graphs}
        if self.fixed and len(periods if self.spans_period else {graph for _, graph in graphs}) > 1:
            raise GraphError(
                f"{self.algorithm} cannot use {names}: it assumes the same neighbours in every round, so the graph "
                "cannot change; with sp and scsp it can"
            )
        if self.spans_period and not all(map(agrees, periods)):
            raise GraphError(
                f"{self.algorithm} cannot use {names} with {len(members)} nodes: not all would end an exchange with "
                "the same model; use complete, or halving with 2, 4, 8, ... nodes"
            )
        for name, graph in graphs:
            if self.balanced and not graph.balanced:
                raise GraphError(
                    f"{self.algorithm} cannot use {name}: it is unbalanced, so some nodes would count for more than "
                    "others; sp and sgp, which have push-sum weights, can"
                )
            if self.check_graph is not None:
                self.check_graph(name, graph, self.averaging_rate)


def agrees(period: Sequence[Digraph]) -> bool:
    """Return whether all nodes have the same numbers, to the bit, after each round has averaged what it rounded.

    1. Each node begins with a number of its own. In a round it takes the average of what it and its in-neighbours have,
       as rounded by each of them.
    2. Nodes that hold equal numbers round them alike. So two nodes hold equal numbers after a round if the numbers that
       they average are equal, whatever the rounding is.
    3. A sum of two floating-point numbers does not depend on their order, a sum of three does. A node that rounds a sum
       for a later round has one in-neighbour at most.
    4. If the graphs are balanced, the mean does not change. So the common number is the mean, up to rounding.
    """
    held = {node: number for number, node in enumerate(period[0].nodes)}
    for graph in period:
        if len(period) > 1 and any(len(graph.in_neighbours(node)) > 1 for node in held):
            return False
        averaged = {node: tuple(sorted(held[s] for s in (node, *graph.in_neighbours(node)))) for node in held}
        numbers = {several: number for number, several in enumerate(sorted(set(averaged.values())))}
        held = {node: numbers[several] for node, several in averaged.items()}
    return len(set(held.values())) == 1
