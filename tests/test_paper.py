"""The algorithms of arXiv 2102.05715 line by line, and in matrix form to the bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Layout, TopK, as_float32
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.rounding import as_int8
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    LocalUpdate,
    Sent,
    State,
    compress_with_feedback,
    debias,
    descend,
    mix_contributions,
)
from edgenode.core.topology.graph import Digraph
from tests.paper_reference import (
    COMPRESSORS,
    LAYOUTS,
    NOISE,
    RATES,
    SEED,
    floats,
    model_of,
    no_step,
    preset,
    rotations,
    run_learners,
    run_reference,
    towards_own_optimum,
)


@pytest.mark.parametrize("examples", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_nodes_equal_the_matrix_form_to_the_bit(examples: int) -> None:
    @settings(max_examples=examples)
    @given(rotations(), COMPRESSORS, RATES, LAYOUTS, st.integers(0, 6), st.integers(0, 3))
    def check(
        graphs: list[Digraph], compressor: Compressor, eta: float, layout: Layout, training: int, gossip: int
    ) -> None:
        algorithm_spec = AlgorithmSpec(compressor, eta, training, gossip)
        arguments = (algorithm_spec, layout, model_of(len(graphs[0].nodes), layout))
        ours = run_learners(*arguments, itertools.cycle(graphs), towards_own_optimum(layout))
        reference = run_reference(*arguments, itertools.cycle(graphs), towards_own_optimum(layout))
        rounds = 0
        for states, (x, delta, u) in zip(ours, reference, strict=True):
            assert np.array_equal([s.x for s in states], x)
            assert np.array_equal([s.error for s in states], delta)
            assert [float(s.u[0]) for s in states] == u.tolist()
            rounds += 1
        assert rounds == training + gossip

    check()


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
    mix_contributions(state, Sent(own, state.u.copy(), 0.5), 0.25, [Contribution(0.5, np.ones(1), push)])
    assert state.x.tolist() == [1 + 0.5 * 0.5 * 8, 2, 3 + 0.5 * (0.25 - 1) * 3]


def test_line_9_u() -> None:
    """9. u_t+1 = u_t + eta sum_j (W_ij - I_ij) u_t^(j)"""
    state, nothing = State.initial(floats(1)), UNCOMPRESSED(floats(0), Layout((1,)), NOISE)
    state.u[:] = 2.0
    mix_contributions(
        state,
        Sent(nothing, state.u.copy(), 0.5),
        0.25,
        [Contribution(0.5, np.array([4.0]), nothing), Contribution(0.125, np.array([8.0]), nothing)],
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
        learner.compress_update(t, LocalUpdate(floats(0.5, 0.25, 0.125, 1), is_difference=True))
        learner.mix_round(0.5, [])
    return learner, learner.state.copy()


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
        assert not learner.state.error.any()
        learner.mix_round(0.5, [])


def test_gossip_line_7() -> None:
    """7. x_t+1 = x_t + eta sum_j (W_ij - I_ij) x_t^(j), and the same for u; eta is 1 here."""
    learner, before = in_gossip()
    learner.compress_update(2, None)
    received = learner.read(2, 0.25, (3.0,), learner_bytes(floats(8, 8, 0, 0)))
    learner.mix_round(0.5, [received])
    after = learner.state
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
    after = learner.state
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
