"""A learner in exact fractions: Algorithm 1 on one number per block, so that no mass may ever be missing.

The fractions are GMP's, which are several times as fast as those of the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from gmpy2 import mpq
from numpy.typing import NDArray

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.messages import Message
from edgenode.errors import LocalProtocolError
from tests.simulation.learners import Arrays, Mass


class ExactLearner:
    """Algorithm 1 on one number per block, in exact fractions: x and u travel as text, and no mass may ever be missing.

    C rounds down to a multiple of ``grain``, 0 keeping everything; what it holds back is ``error``. With more than one
    block it is the rolling exchange.
    """

    tolerance = 0.0

    def __init__(
        self,
        rounds: int,
        x: Fraction | int | NDArray[Any],
        eta: Fraction | int = 1,
        grain: Fraction | int = 0,
        blocks: int = 1,
    ) -> None:
        self.rounds, self.eta, self.grain = rounds, mpq(eta), mpq(grain)
        self.x, self.exact_u, self.error = (_exactly(blocks, value) for value in (x, 1, 0))
        self._emitted: dict[int, _Said] = {}
        self._round = -1
        self.halves: dict[int, Mass] = {}

    @property
    def blocks(self) -> int:
        return len(self.x)

    @property
    def u(self) -> float:
        return float(sum(self.exact_u) / self.blocks)

    def trains(self, t: int) -> bool:
        return True

    def model(self) -> NDArray[Any]:
        model: NDArray[Any] = self.x / self.exact_u
        return model

    def emit(self, t: int, local_update: NDArray[Any] | None, whole: bool = False) -> tuple[bytes, tuple[float, ...]]:
        if local_update is not None:
            self.x += local_update
        if whole:
            self.error[:] = mpq()
        where = self._where(t, whole)
        corrected = self.x[where] + self.error[where]
        own = corrected // self.grain * self.grain if self.grain and not whole else corrected
        self.error[where] = corrected - own
        said = self._emitted[t] = _Said(where, own, self.exact_u[where].copy())
        self._round = t
        self.halves[t] = self.mass()
        return " ".join(map(str, [*said.x, *said.u])).encode(), tuple(map(float, said.u))

    def _where(self, t: int, whole: bool) -> slice:
        return slice(None) if whole or self.blocks == 1 else slice(t % self.blocks, t % self.blocks + 1)

    def read(self, t: int, weight: float, u: tuple[float, ...], data: bytes) -> _Said:
        numbers = np.array([mpq(word) for word in data.decode().split()], dtype=object)
        scale = 1 if weight == 1.0 else self.eta * _exact(weight)
        x, exact_u = scale * numbers.reshape(2, -1)
        return _Said(self._where(t, weight == 1.0), x, exact_u)

    def mix(self, self_weight: float, received: Sequence[_Said]) -> None:
        if self._round not in self._emitted:
            raise LocalProtocolError("mix before emit")
        self._add(self._emitted[self._round], -self.eta * (1 - _exact(self_weight)))
        self._round = -1
        for contribution in received:
            self._add(contribution, 1)

    def _add(self, said: _Said, scale: Any) -> None:
        self.x[said.where] += scale * said.x
        self.exact_u[said.where] += scale * said.u

    def take_back(self, t: int, weight: float) -> None:
        self._add(self._emitted[t], self.eta * _exact(weight))

    def forget(self, t: int) -> None:
        for old in [r for r in self._emitted if r < t]:
            del self._emitted[old]

    def snapshot(self) -> State:
        return State(self.x.copy(), self.error.copy(), self.exact_u.copy())

    def pack(self, state: State) -> Arrays:
        text = " ".join(map(str, [*state.x, *state.u, *state.error])).encode()
        return {"exact": np.frombuffer(text, dtype=np.uint8)}

    def unpacked(self, arrays: Arrays) -> ExactLearner:
        numbers = np.array([mpq(word) for word in arrays["exact"].tobytes().decode().split()], dtype=object)
        again = ExactLearner(self.rounds, 0, self.eta, self.grain, self.blocks)
        again.x, again.exact_u, again.error = numbers.reshape(3, -1).copy()
        return again

    def mass(self) -> Mass:
        return np.concatenate([self.x, self.exact_u])

    def share(self, message: Message) -> Mass:
        share = ExactLearner(self.rounds, 0, blocks=self.blocks)
        share.exact_u[:] = mpq()
        share._add(self.read(message.round, message.weight, message.u, message.payload), 1)
        return share.mass()


@dataclass(frozen=True)
class _Said:
    """Exact numbers of x and u, and which blocks they are of."""

    where: slice
    x: NDArray[Any]
    u: NDArray[Any]


def _exactly(blocks: int, value: Fraction | int | NDArray[Any]) -> NDArray[Any]:
    exact: NDArray[Any] = np.full(blocks, value, dtype=object) * mpq(1)
    return exact


@cache
def _exact(weight: float) -> Any:
    """1 / (out-degree + 1) itself: the float nearest to it would leave a little mass behind every round."""
    return mpq(Fraction(weight).limit_denominator(1 << 20))
