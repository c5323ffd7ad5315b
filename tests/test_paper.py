"""The algorithms of arXiv 2102.05715 line by line, and the facts about them that edgenode relies on.

The reference below is Algorithm 1 in matrix form over whole vectors. It shares only the compressor with the code under
test. It sums in the same order (a node's own share, then its in-neighbours sorted), so that results must be equal to
the bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec, default_averaging_rate
from edgenode.core.algorithm.compression import (
    Compressor,
    Layout,
    Random,
    TopK,
    as_bfloat16,
    as_float32,
    as_int4,
    as_int8,
    keep_all,
    keep_none,
)
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    State,
    compress_with_feedback,
    debias,
    descend,
    drop_error,
    mix_contributions,
)
from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec

SEED = 11
NOISE = np.random.default_rng(0)  # for compressors without randomness
LEARNING_RATE = 0.125

LocalStep = Callable[[int, int, np.ndarray], np.ndarray]  # (node, round, z) -> local update


def members(n: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(n))


def preset(name: str, n: int) -> Digraph:
    return GraphSpec(name).period(members(n))[0]


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def no_step(node: int, t: int, z: np.ndarray) -> np.ndarray:
    return np.zeros_like(z)


def towards_own_optimum(layout: Layout) -> LocalStep:
    """One stochastic gradient step on |z - optimum of the node|^2 / 2."""
    optima = np.random.default_rng(1).standard_normal((16, layout.size)).astype(np.float32)

    def step(node: int, t: int, z: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng((node, t)).standard_normal(layout.size).astype(np.float32)
        return np.float32(-LEARNING_RATE) * (z - optima[node] + np.float32(0.1) * noise)

    return step


# --- the code under test, and the reference


def run_learners(
    algorithm_spec: AlgorithmSpec, layout: Layout, models: np.ndarray, graphs: Iterable[Digraph], local: LocalStep
) -> Iterator[list[State]]:
    """The states after every round, of nodes that exchange bytes."""
    learners: list[VectorLearner] = []
    for t, graph in zip(range(algorithm_spec.rounds), graphs, strict=False):
        learners = learners or [
            VectorLearner(algorithm_spec, layout, State.initial(model), SEED, node)
            for node, model in zip(graph.nodes, models, strict=True)
        ]
        pushed = {}
        for i, learner in enumerate(learners):
            local_update = local(i, t, learner.model()) if learner.trains(t) else None
            data, u = learner.compress_update(t, local_update)
            pushed[graph.nodes[i]] = (t, graph.weight(graph.nodes[i]), u, data)
        for node, learner in zip(graph.nodes, learners, strict=True):
            received = [learner.read(*pushed[sender]) for sender in graph.in_neighbours(node)]
            learner.mix_round(graph.weight(node), received)
        yield [learner.snapshot() for learner in learners]


def run_reference(
    algorithm_spec: AlgorithmSpec, layout: Layout, models: np.ndarray, graphs: Iterable[Digraph], local: LocalStep
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Algorithm 1 for T rounds, then Algorithm 2's gossip for k: (x [n, d], delta [n, d], u [n]) per round."""
    n = len(models)
    x, delta, u = models.astype(np.float32), np.zeros(models.shape, np.float32), np.ones(n)
    for t, graph in zip(range(algorithm_spec.rounds), graphs, strict=False):
        trains = t < algorithm_spec.training_rounds
        eta = algorithm_spec.averaging_rate if trains else 1.0
        exchange = np.asarray(graph.mixing_matrix() - np.eye(n))  # W - I
        if trains:
            z = x / u.astype(np.float32)[:, None]
            x = x + np.stack([local(i, t, z[i]) for i in range(n)])
        if t == algorithm_spec.training_rounds:
            delta = np.zeros_like(delta)
        v = x + delta
        compressor = algorithm_spec.compressor if trains else UNCOMPRESSED
        c = np.stack([compressor(v[i], layout, stream(graph.nodes[i], t)).dense(layout.size) for i in range(n)])
        delta = v - c
        old_u = u.copy()
        for i in range(n):
            for j in (i, *(j for j in range(n) if j != i and exchange[i, j])):
                x[i] += np.float32(eta * exchange[i, j]) * c[j]
                u[i] += eta * exchange[i, j] * old_u[j]
        yield x.copy(), delta.copy(), u.copy()


