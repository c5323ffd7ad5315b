"""The update rules: how a round changes a node's ``State``.

There are three. Every algorithm is one of them, with a compressor, an averaging rate and requirements on the graphs.
``W`` is column-stochastic, W[receiver, sender], and C the compressor.

    SPARSE_PUSH   sends C[x-hat + error]: Sparse-Push, SGP, D-PSGD, Deep-Squeeze
    D2            the same, after a local step corrected by the one before
    DIFFERENCE    sends C[x-hat - replica]: CHOCO-SGD, Quant-SGP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    State,
    Weights,
    compress_with_feedback,
    descend,
    mix_contributions,
)


@dataclass(frozen=True)
class UpdateRule:
    """The three parts of a round, in the order of their calls, and what they need.

    Attributes:
        keeps: the vectors of ``State`` that it needs in addition to x.
        apply_update: changes the state by the local update, the optimiser's step on z.
        compress: makes the round's payload.
        mix: ends the round, given the own payload and u, the own weight, the contributions in sender order and eta.
        fixed: the state depends on the neighbours. Graph and members must not change, and no push can be undone.
    """

    keeps: tuple[str, ...]
    apply_update: Callable[[State, Floats], None]
    compress: Callable[[State, Compressor, Layout, np.random.Generator], Payload]
    mix: Callable[[State, Payload, Weights, float, Sequence[Contribution], float], None]
    fixed: bool = False


def extrapolate(state: State, local_update: Floats) -> None:
    """D2 (Tang et al. 2018, Algorithm 1, the local step): x_t+1/2 = 2 x_t - x_t-1 + update_t - update_t-1.

    1. This is x_t + update_t + history, with history = x_t - (x_t-1 + update_t-1): how mixing changed the last local
       step. In round 0 it is zero, which is the paper's first step.
    2. Over all nodes the histories sum to zero, so the mean model takes plain SGD steps.
    3. Afterwards history holds -(x_t + update_t), to which ``mix_with_history`` adds x_t+1.
    """
    state.x += local_update
    state.history += state.x
    state.x, state.history = state.history, state.x
    np.negative(state.history, out=state.history)


def mix_with_history(
    state: State,
    own: Payload,
    own_u: Weights,
    self_weight: float,
    received: Sequence[Contribution],
    averaging_rate: float,
) -> None:
    """D2 (Algorithm 1, the average): x_t+1 = sum_j W_ij x_t+1/2^(j); with an averaging rate W is I + eta (W - I)."""
    mix_contributions(state, own, own_u, self_weight, received, averaging_rate)
    state.history += state.x


def compress_difference(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """CHOCO-SGD (Koloskova et al. 2019, Algorithm 2, lines 4 to 7): q = C[x-hat - replica], replica += q.

    The receivers add q to the same replica, so what one round does not send is part of the next difference. Quant-SGP
    (Taheri et al. 2020, Algorithm 2) sends the same, with push-sum.
    """
    payload = compressor(state.x - state.replica, layout, rng)
    payload.add_to(state.replica, 1.0)
    return payload


def mix_replicas(
    state: State,
    own: Payload,
    own_u: Weights,
    self_weight: float,
    received: Sequence[Contribution],
    averaging_rate: float,
) -> None:
    """CHOCO-SGD (Algorithm 2, line 9): x = x-hat + gamma * sum_j W_ij (replica_j - replica_i), and the same for u.

    Instead of every neighbour's replica, a node keeps their weighted sum, its own included (the paper's
    memory-efficient form): gathered += sum_j W_ij q_j, x = x-hat + gamma * (gathered - replica). With gamma = 1 this is
    Quant-SGP's x = x-hat - replica + sum_j W_ij replica_j.
    """
    own.add_to(state.gathered, self_weight)
    state.u -= averaging_rate * (1.0 - self_weight) * own_u
    for contribution in received:
        contribution.payload.add_to(state.gathered, contribution.weight)
        state.u += averaging_rate * contribution.weight * contribution.u
    state.x += np.float32(averaging_rate) * (state.gathered - state.replica)


SPARSE_PUSH = UpdateRule(("error",), descend, compress_with_feedback, mix_contributions)
D2 = UpdateRule(("error", "history"), extrapolate, compress_with_feedback, mix_with_history, fixed=True)
DIFFERENCE = UpdateRule(("replica", "gathered"), descend, compress_difference, mix_replicas, fixed=True)
