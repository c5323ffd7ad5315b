"""What each algorithm requires of its graphs, checked against its arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec
from edgenode.core.topology.requirements import Requirements, d2_growth
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError


def members(n: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(n))


def schedule(*graphs: str) -> Schedule:
    return Schedule(tuple(map(GraphSpec, graphs)), 1)


def preset(name: str, n: int) -> Digraph:
    return GraphSpec(name).period(members(n))[0]


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
    if graph == "chord":
        with pytest.raises(GraphError, match="d-psgd cannot use chord: it is unbalanced"):
            requirements.check(schedule("a", graph), members(5))
    else:
        requirements.check(schedule("a", graph), members(5))


@pytest.mark.parametrize("graphs", [("a", "b"), ("one-peer-exponential",), ("a", "a", "complete")])
def test_changing_graph_is_refused_for_fixed_algorithms(graphs: tuple[str, ...]) -> None:
    with pytest.raises(GraphError, match=r"choco-sgd cannot use .*the graph must be the same in every round"):
        Requirements("choco-sgd", balanced=True, fixed=True).check(schedule(*graphs), members(5))


def test_two_names_of_one_graph_are_one_graph() -> None:
    Requirements("choco-sgd", fixed=True).check(schedule("a", "b", "complete"), members(2))


# --- D2


def d2_at_rest(weights: np.ndarray, rounds: int) -> float:
    """The distance between nodes after some rounds of D2 without gradients, from a random start."""
    before = np.random.default_rng(0).standard_normal(len(weights))
    before -= before.mean()
    x = weights @ before
    for _ in range(rounds):
        x, before = weights @ (2 * x - before), x
    return float(np.linalg.norm(x - x.mean()))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("rate", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("graph", ["a", "two-way", "complete", "exponential"])
def test_d2_growth_predicts_d2(graph: str, rate: float, n: int) -> None:
    weights = np.eye(n) + rate * (preset(graph, n).mixing_matrix() - np.eye(n))
    growth = d2_growth(weights)
    if growth < 0.99:
        assert d2_at_rest(weights, 1000) < 0.01
    if growth > 1.01:
        assert d2_at_rest(weights, 1000) > 100


@pytest.mark.parametrize("smallest", [-0.9, -0.4, -1 / 3 - 1e-6, -1 / 3 + 1e-6, -0.2, 0.0, 0.5])
def test_symmetric_weights_are_stable_above_minus_a_third(smallest: float) -> None:
    """W = 1/n + smallest * (I - 1/n) has ``smallest`` as its only other eigenvalue."""
    mean = np.full((4, 4), 0.25)
    assert (d2_growth(mean + smallest * (np.eye(4) - mean)) < 1) == (smallest > -1 / 3)


def d2(rate: float) -> Requirements:
    return Requirements("d2", balanced=True, fixed=True, d2_rate=rate)


def test_d2_takes_symmetric_graphs_at_half_the_rate() -> None:
    for graph in ("two-way", "complete"):
        for n in (1, 2, 3, 4, 5, 8):
            d2(0.5).check(schedule(graph), members(n))


def test_d2_refuses_weights_with_too_small_an_eigenvalue() -> None:
    text = r"d2 cannot use two-way with algorithm.averaging_rate = 1: the smallest eigenvalue of its weights is -0.333"
    with pytest.raises(GraphError, match=text):
        d2(1.0).check(schedule("two-way"), members(4))
    d2(1.0).check(schedule("two-way"), members(5))


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.01])
def test_d2_refuses_a_directed_ring_at_any_rate(rate: float) -> None:
    with pytest.raises(GraphError, match="d2 cannot use a: its weights are not symmetric"):
        d2(rate).check(schedule("a"), members(4))
