"""Algorithms 1 and 2 in matrix form: all nodes of a simulated run at once, over the graphs that it used."""

from __future__ import annotations

from fractions import Fraction
from hashlib import sha256
from typing import Any

import numpy as np

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Layout
from tests.simulation.cluster_sim import ClusterSim

LAYOUT = Layout((5, 3))


def node_names(n: int) -> list[str]:
    return [f"n{i}" for i in range(n)]


def coarse_gradient(name: str, t: int, z: Any) -> Any:
    """A step towards the node's own number, rounded, so that the fractions stay short."""
    return np.array([Fraction(round_to_64th(int(name[1:]) - z[0]), 64 * 8)], dtype=object)


def round_to_64th(number: Fraction) -> int:
    return int(number * 64)


def gradient(name: str, t: int, z: Any) -> Any:
    """One SGD step of 0.1 on |z - target|^2 / 2."""
    target = np.arange(LAYOUT.size, dtype=np.float32) * (1 + int(name[1:]))
    return np.float32(-0.1) * (z - target)


def exact_reference(sim: ClusterSim, eta: Fraction, grain: Fraction) -> dict[str, tuple[Fraction, Fraction]]:
    """Algorithm 1 over the graphs that were used, all nodes at once."""
    names = node_names(sim.run_spec.nodes)
    x, u, error = (
        {n: Fraction(n[1:]) for n in names},
        dict.fromkeys(names, Fraction(1)),
        dict.fromkeys(names, Fraction(0)),
    )
    for t, graph in sorted(sim.graphs.items()):
        for n in names:
            x[n] += coarse_gradient(n, t, [x[n] / u[n]])[0]
        v = {n: x[n] + error[n] for n in names}
        sent = {n: v[n] // grain * grain if grain else v[n] for n in names}
        error = {n: v[n] - sent[n] for n in names}
        weight = {n: Fraction(1, len(graph.out_neighbours(n)) + 1) for n in names}
        senders = {n: graph.in_neighbours(n) for n in names}
        x = {n: x[n] + eta * (sum(weight[j] * sent[j] for j in senders[n]) - (1 - weight[n]) * sent[n]) for n in names}
        u = {n: u[n] + eta * (sum(weight[j] * u[j] for j in senders[n]) - (1 - weight[n]) * u[n]) for n in names}
    return {n: (x[n], u[n]) for n in names}


def dense_reference(sim: ClusterSim, algorithm_spec: AlgorithmSpec, seed: int) -> tuple[Any, Any, list[float]]:
    """Algorithms 1 and 2 on dense float32 [n, d]: the own debit first, then what was received, in sender order."""
    names = node_names(sim.run_spec.nodes)
    n, d = len(names), LAYOUT.size
    x, error, u = np.zeros((n, d), dtype=np.float32), np.zeros((n, d), dtype=np.float32), [1.0] * n
    for t, graph in sorted(sim.graphs.items()):
        step, w = algorithm_spec.step(t), graph.mixing_matrix()
        error *= not step.drops_error
        if step.trains:
            x += np.stack([gradient(name, t, x[i] / np.float32(u[i])) for i, name in enumerate(names)])
        v = x + error
        sent = np.stack([step.compressor(v[i], LAYOUT, stream(seed, name, t)).dense(d) for i, name in enumerate(names)])
        error = v - sent
        eta, pushed_u = step.averaging_rate, list(u)
        for i in range(n):
            x[i] += np.float32(-eta * (1.0 - w[i, i])) * sent[i]
            u[i] -= eta * (1.0 - w[i, i]) * pushed_u[i]
            for j in range(n):
                if j != i and w[i, j]:
                    x[i] += np.float32(eta * w[i, j]) * sent[j]
                    u[i] += eta * w[i, j] * pushed_u[j]
    return x, error, u


def stream(seed: int, name: str, t: int) -> np.random.Generator:
    return np.random.default_rng((seed, int.from_bytes(sha256(name.encode()).digest()[:8]), t))
