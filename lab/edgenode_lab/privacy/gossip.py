"""The linear-algebra attack on gossip (El Mrini et al. 2024, "Privacy attacks in decentralized learning").

An attacker that knows the graphs knows which part of each node's steps is in each message that it receives. This is a
linear system, the same for each coordinate, and it may tell the steps of nodes that never push to the attacker.

There are more steps than messages. The paper's way out is that the steps of one node resemble each other. Here a
node's steps are a random walk: Cov(d_s, d_t) = 1 + drift min(s, t). The estimate of its first step is the mean of that
step given the messages. Both the drift and the error of messages are as at the attacker's own node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]

_ROUNDING = 2.0**-24  # of float32, relative


def coefficients(matrices: Sequence[Vectors]) -> Vectors:
    """Return how much of each step is in each node's message, [rounds, nodes, rounds, nodes].

    The message of round t is the model after the local step of round t. It is mixed by the matrix of round t.

    Args:
        matrices: W[receiver, sender] of each round, [nodes, nodes] each.
    """
    rounds, nodes = len(matrices), len(matrices[0])
    found = np.zeros((rounds, nodes, rounds, nodes))
    state = np.zeros((nodes, rounds, nodes))
    for t, matrix in enumerate(matrices):
        state[np.arange(nodes), t, np.arange(nodes)] += 1
        found[t] = state
        state = np.einsum("rs,stn->rtn", matrix, state)
    return found


def first_steps(parts: Vectors, told: Vectors, drift: float, error: float) -> Vectors:
    """Return the estimated first step of each node, [nodes, size].

    Args:
        parts: how much of each step is in each message, [messages, rounds, nodes].
        told: the messages, without what is known of them, [messages, size].
        drift: how far a node's next step is from its last, squared, for steps of length 1.
        error: how far a message is from the model, squared, likewise.
    """
    messages, rounds, _ = parts.shape
    times = np.arange(rounds)
    covariance = 1 + drift * np.minimum(times[:, None], times)
    weighed = np.einsum("st,mtn->msn", covariance, parts)
    between = np.einsum("msn,ksn->mk", weighed, parts) + error * np.eye(messages)
    gain = weighed[:, 0].T @ np.linalg.pinv(between, rcond=1e-12, hermitian=True)
    estimate: Vectors = gain @ told
    return estimate


def own_drift(steps: Vectors) -> float:
    """Return how far a step is from the one before, squared, for steps of length 1. They are [rounds, size]."""
    return _relative(np.diff(steps, axis=0), steps)


def own_error(models: Vectors, sent: Vectors, steps: Vectors) -> float:
    """Return how far own messages are from the own model, squared, for steps of length 1. All are [rounds, size]."""
    return _relative(sent - models, steps) + _relative(_ROUNDING * models, steps)


def _relative(vectors: Vectors, steps: Vectors) -> float:
    return float((vectors**2).sum(axis=1).mean() / max((steps**2).sum(axis=1).mean(), np.finfo(float).tiny))
