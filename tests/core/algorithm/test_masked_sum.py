"""Masked exchanges: the sum is that of the integers to the bit, and a sum that is not of all messages is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm.compression import Compressor, Floats, Ints, Layout, keep_all
from edgenode.core.algorithm.masked_sum import FEWEST, MASKED, MaskedSum, Masks, most_nodes, require_complete
from edgenode.core.algorithm.rounding import QUANTISE
from edgenode.core.algorithm.sparse_push import Contribution, Sent, State
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import Diverged, GraphError, LocalProtocolError, SpoiledSum

LAYOUT = Layout((2000, 7))
COMPRESSOR = Compressor(keep_all, QUANTISE["int8"])
RNG = np.random.default_rng(0)
SIZES = [(3, 4), (6, 4), (3, 8), (9, 8)]


def cancelling(n: int, bits: int, seed: int) -> list[Masks]:
    """Masks for each of n nodes that add up to 0."""
    modulus = (1 << bits) - 1
    drawn = np.random.default_rng(seed).integers(0, modulus, (n, LAYOUT.size))
    drawn[-1] = -drawn[:-1].sum(axis=0) % modulus
    return [fixed(mask) for mask in drawn]


def fixed(mask: Ints) -> Masks:
    return lambda t, size, modulus: mask


def started(change: Floats) -> State:
    """A node after local steps that changed the common model by ``change``."""
    state = State.initial(np.linspace(-1, 1, LAYOUT.size, dtype=np.float32), list(MASKED.keeps))
    state.kept["start"][:] = state.x
    state.kept["change"][:] = change
    return state


def changes(n: int, scale: float = 0.02, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(scale=scale, size=(n, LAYOUT.size)).astype(np.float32)


def send(states: Sequence[State], bits: int, masks: Sequence[Masks | None]) -> list[Sent]:
    """The message of each node."""
    sums = [MaskedSum(len(states), bits, mask) for mask in masks]
    payloads = [s.compress(state, COMPRESSOR, LAYOUT, RNG) for s, state in zip(sums, states, strict=True)]
    return [Sent(payload, np.ones(1), 0.7) for payload in payloads]


def mix(state: State, i: int, bits: int, sent: Sequence[Sent]) -> None:
    """Let node i mix its message and those of all others."""
    others = [Contribution(1 / len(sent), np.ones(1), s.payload) for j, s in enumerate(sent) if j != i]
    MaskedSum(len(sent), bits, None).mix(state, sent[i], 1 / len(sent), others)


def exchange(each: Floats, bits: int, masks: Sequence[Masks | None]) -> list[State]:
    states = [started(change) for change in each]
    sent = send(states, bits, masks)
    for i, state in enumerate(states):
        mix(state, i, bits, sent)
    return states


@given(st.sampled_from(SIZES), st.integers(0, 99), st.sampled_from([0.0, 1e-4, 0.02, 3.0]))
def test_sum_is_that_without_masks_to_the_bit(size: tuple[int, int], seed: int, scale: float) -> None:
    n, bits = size
    each = changes(n, scale, seed)
    hidden = exchange(each, bits, cancelling(n, bits, seed))
    plain = exchange(each, bits, [None] * n)
    for one, other in zip(hidden, plain, strict=True):
        assert np.array_equal(one.x, other.x)
        assert np.array_equal(one.kept["rest"], other.kept["rest"])
        assert np.array_equal(one.x, hidden[0].x)


@given(st.sampled_from(SIZES), st.integers(0, 99), st.sampled_from([0.001, 0.02, 3.0]))
def test_what_is_applied_and_what_is_kept_are_all_changes(size: tuple[int, int], seed: int, scale: float) -> None:
    """Also of changes that are far beyond the levels."""
    n, bits = size
    each = changes(n, scale, seed)
    states = exchange(each, bits, cancelling(n, bits, seed))
    applied = states[0].kept["change"]
    kept = np.mean([state.kept["rest"] for state in states], axis=0)
    assert np.abs(applied + kept - each.mean(axis=0)).max() < 1e-5 * scale


@pytest.mark.parametrize(("n", "bits"), [(n, bits) for bits in (4, 8) for n in (FEWEST, 4, most_nodes(bits))])
def test_no_sum_of_honest_messages_reaches_the_outermost_values(n: int, bits: int) -> None:
    """All at the largest level are within. So a sum outside tells of masks that do not cancel."""
    levels = MaskedSum(n, bits, None).levels
    assert 1 <= n * levels < ((1 << bits) - 1) // 2
    states = exchange(np.full((n, LAYOUT.size), 1e3, np.float32), bits, cancelling(n, bits, 0))
    assert np.isfinite(states[0].x).all()


@given(st.sampled_from(SIZES), st.integers(0, 99))
def test_wrong_masks_of_one_member_are_found_by_all(size: tuple[int, int], seed: int) -> None:
    n, bits = size
    masks = cancelling(n, bits, seed)
    masks[seed % n] = cancelling(n, bits, seed + 1)[0]
    states = [started(change) for change in changes(n)]
    sent = send(states, bits, masks)
    for i, state in enumerate(states):
        with pytest.raises(SpoiledSum, match="the masks of the messages do not cancel"):
            mix(state, i, bits, sent)


def test_message_with_other_steps_is_refused() -> None:
    states = [started(change) for change in changes(4)]
    states[2].kept["start"][:] = 0.01  # the model that the others do not have
    sent = send(states, 8, cancelling(4, 8, 0))
    for i, state in enumerate(states):
        with pytest.raises(SpoiledSum, match="other steps, or another format"):
            mix(state, i, 8, sent)


def test_message_of_another_format_is_refused() -> None:
    states = [started(change) for change in changes(4)]
    sent = send(states, 8, cancelling(4, 8, 0))
    sent[3] = Sent(COMPRESSOR(changes(1)[0], LAYOUT, RNG), np.ones(1), 0.7)
    with pytest.raises(SpoiledSum, match="other steps, or another format"):
        mix(states[0], 0, 8, sent)


def test_exchange_without_a_member_is_refused() -> None:
    own, state = MaskedSum(4, 8, None), started(changes(1)[0])
    sent = Sent(own.compress(state, COMPRESSOR, LAYOUT, RNG), np.ones(1), 0.7)
    with pytest.raises(LocalProtocolError, match="1 messages of 4 nodes: the masks do not cancel"):
        own.mix(state, sent, 0.25, ())


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e16])
def test_change_that_is_not_finite_is_not_sent(number: float) -> None:
    change = changes(1)[0]
    change[3] = number
    with pytest.raises(Diverged, match="a number to send is"):
        MaskedSum(4, 8, None).compress(started(change), COMPRESSOR, LAYOUT, RNG)


def test_tensor_that_stood_still_can_move() -> None:
    """Its last average is zero, and that of the other tensor is not."""
    own, state = MaskedSum(4, 8, None), started(changes(1)[0])
    state.round = 1
    state.kept["last"][: LAYOUT.sizes[0]] = 0.01
    payload = own.compress(state, COMPRESSOR, LAYOUT, RNG)
    assert (payload.values.scales > 0).all()  # type: ignore[operator]
    assert payload.values.codes[LAYOUT.sizes[0] :].any()


def test_model_of_zeros_can_move() -> None:
    state = started(10 * changes(1)[0])
    state.x[:] = state.kept["start"][:] = 0
    sent = MaskedSum(3, 8, None).compress(state, COMPRESSOR, LAYOUT, RNG)
    assert np.abs(sent.numbers + state.kept["rest"] - state.kept["change"]).max() < 1e-6
    assert sent.values.codes.any()


def test_rule_without_masks_sends_nothing() -> None:
    with pytest.raises(LocalProtocolError, match="masked-diloco without masks"):
        MASKED.compress(started(changes(1)[0]), COMPRESSOR, LAYOUT, RNG)


@pytest.mark.parametrize(
    ("graph", "nodes", "why"),
    [("halving", 4, "use complete"), ("a", 3, "use complete"), ("complete", 2, "needs 3 nodes")],
)
def test_graph_on_which_a_node_lacks_a_message_is_refused(graph: str, nodes: int, why: str) -> None:
    members = tuple(f"node-{i}" for i in range(nodes))
    with pytest.raises(GraphError, match=why):
        require_complete(graph, GraphSpec(graph).period(members)[0], 0.7)
