"""Learners whose mass can be followed, and the one that is the real algorithm on small vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import Learner, SparsePush
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.messages import Message

Arrays = Mapping[str, NDArray[Any]]
Mass = NDArray[Any]  # x and, last, the u of each block: float64, or exact


class Weighed(Learner[Any], Protocol):
    """A learner whose mass can be followed.

    Attributes:
        tolerance: how far sums may be off, relative; 0 where they are exact.
    """

    tolerance: float

    @property
    def blocks(self) -> int:
        """How many u's there are."""
        ...

    @property
    def halves(self) -> dict[int, Mass]:
        """The mass right after each round was emitted."""
        ...

    def mass(self) -> Mass:
        """x and u of this node."""
        ...

    def share(self, message: Message) -> Mass:
        """What a message adds to its receiver's mass when it is mixed: eta * weight * (C[v], u)."""
        ...

    def pack(self, state: State) -> Arrays:
        """A snapshot as arrays of plain numbers, for a checkpoint."""
        ...

    def unpacked(self, arrays: Arrays) -> Weighed:
        """A learner of this kind that goes on from a checkpoint."""
        ...


class Vector(SparsePush):
    """The real algorithm on a small vector."""

    tolerance = 1e-3

    def __init__(self, algorithm_spec: AlgorithmSpec, layout: Layout, state: State, seed: int, node: str) -> None:
        super().__init__(algorithm_spec, layout, state, seed, node)
        self._origin = seed, node
        self.halves: dict[int, Mass] = {}

    def emit(
        self, t: int, local_update: NDArray[np.float32] | None, whole: bool = False
    ) -> tuple[bytes, tuple[float, ...]]:
        emitted = super().emit(t, local_update, whole)
        self.halves[t] = self.mass()
        return emitted

    @property
    def blocks(self) -> int:
        return len(self.state.u)

    def mass(self) -> Mass:
        return np.concatenate([self.state.x.astype(np.float64), self.state.u])

    def share(self, message: Message) -> Mass:
        step, whole = self.algorithm_spec.step(message.round), message.weight == 1.0
        contribution = self.read(message.round, message.weight, message.u, message.payload)
        share = State(np.zeros(self.layout.size, dtype=np.float32), u=np.zeros(len(self.state.u)))
        part = share.part(None if whole else step.block)
        contribution.payload.add_to(part.x, 1.0)
        part.u += contribution.u
        scale = 1.0 if whole else step.averaging_rate * message.weight
        mass: Mass = scale * np.concatenate([share.x.astype(np.float64), share.u])
        return mass

    def pack(self, state: State) -> Arrays:
        return {**state.vectors, "u": state.u}

    def unpacked(self, arrays: Arrays) -> Vector:
        state = State(**{name: value.copy() for name, value in arrays.items() if name in ("u", *self.state.vectors)})
        return Vector(self.algorithm_spec, self.layout, state, *self._origin)
