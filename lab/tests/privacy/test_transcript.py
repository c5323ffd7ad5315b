"""A neighbour's copy of a model, from pushes alone."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.plan.record import Member
from edgenode.node.mask_key import MaskKey
from edgenode_lab.privacy.transcript import ModelCopy

_SIZE, _ROUNDS = 300, 120


@pytest.mark.parametrize("compressor", ["topk", "rolling", "identity"])
def test_copy_of_a_model_that_stays_is_the_model(compressor: str) -> None:
    """The attacker begins with another model. Top-k sends a coordinate times the rounds since it was sent last."""
    sent = {"algorithm.compressor": compressor, "algorithm.values": "float32"}
    sent |= {"algorithm.share": 0.1} if compressor != "identity" else {}
    spec = factory.algorithm_spec(
        load(None, {"run.nodes": 4, "run.rounds": _ROUNDS, "algorithm.name": "sp", **sent}, {})
    )
    x = np.random.default_rng(0).uniform(0.5, 1.5, _SIZE).astype(np.float32)
    learner = VectorLearner(spec, Layout((_SIZE,)), spec.initial(x), 0, "node-0")
    copy = ModelCopy(spec, np.zeros(_SIZE, np.float32))
    for t in range(_ROUNDS):
        payload, u = learner.compress_update(t, LocalUpdate(np.zeros(_SIZE, np.float32), is_difference=True))
        copy.receive(Message("node-0", 1, t, 0, "", 0.5, u, payload), learner)
        learner.mix_round(1.0, [])
    assert np.allclose(copy.z, x, rtol=1e-4)


def test_copy_leaves_out_the_means_that_end_an_exchange() -> None:
    """With 4 nodes, an exchange over `halving` takes two rounds. The second message is of a pair: here, it is 0."""
    keys = {"run.nodes": 4, "run.rounds": 2, "algorithm.name": "diloco", "topology.graphs": ["halving"]}
    spec = factory.algorithm_spec(load(None, keys, {}))
    learner = VectorLearner(spec, Layout((_SIZE,)), spec.initial(np.ones(_SIZE, np.float32)), 0, "node-0")
    copy = ModelCopy(spec, np.zeros(_SIZE, np.float32))
    partner = VectorLearner(spec, Layout((_SIZE,)), spec.initial(np.ones(_SIZE, np.float32)), 0, "node-1")
    for t in range(2):
        changes = (0.5, -0.5) if t == 0 else (None, None)
        updates = [c and LocalUpdate(np.full(_SIZE, c, np.float32), is_difference=True) for c in changes]
        (payload, u), theirs = learner.compress_update(t, updates[0]), partner.compress_update(t, updates[1])
        copy.receive(Message("node-0", 1, t, 0, "", 0.5, u, payload), learner)
        received = learner.read(t, 0.5, theirs[1], theirs[0]), partner.read(t, 0.5, u, payload)
        learner.mix_round(0.5, received[:1])
        partner.mix_round(0.5, received[1:])
    assert np.allclose(copy.z, 1.5, rtol=0.02)


def test_copy_of_masked_messages_knows_no_average() -> None:
    names = ("a", "b", "c")
    keys = {"run.nodes": 3, "algorithm.name": "masked-diloco", "topology.graphs": ["complete"]}
    spec, own = factory.algorithm_spec(load(None, keys, {})), {name: MaskKey() for name in names}
    members = [Member(name, mask_key=key.public) for name, key in own.items()]
    learner = VectorLearner(own["a"].hide(spec, "a", members), Layout((_SIZE,)), spec.initial(np.ones(_SIZE)), 0, "a")
    copy = ModelCopy(spec, np.zeros(_SIZE, np.float32))
    learner.state.kept["start"][:] = 5
    payload, u = learner.compress_update(0, LocalUpdate(np.zeros(_SIZE, np.float32), is_difference=True))
    copy.receive(Message("a", 1, 0, 0, "", 1 / 3, u, payload), learner)
    assert np.array_equal(copy.z, learner.own_push.payload.numbers)
    assert copy.z.std() > 0


@pytest.mark.parametrize("averages", [False, True])
def test_copy_of_averages_uses_no_push(averages: bool) -> None:
    keys = {"run.nodes": 4, "run.rounds": 2, "algorithm.name": "diloco", "topology.graphs": ["complete"]}
    spec = factory.algorithm_spec(load(None, keys, {}))
    x = np.ones(_SIZE, np.float32)
    learner = VectorLearner(spec, Layout((_SIZE,)), spec.initial(x), 0, "node-0")
    copy = ModelCopy(spec, np.zeros(_SIZE, np.float32), averages)
    payload, u = learner.compress_update(0, LocalUpdate(np.full(_SIZE, 0.5, np.float32), is_difference=True))
    copy.receive(Message("node-0", 1, 0, 0, "", 0.25, u, payload), learner)
    assert np.allclose(copy.z, x if averages else x + 0.5, rtol=0.02)
