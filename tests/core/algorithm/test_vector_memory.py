"""The memory that a round and the last phase take for a while, in models. numpy's arrays are counted."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import pytest

from edgenode.core.topology.allreduce import Transfer
from tests.core.algorithm.test_sent_messages import SENT_WHOLE, SIZE, learner_of

T = TypeVar("T")


def peak_of(work: Callable[[], T]) -> tuple[T, float]:
    """The result, and the most memory at once beyond that of before, in models."""
    tracemalloc.start()
    result = work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return result, peak / (4 * SIZE)


@pytest.mark.parametrize(
    ("values", "compressed", "decoded"),
    [("float32", 2.1, 0.3), ("int4", 2.9, 2.4), ("coded3", 2.9, 2.4), ("fitted2", 3.3, 2.4), ("fitted1", 3.3, 2.4)],
)
def test_whole_models_are_rounded_and_encoded_in_chunks(values: str, compressed: float, decoded: float) -> None:
    """The vector is small, so each chunk is a third of it. A copy, the codes and their numbers have to be there."""
    learner = learner_of({"algorithm.name": "sp", "algorithm.values": values, **SENT_WHOLE})
    (data, u), peak = peak_of(lambda: learner.compress_update(0, None))
    assert peak <= compressed
    _, peak = peak_of(lambda: learner.read(0, 0.5, u, data))
    assert peak <= decoded


def test_last_phase_takes_the_sums_and_half_models_for_a_message() -> None:
    """One of two nodes, which takes its own message as that of the other."""
    reduce, t = Transfer(parts=2, first=0, count=1, reduces=True, begins=True), SIZE
    learner_of({"algorithm.name": "scsp"}).compress_update(t, None, transfer=reduce)  # imports what it needs
    learner = learner_of({"algorithm.name": "scsp"})
    saved, peak = peak_of(lambda: learner.snapshot(t))
    assert peak <= 0.1 and saved.x is learner.state.x
    (data, u), peak = peak_of(lambda: learner.compress_update(t, None, transfer=reduce))
    assert peak <= 1.6
    contribution, peak = peak_of(lambda: learner.read(t, 0.5, u, data, reduce))
    assert peak <= 0.3
    _, peak = peak_of(lambda: learner.mix_round(0.5, [contribution]))
    assert peak <= 0.8  # of which each chunk is a third
