"""Learners whose mass can be followed: the real algorithm on small vectors, and one in exact fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgenode.core.compress import Layout
from edgenode.core.learner import Learner, SparsePush
from edgenode.core.messages import Message
from edgenode.core.recipe import Recipe
from edgenode.core.sparse_push import State
from edgenode.errors import LocalProtocolError

Arrays = Mapping[str, NDArray[Any]]
Mass = NDArray[Any]  # x and, last, the u of each block: float64, or Fractions


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

    def __init__(self, recipe: Recipe, layout: Layout, state: State, seed: int, node: str) -> None:
        super().__init__(recipe, layout, state, seed, node)
        self._origin = seed, node
        self.halves: dict[int, Mass] = {}

    def emit(
        self, round: int, displacement: NDArray[np.float32] | None, whole: bool = False
    ) -> tuple[bytes, tuple[float, ...]]:
        emitted = super().emit(round, displacement, whole)
        self.halves[round] = self.mass()
        return emitted

    @property
    def blocks(self) -> int:
        return len(self.state.u)

    def mass(self) -> Mass:
        return np.concatenate([self.state.x.astype(np.float64), self.state.u])

    def share(self, message: Message) -> Mass:
        step, whole = self.recipe.step(message.round), message.weight == 1.0
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
        return Vector(self.recipe, self.layout, state, *self._origin)


class Ledger:
    """Algorithm 1 on one number per block, in exact fractions: x and u travel as text, and no mass may ever be missing.

    C rounds down to a multiple of ``grain``, 0 keeping everything; what it holds back is ``error``. With more than one
    block it is the rolling exchange.
    """

    tolerance = 0.0

    def __init__(
        self,
        rounds: int,
        x: Fraction | NDArray[Any],
        eta: Fraction = Fraction(1),
        grain: Fraction = Fraction(0),
        blocks: int = 1,
    ) -> None:
        self.rounds, self.eta, self.grain = rounds, eta, grain
        self.x, self.exact_u, self.error = (_exactly(blocks, value) for value in (x, Fraction(1), Fraction(0)))
        self._emitted: dict[int, _Said] = {}
        self._round = -1
        self.halves: dict[int, Mass] = {}

    @property
    def blocks(self) -> int:
        return len(self.x)

    @property
    def u(self) -> float:
        return float(sum(self.exact_u) / self.blocks)

    def trains(self, round: int) -> bool:
        return True

    def model(self) -> NDArray[Any]:
        model: NDArray[Any] = self.x / self.exact_u
        return model

    def emit(
        self, round: int, displacement: NDArray[Any] | None, whole: bool = False
    ) -> tuple[bytes, tuple[float, ...]]:
        if displacement is not None:
            self.x += displacement
        if whole:
            self.error[:] = Fraction(0)
        where = self._where(round, whole)
        corrected = self.x[where] + self.error[where]
        own = corrected // self.grain * self.grain if self.grain and not whole else corrected
        self.error[where] = corrected - own
        said = self._emitted[round] = _Said(where, own, self.exact_u[where].copy())
        self._round = round
        self.halves[round] = self.mass()
        return " ".join(map(str, [*said.x, *said.u])).encode(), tuple(map(float, said.u))

    def _where(self, round: int, whole: bool) -> slice:
        return slice(None) if whole or self.blocks == 1 else slice(round % self.blocks, round % self.blocks + 1)

    def read(self, round: int, weight: float, u: tuple[float, ...], data: bytes) -> _Said:
        numbers = np.array([Fraction(word) for word in data.decode().split()], dtype=object)
        scale = Fraction(1) if weight == 1.0 else self.eta * _exact(weight)
        x, exact_u = scale * numbers.reshape(2, -1)
        return _Said(self._where(round, weight == 1.0), x, exact_u)

    def mix(self, self_weight: float, received: Sequence[_Said]) -> None:
        if self._round not in self._emitted:
            raise LocalProtocolError("mix before emit")
        self._add(self._emitted[self._round], -self.eta * (1 - _exact(self_weight)))
        self._round = -1
        for contribution in received:
            self._add(contribution, Fraction(1))

    def _add(self, said: _Said, scale: Fraction) -> None:
        self.x[said.where] += scale * said.x
        self.exact_u[said.where] += scale * said.u

    def take_back(self, round: int, weight: float) -> None:
        self._add(self._emitted[round], self.eta * _exact(weight))

    def forget(self, round: int) -> None:
        for old in [r for r in self._emitted if r < round]:
            del self._emitted[old]

    def snapshot(self) -> State:
        return State(self.x.copy(), self.error.copy(), self.exact_u.copy())

    def pack(self, state: State) -> Arrays:
        text = " ".join(map(str, [*state.x, *state.u, *state.error])).encode()
        return {"exact": np.frombuffer(text, dtype=np.uint8)}

    def unpacked(self, arrays: Arrays) -> Ledger:
        numbers = np.array([Fraction(word) for word in arrays["exact"].tobytes().decode().split()], dtype=object)
        again = Ledger(self.rounds, Fraction(0), self.eta, self.grain, self.blocks)
        again.x, again.exact_u, again.error = numbers.reshape(3, -1).copy()
        return again

    def mass(self) -> Mass:
        return np.concatenate([self.x, self.exact_u])

    def share(self, message: Message) -> Mass:
        share = Ledger(self.rounds, Fraction(0), blocks=self.blocks)
        share.exact_u[:] = Fraction(0)
        share._add(self.read(message.round, message.weight, message.u, message.payload), Fraction(1))
        return share.mass()


@dataclass(frozen=True)
class _Said:
    """Exact numbers of x and u, and which blocks they are of."""

    where: slice
    x: NDArray[Any]
    u: NDArray[Any]


def _exactly(blocks: int, value: Fraction | NDArray[Any]) -> NDArray[Any]:
    return np.full(blocks, value, dtype=object)


@cache
def _exact(weight: float) -> Fraction:
    """1 / (out-degree + 1) itself: the float nearest to it would leave a little mass behind every round."""
    return Fraction(weight).limit_denominator(1 << 20)
