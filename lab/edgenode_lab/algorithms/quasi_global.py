"""QG-DSGDm and QG-DSGDm-N (Lin et al. 2021): momentum of how the averaged model moves. A message is one model.

The papers write gradients and a step size. Here the local step is -(step size) x gradient, so ``task.momentum`` must be
0, and the learning rate constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgenode.extensions import (
    SPARSE_PUSH,
    AlgorithmDefinition,
    Contribution,
    Floats,
    Sent,
    State,
    mix_contributions,
)

BETA, MU = np.float32(0.9), np.float32(0.9)


def step_with_momentum(state: State, step: Floats) -> None:
    """QG-DSGDm (Lin et al. 2021, Algorithm 1): x_half = x - a m with m = beta m_hat + g.

    The authors' code has ``momentum_buffer.mul_(momentum).add_(grads)`` on a copy, which a round does not keep. Here
    ``direction`` is -a m_hat.
    """
    state.kept["start"][:] = state.x
    state.x += step
    state.x += BETA * state.kept["direction"]


def step_with_nesterov(state: State, step: Floats) -> None:
    """QG-DSGDm-N: the code applies ``grads + momentum * momentum_buffer``, which is (1 + beta) g + beta^2 m_hat."""
    state.kept["start"][:] = state.x
    state.x += (1 + BETA) * step
    state.x += BETA * BETA * state.kept["direction"]


def mix_and_remember(state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
    """x' = sum_j w_ij x_half_j, d = (x - x') / a, m_hat' = mu m_hat + (1 - mu) d, in the code with 1 - mu = 0.1."""
    mix_contributions(state, own, self_weight, received)
    direction = state.kept["direction"]
    direction *= MU
    direction += (1 - MU) * (state.x - state.kept["start"])


QG_DSGDM = replace(SPARSE_PUSH, keeps=("direction", "start"), apply_update=step_with_momentum, mix=mix_and_remember)
QG_DSGDM_N = replace(QG_DSGDM, apply_update=step_with_nesterov)

_ONLY = "its momentum would amplify what compression holds back"
DEFINITION = AlgorithmDefinition(lambda: QG_DSGDM, "identity", "float32", only=_ONLY, doubly_stochastic=True)
NESTEROV_DEFINITION = AlgorithmDefinition(lambda: QG_DSGDM_N, "identity", "float32", only=_ONLY, doubly_stochastic=True)
