"""SparseLoCo (Sarfi et al. 2025) over gossip: part of what a message left out is forgotten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgenode.extensions import (
    DIFFERENCE,
    AlgorithmDefinition,
    Compressor,
    Layout,
    Payload,
    State,
    compress_difference,
)

DECAY = 0.95


def begin_known(state: State) -> None:
    """All nodes begin with the same model, so every replica is known without a message."""
    for vector in state.kept.values():
        vector[:] = state.x


def compress_with_decay(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """SparseLoCo (Sarfi et al. 2025, Algorithm 1) over gossip: what a message left out counts 0.95 in the next.

    1. The paper sends C[e] of e = 0.95 e + Delta, where Delta is what the local steps changed, and keeps the rest as e.
       All workers receive all messages, so all have the same model.
    2. In gossip, models differ. A node sends the difference between x-hat and its replica, as CHOCO-SGD does. It holds
       Delta, and e as the part of the difference that was not sent.
    """
    payload = compress_difference(state, compressor, layout, rng)
    state.x -= np.float32(1 - DECAY) * (state.x - state.kept["known"])
    return payload


SPARSE_LOCO = replace(DIFFERENCE, begin=begin_known, compress=compress_with_decay)

DEFINITION = AlgorithmDefinition(lambda: SPARSE_LOCO, values="fitted2", doubly_stochastic=True)