def stream(node: str, t: int) -> np.random.Generator:
    return np.random.default_rng((SEED, int.from_bytes(sha256(node.encode()).digest()[:8]), t))


SELECTIONS = st.sampled_from([keep_all, keep_none, TopK(0.1), TopK(0.5)])
QUANTISERS = st.sampled_from([as_float32, as_bfloat16, as_int8, as_int4, Random(1), Random(2), Random(4)])
COMPRESSORS = st.builds(Compressor, SELECTIONS, QUANTISERS)
RATES = st.sampled_from([1.0, 0.5, 0.08, 0.01])
LAYOUTS = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(lambda sizes: Layout(tuple(sizes)))


@st.composite
def strongly_connected(draw: st.DrawFn, n: int) -> Digraph:
    """A random cycle through all nodes and any other edges."""
    order = draw(st.permutations(members(n)))
    cycle = {(a, b) for a, b in zip(order, [*order[1:], order[0]], strict=True) if a != b}
    pairs = [(a, b) for a in order for b in order if a != b]
    more = draw(st.sets(st.sampled_from(pairs), max_size=6)) if pairs else set()
    return Digraph(members(n), frozenset(cycle | more))


@st.composite
def rotations(draw: st.DrawFn) -> list[Digraph]:
    n = draw(st.integers(1, 5))
    named = st.sampled_from(sorted(PRESETS)).flatmap(lambda name: st.sampled_from(GraphSpec(name).period(members(n))))
    return draw(st.lists(st.one_of(named, strongly_connected(n)), min_size=1, max_size=4))


