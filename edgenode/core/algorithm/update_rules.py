"""The update rules: what a node does to its ``State`` in a round. Arithmetic and nothing else.

There are three, and every algorithm is one of them under a recipe: with which compressor, which averaging rate and on
which graphs. ``W`` is column-stochastic, W[receiver, sender], and C the compressor.

    SPARSE_PUSH   sends C[x-hat + error]: Sparse-Push, SGP, D-PSGD, Deep-Squeeze
    D2            the same after a local step that is corrected by the one before
    DIFFERENCE    sends C[x-hat - replica]: CHOCO-SGD, Quant-SGP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload
from edgenode.core.algorithm.sparse_push import Contribution, State, Weights, descend, emit, mix


@dataclass(frozen=True)
class UpdateRule:
    """An update rule.

    Attributes:
        keeps: the vectors of ``State`` beside x that it needs.
        descend: the local step, given the optimiser's displacement of z.
        emit: makes the round's payload.
        mix: closes the round with the own payload and u, the own weight and the contributions in sender order.
        fixed: it remembers its neighbours, so that graph and members must stay as they are, and no push can be undone.
    """

    keeps: tuple[str, ...]
    descend: Callable[[State, Floats], None]
    emit: Callable[[State, Compressor, Layout, np.random.Generator], Payload]
    mix: Callable[[State, Payload, Weights, float, Sequence[Contribution], float], None]
    fixed: bool = False


def extrapolate(state: State, local_update: Floats) -> None:
    """D2 (Tang et al. 2018, Algorithm 1, the local step): x_t+1/2 = 2 x_t - x_t-1 + displacement_t - displacement_t-1.

    That is x_t + displacement_t + history, with history = x_t - (x_t-1 + displacement_t-1): what mixing made of the
    last local step. In round 0 it is zero, as the paper's first step is. Over all nodes histories sum to zero, so the
    mean model takes plain SGD steps. Until ``mix_and_remember`` it holds minus (x_t + displacement_t).
    """
    state.x += local_update
    state.history += state.x
    state.x, state.history = state.history, state.x
    np.negative(state.history, out=state.history)


def mix_and_remember(
    state: State,
    own: Payload,
    own_u: Weights,
    self_weight: float,
    received: Sequence[Contribution],
    averaging_rate: float,
) -> None:
    """D2 (Algorithm 1, the average): x_t+1 = sum_j W_ij x_t+1/2^(j); with an averaging rate W is I + eta (W - I)."""
    mix(state, own, own_u, self_weight, received, averaging_rate)
    state.history += state.x


def emit_difference(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """CHOCO-SGD (Koloskova et al. 2019, Algorithm 2, lines 4 to 7): q = C[x-hat - replica], replica += q.

    The receivers add q to the same replica, so what was not said in one round is part of the next difference. Quant-SGP
    (Taheri et al. 2020, Algorithm 2) says the same, with push-sum.
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
    """CHOCO-SGD (Algorithm 2, line 9): x = x-hat + gamma * sum_j W_ij (replica_j - replica_i), and push-sum's u alike.

    A node does not keep the replica of every neighbour but their weighted sum, its own among them (the paper's
    memory-efficient form): gathered += sum_j W_ij q_j, x = x-hat + gamma * (gathered - replica). With gamma = 1 that
    is Quant-SGP's x = x-hat - replica + sum_j W_ij replica_j.
    """
    own.add_to(state.gathered, self_weight)
    state.u -= averaging_rate * (1.0 - self_weight) * own_u
    for contribution in received:
        contribution.payload.add_to(state.gathered, contribution.weight)
        state.u += averaging_rate * contribution.weight * contribution.u
    state.x += np.float32(averaging_rate) * (state.gathered - state.replica)


SPARSE_PUSH = UpdateRule(("error",), descend, emit, mix)
D2 = UpdateRule(("error", "history"), extrapolate, emit, mix_and_remember, fixed=True)
DIFFERENCE = UpdateRule(("replica", "gathered"), descend, emit_difference, mix_replicas, fixed=True)
