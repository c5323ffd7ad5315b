"""What a neighbour and the controller see of a run.

A neighbour reads every push, and knows the code, run.toml and the common initial model. It keeps a copy of the sender's
model, as good as the pushes allow:

1. Rolling blocks and whole models say what their coordinates are. A copy keeps the newest.
2. Top-k sends a coordinate with all that was left out since it was sent last: about its value, times the rounds since.
3. An exchange of DiLoCo sends what the local steps changed. The model they began with is common to all nodes. Later
   rounds of an exchange send means of several nodes, which a copy leaves out.
4. A copy adds messages of masked DiLoCo to the initial model. With the common one it would know what averages tell, and
   less of it than a copy that is the average.

The controller sees reports: the loss of the last local step, and a sketch of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.masked_sum import MASKED
from edgenode.core.protocol.events import Finish, Mixed, NodeAction, Push
from edgenode.core.protocol.messages import Message
from edgenode.node.replica import Replica
from edgenode.observability.model_sketch import Sketch

Measure = Callable[[str, Floats], NDArray[np.float64]]
"""What an attacker computes of the copy of a sender's model."""


class ModelCopy:
    """A neighbour's copy of one sender's model, after the pushes that it has received.

    Args:
        averages: it is the newest common model of an exchange, and uses no push.
    """

    def __init__(self, algorithm_spec: AlgorithmSpec, initial: Floats, averages: bool = False) -> None:
        self._averages = averages
        self._algorithm_spec, self._state = algorithm_spec, algorithm_spec.initial(initial)
        self.z = self._state.x
        self._base = initial.copy() if algorithm_spec.rule is MASKED else None
        self._sent = np.full(len(initial), -1)  # the newest round in which a coordinate was sent

    def receive(self, message: Message, learner: VectorLearner) -> None:
        """Take in a push of the training rounds. Of the learner, it uses what every member knows."""
        t, state = message.round, learner.state
        payload = learner.read(t, message.weight, message.u, message.payload).payload
        if (start := state.kept.get("start")) is not None:
            if self._algorithm_spec.step(t).trains:
                self.z[:] = start if self._averages or self._base is None else self._base
                if not self._averages:
                    payload.add_to(self.z, 1.0)
            return
        block = self._algorithm_spec.step(t).block
        part = self._state.part(block).x
        if payload.indices is None:
            part[:] = payload.numbers / np.float32(message.u[0])
            return
        rounds = t - self._sent[payload.indices]
        part[payload.indices] = payload.numbers / (message.u[0] * rounds)
        self._sent[payload.indices] = t


class Transcript:
    """Records a simulation: what holders of the pushes, of the reports and of the final models see.

    Args:
        moments: the rounds after which copies and reports are recorded.
        measure: called with each sender's copy at each moment, and with each node's final model.
        averages: copies use the common models of exchanges, and no push.

    Attributes:
        copies: by sender, one result of ``measure`` per moment.
        losses: by node, the loss of its last local step at each moment.
        sketches: by node, the sketch of its model at the last moment.
        final: by node, the result of ``measure`` for its final model.
        first: by sender, its copy after its first push, minus the initial model.
    """

    def __init__(
        self,
        algorithm_spec: AlgorithmSpec,
        initial: Floats,
        moments: list[int],
        seed: int,
        measure: Measure,
        averages: bool = False,
    ) -> None:
        self._algorithm_spec, self._initial, self._moments = algorithm_spec, initial, moments
        self._averages = averages
        self._measure, self._sketch = measure, Sketch(len(initial), seed)
        self._copies: dict[str, ModelCopy] = {}
        self._rounds: dict[str, int] = {}  # of each sender's newest push that was read
        self.copies: dict[str, list[NDArray[np.float64]]] = {}
        self.losses: dict[str, list[float]] = {}
        self.sketches: dict[str, list[float]] = {}
        self.final: dict[str, NDArray[np.float64]] = {}
        self.first: dict[str, Floats] = {}

    def observe(self, name: str, replica: Replica, action: NodeAction) -> None:
        """See an action of a node before it is performed."""
        match action:
            case Push(_, message) if message.round < self._algorithm_spec.training_rounds:
                self._push(name, replica, message)
            case Mixed(t) if t + 1 in self._moments:
                self._moment(name, replica, t + 1)
            case Finish(_, z):
                self.final[name] = self._measure(name, z.read())

    def _push(self, name: str, replica: Replica, message: Message) -> None:
        if self._rounds.get(name, -1) >= message.round:
            return  # the same payload goes to every receiver
        self._rounds[name] = message.round
        copy = self._copies.setdefault(name, ModelCopy(self._algorithm_spec, self._initial, self._averages))
        copy.receive(message, replica.learner)
        self.first.setdefault(name, copy.z - self._initial)

    def _moment(self, name: str, replica: Replica, t: int) -> None:
        self.copies.setdefault(name, []).append(self._measure(name, self._copies[name].z))
        self.losses.setdefault(name, []).append(replica.stats.loss or 0.0)
        if t == self._moments[-1]:
            self.sketches[name] = self._sketch.of(replica.learner.model())
