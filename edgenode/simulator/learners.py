"""Learners whose mass can be followed: the real algorithm on small vectors, and one in exact fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgenode.core import codec
from edgenode.core.compress import Layout
from edgenode.core.learner import Learner, SparsePush
from edgenode.core.messages import Message
from edgenode.core.recipe import Recipe
from edgenode.core.sparse_push import State
from edgenode.errors import LocalProtocolError

Arrays = Mapping[str, NDArray[Any]]
Mass = NDArray[Any]  # x and, last, u: float64, or Fractions


class Weighed(Learner[Any], Protocol):
    """A learner whose mass can be followed.

    Attributes:
        tolerance: how far sums may be off, relative; 0 where they are exact.
    """

    tolerance: float

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

    def __init__(self, recipe: Recipe, layout: Layout, state: State, seed: int, node: str) -> None:
        super().__init__(recipe, layout, state, seed, node)
        self._origin = seed, node
        self.halves: dict[int, Mass] = {}

    def emit(self, round: int, displacement: NDArray[np.float32] | None, whole: bool = False) -> bytes:
        payload = super().emit(round, displacement, whole)
        self.halves[round] = self.mass()
        return payload

    def mass(self) -> Mass:
        return np.append(self.state.x.astype(np.float64), self.state.u)

    def share(self, message: Message) -> Mass:
        payload = codec.decode(message.payload, self.layout).dense(self.layout.size)
        scale = 1.0 if message.weight == 1.0 else self.recipe.step(message.round).averaging_rate * message.weight
        share: Mass = scale * np.append(payload.astype(np.float64), message.u)
        return share

    def pack(self, state: State) -> Arrays:
        return {"x": state.x, "error": state.error, "u": np.array([state.u])}

    def unpacked(self, arrays: Arrays) -> Vector:
        state = State(arrays["x"].copy(), arrays["error"].copy(), float(arrays["u"][0]))
        return Vector(self.recipe, self.layout, state, *self._origin)


class Ledger:
    """Algorithm 1 on one number, in exact fractions: x and u travel as text, and no mass may ever be missing.

    C rounds down to a multiple of ``grain``, 0 keeping everything; what it holds back is ``error``.
    """

    tolerance = 0.0

    def __init__(self, rounds: int, x: Fraction, eta: Fraction = Fraction(1), grain: Fraction = Fraction(0)) -> None:
        self.rounds, self.eta, self.grain = rounds, eta, grain
        self.x, self.exact_u, self.error = x, Fraction(1), Fraction(0)
        self._emitted: dict[int, tuple[Fraction, Fraction]] = {}
        self._round = -1
        self.halves: dict[int, Mass] = {}

    @property
    def u(self) -> float:
        return float(self.exact_u)

    def trains(self, round: int) -> bool:
        return True

    def model(self) -> NDArray[Any]:
        return np.array([self.x / self.exact_u], dtype=object)

    def emit(self, round: int, displacement: NDArray[Any] | None, whole: bool = False) -> bytes:
        self.x += Fraction(0) if displacement is None else displacement[0]
        if whole:
            self.error = Fraction(0)
        corrected = self.x + self.error
        own = corrected // self.grain * self.grain if self.grain and not whole else corrected
        self.error = corrected - own
        self._emitted[round], self._round = (own, self.exact_u), round
        self.halves[round] = self.mass()
        return f"{own} {self.exact_u}".encode()

    def read(self, weight: float, u: float, data: bytes) -> tuple[Fraction, Fraction]:
        x, exact_u = map(Fraction, data.decode().split())
        scale = Fraction(1) if weight == 1.0 else self.eta * _exact(weight)
        return scale * x, scale * exact_u

    def mix(self, self_weight: float, received: Sequence[tuple[Fraction, Fraction]]) -> None:
        if self._round not in self._emitted:
            raise LocalProtocolError("mix before emit")
        own, own_u = self._emitted[self._round]
        self._round = -1
        given = self.eta * (1 - _exact(self_weight))
        self.x += sum(x for x, _ in received) - given * own
        self.exact_u += sum(u for _, u in received) - given * own_u

    def take_back(self, round: int, weight: float) -> None:
        own, own_u = self._emitted[round]
        self.x += self.eta * _exact(weight) * own
        self.exact_u += self.eta * _exact(weight) * own_u

    def forget(self, round: int) -> None:
        for old in [r for r in self._emitted if r < round]:
            del self._emitted[old]

    def snapshot(self) -> State:
        x, error = (np.array([value], dtype=object) for value in (self.x, self.error))
        return State(x, error, self.exact_u)  # type: ignore[arg-type]  # as exact as the rest

    def pack(self, state: State) -> Arrays:
        text = f"{state.x[0]} {state.u} {state.error[0]}".encode()
        return {"exact": np.frombuffer(text, dtype=np.uint8)}

    def unpacked(self, arrays: Arrays) -> Ledger:
        x, u, error = map(Fraction, arrays["exact"].tobytes().decode().split())
        again = Ledger(self.rounds, x, self.eta, self.grain)
        again.exact_u, again.error = u, error
        return again

    def mass(self) -> Mass:
        return np.array([self.x, self.exact_u], dtype=object)

    def share(self, message: Message) -> Mass:
        share: Mass = np.array(self.read(message.weight, message.u, message.payload), dtype=object)
        return share


def _exact(weight: float) -> Fraction:
    """1 / (out-degree + 1) itself: the float nearest to it would leave a little mass behind every round."""
    return Fraction(weight).limit_denominator(1 << 20)
