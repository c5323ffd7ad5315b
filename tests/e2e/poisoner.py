"""An enrolled member that pushes noise from a round on: `python poisoner.py ROUND run --config run.toml ...`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from edgenode.cli import main
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Payload, Values
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.topology.allreduce import Transfer

FACTOR = 200
first = int(sys.argv.pop(1))
honest = VectorLearner.compress_update


def noisy(
    self: VectorLearner, t: int, local_update: Any, handoff: bool = False, transfer: Transfer | None = None
) -> tuple[bytes, tuple[float, ...]]:
    data, u = honest(self, t, local_update, handoff, transfer)
    if t < first or transfer is not None:
        return data, u
    payload, block = self.own_push.payload, self.own_push.block
    numbers = np.random.default_rng(t).normal(size=len(payload.numbers)) * FACTOR * np.abs(payload.numbers).mean()
    noise = Payload(payload.counts, payload.indices, Values(numbers.astype(np.float32)))
    return codec.encode(noise, self.layout.part(block, len(self.state.u))), u


VectorLearner.compress_update = noisy  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
