"""The weights of edges: doubly stochastic on undirected graphs, mass kept on all, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.topology.graph import Digraph, GraphSpec
from edgenode.core.topology.requirements import Requirements, agrees
from edgenode.core.topology.schedule import Schedule
from edgenode.core.topology.schedule_json import schedule_from_json, schedule_json
from edgenode.core.topology.weights import RULES
from edgenode.errors import GraphError

FOUR = ("a", "b", "c", "d")
STAR = tuple(edge for leaf in "bcd" for edge in (("a", leaf), (leaf, "a")))
SYMMETRIC = ("metropolis", "uniform")


@st.composite
def undirected(draw: st.DrawFn) -> tuple[tuple[str, ...], frozenset[tuple[str, str]]]:
    nodes = tuple(f"n{i}" for i in range(draw(st.integers(2, 7))))
    pairs = [(a, b) for a in nodes for b in nodes if a < b]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True))
    return nodes, frozenset(edge for a, b in chosen for edge in ((a, b), (b, a)))


@given(undirected(), st.sampled_from(SYMMETRIC))
def test_symmetric_weights_are_doubly_stochastic(
    graph: tuple[tuple[str, ...], frozenset[tuple[str, str]]], rule: str
) -> None:
    digraph = Digraph(*graph, rule=rule)
    matrix = digraph.mixing_matrix()
    assert np.array_equal(matrix, matrix.T)
    assert np.allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-15)
    assert matrix.diagonal().min() > 0
    assert digraph.is_doubly_stochastic


def test_weights_of_a_star_are_those_of_the_rule() -> None:
    star = {rule: Digraph(FOUR, frozenset(STAR), rule=rule) for rule in RULES}
    assert [star["out-degree"].weight(*edge) for edge in (("a", "b"), ("b", "a"))] == [1 / 4, 1 / 2]
    assert not star["out-degree"].is_doubly_stochastic
    for rule in SYMMETRIC:
        assert [star[rule].weight(*edge) for edge in (("a", "b"), ("b", "a"))] == [1 / 4, 1 / 4]
        assert [star[rule].weight(node) for node in FOUR] == [0.25, 0.75, 0.75, 0.75]
    path = Digraph(FOUR, frozenset({("a", "b"), ("b", "a"), ("c", "d"), ("d", "c"), ("b", "c"), ("c", "b")}),
                   rule="metropolis")  # fmt: skip
    assert path.weight("a", "b") == path.weight("b", "c") == 1 / 3


def test_default_weights_are_the_same_to_the_bit_for_edges_and_the_node_itself() -> None:
    for degree in range(1, 60):
        nodes = tuple(f"{i:02d}" for i in range(degree + 1))
        graph = Digraph(nodes, frozenset((nodes[0], other) for other in nodes[1:]))
        assert graph.weight(nodes[0]) == graph.weight(nodes[0], nodes[1]) == 1.0 / (degree + 1)


def test_algorithm_without_push_sum_takes_a_star_with_symmetric_weights() -> None:
    requirements = Requirements("choco-sgd", doubly_stochastic=True, fixed=True)
    for rule in SYMMETRIC:
        requirements.check(Schedule((GraphSpec("star", STAR, rule),), 1), FOUR)
    given_weights = tuple(0.2 for _ in STAR)
    requirements.check(Schedule((GraphSpec("star", STAR, given=given_weights),), 1), FOUR)
    with pytest.raises(GraphError) as refused:
        requirements.check(Schedule((GraphSpec("star", STAR),), 1), FOUR)
    assert str(refused.value) == (
        "choco-sgd cannot use star: its weights are not doubly stochastic, so some nodes would count for more than "
        'others (a 1.75 times); topology.weights = "metropolis" makes them so, and sp and sgp, which have push-sum '
        "weights, can"
    )


def test_directed_weights_can_be_doubly_stochastic() -> None:
    """A graph whose nodes send and receive equally often is not enough, and not needed."""
    edges = (("a", "b"), ("b", "c"), ("c", "a"), ("a", "c"), ("c", "b"), ("b", "d"), ("d", "b"))
    assert not Digraph(FOUR, frozenset(edges)).is_doubly_stochastic
    weights = dict(zip(edges, (0.2, 0.2, 0.1, 0.1, 0.2, 0.3, 0.3), strict=True))
    mine = Digraph(FOUR, frozenset(edges), given=frozenset(weights.items()))
    assert mine.received_mass()["a"] == pytest.approx(1 - 0.3 + 0.1)
    weights["c", "a"] = 0.3
    weights["c", "b"] = 0.0 + 0.2
    weights["a", "c"], weights["b", "c"] = 0.1, 0.4
    weights["a", "b"] = 0.2
    closed = Digraph(FOUR, frozenset(edges), given=frozenset(weights.items()))
    assert closed.received_mass()["a"] == pytest.approx(1.0)


def test_rule_for_undirected_graphs_names_every_edge_without_its_opposite() -> None:
    with pytest.raises(
        GraphError, match="graph chord: metropolis weights need an undirected graph, and a->b, a->c, b->c"
    ):
        GraphSpec("chord", rule="metropolis").period(FOUR)
    with pytest.raises(GraphError, match="graph 'x' has 0 weights and the rule 'degree'"):
        GraphSpec("x", STAR, "degree")
    with pytest.raises(GraphError, match="has 1 weights"):
        GraphSpec("x", STAR, given=(0.1,))


def test_leaving_node_gives_all_and_the_others_are_weighed_without_it() -> None:
    for graph in (
        Digraph(FOUR, frozenset(STAR), rule="metropolis"),
        Digraph(FOUR, frozenset(STAR), given=frozenset((edge, 0.25) for edge in STAR)),
    ):
        leaving = graph.handing_over({"d": "a"})
        assert leaving.weight("d") == leaving.weight("d", "a") == 1.0
        assert leaving.mixing_matrix().sum(axis=0) == pytest.approx(np.ones(4), abs=1e-15)
        assert leaving.weight("a") == pytest.approx(1 - 2 * leaving.weight("a", "b"))


def test_broken_link_makes_an_undirected_graph_directed() -> None:
    with pytest.raises(GraphError, match="and a->b has no edge back"):
        Digraph(FOUR, frozenset(STAR), rule="uniform").lacking([("b", "a")])
    given_weights = Digraph(FOUR, frozenset(STAR), given=frozenset((edge, 0.25) for edge in STAR))
    assert given_weights.lacking([("b", "a")]).weight("b") == 1.0


def test_nodes_agree_only_if_they_weigh_alike() -> None:
    complete = GraphSpec("complete").period(FOUR)
    assert agrees(complete)
    assert agrees(GraphSpec("complete", rule="metropolis").period(FOUR))
    edges = tuple(sorted(complete[0].edges))
    uneven = tuple(0.1 if "a" in edge else 0.3 for edge in edges)
    assert not agrees(GraphSpec("mine", edges, given=uneven).period(FOUR))


def test_weights_travel_with_their_schedule() -> None:
    for spec in (GraphSpec("two-way", rule="uniform"), GraphSpec("s", STAR, given=(0.1, 0.25, 1 / 3, 0.1, 0.2, 0.2))):
        schedule = Schedule((spec, GraphSpec("a")), 3)
        assert schedule_from_json(json.loads(json.dumps(schedule_json(schedule)))) == schedule
    assert GraphSpec("a").plain() == ["a", None]  # as it was


@pytest.mark.parametrize("weights", [[[0.1]], ["degree"], [3], [[0.1, 2]], [[1]], ["uniform", "uniform"], [[True] * 6]])
def test_weights_from_outside_are_judged(weights: list[object]) -> None:
    value = schedule_json(Schedule((GraphSpec("s", STAR),), 1))
    value["graphs"][0] += weights
    with pytest.raises((GraphError, TypeError, ValueError)):
        schedule_from_json(value)
