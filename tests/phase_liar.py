"""A member that lies in the last phase alone: `python phase_liar.py LIE run --config run.toml ...`.

It trains and pushes as it should. In the rounds of the allreduce, it sends other sums, and other averages if the lie
says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenode.cli import main
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import DIVERGED, Floats, Payload, Values
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.partial_sums import division
from edgenode.core.topology.allreduce import Transfer

Update = Callable[..., tuple[bytes, tuple[float, ...]]]
_RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Lie:
    """What a liar makes of the numbers x of a message.

    Attributes:
        u: the factor of the push-sum weights.
        gathers: it lies in the averages that it passes on, too.
    """

    of: Callable[[Floats], Floats]
    u: float = 1.0
    gathers: bool = False


def noise(x: Floats, factor: float) -> Floats:
    """A random direction, with a length that is so many times that of x."""
    direction = _RNG.standard_normal(len(x), dtype=np.float32)
    return direction * np.float32(factor * np.linalg.norm(x) / max(1e-9, float(np.linalg.norm(direction))))


LIES: Mapping[str, Lie] = {
    "minus-three": Lie(lambda x: -3 * x),
    "minus-three-also-averages": Lie(lambda x: -3 * x, gathers=True),
    "sign": Lie(lambda x: -x),
    "sign-also-averages": Lie(lambda x: -x, gathers=True),
    "hundred": Lie(lambda x: 100 * x),
    "largest": Lie(lambda x: np.full_like(x, 9 * DIVERGED)),
    "noise": Lie(lambda x: noise(x, 3), gathers=True),
    "noise-added": Lie(lambda x: x + noise(x, 3), gathers=True),
    "constant": Lie(lambda x: np.full_like(x, 1.0), gathers=True),
    "zero": Lie(lambda x: 0 * x, gathers=True),
    "u": Lie(lambda x: x, u=3.9),
    "small-u": Lie(lambda x: -3 * x, u=1e-6),
}


def lying(lie: Lie, honest: Update = VectorLearner.compress_update) -> Update:
    """`VectorLearner.compress_update` of a liar."""

    def update(
        self: VectorLearner, t: int, local_update: Any, handoff: bool = False, transfer: Transfer | None = None
    ) -> tuple[bytes, tuple[float, ...]]:
        data, u = honest(self, t, local_update, handoff, transfer)
        if transfer is None or not transfer.count or not (transfer.reduces or lie.gathers):
            return data, u
        layout = division(self.layout, transfer.parts, len(self.state.u)).layout(transfer)
        payload = codec.decode_as(None, data, layout)
        said = Payload(payload.counts, payload.indices, Values(lie.of(payload.numbers).astype(np.float32)))
        return codec.encode(said, layout), tuple(lie.u * one for one in u) if transfer.reduces else u

    return update


if __name__ == "__main__":
    VectorLearner.compress_update = lying(LIES[sys.argv.pop(1)])  # type: ignore[method-assign]
    main()
