"""The matrix forms of the laboratory's algorithms, as `tests/algorithm_references.py` has those of edgenode's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from tests.algorithm_references import LAYOUT, NODES, START, Compress, Matrix, towards_optima


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


def noloco(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Kolehmainen et al. 2025, the outer step, with alpha = 0.5 and beta = gamma = rate."""
    phi, delta = np.tile(START, (NODES, 1)), np.zeros((NODES, LAYOUT.size))
    for t in itertools.count():
        moved = towards_optima(t, phi)
        delta = 0.5 * delta + rate * (w @ moved) - rate * (phi - w @ phi)
        phi = phi + delta
        yield phi
