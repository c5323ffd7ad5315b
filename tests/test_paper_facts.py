"""The facts about the paper's algorithms that edgenode relies on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Layout, TopK, as_float32, keep_all
from edgenode.core.algorithm.rounding import Random, as_bfloat16, as_int8
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    Sent,
    State,
    compress_with_feedback,
    debias,
    drop_error,
    mix_contributions,
)
from edgenode.core.algorithm.update_rules import default_averaging_rate
from edgenode.core.topology.graph import Digraph, GraphSpec
from tests.paper_reference import (
    COMPRESSORS,
    LAYOUTS,
    NOISE,
    RATES,
    floats,
    members,
    model_of,
    no_step,
    preset,
    rotations,
    run_learners,
    strongly_connected,
    towards_own_optimum,
)


@given(st.integers(1, 7).flatmap(strongly_connected))
def test_columns_of_w_sum_to_one(graph: Digraph) -> None:
    """8.1, assumption 2. W[i, j] is the weight of j's message at i, as line 9 needs."""
    assert graph.mixing_matrix().sum(axis=0) == pytest.approx(np.ones(len(graph.nodes)), abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(rotations(), COMPRESSORS, RATES, LAYOUTS)
def test_mixing_conserves_the_sums_of_x_and_u(
    graphs: list[Digraph], compressor: Compressor, eta: float, layout: Layout
) -> None:
    """For any compressor. The vectors are float64 here, so that the bound can be tight."""
    assume(not any(graph.counts for graph in graphs))  # where groups merge, rows sum to 1, and columns do not
    states = [
        State(x=x, error=np.zeros(layout.size, np.float32))
        for x in model_of(len(graphs[0].nodes), layout).astype(float)
    ]
    for graph in graphs * 2:
        payloads = []
        for state in states:
            corrected = (state.x + state.error).astype(np.float32)
            payloads.append(compressor(corrected, layout, NOISE))
            state.error = corrected - payloads[-1].dense(layout.size)
        before_x, before_u = sum(s.x for s in states), sum(float(s.u[0]) for s in states)
        pushed = {
            node: Contribution(graph.weight(node), state.u.copy(), payload)
            for node, state, payload in zip(graph.nodes, states, payloads, strict=True)
        }
        for node, state in zip(graph.nodes, states, strict=True):
            received = [pushed[sender] for sender in graph.in_neighbours(node)]
            mix_contributions(state, Sent(pushed[node].payload, state.u.copy(), eta), graph.weight(node), received)
        exchanged = sum(np.abs(p.dense(layout.size)) for p in payloads)
        # only the products are rounded, to float32, unless the weights are powers of two
        assert (np.abs(sum(s.x for s in states) - before_x) <= 2**-22 * exchanged + 1e-12).all()
        assert sum(float(s.u[0]) for s in states) == pytest.approx(before_u, abs=1e-13)


@pytest.mark.parametrize("compressor", [UNCOMPRESSED, Compressor(TopK(0.25), as_float32)])
def test_mixing_conserves_the_sums_exactly_without_rounding(compressor: Compressor) -> None:
    layout, graph = Layout((3, 5)), preset("a", 4)
    models = np.random.default_rng(2).integers(-8, 9, (4, 8)).astype(np.float32)
    for states in run_learners(AlgorithmSpec(compressor, 0.5, 6), layout, models, itertools.repeat(graph), no_step):
        assert np.array_equal(sum(s.x for s in states), models.sum(axis=0))
        assert sum(float(s.u[0]) for s in states) == 4


def doubly_stochastic(name: str, n: int) -> Digraph:
    if name == "complete":
        return preset(name, n)
    return preset("a", n).union(preset("b", n))


@pytest.mark.parametrize(("name", "n"), [("complete", 4), ("complete", 3), ("two-way ring", 5)])
def test_uncompressed_on_a_symmetric_graph_is_d_psgd(name: str, n: int) -> None:
    """Section 3: C the identity, u one, W symmetric and doubly stochastic give D-PSGD (Lian et al., 2017a)."""
    layout, graph, rounds = Layout((4, 7)), doubly_stochastic(name, n), 50
    local = towards_own_optimum(layout)
    models = np.tile(model_of(1, layout), (n, 1))
    w = graph.mixing_matrix()
    assert np.array_equal(w, w.T)
    x = models.astype(np.float64)
    algorithm_spec = AlgorithmSpec(UNCOMPRESSED, 1.0, rounds)
    for t, states in enumerate(run_learners(algorithm_spec, layout, models, itertools.repeat(graph), local)):
        x = w @ (x + np.stack([local(i, t, x[i].astype(np.float32)) for i in range(n)]))
        assert [float(s.u[0]) for s in states] == pytest.approx(np.ones(n), abs=1e-13)
        assert np.abs([s.x for s in states] - x).max() < 2e-6
        assert not any(s.error.any() for s in states)


@pytest.mark.parametrize("name", ["chord", "a", "exponential"])
def test_uncompressed_is_stochastic_gradient_push(name: str) -> None:
    """Assran et al. 2019, Algorithm 1: x <- P (x - gamma grad F(z)), w <- P w, z = x / w."""
    n, rounds = 4, 50
    layout, graph = Layout((4, 7)), preset(name, n)
    local = towards_own_optimum(layout)
    models = np.tile(model_of(1, layout), (n, 1))
    p = graph.mixing_matrix()
    x, w = models.astype(np.float64), np.ones(n)
    algorithm_spec = AlgorithmSpec(UNCOMPRESSED, 1.0, rounds)
    for t, states in enumerate(run_learners(algorithm_spec, layout, models, itertools.repeat(graph), local)):
        z = x / w[:, None]
        x, w = p @ (x + np.stack([local(i, t, z[i].astype(np.float32)) for i in range(n)])), p @ w
        assert [float(s.u[0]) for s in states] == pytest.approx(w, abs=1e-13)
        assert np.abs([debias(s) for s in states] - x / w[:, None]).max() < 5e-6


@pytest.mark.parametrize("quantise", [as_int8, as_bfloat16, Random(1)])
def test_error_includes_the_rounding_of_values(quantise) -> None:
    """delta is computed from the payload as receivers decode it: what one round does not send, a later one does."""
    x = np.random.default_rng(3).standard_normal(100).astype(np.float32)
    state = State.initial(x)
    payload = compress_with_feedback(state, Compressor(keep_all, quantise), Layout((100,)), NOISE)
    assert state.error.any()
    sent = payload.dense(100)
    ulp = np.spacing(np.maximum(np.abs(x), np.abs(sent)))  # of the larger: rounding may exceed x
    assert (np.abs(state.error + sent - x) <= ulp).all()


def test_messages_over_time_average_to_the_model() -> None:
    """The first-order delta-sigma loop of section 3: with x at rest, the mean of C[v] over time tends to x."""
    layout, rounds = Layout((40,)), 400
    x = np.random.default_rng(4).standard_normal(40).astype(np.float32)
    state, sent = State.initial(x), np.zeros(40)
    for _ in range(rounds):
        sent += compress_with_feedback(state, Compressor(TopK(0.1), as_int8), layout, NOISE).dense(40)
    assert np.abs(sent / rounds - x).max() < 0.1
    assert np.array_equal(state.x, x)


def resnet_110() -> Layout:
    """For CIFAR-10: 109 convolutions without biases, two normalisation tensors after each, and a linear head."""
    convolutions = [432, *[2304] * 36, 4608, *[9216] * 35, 18432, *[36864] * 35]
    normalisations = [16] * 2 * 37 + [32] * 2 * 36 + [64] * 2 * 36
    return Layout((*convolutions, *normalisations, 640, 10))


def test_top_k_per_tensor_matches_the_bytes_of_table_2() -> None:
    """ResNet-110 at 0.1 %: 6 bytes per kept entry give 610x (611x printed); a choice over the whole model 667x."""
    layout = resnet_110()
    assert (len(layout.sizes), layout.size) == (329, 1_727_962)
    vector = np.random.default_rng(5).standard_normal(layout.size).astype(np.float32)
    payload = Compressor(TopK(0.001), as_float32)(vector, layout, NOISE)
    dense = 4 * layout.size
    assert (payload.counts >= 1).all()
    assert dense / (6 * payload.counts.sum()) == pytest.approx(610, abs=1)
    assert dense / (6 * 0.001 * layout.size) == pytest.approx(667, abs=1)


def gossip(graphs: Iterable[Digraph], values: np.ndarray, rounds: int) -> list[State]:
    """Uncompressed push-sum of one number per node."""
    algorithm_spec = AlgorithmSpec(UNCOMPRESSED, 1.0, 0, rounds)
    return list(run_learners(algorithm_spec, Layout((1,)), values[:, None].astype(np.float32), graphs, no_step))[-1]


def test_unbalanced_graph_needs_push_sum() -> None:
    """x alone tends to W's stationary distribution times the sum; x / u to the average."""
    values = np.array([1.0, 2.0, 3.0, 10.0])
    states = gossip(itertools.repeat(preset("chord", 4)), values, 100)
    eigenvalues, vectors = np.linalg.eig(preset("chord", 4).mixing_matrix())
    stationary = np.real(vectors[:, np.argmax(np.real(eigenvalues))])
    assert [s.x[0] for s in states] == pytest.approx(stationary / stationary.sum() * values.sum(), rel=1e-5)
    assert np.abs([s.x[0] - 4 for s in states]).max() > 1
    assert [debias(s)[0] for s in states] == pytest.approx(np.full(4, 4.0), rel=1e-5)


@pytest.mark.parametrize(("n", "rounds"), [(4, 20), (8, 87), (16, 356)])
def test_ring_gossip_shrinks_differences_a_thousandfold(n: int, rounds: int) -> None:
    """The slowest mode of the directed ring shrinks by cos(pi / n) per round."""
    assert math.cos(math.pi / n) ** rounds == pytest.approx(1e-3, rel=0.03)
    slowest = np.cos(2 * np.pi * np.arange(n) / n)
    apart = np.linalg.norm([debias(s)[0] for s in gossip(itertools.repeat(preset("a", n)), slowest, rounds)])
    assert apart / np.linalg.norm(slowest) == pytest.approx(1e-3, rel=0.03)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_one_peer_exponential_is_exact_in_log2_n_rounds(n: int) -> None:
    values = np.random.default_rng(n).integers(-100, 100, n).astype(float)
    graphs = GraphSpec("one-peer-exponential").period(members(n))
    assert len(graphs) == math.log2(n)
    assert {float(debias(s)[0]) for s in gossip(graphs, values, len(graphs))} == {values.mean()}


def consensus_error(share: float, eta: float, rounds: int) -> float:
    """Root mean square distance of four untrained nodes on a ring from their average, relative to the start."""
    layout, graph = Layout((300,)), preset("a", 4)
    states = [State.initial(x) for x in model_of(4, layout)]
    average = np.mean([s.x for s in states], axis=0)
    began = np.sqrt(np.mean([(s.x - average) ** 2 for s in states]))
    for _ in range(rounds):
        pushes = [compress_with_feedback(s, Compressor(TopK(share), as_float32), layout, NOISE) for s in states]
        for i, state in enumerate(states):
            (sender,) = graph.in_neighbours(graph.nodes[i])
            received = Contribution(0.5, np.ones(1), pushes[graph.nodes.index(sender)])
            mix_contributions(state, Sent(pushes[i], state.u.copy(), eta), 0.5, [received])
    return float(np.sqrt(np.mean([(s.x - average) ** 2 for s in states])) / began)


def test_eta_must_match_the_compression() -> None:
    """The consensus error grows like eta / p. Near eta / p = 6 to 10 the iteration diverges."""
    share, rounds = 0.1, 400
    half, one, two = (consensus_error(share, ratio * share, rounds) for ratio in (0.5, 1, 2))
    assert half < one < two < 0.5
    assert two / one == pytest.approx(2, rel=0.2)
    assert consensus_error(share, 12 * share, rounds) > 1e3


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01])
def test_default_eta_is_stable(share: float) -> None:
    assert consensus_error(share, default_averaging_rate(share), 600) < 0.6


