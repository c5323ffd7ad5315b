"""What each algorithm requires of its graphs, checked against its arithmetic."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec
from edgenode.core.topology.requirements import Requirements, agrees
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError


def members(n: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(n))


def schedule(*graphs: str) -> Schedule:
    return Schedule(tuple(map(GraphSpec, graphs)), 1)


def test_sparse_push_takes_any_graphs() -> None:
    Requirements().check(schedule("chord", "one-peer-exponential"), members(5))


def test_graphs_without_requirements_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete graph of 1024 nodes has a million edges."""
    monkeypatch.setattr(GraphSpec, "period", None)
    Requirements("sgp").check(schedule("complete"), members(5))
    with pytest.raises(TypeError):
        Requirements("d-psgd", balanced=True).check(schedule("complete"), members(5))


@pytest.mark.parametrize("graph", PRESETS)
def test_balanced_graphs_are_those_whose_rows_sum_to_one(graph: str) -> None:
    requirements = Requirements("d-psgd", balanced=True)
    if graph in ("chord", "halving"):
        with pytest.raises(GraphError, match=f"d-psgd cannot use {graph}: it is unbalanced"):
            requirements.check(schedule("a", graph), members(5))
    else:
        requirements.check(schedule("a", graph), members(5))


@pytest.mark.parametrize("graphs", [("a", "b"), ("one-peer-exponential",), ("a", "a", "complete")])
def test_changing_graph_is_refused_for_fixed_algorithms(graphs: tuple[str, ...]) -> None:
    with pytest.raises(GraphError, match=r"choco-sgd cannot use .*so the graph cannot change"):
        Requirements("choco-sgd", balanced=True, fixed=True).check(schedule(*graphs), members(5))


def rounded_averages(period: Sequence[Digraph]) -> dict[str, float]:
    """What nodes end with that round what they send in a way that nobody can foresee."""
    held = {node: float(number) for number, node in enumerate(period[0].nodes)}
    for graph in period:
        sent = {node: random.Random(number).random() for node, number in held.items()}
        held = {node: math.fsum(sent[s] for s in (node, *graph.in_neighbours(node))) for node in held}
    return held


@pytest.mark.parametrize("n", range(1, 17))
@pytest.mark.parametrize("graph", PRESETS)
def test_nodes_agree_if_they_do_so_however_they_round(graph: str, n: int) -> None:
    period = GraphSpec(graph).period(members(n))
    assert agrees(period) == (len(set(rounded_averages(period).values())) == 1)
    if graph == "halving":
        assert agrees(period) == (n & (n - 1) == 0)


def test_sum_of_three_is_not_rounded_again() -> None:
    """Its rounding depends on the order, and each node begins with its own."""
    in_pairs = [Digraph(members(8), frozenset((f"n{i}", f"n{i ^ hop}") for i in range(8))) for hop in (1, 2, 4)]
    assert agrees(in_pairs)
    by_3 = Digraph(members(8), frozenset((f"n{i}", f"n{i ^ 3}") for i in range(8)))
    fours = in_pairs[0].union(in_pairs[1]).union(by_3)
    assert len(set(rounded_averages([fours, in_pairs[2]]).values())) == 1
    assert not agrees([fours, in_pairs[2]])


def test_two_names_of_one_graph_are_one_graph() -> None:
    Requirements("choco-sgd", fixed=True).check(schedule("a", "b", "complete"), members(2))
