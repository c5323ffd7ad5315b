"""What a node keeps of the messages that it has sent."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate

SIZE = 200_000
LAYOUT = Layout((SIZE // 2, SIZE // 4, SIZE // 4))
KEPT_ROUNDS = 8
SENT_WHOLE = {"algorithm.compressor": "identity"}


def learner_of(settings: dict[str, object]) -> VectorLearner:
    settings = {"run.nodes": 2, "topology.graphs": ["complete"], **settings}
    spec = factory.algorithm_spec(load(None, settings, environ={}))
    model = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    return VectorLearner(spec, LAYOUT, spec.initial(model), 0, "n0")


def exchange(learner: VectorLearner, t: int) -> None:
    """One round, whose message is that of the neighbour, too."""
    step = np.random.default_rng(t).normal(size=SIZE).astype(np.float32)
    data, u = learner.compress_update(t, LocalUpdate(step, is_difference=True))
    learner.mix_round(0.5, [learner.read(t, 0.5, u, data)])


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"algorithm.name": "scsp"}, 0.1),
        ({"algorithm.name": "sp", "algorithm.values": "int4", **SENT_WHOLE}, KEPT_ROUNDS * 4 / 32 + 0.1),
        ({"algorithm.name": "diloco", "algorithm.values": "fitted1", **SENT_WHOLE}, 0.01),
    ],
    ids=["top-1%", "4 bits", "cannot be undone"],
)
def test_mixed_messages_take_the_memory_of_their_bytes(settings: dict[str, object], most: float) -> None:
    learner = learner_of(settings)
    exchange(learner, 0)
    tracemalloc.start()
    for t in range(1, 1 + KEPT_ROUNDS):
        exchange(learner, t)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / (4 * SIZE) <= most  # models


@pytest.mark.parametrize("values", ["fitted1", "int4", "bfloat16", "float32"])
def test_mixed_message_is_undone_as_one_that_is_not_mixed(values: str) -> None:
    """A mixed message is there as bytes only."""
    learner = learner_of({"algorithm.name": "sp", "algorithm.values": values, "algorithm.share": 0.1})
    learner.compress_update(0, None)
    own = learner.own_push
    learner.mix_round(1.0, [])
    expected = learner.state.x.copy()
    own.payload.add_to(expected, own.averaging_rate * 0.5)
    learner.undo_push(0, 0.5)
    assert np.array_equal(learner.state.x, expected)
