"""One node's numbers under one recipe: what the state machine moves without looking inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Protocol, TypeVar

import numpy as np

from edgenode.core import codec
from edgenode.core.compress import Floats, Layout, Payload
from edgenode.core.recipe import UNCOMPRESSED, Recipe
from edgenode.core.sparse_push import Contribution, State, debias, drop_error, emit, mix, take_back
from edgenode.errors import LocalProtocolError

C = TypeVar("C")


class Learner(Protocol[C]):
    """The algorithm as the protocol sees it; C is a received contribution in the learner's own form."""

    @property
    def rounds(self) -> int:
        """How many rounds the whole run has."""
        ...

    @property
    def u(self) -> float:
        """The push-sum weight."""
        ...

    def trains(self, round: int) -> bool:
        """Whether a round begins with a local step."""
        ...

    def model(self) -> Floats:
        """z, a new vector [d]."""
        ...

    def emit(self, round: int, displacement: Floats | None, whole: bool = False) -> bytes:
        """Make the round's message, once for all receivers; ``whole`` is a leaver's last: all of x, uncompressed."""
        ...

    def read(self, weight: float, u: float, data: bytes) -> C:
        """A contribution from outside.

        Raises:
            RemoteProtocolError: the bytes are no payload of this model.
        """
        ...

    def mix(self, self_weight: float, received: Sequence[C]) -> None:
        """Close the round; contributions in sender order."""
        ...

    def take_back(self, round: int, weight: float) -> None:
        """Undo one push of a mixed round that was emitted here."""
        ...

    def forget(self, round: int) -> None:
        """No push of a round before this one will be taken back any more."""
        ...

    def snapshot(self) -> State:
        """A copy of the state between two rounds."""
        ...


class SparsePush:
    """SP or SCSP on real vectors.

    The stream of random numbers of a round depends on (seed, node, round) alone, so a resumed run repeats it.
    """

    def __init__(self, recipe: Recipe, layout: Layout, state: State, seed: int, node: str) -> None:
        self.recipe, self.layout, self.state = recipe, layout, state
        self._entropy = (seed, int.from_bytes(sha256(node.encode()).digest()[:8]))
        self._emitted: dict[int, tuple[Payload, float, float]] = {}  # round -> payload, u, averaging rate
        self._round = -1

    @property
    def rounds(self) -> int:
        return self.recipe.rounds

    @property
    def u(self) -> float:
        return self.state.u

    def trains(self, round: int) -> bool:
        return self.recipe.step(round).trains

    def model(self) -> Floats:
        return debias(self.state)

    def emit(self, round: int, displacement: Floats | None, whole: bool = False) -> bytes:
        step = self.recipe.step(round)
        if step.forgets or whole:
            drop_error(self.state)
        rng = np.random.default_rng((*self._entropy, round))
        compressor = UNCOMPRESSED if whole else step.compressor
        own = emit(self.state, displacement, compressor, self.layout, rng)
        self._emitted[round] = own, self.state.u, step.averaging_rate
        self._round = round
        return codec.encode(own, self.layout)

    def read(self, weight: float, u: float, data: bytes) -> Contribution:
        return Contribution(weight, u, codec.decode(data, self.layout))

    def mix(self, self_weight: float, received: Sequence[Contribution]) -> None:
        if self._round not in self._emitted:
            raise LocalProtocolError("mix before emit")
        own, _, averaging_rate = self._emitted[self._round]
        self._round = -1  # once only; what was emitted stays, to be taken back
        mix(self.state, own, self_weight, received, averaging_rate)

    def take_back(self, round: int, weight: float) -> None:
        take_back(self.state, *self._emitted[round][:2], weight, self._emitted[round][2])

    def forget(self, round: int) -> None:
        for old in [r for r in self._emitted if r < round]:
            del self._emitted[old]

    def snapshot(self) -> State:
        return replace(self.state, x=self.state.x.copy(), error=self.state.error.copy())
