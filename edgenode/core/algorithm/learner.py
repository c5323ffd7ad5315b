"""One node's numbers under one recipe: what the state machine moves without looking inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, TypeVar

import numpy as np

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.compression import Floats, Layout, Payload
from edgenode.core.algorithm.sparse_push import Contribution, State, Weights, debias, drop_error, inherit, take_back
from edgenode.errors import LocalProtocolError, RemoteProtocolError

C = TypeVar("C")


class Learner(Protocol[C]):
    """The algorithm as the protocol sees it; C is a received contribution in the learner's own form."""

    @property
    def rounds(self) -> int:
        """How many rounds the whole run has."""
        ...

    @property
    def u(self) -> float:
        """The push-sum weight; the mean over the blocks where each has its own."""
        ...

    def trains(self, t: int) -> bool:
        """Whether a round begins with a local step."""
        ...

    def model(self) -> Floats:
        """z, a new vector [d]."""
        ...

    def emit(self, t: int, local_update: Floats | None, whole: bool = False) -> tuple[bytes, tuple[float, ...]]:
        """Make the round's message, once for all receivers: the payload, and the u of what it is of.

        ``whole`` is a leaver's last: all of x, uncompressed.
        """
        ...

    def read(self, t: int, weight: float, u: tuple[float, ...], data: bytes) -> C:
        """A contribution from outside, of a round that is not mixed yet. A weight of 1 is a leaver's.

        Raises:
            RemoteProtocolError: the bytes, or the number of u's, are not what is exchanged in that round.
        """
        ...

    def mix(self, self_weight: float, received: Sequence[C]) -> None:
        """Close the round; contributions in sender order."""
        ...

    def take_back(self, t: int, weight: float) -> None:
        """Undo one push of a mixed round that was emitted here."""
        ...

    def forget(self, t: int) -> None:
        """No push of a round before this one will be taken back any more."""
        ...

    def snapshot(self) -> State:
        """A copy of the state between two rounds."""
        ...


@dataclass(frozen=True)
class _Emitted:
    """A message of ours, as long as it may have to be taken back: of which block, with what u, mixed at what rate."""

    payload: Payload
    block: int | None
    u: Weights
    averaging_rate: float


class SparsePush:
    """Any of the algorithms on real vectors: a recipe, and the state that its rule moves.

    The stream of random numbers of a round depends on (seed, node, round) alone, so a resumed run repeats it.
    """

    def __init__(self, algorithm_spec: AlgorithmSpec, layout: Layout, state: State, seed: int, node: str) -> None:
        self.algorithm_spec, self.layout, self.state = algorithm_spec, layout, state
        self._entropy = (seed, int.from_bytes(sha256(node.encode()).digest()[:8]))
        self._emitted: dict[int, _Emitted] = {}
        self._round = -1

    @property
    def rounds(self) -> int:
        return self.algorithm_spec.rounds

    @property
    def u(self) -> float:
        return float(self.state.u.mean())

    def trains(self, t: int) -> bool:
        return self.algorithm_spec.step(t).trains

    def model(self) -> Floats:
        return debias(self.state)

    def emit(self, t: int, local_update: Floats | None, whole: bool = False) -> tuple[bytes, tuple[float, ...]]:
        rule, step = self.algorithm_spec.rule, self.algorithm_spec.step(t)
        if whole and rule.fixed:
            raise LocalProtocolError("the members of this run are fixed: nobody leaves")
        if local_update is not None:
            rule.descend(self.state, local_update)
        if step.forgets or whole:
            drop_error(self.state)
        rng = np.random.default_rng((*self._entropy, t))
        block, compressor = (None, UNCOMPRESSED) if whole else (step.block, step.compressor)
        part, layout = self._replica(block)
        own = rule.emit(part, compressor, layout, rng)
        self._emitted[t] = _Emitted(own, block, part.u.copy(), step.averaging_rate)
        self._round = t
        return codec.encode(own, layout), tuple(part.u.tolist())

    def read(self, t: int, weight: float, u: tuple[float, ...], data: bytes) -> Contribution:
        part, layout = self._replica(None if weight == 1.0 else self.algorithm_spec.step(t).block)
        if len(u) != len(part.u):
            raise RemoteProtocolError(f"{len(u)} push-sum weights in round {t}, expected {len(part.u)}")
        return Contribution(weight, np.array(u), codec.decode(data, layout))

    def _replica(self, block: int | None) -> tuple[State, Layout]:
        return self.state.part(block), self.layout.part(block, len(self.state.u))

    def mix(self, self_weight: float, received: Sequence[Contribution]) -> None:
        if self._round not in self._emitted:
            raise LocalProtocolError("mix before emit")
        own = self._emitted[self._round]
        self._round = -1  # once only; what was emitted stays, to be taken back
        exchanged = [c for c in received if c.weight != 1.0]
        part = self.state.part(own.block)
        self.algorithm_spec.rule.mix(part, own.payload, own.u, self_weight, exchanged, own.averaging_rate)
        for contribution in received:
            if contribution.weight == 1.0:
                inherit(self.state, contribution)

    def take_back(self, t: int, weight: float) -> None:
        if self.algorithm_spec.rule.fixed:
            raise LocalProtocolError("the members of this run are fixed: no push is taken back")
        own = self._emitted[t]
        take_back(self.state.part(own.block), own.payload, own.u, weight, own.averaging_rate)

    def forget(self, t: int) -> None:
        for old in [r for r in self._emitted if r < t]:
            del self._emitted[old]

    def snapshot(self) -> State:
        return self.state.copy()
