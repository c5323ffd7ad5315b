"""What each algorithm requires of its graphs, checked against its arithmetic."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from edgenode.core.topology import doubling
from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec, Preset
from edgenode.core.topology.requirements import Requirements, agrees, counts_all_alike
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
        Requirements("d-psgd", doubly_stochastic=True).check(schedule("complete"), members(5))


@pytest.mark.parametrize("graph", PRESETS)
def test_balanced_graphs_are_those_whose_rows_sum_to_one(graph: str) -> None:
    requirements = Requirements("d-psgd", doubly_stochastic=True)
    if graph == "doubling":
        with pytest.raises(GraphError, match="d-psgd cannot use doubling with 5 nodes: its messages count for groups"):
            requirements.check(schedule("a", graph), members(5))
    elif graph in ("chord", "halving"):
        with pytest.raises(GraphError, match=f"d-psgd cannot use {graph}: its weights are not doubly stochastic"):
            requirements.check(schedule("a", graph), members(5))
    else:
        requirements.check(schedule("a", graph), members(5))


@pytest.mark.parametrize("graphs", [("a", "b"), ("one-peer-exponential",), ("a", "a", "complete")])
def test_changing_graph_is_refused_for_fixed_algorithms(graphs: tuple[str, ...]) -> None:
    with pytest.raises(GraphError, match=r"choco-sgd cannot use .*so the graph cannot change"):
        Requirements("choco-sgd", doubly_stochastic=True, fixed=True).check(schedule(*graphs), members(5))


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
    if graph == "doubling":
        assert agrees(period)
    assert not agrees(period) or counts_all_alike(period)


def test_nodes_that_agree_on_anything_but_the_mean_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups that merge as if they were of one size: a node alone would count for as much as two."""
    uneven = Preset(doubling.edges, "of a test", lambda n: [dict.fromkeys(range(n), 0.5)] * 2)
    monkeypatch.setitem(PRESETS, "uneven", uneven)
    first, second = GraphSpec("uneven").period(members(3))
    period = replace(first, counts=()), second
    assert agrees(period)
    assert not counts_all_alike(period)
    with pytest.raises(GraphError, match="diloco cannot use uneven: some nodes would count for more than others"):
        Requirements("diloco", fixed=True, spans_period=True).check(schedule("uneven"), members(3))


@pytest.mark.parametrize("n", [3, 5, 6])
def test_only_exchanges_can_use_messages_that_count_for_groups(n: int) -> None:
    Requirements("diloco", fixed=True, spans_period=True).check(schedule("doubling"), members(n))
    for of in (Requirements(), Requirements("d2", doubly_stochastic=True, fixed=True)):
        of.check(schedule("a"), members(n))
        with pytest.raises(GraphError, match=f"{of.algorithm} cannot use doubling with {n} nodes: .* use halving"):
            of.check(schedule("doubling"), members(n))
    Requirements().check(schedule("doubling"), members(4))


@pytest.mark.parametrize("n", range(1, 8))
def test_nodes_agree_after_idle_rounds_and_a_sum_of_all(n: int) -> None:
    """All add up the same numbers in the order of the senders' names, so their rounding is the same."""
    idle, (complete,) = Digraph(members(n), frozenset()), GraphSpec("complete").period(members(n))
    assert agrees([idle, idle, complete])
    assert agrees([complete, idle])
    assert agrees([idle]) == (n == 1)


def test_sum_of_three_of_more_is_not_rounded_again() -> None:
    """Its rounding depends on the order, and the nodes do not have the same."""
    in_pairs = [Digraph(members(8), frozenset((f"n{i}", f"n{i ^ hop}") for i in range(8))) for hop in (1, 2, 4)]
    assert agrees(in_pairs)
    by_3 = Digraph(members(8), frozenset((f"n{i}", f"n{i ^ 3}") for i in range(8)))
    fours = in_pairs[0].union(in_pairs[1]).union(by_3)
    assert len(set(rounded_averages([fours, in_pairs[2]]).values())) == 1
    assert not agrees([fours, in_pairs[2]])


def test_two_names_of_one_graph_are_one_graph() -> None:
    Requirements("choco-sgd", fixed=True).check(schedule("a", "b", "complete"), members(2))
