"""One node's arithmetic, step by step. Exact comparisons use powers of two, so that no float rounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import (
    Compressor,
    Layout,
    Payload,
    TopK,
    as_float32,
    block_bounds,
    keep_all,
)
from edgenode.core.algorithm.d2 import D2
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.rounding import Random, as_bfloat16, as_int8
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    LocalUpdate,
    Sent,
    State,
    absorb_handoff,
    compress_with_feedback,
    debias,
    descend,
    differences,
    drop_error,
    mix_contributions,
    return_share,
)
from edgenode.core.algorithm.update_rules import DIFFERENCE, SPARSE_PUSH, UpdateRule
from edgenode.errors import LocalProtocolError, RemoteProtocolError
from edgenode_lab.algorithms.noloco import NOLOCO

LAYOUT = Layout((4,))
LARGEST_HALF = Compressor(TopK(0.5), as_float32)
RNG = np.random.default_rng(0)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


ONES = LocalUpdate(floats(1, 1, 1, 1), is_difference=True)


def a_state(*, u: float = 1.0) -> State:
    return State(x=floats(1, 2, 3, 4), error=floats(0.5, 0, -8, 0), u=np.array([u]))


def a_payload(*numbers: float) -> Payload:
    return Compressor(keep_all, as_float32)(floats(*numbers), Layout((len(numbers),)), RNG)


def test_initial_state_owns_its_vectors() -> None:
    model = floats(1, 2, 3)
    state = State.initial(model)
    model[:] = 9
    assert state.x.tolist() == [1, 2, 3]
    assert state.error.tolist() == [0, 0, 0]
    assert state.u == 1.0
    assert state.x.dtype == state.error.dtype == np.float32


def test_float64_model_becomes_float32() -> None:
    assert State.initial(np.ones(3)).x.dtype == np.float32  # type: ignore[arg-type]


def test_largest_corrected_entries_are_sent_and_the_rest_kept() -> None:
    state = a_state()
    descend(state, floats(1, 0, 0, -3))
    payload = compress_with_feedback(state, LARGEST_HALF, LAYOUT, RNG)
    assert state.x.tolist() == [2, 2, 3, 1]
    assert payload.dense(4).tolist() == [2.5, 0, -5, 0]
    assert state.error.tolist() == [0, 2, 0, 1]


def test_compression_without_training_leaves_x() -> None:
    state = a_state()
    payload = compress_with_feedback(state, LARGEST_HALF, LAYOUT, RNG)
    assert state.x.tolist() == [1, 2, 3, 4]
    assert payload.dense(4).tolist() == [0, 0, -5, 4]
    assert state.error.tolist() == [1.5, 2, 0, 0]


def test_compression_leaves_u_and_the_local_update() -> None:
    state, local_update = a_state(u=0.5), floats(1, 0, 0, -3)
    descend(state, local_update)
    compress_with_feedback(state, LARGEST_HALF, LAYOUT, RNG)
    assert state.u == 0.5
    assert local_update.tolist() == [1, 0, 0, -3]


def test_compression_changes_the_vectors_in_place() -> None:
    state = a_state()
    x, error = state.x, state.error
    descend(state, floats(1, 1, 1, 1))
    compress_with_feedback(state, LARGEST_HALF, LAYOUT, RNG)
    assert state.x is x
    assert state.error is error


@pytest.mark.parametrize("compressor", [Compressor(keep_all, as_float32), LARGEST_HALF, Compressor(keep_all, as_int8)])
def test_payload_does_not_change_with_the_state(compressor: Compressor) -> None:
    state = a_state()
    payload = compress_with_feedback(state, compressor, LAYOUT, RNG)
    before = codec.encode(payload, LAYOUT)
    state.x += 1
    state.error += 1
    assert codec.encode(payload, LAYOUT) == before


def test_mixing_subtracts_own_payload_and_adds_the_others() -> None:
    state = a_state(u=2.0)
    received = [
        Contribution(0.25, np.array([4.0]), a_payload(8, 0, 0, 16)),
        Contribution(0.5, np.array([8.0]), a_payload(0, 32, 0, 0)),
    ]
    mix_contributions(state, Sent(a_payload(4, 8, 0, 0), state.u.copy(), 0.5), 0.5, received)
    assert state.x.tolist() == [1 - 1 + 1, 2 - 2 + 8, 3, 4 + 2]
    assert state.u == 2 - 0.5 * 0.5 * 2 + 0.5 * 0.25 * 4 + 0.5 * 0.5 * 8


def test_mixing_subtracts_the_u_that_was_pushed() -> None:
    state, own = a_state(u=2.0), a_payload(4, 8, 0, 0)
    pushed = state.u.copy()
    state.u += 1.0
    mix_contributions(state, Sent(own, pushed, 0.5), 0.5, [])
    assert state.u.tolist() == [3 - 0.5 * 0.5 * 2]


def test_push_undone_before_mixing_leaves_later_pushes() -> None:
    learner = a_learner(training_rounds=3)
    learner.compress_update(0, None)
    learner.mix_round(0.5, [])
    learner.compress_update(1, None)
    learner.undo_push(0, 0.5)
    learner.mix_round(0.5, [])
    given = 0.5 * 0.5
    assert learner.u == (1 - given) + given - given * (1 - given)


def test_mixing_leaves_the_error_and_changes_x_in_place() -> None:
    state = a_state()
    x, error = state.x, state.error.copy()
    received = [Contribution(0.5, np.ones(1), a_payload(1, 1, 1, 1))]
    mix_contributions(state, Sent(a_payload(4, 8, 0, 0), state.u.copy(), 0.5), 0.5, received)
    assert state.x is x
    assert np.array_equal(state.error, error)


def test_mixing_without_neighbours_changes_nothing() -> None:
    state = a_state(u=0.75)
    mix_contributions(state, Sent(a_payload(4, 8, 0, 0), state.u.copy(), 1.0), 1.0, [])
    assert state.x.tolist() == [1, 2, 3, 4]
    assert state.u == 0.75


def test_handoff_is_added_unscaled() -> None:
    state = a_state(u=0.75)
    x, error = state.x, state.error.copy()
    absorb_handoff(state, Contribution(1.0, np.array([0.5]), a_payload(8, 0, 0, 16)))
    assert state.x is x
    assert x.tolist() == [9, 2, 3, 20]
    assert state.u.tolist() == [1.25]
    assert np.array_equal(state.error, error)


def test_returned_shares_equal_the_shares_sent() -> None:
    state, own = a_state(u=2.0), a_payload(4, 8, 0, 0)
    mix_contributions(state, Sent(own, state.u.copy(), 0.5), 0.25, [])
    assert (state.x.tolist(), state.u.tolist()) == ([-0.5, -1, 3, 4], [1.25])
    for weight in (0.5, 0.25):
        return_share(state, Sent(own, np.array([2.0]), 0.5), weight)
    assert (state.x.tolist(), state.u.tolist()) == ([1, 2, 3, 4], [2.0])


def test_state_without_error_sends_x_itself() -> None:
    state = State(floats(1, 2, 3, 4))
    payload = compress_with_feedback(state, Compressor(keep_all, as_float32), LAYOUT, RNG)
    drop_error(state)
    assert payload.dense(4).tolist() == [1, 2, 3, 4]
    assert list(state.vectors) == ["x"]


def test_copy_shares_nothing() -> None:
    state = State.initial(floats(1, 2), ("error", "known", "gathered", "history"), blocks=2)
    copy = state.copy()
    for numbers in (*copy.vectors.values(), copy.u):
        numbers[:] = 7
    assert state.x.tolist() == [1, 2]
    assert not any(vector.any() for name, vector in state.vectors.items() if name != "x")
    assert state.u.tolist() == [1, 1]
    assert list(copy.vectors) == ["x", "error", "known", "gathered", "history"]


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
def test_error_plus_decoded_payload_is_the_corrected_vector(seed, quantise, share, magnitude) -> None:
    rng = np.random.default_rng(seed)
    layout = Layout((1, 7, 60))
    x = (rng.standard_normal(layout.size) * 10**magnitude).astype(np.float32)
    state = State(x=x.copy(), error=(rng.standard_normal(layout.size) * 10**magnitude).astype(np.float32))
    corrected = x + state.error
    payload = compress_with_feedback(state, Compressor(TopK(share), quantise), layout, rng)
    decoded = codec.decode(codec.encode(payload, layout), layout).dense(layout.size)
    ulp = np.spacing(np.maximum(np.abs(corrected), np.abs(decoded)))
    assert (np.abs(state.error + decoded - corrected) <= ulp).all()


def a_learner(node: str = "n0", training_rounds: int = 2, gossip_rounds: int = 1, weight: float = 1.0) -> VectorLearner:
    algorithm_spec = AlgorithmSpec(Compressor(TopK(0.5), Random(2)), 0.5, training_rounds, gossip_rounds)
    return VectorLearner(algorithm_spec, LAYOUT, State.initial(floats(1, 2, 3, 4)), seed=7, node=node, weight=weight)


def test_learner_repeats_its_bytes_and_differs_by_node() -> None:
    assert a_learner().compress_update(0, None) == a_learner().compress_update(0, None)
    messages = {node: [a_learner(node).compress_update(t, None) for t in (0, 1)] for node in ("n0", "n1", "n2", "n3")}
    assert len({data for pair in messages.values() for data in pair}) > 2


def test_learner_knows_its_phases() -> None:
    learner = a_learner(training_rounds=2, gossip_rounds=1)
    assert learner.rounds == 3
    assert [learner.trains(t) for t in range(3)] == [True, True, False]


def test_mixing_before_compressing_or_twice_is_an_error() -> None:
    learner = a_learner()
    with pytest.raises(LocalProtocolError):
        learner.mix_round(0.5, [])
    learner.compress_update(0, None)
    learner.mix_round(0.5, [])
    with pytest.raises(LocalProtocolError):
        learner.mix_round(0.5, [])


@pytest.mark.parametrize("rule", [D2, DIFFERENCE])
def test_fixed_members_cannot_leave_or_undo_a_push(rule) -> None:
    algorithm_spec = AlgorithmSpec(Compressor(TopK(0.5), as_float32), 0.5, 3, rule=rule)
    learner = VectorLearner(algorithm_spec, LAYOUT, algorithm_spec.initial(floats(1, 2, 3, 4)), seed=7, node="n0")
    with pytest.raises(LocalProtocolError, match="a node cannot leave"):
        learner.compress_update(0, None, handoff=True)
    learner.compress_update(0, ONES)
    learner.mix_round(0.5, [])
    with pytest.raises(LocalProtocolError, match="a push cannot be undone"):
        learner.undo_push(0, 0.5)


def test_handoff_sends_x_without_the_error() -> None:
    learner = a_learner()
    learner.compress_update(0, None)
    learner.mix_round(1.0, [])
    assert learner.state.error.any()
    data, u = learner.compress_update(1, ONES, handoff=True)
    assert learner.read(1, 1.0, u, data).payload.dense(4).tolist() == learner.state.x.tolist() == [2, 3, 4, 5]
    assert u == (1.0,)


def test_learner_refuses_malformed_bytes() -> None:
    with pytest.raises(RemoteProtocolError):
        a_learner().read(0, 0.5, (1.0,), b"nonsense")


def test_snapshot_does_not_change_with_the_learner() -> None:
    learner = a_learner(training_rounds=0)
    snapshot = learner.snapshot(0)
    learner.compress_update(0, ONES)
    learner.mix_round(0.5, [])
    assert snapshot.x.tolist() == [1, 2, 3, 4]
    assert snapshot.error.tolist() == [0, 0, 0, 0]
    assert snapshot.u.tolist() == [1.0] != [learner.u]


def test_snapshot_is_copied_only_if_the_state_changes_next() -> None:
    spec = AlgorithmSpec(LARGEST_HALF, averaging_rate=0.1, training_rounds=1, gossip_rounds=1)
    learner = VectorLearner(spec, LAYOUT, spec.initial(np.ones(4, np.float32)), 7, "n0")
    assert learner.snapshot(0) is learner.state  # a local step is next
    assert learner.snapshot(2) is learner.state  # the run is over
    taken, model = learner.snapshot(1), learner.look(1)
    learner.state.x[:] = 2
    assert taken.x.tolist() == model.read().tolist() == [1, 1, 1, 1]
    room = np.empty(4, np.float32)
    assert learner.look(0).read(room) is room and room.tolist() == [2, 2, 2, 2]


def test_learner_restored_from_a_snapshot_is_identical() -> None:
    learner = a_learner()
    learner.compress_update(0, ONES)
    learner.mix_round(0.5, [])
    again = VectorLearner(learner.algorithm_spec, LAYOUT, learner.state.copy(), seed=7, node="n0")
    assert learner.compress_update(1, None) == again.compress_update(1, None)


def test_learner_refuses_numbers_that_no_node_sends() -> None:
    """One push of them would end the training of its receiver as diverged."""
    learner = a_learner()
    values = np.array([1, 2e16, 3, 4], dtype=np.float32)
    payload = Payload(np.array([4]), None, as_float32(values, np.array([4]), np.random.default_rng(0)))
    with pytest.raises(RemoteProtocolError, match=r"a number of 2e\+16 in round 0"):
        learner.read(0, 1.0, (1.0,), codec.encode(payload, learner.layout))


@pytest.mark.parametrize(("size", "blocks"), [(0, 1), (7, 1), (7, 3), (7, 7), (5, 9), (200_000, 3), (200_000, 7919)])
def test_debias_divides_each_entry_by_the_u_of_its_block(size: int, blocks: int) -> None:
    rng = np.random.default_rng(size)
    u = rng.uniform(0.5, 2, blocks)
    state = State.of({"x": rng.standard_normal(size).astype(np.float32)}, u)
    expected = state.x / np.repeat(u.astype(np.float32), np.diff(block_bounds(size, blocks)))
    assert np.array_equal(debias(state), expected)
    out = np.empty_like(state.x)
    assert debias(state, out=out) is out
    assert np.array_equal(out, expected)


@st.composite
def local_steps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """x, error and u of a node, the model after a step, and the weight of the step. Vectors have one to three parts."""
    size = draw(st.sampled_from([1, 7, 65_535, 65_536, 65_537, 150_000]))
    blocks = draw(st.sampled_from([1, 2, 3, 100, 7919]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x, error, trained = rng.standard_normal((3, size)).astype(np.float32)
    u = rng.uniform(0.3, 3, blocks) if draw(st.booleans()) else np.full(blocks, draw(st.sampled_from([1.0, 0.7])))
    return x, error, u, trained, draw(st.sampled_from([1.0, 0.37, 2.5]))


@settings(max_examples=40, deadline=None)
@given(local_steps(), st.booleans(), st.sampled_from([SPARSE_PUSH, NOLOCO]), st.booleans())
def test_update_part_by_part_is_lines_4_to_6_to_the_bit(
    step: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float], lossy: bool, rule: UpdateRule, staged: bool
) -> None:
    x, error, u, trained, weight = step
    layout = Layout((len(x),))
    compressor = Compressor(TopK(0.1) if lossy else keep_all, as_float32)
    state = State.of({"x": x.copy(), **({"error": error.copy()} if lossy else {})}, u.copy())
    state.kept = {name: np.zeros_like(x) for name in rule.keeps if name != "error"}
    learner = VectorLearner(AlgorithmSpec(compressor, 0.5, 4, rule=rule), layout, state, 0, "n0", weight)
    room = np.empty_like(x) if staged else None  # the trainer's memory
    z = learner.start().read(room).copy()
    if room is not None:
        room[:] = trained
    data, _ = learner.compress_update(0, LocalUpdate(trained if room is None else room))

    assert np.array_equal(z, x / np.repeat(u.astype(np.float32), np.diff(block_bounds(len(x), len(u)))))
    half = x + (trained - z) * np.float32(weight)  # line 4
    if rule is SPARSE_PUSH and weight == 1 and (u.astype(np.float32) == 1).all():
        half = trained  # the same without its rounding: z is x
    corrected = half + error if lossy else half  # line 5
    sent = compressor(corrected, layout, RNG)
    assert data == codec.encode(sent, layout)
    assert np.array_equal(learner.state.x, half)
    assert not lossy or np.array_equal(learner.state.error, corrected - sent.dense(len(x)))  # line 6


def test_differences_that_are_known_are_only_weighted() -> None:
    state, steps = a_state(u=0.5), floats(1, 2, 3, -4)
    for weight in (1.0, 0.5):
        ((where, part),) = differences(state, LocalUpdate(steps, is_difference=True), weight=weight)
        assert where == slice(0, 4)
        assert part.tolist() == [weight * number for number in steps.tolist()]
    assert steps.tolist() == [1, 2, 3, -4]


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_z_is_read_when_the_step_begins_where_it_is_wanted(weight: float) -> None:
    learner, wanted = a_learner(weight=weight), floats(0, 0, 0, 0)
    start = learner.start()
    learner.state.x += 1
    assert start.read(wanted) is wanted
    assert wanted.tolist() == [2, 3, 4, 5]
    wanted += 1  # the trainer's steps
    assert start.read() is wanted
    assert wanted.tolist() == [3, 4, 5, 6]
    assert learner.model().tolist() == ([3, 4, 5, 6] if weight == 1 else [2, 3, 4, 5])


def test_x_is_what_is_trained_while_it_is_the_model() -> None:
    learner, room = a_learner(training_rounds=3), floats(0, 0, 0, 0)
    for t in range(2):
        assert learner.start().read(room) is room is learner.state.x
        room += 1
        data, u = learner.compress_update(t, LocalUpdate(room))
        learner.mix_round(0.5, [learner.read(t, 0.5, u, data)])
        assert learner.look(t + 1).read(room) is room is learner.state.x
    with pytest.raises(LocalProtocolError, match="while x is trained"):
        learner.start().read(room)
        learner.undo_push(1, 0.5)


def test_x_leaves_the_memory_of_the_trainer_with_another_u_than_1() -> None:
    learner, room = a_learner(), floats(0, 0, 0, 0)
    learner.start().read(room)
    learner.compress_update(0, LocalUpdate(room))
    learner.mix_round(0.5, [])
    assert learner.u != 1 and learner.state.x is not room
    x = learner.state.x.copy()
    assert np.array_equal(learner.start().read(room), x / np.float32(learner.u))
    assert np.array_equal(learner.state.x, x)
    undone = a_learner()
    undone.compress_update(0, None)
    undone.mix_round(0.5, [])
    undone.state.u[:] = 1
    undone.start().read(room)
    undone.compress_update(1, LocalUpdate(room))
    assert undone.state.x is room
    undone.undo_push(0, 0.5)
    assert undone.u != 1 and undone.state.x is not room


def test_x_leaves_the_memory_of_the_trainer_in_the_last_phase() -> None:
    """A model of an earlier round may still be evaluated there."""
    learner, room = a_learner(training_rounds=1, gossip_rounds=2), floats(0, 0, 0, 0)
    learner.start().read(room)
    learner.compress_update(0, LocalUpdate(room))
    assert learner.state.x is room
    learner.compress_update(1, None)
    assert learner.state.x is not room and np.array_equal(learner.state.x, room)


def test_push_undone_during_a_step_leaves_what_the_step_changed() -> None:
    """The step began before, so its difference is that from the z of then."""
    learner = a_learner(training_rounds=3)
    learner.compress_update(0, ONES)
    learner.mix_round(0.5, [])
    z = learner.start().read()
    learner.undo_push(0, 0.5)
    x = learner.state.x.copy()
    assert not np.array_equal(learner.model(), z)
    learner.compress_update(1, LocalUpdate(z + floats(1, 0, 0, 0)))
    assert np.array_equal(learner.state.x, x + ((z + floats(1, 0, 0, 0)) - z))
