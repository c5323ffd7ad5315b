"""The requirements of an algorithm on the graphs of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgenode.core.topology.graph import PRESETS, Digraph
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError


@dataclass(frozen=True)
class Requirements:
    """The conditions of an algorithm's paper, in addition to the conditions of every schedule.

    Attributes:
        algorithm: its name, for the errors.
        doubly_stochastic: the rows of W sum to 1 as its columns do.
        fixed: the run uses a single graph.
        spans_period: it uses a single graph for one period after the other, after each of which all nodes agree.
        admits: nodes can join a run under way when an exchange begins, although ``fixed``.
        averaging_rate: eta, for ``check_graph``.
        check_graph: refuses a graph, given its name and eta. None takes any.
    """

    algorithm: str = "sp"
    doubly_stochastic: bool = False
    fixed: bool = False
    spans_period: bool = False
    averaging_rate: float = 1.0
    check_graph: Callable[[str, Digraph, float], None] | None = None
    admits: bool = False

    def check(self, schedule: Schedule, members: tuple[str, ...]) -> None:
        """Refuse a schedule that does not meet the requirements over these members. The gossip graph is not checked.

        Raises:
            GraphError: a graph does not meet them. The text names it and the reason.
        """
        if not self.spans_period:
            self._refuse_groups(schedule, members)
        if not (self.doubly_stochastic or self.fixed or self.spans_period or self.check_graph):
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
                "the same model; use complete or doubling"
            )
        if self.spans_period and not all(map(counts_all_alike, periods)):
            raise GraphError(f"{self.algorithm} cannot use {names}: some nodes would count for more than others")
        for name, graph in graphs:
            if self.doubly_stochastic and not graph.is_doubly_stochastic:
                raise GraphError(f"{self.algorithm} cannot use {name}: {_unbalanced(graph)}")
            if self.check_graph is not None:
                self.check_graph(name, graph, self.averaging_rate)

    def _refuse_groups(self, schedule: Schedule, members: tuple[str, ...]) -> None:
        """Refuse graphs on which a message counts as its group does: the columns of W do not sum to 1."""
        for spec in schedule.graphs:
            merges = spec.edges is None and PRESETS[spec.preset].weights is not None
            if merges and any(graph.counts for graph in spec.period(members)):
                raise GraphError(
                    f"{self.algorithm} cannot use {spec.name} with {len(members)} nodes: its messages count for groups "
                    "of nodes, which only an exchange of diloco averages; use halving"
                )


def _unbalanced(graph: Digraph) -> str:
    mass = graph.received_mass()
    worst = max(mass, key=lambda node: abs(mass[node] - 1))
    remedy = "sp and sgp, which have push-sum weights, can"
    if all((r, s) in graph.edges for s, r in graph.edges) and not graph.given:
        remedy = f'topology.weights = "metropolis" makes them so, and {remedy}'
    return (
        "its weights are not doubly stochastic, so some nodes would count for more than others "
        f"({worst} {mass[worst]:.3g} times); {remedy}"
    )


def agrees(period: Sequence[Digraph]) -> bool:
    """Return whether all nodes have the same numbers, to the bit, after each round has averaged what it rounded.

    1. Each node begins with a number of its own. In a round it takes the average of what it and its in-neighbours have,
       as rounded by each of them.
    2. Nodes that hold equal numbers round them alike. So two nodes hold equal numbers after a round if the numbers that
       they average are equal, whatever the rounding is.
    3. A sum of two floating-point numbers does not depend on their order, a sum of three does. So a node has one
       in-neighbour at most, or all others. Sums are in the order of the senders' names.
    """
    *_, held = _held(period)
    of_some = any(1 < len(g.in_neighbours(node)) < len(g.nodes) - 1 for g in period for node in g.nodes)
    return not of_some and len(set(held.values())) == 1


def counts_all_alike(period: Sequence[Digraph]) -> bool:
    """Return whether the common number of nodes that agree is the mean, and whatever a round leaves out has its share.

    If m of n nodes hold one number before a round, it has the weight m / n in the common number. So each of them may
    keep what the round leaves out of that number, and count 1 / n with it in the next exchange.
    """
    nodes = period[0].nodes
    weight = {node: float(node == nodes[0]) for node in nodes}  # in the number of one node, and so of all
    for graph, held in reversed(list(zip(period, _held(period), strict=False))):
        before = dict.fromkeys(nodes, 0.0)
        for receiver, counted in weight.items():
            for sender in (receiver, *graph.in_neighbours(receiver)):
                before[sender] += counted * graph.weight(sender, receiver)
        weight = before
        surplus = dict.fromkeys(held.values(), 0.0)
        for node, number in held.items():
            surplus[number] += weight[node] - 1 / len(nodes)
        if any(abs(much) > 1e-9 for much in surplus.values()):
            return False
    return True


def _held(period: Sequence[Digraph]) -> list[dict[str, int]]:
    """Before each round and at the end, which nodes hold equal numbers: a number for each node."""
    held = [{node: number for number, node in enumerate(period[0].nodes)}]
    for graph in period:
        averaged = {
            node: tuple(sorted((held[-1][s], graph.weight(s, node)) for s in (node, *graph.in_neighbours(node))))
            for node in held[-1]
        }
        numbers = {several: number for number, several in enumerate(sorted(set(averaged.values())))}
        held.append({node: numbers[several] for node, several in averaged.items()})
    return held
