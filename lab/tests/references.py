"""The matrix forms of the laboratory's algorithms, as `tests/algorithm_references.py` has those of edgenode's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from tests.algorithm_references import LAYOUT, NODES, RATE, START, Compress, Matrix, towards_optima


def sparse_loco(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Sarfi et al. 2025, Algorithm 1, over gossip: CHOCO-SGD, where what was not sent decays by 0.95."""
    x, replicas = np.tile(START, (NODES, 1)), np.tile(START, (NODES, 1))
    for t in itertools.count():
        difference = x + towards_optima(t, x) - replicas
        sent = c(difference)
        replicas = replicas + sent
        x = replicas + 0.95 * (difference - sent) + rate * (w @ replicas - replicas)
        yield x


def choco_jwins(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """CHOCO-SGD of the four-level Haar coefficients H x, whose positions are those of the entries."""
    h = np.eye(LAYOUT.size)
    for step in (1, 2, 4, 8):
        level = np.eye(LAYOUT.size)
        for left in range(0, LAYOUT.size - step, 2 * step):
            right = left + step
            level[[left, left, right, right], [left, right, left, right]] = np.sqrt(0.5) * np.array([1, 1, 1, -1])
        h = level @ h
    x = np.tile(START, (NODES, 1))
    replicas = x @ h.T
    for t in itertools.count():
        half = x + towards_optima(t, x)
        replicas = replicas + c(half @ h.T - replicas)
        x = half + rate * (w @ replicas - replicas) @ h
        yield x


def dsgt(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Pu and Nedić 2018, equation 3; on directed graphs Nedić, Olshevsky and Shi 2017, Algorithm 2 (Push-DIGing)."""
    u, v = np.tile(START, (NODES, 1)), np.ones((NODES, 1))
    y = gradient = gradients(u)
    while True:
        u, v = w @ (u - RATE * y), w @ v
        x = u / v
        y, gradient = w @ y + gradients(x) - gradient, gradients(x)
        yield x


def momentum_tracking(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Takezawa et al. 2023, with the authors' variables: momentum and dual_c."""
    x = np.tile(START, (NODES, 1))
    momentum, dual = np.zeros_like(x), np.zeros_like(x)
    while True:
        momentum = 0.9 * momentum + gradients(x)
        x = w @ x - RATE * (momentum - dual)
        dual = w @ (dual - momentum) + momentum
        yield x


def qg_dsgdm(w: Matrix, rate: float, c: Compress, nesterov: bool = False) -> Iterator[Matrix]:
    """Lin et al. 2021, Algorithm 1, with the authors' variables. They keep momentum_buffer between rounds."""
    x = np.tile(START, (NODES, 1))
    momentum_buffer = np.zeros_like(x)
    while True:
        grads = gradients(x)
        buffer = 0.9 * momentum_buffer + grads
        applied = grads + 0.9 * buffer if nesterov else buffer
        before, x = x, w @ (x - RATE * applied)
        momentum_buffer = 0.9 * momentum_buffer + 0.1 * (before - x) / RATE
        yield x


def qg_dsgdm_n(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """The same with Nesterov momentum."""
    yield from qg_dsgdm(w, rate, c, nesterov=True)


def gut(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Aketi, Hashemi and Roy 2023, with the authors' variables delta, y and the sent x_hat. We train at W x."""
    x, mu = np.tile(START, (NODES, 1)), 0.9
    x_hat, delta_before = x, np.zeros_like(x)
    while True:
        y_sent = x - x_hat
        accumulated = w @ y_sent + (w @ x_hat - x_hat)
        x_hat = x_hat + y_sent
        global_update = w @ x_hat - x_hat
        delta = gradients(x + global_update) - global_update / RATE
        y = delta - mu / RATE * accumulated - mu * delta_before
        delta_before = delta
        x = x - RATE * y
        yield w @ x


def gradients(x: Matrix) -> Matrix:
    """The gradients of `towards_optima`, which takes steps of RATE."""
    return -towards_optima(0, x) / RATE


def noloco(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Kolehmainen et al. 2025, the outer step, with alpha = 0.5 and beta = gamma = rate."""
    phi, delta = np.tile(START, (NODES, 1)), np.zeros((NODES, LAYOUT.size))
    for t in itertools.count():
        moved = towards_optima(t, phi)
        delta = 0.5 * delta + rate * (w @ moved) - rate * (phi - w @ phi)
        phi = phi + delta
        yield phi
