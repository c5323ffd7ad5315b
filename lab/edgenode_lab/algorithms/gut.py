"""GUT, Global Update Tracking (Aketi, Hashemi and Roy 2023): tracking without a second vector in the messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgenode.extensions import (
    SPARSE_PUSH,
    AlgorithmDefinition,
    Digraph,
    Floats,
    GraphError,
    State,
    begin_at_start,
)

MU = 0.9


def step_and_track(state: State, step: Floats) -> None:
    """GUT without momentum, as the authors' code has it. ``scaling`` is mu = 0.9, their value for rings.

    1. The code takes the gradient g at sum_j w_ij x_j, and has delta = g - (1 / a) sum_j (w_ij - I_ij) x_j,
       y = delta - (mu / a) acc_y - mu delta_before and x' = x - a y, where acc_y = sum_j w_ij (x_j - x_j_before)
       + sum_j (w_ij - I_ij) x_j_before.
    2. Put together, x' = m + s + mu (m - m_before - s_before), with m = sum_j w_ij x_j and s = -a g. Our x before a
       local step is m. So a node only has to remember m + s, as ``start``.
    3. The local step is s, so ``task.momentum`` must be 0, and the learning rate constant.
    """
    start = state.kept["start"]
    correction = np.float32(MU) * (state.x - start)
    state.x += step
    start[:] = state.x
    state.x += correction


def growth(graph: Digraph) -> float:
    """The largest factor by which a round without gradients multiplies a disagreement. Below 1 is stable.

    Along an eigenvector of W with eigenvalue l, m' = l ((1 + mu) m - mu m_before): roots of r^2 - (1 + mu) l r + mu l.
    """
    modes = np.linalg.eigvals(graph.mixing_matrix()).astype(complex)
    others = np.delete(modes, np.argmin(abs(modes - 1)))  # without that of the mean
    roots = [((1 + MU) * others + sign * np.sqrt(((1 + MU) * others) ** 2 - 4 * MU * others)) / 2 for sign in (1, -1)]
    return float(abs(np.concatenate(roots)).max(initial=0))


def require_stable(name: str, graph: Digraph, rate: float) -> None:
    """Refuse a graph on which GUT would diverge, as on a torus. There the authors show QG-GUTm with mu = 0.05.

    Raises:
        GraphError: training would diverge.
    """
    if (factor := growth(graph)) >= 1 - 1e-9:
        raise GraphError(
            f"gut cannot use {name}: with mu = {MU} each round would multiply a disagreement by {factor:.3g}, because "
            "the smallest eigenvalue of its weights is too small or not real; try two-way"
        )


GUT = replace(
    SPARSE_PUSH,
    keeps=("start",),
    begin=begin_at_start,
    apply_update=step_and_track,
    default_rate=lambda kept, contraction: 1.0,
    check_graph=require_stable,
    fixed=True,  # what a member that leaves or is evicted moves in x would be taken for a difference of averages
)

DEFINITION = AlgorithmDefinition(
    lambda: GUT, "identity", "float32", only="its authors send whole models", doubly_stochastic=True
)
