"""Push-DIGing and momentum tracking on directed graphs: each message has the model and a tracker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgenode.extensions import SPARSE_PUSH, AlgorithmDefinition, Floats, State

MOMENTUM = np.float32(0.9)


def track(state: State, step: Floats) -> None:
    """Push-DIGing (Nedić, Olshevsky and Shi 2017) with the local step in place of -(step size) x gradient.

    1. tracker += step - last step, x += tracker, and then push-sum mixes both. So the trackers of all nodes add up to
       their last steps, and each x follows the mean step of all nodes instead of its own.
    2. All steps are zero at a common minimum only, however unequal the data is.
    """
    tracker, last = state.kept["tracker"], state.kept["last"]
    tracker += step
    tracker -= last
    last[:] = step
    state.x += tracker


def track_momentum(state: State, step: Floats) -> None:
    """Momentum tracking (Takezawa et al. 2023): the same for the sum of earlier steps."""
    momentum = state.kept["momentum"]
    momentum *= MOMENTUM
    momentum += step
    track(state, momentum)


PUSH_DIGING = replace(
    SPARSE_PUSH,
    keeps=("error", "tracker", "last"),
    sends=("x", "tracker"),
    apply_update=track,
    fixed=True,  # the last step of a node that leaves would stay in the trackers of the others
)
MOMENTUM_TRACKING = replace(PUSH_DIGING, keeps=(*PUSH_DIGING.keeps, "momentum"), apply_update=track_momentum)

DIGING = AlgorithmDefinition(lambda: PUSH_DIGING, "identity", "float32")
TRACKING = AlgorithmDefinition(lambda: MOMENTUM_TRACKING, "identity", "float32")
