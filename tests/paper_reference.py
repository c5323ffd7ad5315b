"""Algorithm 1 and 2 in matrix form over whole vectors, and the code under test in the same shape.

The reference shares only the compressor with the code under test. It sums in the same order (a node's own share, then
its in-neighbours sorted), so that results must be equal to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

import numpy as np
from hypothesis import strategies as st

from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Layout, TopK, as_float32, keep_all, keep_none
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.rounding import Random, as_bfloat16, as_int4, as_int8
from edgenode.core.algorithm.sparse_push import (
    LocalUpdate,
    State,
)
from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec

SEED = 11
NOISE = np.random.default_rng(0)  # for compressors without randomness
LEARNING_RATE = 0.125
LocalStep = Callable[[int, int, np.ndarray], np.ndarray]  # (node, round, z) -> local update


def members(n: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(n))


def preset(name: str, n: int) -> Digraph:
    return GraphSpec(name).period(members(n))[0]


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def no_step(node: int, t: int, z: np.ndarray) -> np.ndarray:
    return np.zeros_like(z)


def towards_own_optimum(layout: Layout) -> LocalStep:
    """One stochastic gradient step on |z - optimum of the node|^2 / 2."""
    optima = np.random.default_rng(1).standard_normal((16, layout.size)).astype(np.float32)

    def step(node: int, t: int, z: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng((node, t)).standard_normal(layout.size).astype(np.float32)
        return np.float32(-LEARNING_RATE) * (z - optima[node] + np.float32(0.1) * noise)

    return step


# --- the code under test, and the reference


def run_learners(
    algorithm_spec: AlgorithmSpec, layout: Layout, models: np.ndarray, graphs: Iterable[Digraph], local: LocalStep
) -> Iterator[list[State]]:
    """The states after every round, of nodes that exchange bytes."""
    learners: list[VectorLearner] = []
    for t, graph in zip(range(algorithm_spec.rounds), graphs, strict=False):
        learners = learners or [
            VectorLearner(algorithm_spec, layout, State.initial(model), SEED, node)
            for node, model in zip(graph.nodes, models, strict=True)
        ]
        pushed = {}
        for i, learner in enumerate(learners):
            update = LocalUpdate(local(i, t, learner.model()), is_difference=True) if learner.trains(t) else None
            data, u = learner.compress_update(t, update)
            pushed[graph.nodes[i]] = (t, graph.weight(graph.nodes[i]), u, data)
        for node, learner in zip(graph.nodes, learners, strict=True):
            received = [learner.read(*pushed[sender]) for sender in graph.in_neighbours(node)]
            learner.mix_round(graph.weight(node), received)
        yield [learner.state.copy() for learner in learners]


def run_reference(
    algorithm_spec: AlgorithmSpec, layout: Layout, models: np.ndarray, graphs: Iterable[Digraph], local: LocalStep
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Algorithm 1 for T rounds, then Algorithm 2's gossip for k: (x [n, d], delta [n, d], u [n]) per round."""
    n = len(models)
    x, delta, u = models.astype(np.float32), np.zeros(models.shape, np.float32), np.ones(n)
    for t, graph in zip(range(algorithm_spec.rounds), graphs, strict=False):
        trains = t < algorithm_spec.training_rounds
        eta = algorithm_spec.averaging_rate if trains else 1.0
        exchange = np.asarray(graph.mixing_matrix() - np.eye(n))  # W - I
        if trains:
            z = x / u.astype(np.float32)[:, None]
            x = x + np.stack([local(i, t, z[i]) for i in range(n)])
        if t == algorithm_spec.training_rounds:
            delta = np.zeros_like(delta)
        v = x + delta
        compressor = algorithm_spec.compressor if trains else UNCOMPRESSED
        c = np.stack([compressor(v[i], layout, stream(graph.nodes[i], t)).dense(layout.size) for i in range(n)])
        delta = v - c
        old_u = u.copy()
        for i in range(n):
            for j in (i, *(j for j in range(n) if j != i and exchange[i, j])):
                x[i] += np.float32(eta * exchange[i, j]) * c[j]
                u[i] += eta * exchange[i, j] * old_u[j]
        yield x.copy(), delta.copy(), u.copy()


def stream(node: str, t: int) -> np.random.Generator:
    return np.random.default_rng((SEED, int.from_bytes(sha256(node.encode()).digest()[:8]), t))


SELECTIONS = st.sampled_from([keep_all, keep_none, TopK(0.1), TopK(0.5)])
QUANTISERS = st.sampled_from([as_float32, as_bfloat16, as_int8, as_int4, Random(1), Random(2), Random(4)])
COMPRESSORS = st.builds(Compressor, SELECTIONS, QUANTISERS)
RATES = st.sampled_from([1.0, 0.5, 0.08, 0.01])
LAYOUTS = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(lambda sizes: Layout(tuple(sizes)))


@st.composite
def strongly_connected(draw: st.DrawFn, n: int) -> Digraph:
    """A random cycle through all nodes and any other edges."""
    order = draw(st.permutations(members(n)))
    cycle = {(a, b) for a, b in zip(order, [*order[1:], order[0]], strict=True) if a != b}
    pairs = [(a, b) for a in order for b in order if a != b]
    more = draw(st.sets(st.sampled_from(pairs), max_size=6)) if pairs else set()
    return Digraph(members(n), frozenset(cycle | more))


@st.composite
def rotations(draw: st.DrawFn) -> list[Digraph]:
    n = draw(st.integers(1, 5))
    named = st.sampled_from(sorted(PRESETS)).flatmap(lambda name: st.sampled_from(GraphSpec(name).period(members(n))))
    return draw(st.lists(st.one_of(named, strongly_connected(n)), min_size=1, max_size=4))


def model_of(n: int, layout: Layout) -> np.ndarray:
    """n different models, because the algorithm must not depend on equal ones."""
    return np.random.default_rng(n).standard_normal((n, layout.size)).astype(np.float32)
