"""Algorithms 1 and 2 in matrix form: all nodes of a simulated run at once, over the graphs that it used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from itertools import product
from typing import Any

import numpy as np

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Layout
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology.graph import Digraph
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


def mixed_between(run_spec: RunSpec, graphs: Mapping[int, Digraph]) -> Iterator[tuple[int, Sequence[int]]]:
    """Each round with the rounds that are mixed after it is pushed, over the records of a run that only began."""
    lag, mixed, end = run_spec.lag, 0, len(graphs)
    for t in range(end):
        after = t + 1
        drains = after >= min(run_spec.training_rounds, end) or (lag.drain_every and after % lag.drain_every == 0)
        due = range(mixed, after if drains or not lag.overlap else max(mixed, after - lag.overlap))
        mixed = max(mixed, due.stop)
        yield t, due


def exact_reference(sim: ClusterSim, eta: Fraction, grain: Fraction) -> dict[str, tuple[Fraction, Fraction]]:
    """Algorithm 1 over the graphs that were used, all nodes at once. With an overlap, messages arrive later."""
    names = node_names(sim.run_spec.nodes)
    x, u, error = (
        {n: Fraction(n[1:]) for n in names},
        dict.fromkeys(names, Fraction(1)),
        dict.fromkeys(names, Fraction(0)),
    )
    flying: dict[int, dict[str, tuple[Fraction, Fraction]]] = {}
    for t, due in mixed_between(sim.run_spec, sim.graphs):
        for n in names:
            x[n] += coarse_gradient(n, t, [x[n] / u[n]])[0]
        v = {n: x[n] + error[n] for n in names}
        sent = {n: v[n] // grain * grain if grain else v[n] for n in names}
        error = {n: v[n] - sent[n] for n in names}
        out = {n: len(sim.graphs[t].out_neighbours(n)) for n in names}
        flying[t] = {n: (eta * sent[n] / (out[n] + 1), eta * u[n] / (out[n] + 1)) for n in names}
        x = {n: x[n] - out[n] * flying[t][n][0] for n in names}
        u = {n: u[n] - out[n] * flying[t][n][1] for n in names}
        for s in due:
            for n in names:
                x[n] += sum(flying[s][j][0] for j in sim.graphs[s].in_neighbours(n))
                u[n] += sum(flying[s][j][1] for j in sim.graphs[s].in_neighbours(n))
    return {n: (x[n], u[n]) for n in names}


def dense_reference(sim: ClusterSim, algorithm_spec: AlgorithmSpec, seed: int) -> tuple[Any, Any, list[float]]:
    """Algorithms 1 and 2 on dense float32 [n, d]: the own debit first, then what was received, in sender order.

    With an overlap, what was received comes later.
    """
    names = node_names(sim.run_spec.nodes)
    n, d = len(names), LAYOUT.size
    x, error, u = np.zeros((n, d), dtype=np.float32), np.zeros((n, d), dtype=np.float32), [1.0] * n
    flying: dict[int, tuple[Any, list[float]]] = {}
    for t, due in mixed_between(sim.run_spec, sim.graphs):
        step, w = algorithm_spec.step(t), sim.graphs[t].mixing_matrix()
        error *= not step.drops_error
        if step.trains:
            x += np.stack([gradient(name, t, x[i] / np.float32(u[i])) for i, name in enumerate(names)])
        v = x + error
        sent = np.stack([step.compressor(v[i], LAYOUT, stream(seed, name, t)).dense(d) for i, name in enumerate(names)])
        error = v - sent
        flying[t] = sent, list(u)
        for i in range(n):
            x[i] += np.float32(-step.averaging_rate * (1.0 - w[i, i])) * sent[i]
            u[i] -= step.averaging_rate * (1.0 - w[i, i]) * u[i]
        for s in due:
            eta, w, (sent, pushed_u) = algorithm_spec.step(s).averaging_rate, sim.graphs[s].mixing_matrix(), flying[s]
            for i, j in product(range(n), range(n)):
                if j != i and w[i, j]:
                    x[i] += np.float32(eta * w[i, j]) * sent[j]
                    u[i] += eta * w[i, j] * pushed_u[j]
    return x, error, u


def stream(seed: int, name: str, t: int) -> np.random.Generator:
    return np.random.default_rng((seed, int.from_bytes(sha256(name.encode()).digest()[:8]), t))
