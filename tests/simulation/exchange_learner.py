"""DiLoCo in exact fractions, on one number: what an exchange loses or counts twice is no rounding error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from gmpy2 import mpq
from numpy.typing import NDArray

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.messages import Message
from edgenode.core.topology.allreduce import Transfer
from edgenode.errors import LocalProtocolError
from tests.simulation.learners import Arrays, Mass, Steps

MOMENTUM, RATE = mpq(1, 2), mpq(7, 10)
Number = Any  # mpq


class ExchangeLearner:
    """The update rule of `diloco` on one number. C rounds down to a multiple of ``grain``.

    What is conserved is the sum of the changes, not that of x. So `mass` is constant, and `ExchangeAccounting` judges.

    Attributes:
        x, momentum, change, rest, start: as in `diloco`.
        exchange: the rounds of an exchange.
        gained: what the last local steps changed.
        carried: ``rest`` before this exchange.
    """

    tolerance, blocks = 0.0, 1

    def __init__(self, rounds: int, x: Number, exchange: int, grain: Number) -> None:
        self.rounds, self.exchange, self.grain = rounds, exchange, mpq(grain)
        self.x = self.start_x = mpq(x)
        self.momentum = self.change = self.rest = self.gained = self.carried = mpq()
        self._own: Number = None
        self.steps: Steps = {}

    @property
    def u(self) -> float:
        return 1.0

    def train_until(self, t: int) -> None:
        self.rounds = t

    def trains(self, t: int) -> bool:
        return t < self.rounds and t % self.exchange == 0

    def model(self) -> NDArray[Any]:
        return np.array([self.x], dtype=object)

    def start(self) -> NDArray[Any]:
        return self.model()

    def look(self, t: int) -> NDArray[Any]:
        return self.model()

    def compress_update(
        self, t: int, local_update: NDArray[Any] | None, handoff: bool = False, transfer: Transfer | None = None
    ) -> tuple[bytes, tuple[float, ...]]:
        if handoff or transfer is not None or (local_update is None) != (t % self.exchange > 0):
            raise LocalProtocolError(f"round {t} of an exchange of {self.exchange} rounds")
        if local_update is not None:
            self.momentum = MOMENTUM * self.momentum + self.change
            self.gained, self.carried, self.start_x = local_update[0], self.rest, self.x
            self.change, self.rest = self.rest + self.gained, mpq()
        self._own = self.change // self.grain * self.grain
        self.rest += self.change - self._own
        self.steps["half", t] = self.mass()
        return str(self._own).encode(), (1.0,)

    def read(
        self, t: int, weight: float, u: tuple[float, ...], data: bytes, transfer: Transfer | None = None
    ) -> tuple[Number, Number]:
        return _exact(weight), mpq(data.decode())

    def give(self, self_weight: float) -> None:
        raise LocalProtocolError("an exchange has no overlap")

    def mix_round(self, self_weight: float, received: Sequence[tuple[Number, Number]], place: int = 0) -> None:
        self.change = _exact(self_weight) * self._own + sum((w * c for w, c in received), mpq())
        self.x = self.start_x + RATE * (self.change + MOMENTUM * (self.change + MOMENTUM * self.momentum))

    def undo_push(self, t: int, weight: float) -> None:
        raise LocalProtocolError("no push of an exchange can be undone")

    def discard_sent(self, t: int) -> None:
        pass

    def snapshot(self, t: int) -> State:
        numbers = (self.x, self.momentum, self.change, self.rest, self.start_x, self.gained, self.carried)
        return State(np.array(numbers, dtype=object), np.zeros(1), np.ones(1))

    def pack(self, state: State) -> Arrays:
        return {"exact": np.frombuffer(" ".join(map(str, state.x)).encode(), dtype=np.uint8)}

    def unpacked(self, arrays: Arrays) -> ExchangeLearner:
        numbers = [mpq(word) for word in arrays["exact"].tobytes().decode().split()]
        learner = ExchangeLearner(self.rounds, 0, self.exchange, self.grain)
        (learner.x, learner.momentum, learner.change, learner.rest, learner.start_x, learner.gained,
         learner.carried) = numbers  # fmt: skip
        return learner

    def common(self, begun: bool) -> dict[str, Number]:
        """As `diloco.common_part`."""
        if begun:
            return {"x": self.start_x, "momentum": self.momentum}
        return {"x": self.x, "momentum": MOMENTUM * self.momentum + self.change}

    def joining(self, common: Mapping[str, Number], rest: Number) -> ExchangeLearner:
        """A learner of this kind that begins an exchange with this common part."""
        learner = ExchangeLearner(self.rounds, common["x"], self.exchange, self.grain)
        learner.change, learner.rest = common["momentum"], rest
        return learner

    def mass(self) -> Mass:
        return np.array([mpq(), mpq(1)], dtype=object)

    def gains(self, local_update: NDArray[Any]) -> Mass:
        """A local step adds no mass."""
        return np.array([mpq(), mpq()], dtype=object)

    def share(self, message: Message) -> Mass:
        return np.array([mpq(), mpq()], dtype=object)


@cache
def _exact(weight: float) -> Number:
    """The weight of a group as a fraction."""
    return mpq(Fraction(weight).limit_denominator(1 << 20))