def test_error_grows_to_the_model_over_the_share() -> None:
    """Every value format must represent it: at 1 % a sent number is a hundred times a weight."""
    layout = Layout((1000,))
    state, largest = State.initial(np.random.default_rng(6).standard_normal(1000)), 0.0
    for _ in range(400):
        payload = compress_with_feedback(state, Compressor(TopK(0.01), as_bfloat16), layout, NOISE)
        largest = max(largest, float(np.abs(payload.numbers).max()))
    assert 20 < largest < 400


def test_compressed_z_drifts_on_an_unbalanced_graph() -> None:
    """Nodes that start equal and do not train should stay equal. With a sparse x and an exact u they do not."""
    layout, graph = Layout((200,)), itertools.repeat(preset("chord", 4))
    models = np.tile(model_of(1, layout), (4, 1))

    def drift(compressor: Compressor, eta: float, gossip_rounds: int = 0) -> float:
        *_, states = run_learners(AlgorithmSpec(compressor, eta, 200, gossip_rounds), layout, models, graph, no_step)
        return float(np.linalg.norm([debias(s) - models[0] for s in states]) / np.linalg.norm(models))

    sparse = Compressor(TopK(0.1), as_float32)
    assert drift(UNCOMPRESSED, 1.0) < 1e-5
    assert drift(sparse, default_averaging_rate(0.1)) > 0.01
    assert drift(sparse, default_averaging_rate(0.1), gossip_rounds=60) < 1e-4


def test_dropping_the_error_moves_no_mass() -> None:
    state = State(x=floats(1, 2), error=floats(3, 4), u=np.array([0.5]))
    drop_error(state)
    assert (state.x.tolist(), state.u, state.error.tolist()) == ([1, 2], 0.5, [0, 0])
