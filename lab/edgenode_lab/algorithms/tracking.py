"""DSGT, Push-DIGing and Momentum Tracking: a message has the model and a tracker, twice the bytes of D-PSGD.

The papers write gradients and a step size. Here both are one: the local step is -(step size) x gradient, so
``task.momentum`` must be 0, and the learning rate constant.
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

BETA = np.float32(0.9)


def track(state: State, step: Floats) -> None:
    """DSGT (Pu and Nedić 2018, equation 3): x' = sum_j w_ij (x_j - a y_j), y' = sum_j w_ij y_j + g_i(x') - g_i(x).

    1. Here ``tracker`` is -a y. It is y' = tracker + step - last, and y_0 = g(x_0), because both begin at zero.
    2. On directed graphs this is Push-DIGing (Nedić, Olshevsky and Shi 2017, Algorithm 2): u' = C (u - a y),
       v' = C v, x' = u' / v', y' = C y + grad f(x') - grad f(x). Our x is its u, and our u its v.
    """
    follow(state, step)
    state.x += state.kept["tracker"]


def follow(state: State, change: Floats) -> None:
    """Add to the tracker what ``change`` has more than the last time."""
    tracker, last = state.kept["tracker"], state.kept["last"]
    tracker += change
    tracker -= last
    last[:] = change


def track_momentum(state: State, step: Floats) -> None:
    """Momentum Tracking (Takezawa et al. 2023), u' = beta u + g, in the authors' code ``beta * momentum + p.grad``.

    1. The code then has x' = sum_j w_ij x_j - a (u' - c) and c' = sum_j w_ij (c_j - u'_j) + u'. With the tracker
       y = u' - c this is x' = sum_j w_ij x_j - a y and y' = sum_j w_ij y_j + u'' - u'.
    2. So what is sent is x without the descent, which `mix_and_descend` adds.
    3. c begins at zero. The code begins with (g_i - mean g) / (1 - beta), which takes an allreduce.
    """
    momentum = state.kept["momentum"]
    momentum *= BETA
    momentum += step
    follow(state, momentum)
    state.kept["descent"][:] = state.kept["tracker"]


def mix_and_descend(state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
    """Average models and trackers, and then take the step of the tracker of before."""
    mix_contributions(state, own, self_weight, received)
    state.x += state.kept["descent"]


DSGT = replace(
    SPARSE_PUSH,
    keeps=("error", "tracker", "last"),
    sends=("x", "tracker"),
    apply_update=track,
    fixed=True,  # the last step of a node that leaves would stay in the trackers of the others
)
MOMENTUM_TRACKING = replace(
    DSGT,
    keeps=("tracker", "last", "momentum", "descent"),
    apply_update=track_momentum,
    mix=mix_and_descend,
)

DSGT_DEFINITION = AlgorithmDefinition(lambda: DSGT, "identity", "float32")
MT_DEFINITION = AlgorithmDefinition(
    lambda: MOMENTUM_TRACKING, "identity", "float32", only="its authors send whole models", doubly_stochastic=True
)
