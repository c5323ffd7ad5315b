"""D2 (Tang et al. 2018): each local step is corrected by the one before, so unlike data no longer pulls nodes apart.

The kept vector ``history`` is x minus the result of the last local step without the other nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    Sent,
    State,
    compress_with_feedback,
    mix_contributions,
)
from edgenode.core.algorithm.update_rules import UpdateRule, default_averaging_rate
from edgenode.core.topology.graph import Digraph
from edgenode.errors import GraphError


def extrapolate(state: State, local_update: Floats) -> None:
    """D2 (Tang et al. 2018, Algorithm 1, the local step): x_t+1/2 = 2 x_t - x_t-1 + update_t - update_t-1.

    1. This is x_t + update_t + history, with history = x_t - (x_t-1 + update_t-1): how mixing changed the last local
       step. In round 0 it is zero, which is the paper's first step.
    2. Over all nodes the histories sum to zero, so the mean model takes plain SGD steps.
    3. Afterwards history holds -(x_t + update_t), to which ``mix_with_history`` adds x_t+1.
    """
    state.x += local_update
    state.kept["history"] += state.x
    state.x, state.kept["history"] = state.kept["history"], state.x
    np.negative(state.kept["history"], out=state.kept["history"])


def mix_with_history(state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
    """D2 (Algorithm 1, the average): x_t+1 = sum_j W_ij x_t+1/2^(j); with an averaging rate W is I + eta (W - I)."""
    mix_contributions(state, own, self_weight, received)
    state.kept["history"] += state.x


def d2_growth(weights: NDArray[np.float64]) -> float:
    """The largest factor by which a round of D2 without gradients multiplies a disagreement. Below 1 is stable.

    1. Along an eigenvector of W with eigenvalue l, D2 makes x_t+1 = l (2 x_t - x_t-1).
    2. Its growth factors are the roots of r^2 = 2 l r - l.
    3. For real l both lie within the unit circle exactly if -1/3 < l < 1: the condition of Tang et al. 2018 on W.
    """
    modes = np.linalg.eigvals(weights).astype(complex)
    others = np.delete(modes, np.argmin(abs(modes - 1)))  # without that of the mean
    roots = [others + sign * np.sqrt(others**2 - others) for sign in (1, -1)]
    return float(abs(np.concatenate(roots)).max(initial=0))


def require_stable(name: str, graph: Digraph, rate: float) -> None:
    """Refuse a graph on which D2 would diverge with this averaging rate.

    Raises:
        GraphError: training would diverge. The text has the remedy.
    """
    identity = np.eye(len(graph.nodes))
    weights = identity + rate * (graph.mixing_matrix() - identity)
    if d2_growth(weights) < 1 - 1e-9:
        return
    if not np.allclose(weights, weights.T):
        raise GraphError(f"d2 cannot use {name}: its weights are not symmetric, and d2 would diverge; try two-way")
    smallest = np.linalg.eigvalsh(weights).min()
    raise GraphError(
        f"d2 cannot use {name} with algorithm.averaging_rate = {rate:g}: the smallest eigenvalue of its weights is "
        f"{smallest:.3g}, and must be above -1/3; averaging_rate = 0.5 always does"
    )


def half_rate(kept: float, contraction: float) -> float:
    """Return eta, at most 1/2: every symmetric graph is then stable."""
    return min(0.5, default_averaging_rate(kept))


D2 = UpdateRule(
    ("error", "history"),
    extrapolate,
    compress_with_feedback,
    mix_with_history,
    fixed=True,
    default_rate=half_rate,
    largest_rate=1.0,
    check_graph=require_stable,
)
