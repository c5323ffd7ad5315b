"""One node's arithmetic, step by step. Numbers are powers of two where equality is asked, so that no float rounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import (
    Compressor,
    Layout,
    Payload,
    Random,
    TopK,
    as_bfloat16,
    as_float32,
    as_int8,
    keep_all,
)
from edgenode.core.algorithm.learner import SparsePush
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    State,
    debias,
    descend,
    drop_error,
    emit,
    inherit,
    mix,
    take_back,
)
from edgenode.core.algorithm.update_rules import D2, DIFFERENCE
from edgenode.errors import LocalProtocolError, RemoteProtocolError

LAYOUT = Layout((4,))
LARGEST_HALF = Compressor(TopK(0.5), as_float32)
RNG = np.random.default_rng(0)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def a_state(*, u: float = 1.0) -> State:
    return State(x=floats(1, 2, 3, 4), error=floats(0.5, 0, -8, 0), u=np.array([u]))


def a_payload(*numbers: float) -> Payload:
    return Compressor(keep_all, as_float32)(floats(*numbers), Layout((len(numbers),)), RNG)


def test_the_initial_state_owns_its_vectors() -> None:
    model = floats(1, 2, 3)
    state = State.initial(model)
    model[:] = 9
    assert state.x.tolist() == [1, 2, 3]
    assert state.error.tolist() == [0, 0, 0]
    assert state.u == 1.0
    assert state.x.dtype == state.error.dtype == np.float32


def test_a_model_of_doubles_becomes_float32() -> None:
    assert State.initial(np.ones(3)).x.dtype == np.float32  # type: ignore[arg-type]


def test_emit_sends_the_largest_corrected_entries_and_keeps_the_rest() -> None:
    state = a_state()
    descend(state, floats(1, 0, 0, -3))
    payload = emit(state, LARGEST_HALF, LAYOUT, RNG)
    assert state.x.tolist() == [2, 2, 3, 1]
    assert payload.dense(4).tolist() == [2.5, 0, -5, 0]
    assert state.error.tolist() == [0, 2, 0, 1]


def test_emit_without_training_leaves_x() -> None:
    state = a_state()
    payload = emit(state, LARGEST_HALF, LAYOUT, RNG)
    assert state.x.tolist() == [1, 2, 3, 4]
    assert payload.dense(4).tolist() == [0, 0, -5, 4]
    assert state.error.tolist() == [1.5, 2, 0, 0]


def test_emit_leaves_u_and_the_displacement() -> None:
    state, local_update = a_state(u=0.5), floats(1, 0, 0, -3)
    descend(state, local_update)
    emit(state, LARGEST_HALF, LAYOUT, RNG)
    assert state.u == 0.5
    assert local_update.tolist() == [1, 0, 0, -3]


def test_emit_changes_the_vectors_in_place() -> None:
    state = a_state()
    x, error = state.x, state.error
    descend(state, floats(1, 1, 1, 1))
    emit(state, LARGEST_HALF, LAYOUT, RNG)
    assert state.x is x
    assert state.error is error


@pytest.mark.parametrize("compressor", [Compressor(keep_all, as_float32), LARGEST_HALF, Compressor(keep_all, as_int8)])
def test_a_payload_does_not_change_with_the_state_it_was_made_from(compressor: Compressor) -> None:
    state = a_state()
    payload = emit(state, compressor, LAYOUT, RNG)
    before = codec.encode(payload, LAYOUT)
    state.x += 1
    state.error += 1
    assert codec.encode(payload, LAYOUT) == before


def test_mix_debits_the_own_payload_and_credits_the_others() -> None:
    state = a_state(u=2.0)
    received = [
        Contribution(0.25, np.array([4.0]), a_payload(8, 0, 0, 16)),
        Contribution(0.5, np.array([8.0]), a_payload(0, 32, 0, 0)),
    ]
    mix(state, a_payload(4, 8, 0, 0), state.u.copy(), 0.5, received, averaging_rate=0.5)
    assert state.x.tolist() == [1 - 1 + 1, 2 - 2 + 8, 3, 4 + 2]
    assert state.u == 2 - 0.5 * 0.5 * 2 + 0.5 * 0.25 * 4 + 0.5 * 0.5 * 8


def test_mix_debits_the_u_that_was_pushed_whatever_was_taken_back_since() -> None:
    state, own = a_state(u=2.0), a_payload(4, 8, 0, 0)
    pushed = state.u.copy()
    state.u += 1.0
    mix(state, own, pushed, 0.5, [], averaging_rate=0.5)
    assert state.u.tolist() == [3 - 0.5 * 0.5 * 2]


def test_a_push_that_is_taken_back_before_the_round_is_mixed_leaves_the_round_as_it_was_pushed() -> None:
    learner = a_learner(training_rounds=3)
    learner.emit(0, None)
    learner.mix(0.5, [])
    learner.emit(1, None)
    learner.take_back(0, 0.5)
    learner.mix(0.5, [])
    given = 0.5 * 0.5
    assert learner.u == (1 - given) + given - given * (1 - given)


def test_mix_leaves_the_error_and_changes_x_in_place() -> None:
    state = a_state()
    x, error = state.x, state.error.copy()
    mix(state, a_payload(4, 8, 0, 0), state.u.copy(), 0.5, [Contribution(0.5, np.ones(1), a_payload(1, 1, 1, 1))], 0.5)
    assert state.x is x
    assert np.array_equal(state.error, error)


def test_mix_without_neighbours_and_full_self_weight_changes_nothing() -> None:
    state = a_state(u=0.75)
    mix(state, a_payload(4, 8, 0, 0), state.u.copy(), 1.0, [], 1.0)
    assert state.x.tolist() == [1, 2, 3, 4]
    assert state.u == 0.75


def test_a_leavers_push_is_taken_as_it_is() -> None:
    state = a_state(u=0.75)
    x, error = state.x, state.error.copy()
    inherit(state, Contribution(1.0, np.array([0.5]), a_payload(8, 0, 0, 16)))
    assert state.x is x
    assert x.tolist() == [9, 2, 3, 20]
    assert state.u.tolist() == [1.25]
    assert np.array_equal(state.error, error)


def test_what_is_taken_back_is_what_was_given() -> None:
    state, own = a_state(u=2.0), a_payload(4, 8, 0, 0)
    mix(state, own, state.u.copy(), 0.25, [], averaging_rate=0.5)
    assert (state.x.tolist(), state.u.tolist()) == ([-0.5, -1, 3, 4], [1.25])
    for weight in (0.5, 0.25):
        take_back(state, own, np.array([2.0]), weight, averaging_rate=0.5)
    assert (state.x.tolist(), state.u.tolist()) == ([1, 2, 3, 4], [2.0])


def test_a_state_without_an_error_sends_x_itself_and_holds_nothing_back() -> None:
    state = State(floats(1, 2, 3, 4))
    payload = emit(state, Compressor(keep_all, as_float32), LAYOUT, RNG)
    drop_error(state)
    assert payload.dense(4).tolist() == [1, 2, 3, 4]
    assert list(state.vectors) == ["x"]


def test_a_copy_shares_nothing() -> None:
    state = State.initial(floats(1, 2), ("error", "replica", "gathered", "history"), blocks=2)
    copy = state.copy()
    for numbers in (*copy.vectors.values(), copy.u):
        numbers[:] = 7
    assert state.x.tolist() == [1, 2]
    assert not any(vector.any() for name, vector in state.vectors.items() if name != "x")
    assert state.u.tolist() == [1, 1]
    assert list(copy.vectors) == ["x", "error", "replica", "gathered", "history"]


def test_debias_divides_by_u_into_a_new_vector() -> None:
    state = a_state(u=0.5)
    assert debias(state).tolist() == [2, 4, 6, 8]
    assert state.x.tolist() == [1, 2, 3, 4]
    assert debias(state).dtype == np.float32


def test_drop_error_clears_in_place_and_leaves_x_and_u() -> None:
    state = a_state(u=0.5)
    error = state.error
    drop_error(state)
    assert state.error is error
    assert error.tolist() == [0, 0, 0, 0]
    assert (state.x.tolist(), state.u) == ([1, 2, 3, 4], 0.5)


QUANTISERS = [as_float32, as_bfloat16, as_int8, Random(1), Random(2), Random(4)]


@given(st.integers(0, 2**32), st.sampled_from(QUANTISERS), st.sampled_from([0.01, 0.3, 1.0]), st.floats(-6, 6))
def test_error_plus_what_receivers_decode_is_the_corrected_vector(seed, quantise, share, magnitude) -> None:
    rng = np.random.default_rng(seed)
    layout = Layout((1, 7, 60))
    x = (rng.standard_normal(layout.size) * 10**magnitude).astype(np.float32)
    state = State(x=x.copy(), error=(rng.standard_normal(layout.size) * 10**magnitude).astype(np.float32))
    corrected = x + state.error
    payload = emit(state, Compressor(TopK(share), quantise), layout, rng)
    decoded = codec.decode(codec.encode(payload, layout), layout).dense(layout.size)
    ulp = np.spacing(np.maximum(np.abs(corrected), np.abs(decoded)))
    assert (np.abs(state.error + decoded - corrected) <= ulp).all()


def a_learner(node: str = "n0", training_rounds: int = 2, gossip_rounds: int = 1) -> SparsePush:
    algorithm_spec = AlgorithmSpec(Compressor(TopK(0.5), Random(2)), 0.5, training_rounds, gossip_rounds)
    return SparsePush(algorithm_spec, LAYOUT, State.initial(floats(1, 2, 3, 4)), seed=7, node=node)


def test_a_learner_repeats_its_bytes_and_differs_by_node() -> None:
    assert a_learner().emit(0, None) == a_learner().emit(0, None)
    messages = {node: [a_learner(node).emit(t, None) for t in (0, 1)] for node in ("n0", "n1", "n2", "n3")}
    assert len({data for pair in messages.values() for data in pair}) > 2


def test_a_learner_knows_its_phases() -> None:
    learner = a_learner(training_rounds=2, gossip_rounds=1)
    assert learner.rounds == 3
    assert [learner.trains(t) for t in range(3)] == [True, True, False]


def test_a_learner_that_mixes_before_or_twice_after_emit_is_our_bug() -> None:
    learner = a_learner()
    with pytest.raises(LocalProtocolError):
        learner.mix(0.5, [])
    learner.emit(0, None)
    learner.mix(0.5, [])
    with pytest.raises(LocalProtocolError):
        learner.mix(0.5, [])


@pytest.mark.parametrize("rule", [D2, DIFFERENCE])
def test_where_members_are_fixed_nobody_leaves_and_nothing_is_taken_back(rule) -> None:
    algorithm_spec = AlgorithmSpec(Compressor(TopK(0.5), as_float32), 0.5, 3, rule=rule)
    learner = SparsePush(algorithm_spec, LAYOUT, algorithm_spec.initial(floats(1, 2, 3, 4)), seed=7, node="n0")
    with pytest.raises(LocalProtocolError, match="nobody leaves"):
        learner.emit(0, None, whole=True)
    learner.emit(0, floats(1, 1, 1, 1))
    learner.mix(0.5, [])
    with pytest.raises(LocalProtocolError, match="no push is taken back"):
        learner.take_back(0, 0.5)


def test_a_leavers_last_push_is_x_without_what_was_held_back() -> None:
    learner = a_learner()
    learner.emit(0, None)
    learner.mix(1.0, [])
    assert learner.state.error.any()
    data, u = learner.emit(1, floats(1, 1, 1, 1), whole=True)
    assert learner.read(1, 1.0, u, data).payload.dense(4).tolist() == learner.state.x.tolist() == [2, 3, 4, 5]
    assert u == (1.0,)


def test_a_learner_refuses_bytes_that_are_no_payload() -> None:
    with pytest.raises(RemoteProtocolError):
        a_learner().read(0, 0.5, (1.0,), b"nonsense")


def test_a_snapshot_does_not_change_with_the_learner() -> None:
    learner = a_learner()
    snapshot = learner.snapshot()
    learner.emit(0, floats(1, 1, 1, 1))
    learner.mix(0.5, [])
    assert snapshot.x.tolist() == [1, 2, 3, 4]
    assert snapshot.error.tolist() == [0, 0, 0, 0]
    assert snapshot.u.tolist() == [1.0] != [learner.u]


def test_a_learner_restored_from_its_snapshot_goes_on_alike() -> None:
    learner = a_learner()
    learner.emit(0, floats(1, 1, 1, 1))
    learner.mix(0.5, [])
    again = SparsePush(learner.algorithm_spec, LAYOUT, learner.snapshot(), seed=7, node="n0")
    assert learner.emit(1, None) == again.emit(1, None)
