"""The update rules other than Sparse-Push's, step by step. Numbers are sums of powers of two: no float rounds."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode.core.algorithm.compression import Compressor, Layout, Payload, TopK, as_float32, keep_all
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    Sent,
    State,
    compress_with_feedback,
    descend,
    mix_contributions,
)
from edgenode.core.algorithm.update_rules import DIFFERENCE, SPARSE_PUSH

LAYOUT = Layout((3,))
LARGEST = Compressor(TopK(0.34), as_float32)
RNG = np.random.default_rng(0)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def a_payload(*numbers: float) -> Payload:
    return Compressor(keep_all, as_float32)(floats(*numbers), LAYOUT, RNG)


def test_sparse_push_is_algorithm_1() -> None:
    parts = SPARSE_PUSH.apply_update, SPARSE_PUSH.compress, SPARSE_PUSH.mix
    assert parts == (descend, compress_with_feedback, mix_contributions)
    assert not SPARSE_PUSH.fixed


def test_rules_keep_the_vectors_of_their_papers() -> None:
    assert SPARSE_PUSH.keeps == ("error",)
    assert (DIFFERENCE.keeps, DIFFERENCE.fixed) == (("known", "gathered"), True)


def a_difference_state() -> State:
    return State(floats(8, 2, 1), u=np.array([2.0]), kept={"known": floats(1, 1, 1), "gathered": floats(2, 3, 4)})


def test_largest_difference_is_sent_and_added_to_the_replica() -> None:
    state = a_difference_state()
    payload = DIFFERENCE.compress(state, LARGEST, LAYOUT, RNG)
    assert payload.dense(3).tolist() == [7, 0, 0]
    assert state.kept["known"].tolist() == [8, 1, 1]
    assert state.x.tolist() == [8, 2, 1]


def test_what_was_not_sent_is_part_of_the_next_difference() -> None:
    state = a_difference_state()
    sent = [DIFFERENCE.compress(state, LARGEST, LAYOUT, RNG).dense(3).tolist() for _ in range(2)]
    assert sent == [[7, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_node_moves_towards_the_gathered_replicas(rate: float) -> None:
    state = a_difference_state()
    x = state.x
    received = [
        Contribution(0.25, np.array([4.0]), a_payload(8, 0, 4)),
        Contribution(0.5, np.ones(1), a_payload(0, 2, 2)),
    ]
    DIFFERENCE.mix(state, Sent(a_payload(4, 0, 0), state.u.copy(), rate), 0.25, received)
    gathered = [2 + 1 + 2, 3 + 1, 4 + 1 + 1]
    assert state.x is x
    assert state.kept["gathered"].tolist() == gathered
    assert state.kept["known"].tolist() == [1, 1, 1]
    assert state.x.tolist() == [before + rate * (g - 1) for before, g in zip([8, 2, 1], gathered, strict=True)]
    assert state.u.tolist() == [2 + rate * (0.25 * 4 + 0.5 * 1 - 0.75 * 2)]
