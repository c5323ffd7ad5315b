"""An enrolled member that pushes noise from a round on: `python poisoner.py ROUND run --config run.toml ...`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from edgenode.cli import main
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Payload, Values
from edgenode.core.algorithm.learner import VectorLearner

FACTOR = 200
first = int(sys.argv.pop(1))
honest = VectorLearner.compress_update


def noisy(self: VectorLearner, t: int, local_update: Any, handoff: bool = False) -> tuple[bytes, tuple[float, ...]]:
    data, u = honest(self, t, local_update, handoff)
    if t < first:
        return data, u
    payload, _, block = self.own_push
    values, rng = payload.values, np.random.default_rng(t)
    assert values.scales is not None
    codes = rng.integers(-127, 128, len(values.codes)).astype(np.int8)
    noise = Payload(payload.counts, payload.indices, Values(codes, values.bits, values.scales * np.float32(FACTOR)))
    return codec.encode(noise, self.layout.part(block, len(self.state.u))), u


VectorLearner.compress_update = noisy  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
