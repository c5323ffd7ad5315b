"""What an algorithm requires of the graphs of a run, and why a schedule does not meet it. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgenode.core.topology.graph import Digraph
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError


@dataclass(frozen=True)
class Requirements:
    """The conditions of an algorithm's paper, in addition to those of every schedule.

    Attributes:
        algorithm: its name, for the errors.
        balanced: W is doubly stochastic: its rows sum to 1 as its columns do.
        fixed: the run uses a single graph.
        averaging_rate: eta, for ``check_graph``.
        check_graph: refuses a graph, given its name and eta. None takes any.
    """

    algorithm: str = "sp"
    balanced: bool = False
    fixed: bool = False
    averaging_rate: float = 1.0
    check_graph: Callable[[str, Digraph, float], None] | None = None

    def check(self, schedule: Schedule, members: tuple[str, ...]) -> None:
        """Refuse a schedule that does not meet the requirements over these members. The gossip graph is not checked.

        Raises:
            GraphError: which graph, and why.
        """
        if not (self.balanced or self.fixed or self.check_graph):
            return  # any schedule is allowed, and building its graphs may be expensive
        graphs = [(spec.name, graph) for spec in schedule.graphs for graph in spec.period(members)]
        names = ", ".join(dict.fromkeys(name for name, _ in graphs))
        if self.fixed and len({graph for _, graph in graphs}) > 1:
            raise GraphError(
                f"{self.algorithm} cannot use {names}: it assumes the same neighbours in every round, so the graph "
                "cannot change; with sp and scsp it can"
            )
        for name, graph in graphs:
            if self.balanced and not graph.balanced:
                raise GraphError(
                    f"{self.algorithm} cannot use {name}: it is unbalanced, so some nodes would count for more than "
                    "others; sp and sgp, which have push-sum weights, can"
                )
            if self.check_graph is not None:
                self.check_graph(name, graph, self.averaging_rate)
