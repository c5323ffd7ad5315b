"""Learners whose mass can be tracked, and the real algorithm on small vectors as one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import Learner, VectorLearner
from edgenode.core.algorithm.sparse_push import Contribution, LocalUpdate, State
from edgenode.core.protocol.messages import Message
from edgenode.core.topology.allreduce import Transfer

Arrays = Mapping[str, NDArray[Any]]
Mass = NDArray[Any]  # x, then the u of each block: float64, or exact fractions


# After ("half", t) the update of round t is compressed (Algorithm 1, line 6). After ("mixed", t) all rounds before t
# are mixed. In the order in which they were taken.
Steps = dict[tuple[Literal["half", "mixed"], int], Mass]


def undo_since(steps: Steps, t: int, share: Mass) -> None:
    """A push of round t is undone: its share did not leave."""
    taken = list(steps)
    for step in taken[taken.index(("half", t)) + 1 :]:
        steps[step] = steps[step] + share


class TrackedLearner(Learner[Any], Protocol):
    """A learner whose mass can be tracked.

    Attributes:
        tolerance: how far sums may be off, relative; 0 where they are exact.
    """

    tolerance: float

    @property
    def blocks(self) -> int:
        """The number of push-sum weights."""
        ...

    @property
    def steps(self) -> Steps:
        """The mass after each step, as it would be without the pushes that were undone since.

        The steps of an allreduce change no mass.
        """
        ...

    def mass(self) -> Mass:
        """x and u of this node."""
        ...

    def gains(self, local_update: NDArray[Any]) -> Mass:
        """What a local update adds to the mass."""
        ...

    def share(self, message: Message) -> Mass:
        """What a message adds to its receiver's mass when it is mixed: eta * weight * (C[v], u)."""
        ...

    def pack(self, state: State) -> Arrays:
        """A snapshot as arrays of plain numbers, for a checkpoint."""
        ...

    def unpacked(self, arrays: Arrays) -> TrackedLearner:
        """A learner of this kind that continues from a checkpoint."""
        ...


class TrackedVectorLearner(VectorLearner):
    """The real algorithm on a small vector."""

    tolerance = 1e-3

    def __init__(self, algorithm_spec: AlgorithmSpec, layout: Layout, state: State, seed: int, node: str) -> None:
        super().__init__(algorithm_spec, layout, state, seed, node)
        self._origin = seed, node
        self.steps: Steps = {}

    def start(self) -> Any:
        """z itself, as ``ExactLearner`` does it."""
        return self.model()

    def look(self, t: int) -> Any:
        return self.model()

    def compress_update(
        self, t: int, local_update: NDArray[np.float32] | None, handoff: bool = False, transfer: Transfer | None = None
    ) -> tuple[bytes, tuple[float, ...]]:
        update = None if local_update is None else LocalUpdate(local_update, is_difference=True)
        message = super().compress_update(t, update, handoff, transfer)
        self.steps["half", t] = self.mass()
        return message

    def mix_round(self, self_weight: float, received: Sequence[Contribution], place: int = 0) -> None:
        mixed = self._unmixed[0] + 1
        super().mix_round(self_weight, received, place)
        self.steps["mixed", mixed] = self.mass()

    def undo_push(self, t: int, weight: float) -> None:
        before = self.mass()
        super().undo_push(t, weight)
        undo_since(self.steps, t, self.mass() - before)

    @property
    def blocks(self) -> int:
        return len(self.state.u)

    def mass(self) -> Mass:
        return np.concatenate([self.state.x.astype(np.float64), self.state.u])

    def gains(self, local_update: NDArray[Any]) -> Mass:
        return np.append(local_update, [0] * self.blocks)

    def share(self, message: Message) -> Mass:
        step, handoff = self.algorithm_spec.step(message.round), message.weight == 1.0
        contribution = self.read(message.round, message.weight, message.u, message.payload)
        share = State(np.zeros(self.layout.size, dtype=np.float32), u=np.zeros(len(self.state.u)))
        part = share.part(None if handoff else step.block)
        contribution.payload.add_to(part.x, 1.0)
        part.u += contribution.u
        scale = 1.0 if handoff else step.averaging_rate * message.weight
        mass: Mass = scale * np.concatenate([share.x.astype(np.float64), share.u])
        return mass

    def pack(self, state: State) -> Arrays:
        return {**state.copy().vectors, "u": state.u.copy()}

    def unpacked(self, arrays: Arrays) -> TrackedVectorLearner:
        state = State.of({name: arrays[name].copy() for name in self.state.vectors}, arrays["u"].copy())
        return TrackedVectorLearner(self.algorithm_spec, self.layout, state, *self._origin)
