"""What each algorithm requires of its graphs, checked against its arithmetic."""

from __future__ import annotations

import pytest

from edgenode.core.topology.graph import PRESETS, GraphSpec
from edgenode.core.topology.requirements import Requirements
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


def test_two_names_of_one_graph_are_one_graph() -> None:
    Requirements("choco-sgd", fixed=True).check(schedule("a", "b", "complete"), members(2))
