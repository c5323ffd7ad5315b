"""A member pushes one thing to one neighbour and another thing to the others. Each push is valid by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgenode.config.load import load
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Payload, Values
from edgenode.core.protocol.events import NodeAction, Push
from edgenode.core.protocol.messages import Message
from edgenode.node.replica import Replica
from edgenode.simulate.simulation import Simulation

FIRST = 60
SETTINGS = {
    "run.rounds": 120, "run.threads": 1, "run.evaluate_every": 20, "run.on_poison": "evict",
    "topology.graphs": ["complete"],
}  # fmt: skip


class Equivocation(Simulation):
    """A run in which node-3 equivocates: node-0 gets x and u times a factor, and the others x times minus that."""

    factor = (1.0, 1.0)

    def _perform(self, name: str, replica: Replica, action: NodeAction) -> None:
        if isinstance(action, Push) and name == "node-3" and FIRST <= action.message.round < 120:
            action = Push(action.to, self._told(action.to, action.message, replica))
        super()._perform(name, replica, action)

    def _told(self, to: str, message: Message, replica: Replica) -> Message:
        x, u = self.factor
        payload, sign = replica.learner.own_push.payload, 1 if to == "node-0" else -1
        numbers = Values((sign * x * payload.numbers).astype(np.float32))
        data = codec.encode(Payload(payload.counts, payload.indices, numbers), replica.layout)
        return replace(message, payload=data, u=(u**sign,))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [(3.8, 1.0), (1.0, 2.0), (30.0, 1.0)], ids=str)
def test_equivocation_puts_no_blame_on_others(factor: tuple[float, float]) -> None:
    simulation = Equivocation(load(None, SETTINGS, environ={}))
    simulation.factor = factor
    result = simulation.run()
    named = {accusation.member for _, accusation in simulation.alarms}
    assert named == ({"node-3"} if factor[0] > 4 else set())
    assert len({node["test_accuracy"] for node in result["nodes"]}) == 1
    assert result["nodes"][0]["test_accuracy"] > 0.7
