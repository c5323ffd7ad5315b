"""NoLoCo (Kolehmainen et al. 2025): an outer optimiser with momentum, over pairs or neighbours instead of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgenode.extensions import (
    SPARSE_PUSH,
    AlgorithmDefinition,
    Contribution,
    Digraph,
    GraphError,
    Sent,
    State,
    begin_at_start,
    mix_contributions,
    remember_start,
)

MOMENTUM = 0.5
RATE = 0.7


def mix_with_momentum(state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
    """NoLoCo (Kolehmainen et al. 2025), the outer step, with alpha = 0.5 and beta = gamma = ``own.averaging_rate``.

    1. The paper has delta = alpha delta + beta sum_j W_ij Delta_j - gamma sum_j W_ij (phi_i - phi_j), where Delta is
       what the local steps changed, and then phi += delta.
    2. Over all nodes the gamma terms cancel: the mean of phi takes the mean step, with momentum.
    3. With beta = gamma, phi and Delta are only needed as their sum x-hat. So a message is one vector instead of two:
       delta = alpha delta + gamma (x-hat - phi) + gamma sum_j (W_ij - I_ij) x-hat_j.
    """
    start, momentum = state.kept["start"], state.kept["momentum"]
    momentum *= np.float32(MOMENTUM)
    momentum += np.float32(own.averaging_rate) * (state.x - start)
    state.x[:] = start + momentum
    mix_contributions(state, own, self_weight, received)
    momentum[:] = state.x - start
    start[:] = state.x  # for a round without local steps


def require_symmetric(name: str, graph: Digraph, rate: float) -> None:
    """Refuse a graph on which NoLoCo would diverge: its momentum amplifies what a directed cycle turns in circles.

    1. Along an eigenvector of W with eigenvalue l, the roots of r^2 - (1.5 - rate (1 - l)) r + 0.5 are the factors by
       which a round multiplies a disagreement.
    2. They are within the unit circle for every real l below 1 and every rate up to 1, but not for every complex l.

    Raises:
        GraphError: the weights are not symmetric.
    """
    weights = graph.mixing_matrix()
    if not np.allclose(weights, weights.T):
        raise GraphError(
            f"noloco cannot use {name}: its weights are not symmetric, and noloco would diverge; try two-way, or "
            "halving with 2, 4, 8, ... nodes"
        )


NOLOCO = replace(
    SPARSE_PUSH,
    keeps=("error", "momentum", "start"),
    begin=begin_at_start,
    apply_update=remember_start,
    mix=mix_with_momentum,
    default_rate=lambda kept, contraction: min(RATE, kept),
    largest_rate=1.0,
    check_graph=require_symmetric,
)

DEFINITION = AlgorithmDefinition(lambda: NOLOCO, "identity", "float32", doubly_stochastic=True)
