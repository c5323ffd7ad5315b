"""The matrix form of every algorithm's paper: x of all nodes at once, [n, d] float64.

Each node minimises a quadratic of its own, the strongest form of unequal data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import Layout

Matrix = NDArray[np.float64]
Compress = Callable[[Matrix], Matrix]
LAYOUT = Layout((7, 20, 3))
NODES = 5
OPTIMA = np.random.default_rng(1).standard_normal((NODES, LAYOUT.size))
START = np.random.default_rng(2).standard_normal(LAYOUT.size)
RATE = 0.1


def towards_optima(t: int, z: Matrix) -> Matrix:
    """Plain SGD on |z - optimum of the node|^2 / 2."""
    return -RATE * (z - np.resize(OPTIMA, z.shape))


# --- the papers' matrix forms


def sparse_push(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Aketi et al. 2021, Algorithm 1; on doubly stochastic w Tang et al. 2019 (Deep-Squeeze), Algorithm 1."""
    x, u, delta = np.tile(START, (NODES, 1)), np.ones(NODES), np.zeros((NODES, LAYOUT.size))
    for t in itertools.count():
        half = x + towards_optima(t, x / u[:, None])
        sent = c(half + delta)
        delta = half + delta - sent
        x, u = half + rate * (w @ sent - sent), u + rate * (w @ u - u)
        yield x / u[:, None]


def sgp(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Assran et al. 2019, Algorithm 1: x <- P (x - gamma g(z)), w <- P w, z = x / w."""
    x, u = np.tile(START, (NODES, 1)), np.ones(NODES)
    for t in itertools.count():
        x, u = w @ (x + towards_optima(t, x / u[:, None])), w @ u
        yield x / u[:, None]


def d_psgd(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Lian et al. 2017, Algorithm 1, the local step before the average, as its remark allows."""
    x = np.tile(START, (NODES, 1))
    for t in itertools.count():
        x = w @ (x + towards_optima(t, x))
        yield x


def d2(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Tang et al. 2018, Algorithm 1, with I + rate (W - I) for W."""
    w = np.eye(NODES) + rate * (w - np.eye(NODES))
    x = np.tile(START, (NODES, 1))
    before, moved = x, towards_optima(0, x)
    x = w @ (x + moved)
    for t in itertools.count(1):
        yield x
        moves = towards_optima(t, x)
        x, before, moved = w @ (2 * x - before + moves - moved), x, moves


def choco(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Koloskova et al. 2019, Algorithm 2, every replica in full."""
    x, replicas = np.tile(START, (NODES, 1)), np.zeros((NODES, LAYOUT.size))
    for t in itertools.count():
        half = x + towards_optima(t, x)
        replicas = replicas + c(half - replicas)
        x = half + rate * (w @ replicas - replicas)
        yield x


def diloco(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Douillard et al. 2023, Algorithm 1, with the Nesterov momentum of torch.optim.SGD, and what c leaves out kept."""
    theta, momentum, rest = START.copy(), np.zeros(LAYOUT.size), np.zeros((NODES, LAYOUT.size))
    for t in itertools.count():
        rest = rest + towards_optima(t, np.tile(theta, (NODES, 1)))
        sent = c(rest)
        rest = rest - sent
        outer = -sent.mean(axis=0)
        momentum = 0.5 * momentum + outer
        theta = theta - rate * (outer + 0.5 * momentum)
        yield np.tile(theta, (NODES, 1))


def quant_sgp(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Taheri et al. 2020, Algorithm 2, the local step before the exchange. The paper's rate is 1."""
    x, replicas, u = np.tile(START, (NODES, 1)), np.zeros((NODES, LAYOUT.size)), np.ones(NODES)
    for t in itertools.count():
        half = x + towards_optima(t, x / u[:, None])
        replicas = replicas + c(half - replicas)
        x, u = half + rate * (w @ replicas - replicas), u + rate * (w @ u - u)
        yield x / u[:, None]


def local(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """SGD at every node without exchange."""
    x = np.tile(START, (NODES, 1))
    for t in itertools.count():
        x = x + towards_optima(t, x)
        yield x


def rolling(w: Matrix, rate: float, c: Compress) -> Iterator[Matrix]:
    """Push-sum of block t mod 10 in round t."""
    blocks = np.array_split(np.arange(LAYOUT.size), 10)
    x, u = np.tile(START, (NODES, 1)), np.ones((NODES, LAYOUT.size))
    for t in itertools.count():
        x = x + towards_optima(t, x / u)
        where = blocks[t % 10]
        x[:, where], u[:, where] = w @ x[:, where], w @ u[:, where]
        yield x / u


# --- robust mixing of whole models, as one node does it


def clipped_gossip(own: Matrix, others: Matrix, weights: NDArray[np.float64], radius: float) -> Matrix:
    """He et al. 2022, ClippedGossip: own + sum_j W_j Clip(x_j - own, radius). Vectors [d], ``others`` [n, d]."""
    away = others - own
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    clip = np.minimum(1.0, radius / np.where(lengths == 0, 1.0, lengths))
    return own + weights @ (clip * away)


def balance_accepts(own: Matrix, others: Matrix, gamma: float) -> NDArray[np.bool_]:
    """Fang et al. 2024, BALANCE: which x_j are accepted, |x_j - own| <= gamma |own|, with kappa = 0."""
    return np.linalg.norm(others - own, axis=1) <= gamma * np.linalg.norm(own)