def model_of(n: int, layout: Layout) -> np.ndarray:
    """n different models, because the algorithm must not depend on equal ones."""
    return np.random.default_rng(n).standard_normal((n, layout.size)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(rotations(), COMPRESSORS, RATES, LAYOUTS, st.integers(0, 6), st.integers(0, 3))
def test_nodes_equal_the_matrix_form_to_the_bit(
    graphs: list[Digraph], compressor: Compressor, eta: float, layout: Layout, training: int, gossip: int
) -> None:
    algorithm_spec = AlgorithmSpec(compressor, eta, training, gossip)
    models = model_of(len(graphs[0].nodes), layout)
    arguments = (algorithm_spec, layout, models)
    ours = run_learners(*arguments, itertools.cycle(graphs), towards_own_optimum(layout))
    reference = run_reference(*arguments, itertools.cycle(graphs), towards_own_optimum(layout))
    rounds = 0
    for states, (x, delta, u) in zip(ours, reference, strict=True):
        assert np.array_equal([s.x for s in states], x)
        assert np.array_equal([s.error for s in states], delta)
        assert [float(s.u[0]) for s in states] == u.tolist()
        rounds += 1
    assert rounds == training + gossip


# --- Algorithm 1, line by line


def test_input() -> None:
    """Input: initialize model parameters x_0, z_0 = x_0, error delta_0 to 0s and bias weight u_0 to 1."""
    state = State.initial(floats(1, -2, 3))
    assert state.x.tolist() == debias(state).tolist() == [1, -2, 3]
    assert state.error.tolist() == [0, 0, 0]
    assert state.u == 1


def test_line_1() -> None:
    """1. for t = 0, ..., T - 1, at each node i, do"""
    algorithm_spec = AlgorithmSpec(Compressor(TopK(0.5), as_float32), 0.5, training_rounds=3)
    layout = Layout((2,))
    rounds: list[int] = []

    def local(node: int, t: int, z: np.ndarray) -> np.ndarray:
        rounds.append(t)
        return np.zeros(2, dtype=np.float32)

    list(run_learners(algorithm_spec, layout, model_of(2, layout), itertools.repeat(preset("a", 2)), local))
    assert rounds == [0, 0, 1, 1, 2, 2]


def test_line_3() -> None:
    """3. Compute local gradient g_t = grad F_i(z_t, xi_t): at z, not at x."""
    layout = Layout((2,))
    seen: list[np.ndarray] = []

    def local(node: int, t: int, z: np.ndarray) -> np.ndarray:
        seen.append(z)
        return np.zeros(2, dtype=np.float32)

    learner_states = run_learners(
        AlgorithmSpec(UNCOMPRESSED, 1.0, 2), layout, model_of(4, layout), itertools.repeat(preset("chord", 4)), local
    )
    after_first = next(learner_states)
    next(learner_states)
    assert {float(s.u[0]) for s in after_first} != {1.0}
    assert np.array_equal(seen[4:], [s.x / np.float32(s.u[0]) for s in after_first])


def test_line_4() -> None:
    """4. Do the local update x-hat_t = x_t - gamma g_t: the step is not scaled by u."""
    for u in (0.25, 1.0, 3.0):
        state = State(x=floats(1, 2), error=floats(0, 0), u=np.array([u]))
        descend(state, floats(0.5, -1))
        assert state.x.tolist() == [1.5, 1]


def test_line_5() -> None:
    """5. Compute error compensated update v_t = x-hat_t + delta_t"""
    state = State(x=floats(1, 2), error=floats(0.25, -8))
    descend(state, floats(0.5, -1))
    payload = compress_with_feedback(state, UNCOMPRESSED, Layout((2,)), NOISE)
    assert payload.dense(2).tolist() == [1.75, -7]


def test_line_6() -> None:
    """6. Compress the error compensated variable C[v_t] and update error delta_t = v_t - C[v_t]"""
    state = State(x=floats(1, 2, -3), error=floats(0.25, -8, 0))
    payload = compress_with_feedback(state, Compressor(TopK(0.34), as_float32), Layout((3,)), NOISE)
    assert payload.dense(3).tolist() == [0, -6, 0]
    assert state.error.tolist() == [1.25, 0, -3]


def test_line_7() -> None:
    """7. Send compressed variable C[v_t] and bias weight u_t to the out-neighbours: u as it was before line 9."""
    graph, layout = preset("chord", 4), Layout((1,))
    states = run_learners(
        AlgorithmSpec(UNCOMPRESSED, 1.0, 2), layout, model_of(4, layout), itertools.repeat(graph), no_step
    )
    w = graph.mixing_matrix()
    assert [float(s.u[0]) for s in next(states)] == pytest.approx(w @ np.ones(4), abs=1e-15)
    assert [float(s.u[0]) for s in next(states)] == pytest.approx(w @ w @ np.ones(4), abs=1e-15)


def test_line_9_x() -> None:
    """9. x_t+1 = x-hat_t + eta sum_j (W_ij - I_ij) C[v_t^(j)]: the own term is the compressed message, not x-hat."""
    state = State(x=floats(1, 2, 3), error=floats(0, 0, 0))
    own = compress_with_feedback(state, Compressor(TopK(0.34), as_float32), Layout((3,)), NOISE)
    other = State(x=floats(8, 0, 0), error=floats(0, 0, 0))
    push = compress_with_feedback(other, Compressor(TopK(0.34), as_float32), Layout((3,)), NOISE)
    mix_contributions(state, own, state.u.copy(), 0.25, [Contribution(0.5, np.ones(1), push)], averaging_rate=0.5)
    assert state.x.tolist() == [1 + 0.5 * 0.5 * 8, 2, 3 + 0.5 * (0.25 - 1) * 3]


def test_line_9_u() -> None:
    """9. u_t+1 = u_t + eta sum_j (W_ij - I_ij) u_t^(j)"""
    state, nothing = State.initial(floats(1)), UNCOMPRESSED(floats(0), Layout((1,)), NOISE)
    state.u[:] = 2.0
    mix_contributions(
        state,
        nothing,
        state.u.copy(),
        0.25,
        [Contribution(0.5, np.array([4.0]), nothing), Contribution(0.125, np.array([8.0]), nothing)],
        0.5,
    )
    assert state.u == 2 + 0.5 * ((0.25 - 1) * 2 + 0.5 * 4 + 0.125 * 8)


def test_line_10() -> None:
    """10. De-bias the updated model: z_t+1 = x_t+1 / u_t+1"""
    assert debias(State(x=floats(1, -2), error=floats(9, 9), u=np.array([0.5]))).tolist() == [2, -4]


def test_line_12() -> None:
    """12. Output Models: x_T = z_T. A node evaluates and exports z."""
    learner = VectorLearner(
        AlgorithmSpec(UNCOMPRESSED, 1.0, 1),
        Layout((2,)),
        State(floats(1, -2), floats(9, 9), np.array([0.5])),
        SEED,
        "n0",
    )
    assert learner.model().tolist() == [2, -4]


# --- Algorithm 2, lines 4 to 8


def in_gossip() -> tuple[VectorLearner, State]:
    """A learner of SCSP after its two training rounds, alone on its node, and its state then."""
    algorithm_spec = AlgorithmSpec(Compressor(TopK(0.25), as_int8), 0.5, training_rounds=2, gossip_rounds=2)
    learner = VectorLearner(algorithm_spec, Layout((4,)), State.initial(floats(1, 2, 3, 4)), SEED, "n0")
    for t in range(2):
        learner.compress_update(t, floats(0.5, 0.25, 0.125, 1))
        learner.mix_round(0.5, [])
    return learner, learner.snapshot()


def test_gossip_line_4() -> None:
    """4. for t = T, ..., T + k: no local update. (The paper's T + k is one round more than k. edgenode makes k.)"""
    learner, _ = in_gossip()
    assert learner.rounds == 4
    assert [learner.trains(t) for t in range(4)] == [True, True, False, False]


def test_gossip_line_5() -> None:
    """5. Send the model parameters x_t and bias weight u_t: x itself, neither compressed nor error compensated."""
    learner, before = in_gossip()
    assert before.error.any()
    data, u = learner.compress_update(2, None)
    sent = learner.read(2, 0.5, u, data)
    assert np.array_equal(sent.payload.dense(4), before.x)
    assert sent.u == before.u != 1.0


def test_gossip_drops_the_error_and_keeps_it_zero() -> None:
    """Algorithm 2 has no delta. Dropping it loses no mass, because all mass is in x."""
    learner, before = in_gossip()
    assert before.error.any()
    for t in (2, 3):
        learner.compress_update(t, None)
        assert not learner.snapshot().error.any()
        learner.mix_round(0.5, [])


def test_gossip_line_7() -> None:
    """7. x_t+1 = x_t + eta sum_j (W_ij - I_ij) x_t^(j), and the same for u; eta is 1 here."""
    learner, before = in_gossip()
    learner.compress_update(2, None)
    received = learner.read(2, 0.25, (3.0,), learner_bytes(floats(8, 8, 0, 0)))
    learner.mix_round(0.5, [received])
    after = learner.snapshot()
    assert np.array_equal(after.x, np.float32(0.5) * before.x + floats(2, 2, 0, 0))
    assert after.u == 0.5 * before.u + 0.25 * 3


def learner_bytes(model: np.ndarray) -> bytes:
    layout = Layout((len(model),))
    return VectorLearner(
        AlgorithmSpec(UNCOMPRESSED, 1.0, 0, 1), layout, State.initial(model), SEED, "n1"
    ).compress_update(0, None)[0]


def test_gossip_line_8() -> None:
    """8. De-bias the updated model: z_t+1 = x_t+1 / u_t+1"""
    learner, _ = in_gossip()
    learner.compress_update(2, None)
    learner.mix_round(0.5, [])
    after = learner.snapshot()
    assert np.array_equal(learner.model(), after.x / np.float32(after.u[0]))


def test_gossip_reaches_the_average_of_the_accumulators() -> None:
    """The nodes differ after the compressed rounds. Gossip brings them to sum(x) / sum(u)."""
    layout, graph = Layout((5, 6)), preset("chord", 4)
    algorithm_spec = AlgorithmSpec(Compressor(TopK(0.2), as_int8), 0.1, training_rounds=30, gossip_rounds=60)
    models = np.tile(model_of(1, layout), (4, 1))
    rounds = list(run_learners(algorithm_spec, layout, models, itertools.repeat(graph), towards_own_optimum(layout)))
    target = np.sum([s.x for s in rounds[29]], axis=0, dtype=np.float64) / 4
    apart = np.abs([debias(s) - target for s in rounds[29]]).max()
    together = np.abs([debias(s) - target for s in rounds[-1]]).max()
    assert apart > 0.1
    assert together < 1e-5


# --- facts


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
            mix_contributions(state, pushed[node].payload, state.u.copy(), graph.weight(node), received, eta)
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
            mix_contributions(state, pushes[i], state.u.copy(), 0.5, [received], eta)
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
