"""D2 step by step, and the graphs that it takes. Numbers are sums of powers of two: no float rounds."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode.core.algorithm.compression import Compressor, Layout, Payload, as_float32, keep_all
from edgenode.core.algorithm.d2 import D2, d2_growth
from edgenode.core.algorithm.sparse_push import Contribution, Sent, State
from edgenode.core.topology.graph import Digraph, GraphSpec
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError

LAYOUT = Layout((3,))
RNG = np.random.default_rng(0)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def a_payload(*numbers: float) -> Payload:
    return Compressor(keep_all, as_float32)(floats(*numbers), LAYOUT, RNG)


def test_d2_keeps_an_error_and_its_history() -> None:
    assert (D2.keeps, D2.fixed) == (("error", "history"), True)


def test_d2_extrapolates_from_the_last_step() -> None:
    """x_t = 8, x_t-1 = 4, update_t-1 = 1, update_t = 0.5: 2 * 8 - 4 + 0.5 - 1 = 11.5."""
    state = State(floats(8, 8, 8), kept={"history": floats(8 - (4 + 1), 0, -2)})
    local_update = floats(0.5, 0.5, 0.5)
    D2.apply_update(state, local_update)
    assert state.x.tolist() == [11.5, 8.5, 6.5]
    assert local_update.tolist() == [0.5, 0.5, 0.5]


def test_d2_keeps_how_mixing_changed_its_step() -> None:
    state = State(floats(8, 8, 8), kept={"history": floats(3, 0, -2)})
    D2.apply_update(state, floats(0.5, 0.5, 0.5))
    own = D2.compress(state, Compressor(keep_all, as_float32), LAYOUT, RNG)
    D2.mix(state, Sent(own, state.u.copy(), 1.0), 0.5, [Contribution(0.5, np.ones(1), a_payload(2, 2, 2))])
    assert state.x.tolist() == [0.5 * 11.5 + 1, 0.5 * 8.5 + 1, 0.5 * 6.5 + 1]
    assert state.kept["history"].tolist() == [x - 8.5 for x in state.x.tolist()]


def test_first_d2_step_is_a_plain_step() -> None:
    state = State.initial(floats(1, 2, 3), D2.keeps)
    D2.apply_update(state, floats(1, 1, 1))
    assert state.x.tolist() == [2, 3, 4]


# --- the graphs that it takes


def members(n: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(n))


def schedule(*graphs: str) -> Schedule:
    return Schedule(tuple(map(GraphSpec, graphs)), 1)


def preset(name: str, n: int) -> Digraph:
    return GraphSpec(name).period(members(n))[0]


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
    return Requirements("d2", doubly_stochastic=True, fixed=True, averaging_rate=rate, check_graph=D2.check_graph)


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
