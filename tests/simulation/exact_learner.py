"""A learner in exact fractions: Algorithm 1 on one number per block. Not the smallest loss of mass is a rounding error.

The fractions are those of GMP, which are several times as fast as those of the standard library.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from gmpy2 import mpq
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.partial_sums import Division, PartialSums, division
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.messages import Message
from edgenode.core.topology.allreduce import Transfer
from edgenode.errors import LocalProtocolError
from tests.simulation.learners import Arrays, Mass, Steps, undo_since


class ExactLearner:
    """Algorithm 1 on one number per block, in exact fractions. x and u travel as text.

    C rounds down to a multiple of ``grain``; 0 keeps everything. What C holds back is ``error``. With more than one
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
        last_rounds: int = 0,
    ) -> None:
        self.last_rounds = last_rounds
        self.rounds, self.eta, self.grain = rounds, mpq(eta), mpq(grain)
        self.x, self.exact_u, self.error = (_exact_array(blocks, value) for value in (x, 1, 0))
        self._sent: dict[int, _Contribution] = {}
        self._unmixed: deque[int] = deque()
        self.steps: Steps = {}
        self._transfer: Transfer | None = None
        self._sums: PartialSums | None = None  # in the last phase, until the node has the average of its own part
        self._averages: dict[int, Any] = {}  # entry -> z of all nodes, of the parts that are here

    @property
    def blocks(self) -> int:
        return len(self.x)

    @property
    def u(self) -> float:
        return float(sum(self.exact_u) / self.blocks)

    def train_until(self, t: int) -> None:
        self.rounds = t + self.last_rounds

    def trains(self, t: int) -> bool:
        return t < self.rounds - self.last_rounds

    @property
    def is_averaged(self) -> bool:
        """Whether z is the average of all nodes."""
        return len(self._averages) == self.blocks

    def model(self) -> NDArray[Any]:
        if self.is_averaged:
            return np.array([self._averages[i] for i in range(self.blocks)], dtype=object)
        model: NDArray[Any] = self.x / self.exact_u
        return model

    def start(self) -> NDArray[Any]:
        return self.model()

    def look(self, t: int) -> NDArray[Any]:
        return self.model()

    def compress_update(
        self, t: int, local_update: NDArray[Any] | None, handoff: bool = False, transfer: Transfer | None = None
    ) -> tuple[bytes, tuple[float, ...]]:
        if transfer is not None:
            return self._send_parts(t, transfer)
        if local_update is not None:
            self.x += local_update
        if handoff:
            self.error[:] = mpq()
        where = self._where(t, handoff)
        corrected = self.x[where] + self.error[where]
        own = corrected // self.grain * self.grain if self.grain and not handoff else corrected
        self.error[where] = corrected - own
        contribution = self._sent[t] = _Contribution(where, own, self.exact_u[where].copy())
        self._took_half_step(t)
        return " ".join(map(str, [*contribution.x, *contribution.u])).encode(), tuple(map(float, contribution.u))

    def _took_half_step(self, t: int) -> None:
        self._unmixed.append(t)
        self.steps["half", t] = self.mass()

    def _send_parts(self, t: int, transfer: Transfer) -> tuple[bytes, tuple[float, ...]]:
        of = self._division(transfer)
        if transfer.begins:
            self._sums, self._averages = PartialSums(self.x, self.exact_u, of), {}
        self._transfer = transfer
        self._took_half_step(t)
        where = [i for part in of.entries(transfer) for i in range(part.start, part.stop)]
        if transfer.reduces:
            assert self._sums is not None
            x, u = self._sums.sent(transfer)
            return " ".join(map(str, [*x, *u])).encode(), tuple(map(float, u)) or (1.0,)
        if self._sums is not None:
            self._averages = dict(zip(where, self._sums.average(transfer), strict=True))
            self._sums = None
        return " ".join(str(self._averages.get(i, 0)) for i in where).encode(), (1.0,)

    def _division(self, transfer: Transfer) -> Division:
        return division(Layout((self.blocks,)), transfer.parts, self.blocks)

    def _mix_parts(self, own: Transfer, received: Sequence[_Parts]) -> None:
        if own.reduces and self._sums is not None:
            self._sums.leave(own)
        for parts in received:
            if self._sums is not None:
                self._sums.add(parts.transfer, *parts.numbers.reshape(2, -1))
            else:
                self._averages |= zip(parts.where, parts.numbers, strict=True)

    def _where(self, t: int, handoff: bool) -> slice:
        return slice(None) if handoff or self.blocks == 1 else slice(t % self.blocks, t % self.blocks + 1)

    def read(
        self, t: int, weight: float, u: tuple[float, ...], data: bytes, transfer: Transfer | None = None
    ) -> _Contribution | _Parts:
        numbers = np.array([mpq(word) for word in data.decode().split()], dtype=object)
        if transfer is not None:
            entries = self._division(transfer).entries(transfer)
            return _Parts(transfer, [i for part in entries for i in range(part.start, part.stop)], numbers)
        scale = 1 if weight == 1.0 else self.eta * _exact(weight)
        x, exact_u = scale * numbers.reshape(2, -1)
        return _Contribution(self._where(t, weight == 1.0), x, exact_u)

    def give(self, self_weight: float) -> None:
        self._add(self._sent[self._unmixed[-1]], -self.eta * (1 - _exact(self_weight)))

    def mix_round(self, self_weight: float, received: Sequence[_Contribution | _Parts], place: int = 0) -> None:
        if not self._unmixed:
            raise LocalProtocolError("mix_round before compress_update")
        t = self._unmixed.popleft()
        if self._transfer is not None:
            self._mix_parts(self._transfer, [parts for parts in received if isinstance(parts, _Parts)])
            self._transfer = None
        else:
            self._add(self._sent[t], -self.eta * (1 - _exact(self_weight)))
            for contribution in received:
                assert isinstance(contribution, _Contribution)
                self._add(contribution, 1)
        self.steps["mixed", t + 1] = self.mass()

    def _add(self, contribution: _Contribution, scale: Any) -> None:
        self.x[contribution.where] += scale * contribution.x
        self.exact_u[contribution.where] += scale * contribution.u

    def undo_push(self, t: int, weight: float) -> None:
        before = self.mass()
        self._add(self._sent[t], self.eta * _exact(weight))
        undo_since(self.steps, t, self.mass() - before)

    def discard_sent(self, t: int) -> None:
        for old in [r for r in self._sent if r < t]:
            del self._sent[old]

    def snapshot(self, t: int) -> State:
        if self.is_averaged:
            return State(self.model(), _exact_array(self.blocks, 0), _exact_array(self.blocks, 1))
        return State(self.x.copy(), self.error.copy(), self.exact_u.copy())

    def pack(self, state: State) -> Arrays:
        text = " ".join(map(str, [*state.x, *state.u, *state.error])).encode()
        return {"exact": np.frombuffer(text, dtype=np.uint8)}

    def unpacked(self, arrays: Arrays) -> ExactLearner:
        numbers = np.array([mpq(word) for word in arrays["exact"].tobytes().decode().split()], dtype=object)
        learner = ExactLearner(self.rounds, 0, self.eta, self.grain, self.blocks, self.last_rounds)
        learner.x, learner.exact_u, learner.error = numbers.reshape(3, -1).copy()
        return learner

    def mass(self) -> Mass:
        return np.concatenate([self.x, self.exact_u])

    def gains(self, local_update: NDArray[Any]) -> Mass:
        return np.append(local_update, [0] * self.blocks)

    def share(self, message: Message) -> Mass:
        contribution = self.read(message.round, message.weight, message.u, message.payload)
        assert isinstance(contribution, _Contribution)
        share: Mass = np.full((2, self.blocks), mpq(), dtype=object)
        share[:, contribution.where] = contribution.x, contribution.u
        return share.reshape(-1)


@dataclass(frozen=True)
class _Contribution:
    """What a push adds to x and u, and to which blocks."""

    where: slice
    x: NDArray[Any]
    u: NDArray[Any]


@dataclass(frozen=True)
class _Parts:
    """What a push of the last phase has: sums of x and u of some entries, or averages."""

    transfer: Transfer
    where: list[int]
    numbers: NDArray[Any]


def _exact_array(blocks: int, value: Fraction | int | NDArray[Any]) -> NDArray[Any]:
    exact: NDArray[Any] = np.full(blocks, value, dtype=object) * mpq(1)
    return exact


@cache
def _exact(weight: float) -> Any:
    """1 / (out-degree + 1) as a fraction. The nearest float would lose a little mass in every round."""
    return mpq(Fraction(weight).limit_denominator(1 << 20))
