"""Checks for extensions, to call in their tests. Each takes a name as run.toml has it, and any keys of [algorithm].

    from edgenode_lab.testing import check_compressor

    def test_signum() -> None:
        check_compressor("signum")

A check raises an AssertionError that states what is wrong. The package must be installed, for example by
``pip install -e .``, because a check finds it as edgenode does.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgenode import factory
from edgenode.config.graphs import GRAPHS
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.config.sections import COMPRESSORS
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate, State, debias
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError, RemoteProtocolError

_LAYOUTS = (Layout((1,)), Layout((1, 40, 7, 1)), Layout((3, 20_000, 500)))
_LAYOUT = Layout((1, 40, 7, 152))
_NODES = tuple(f"node-{i}" for i in range(5))
_ROUNDS = 30
_HOSTILE = 300
_NEAR = 1e-4  # float32 rounding keeps models apart by less


def check_compressor(name: str, **keys: object) -> None:
    """Check that receivers decode what the sender has kept, from bytes that depend on its arguments only.

    1. The same vector and random numbers give the same bytes, and the vector is not changed.
    2. Decoding gives positions and numbers to the bit, so what a receiver adds is what the sender gives.
    3. Sizes are within ``max_bytes``, and no bytes from outside make the decoder take much memory.
    4. ``kept`` and ``contraction`` are shares.
    """
    config = _config(compressor=name, **keys)
    definition, compressor = COMPRESSORS[name], factory.algorithm_spec(config).compressor
    for fact in (definition.kept, definition.contraction or definition.kept):
        assert 0 < fact(config.algorithm) <= 1, f"kept and contraction are shares, above 0 and at most 1: {fact}"
    for layout in _LAYOUTS:
        for vector in _vectors(layout.size):
            _check_payload(compressor, layout, vector)
        if compressor.format is not None:
            _check_memory(compressor, layout)


def check_algorithm(name: str, graph: str = "two-way", *, outer_steps: bool = False, **keys: object) -> None:
    """Check that nodes exchange mass without creating or losing any, and that a run can resume.

    1. A round's mixing changes neither the sum of x over all nodes, nor that of u, nor that of any other vector of the
       messages.
    2. A run that repeats gives the same bits, also from a snapshot in its middle.
    3. Models that differ by one local step come closer when the nodes rest, with the default averaging rate. They begin
       at zero, where the error of compression is that of the step alone.

    As in every run, all nodes begin with one model.

    Args:
        outer_steps: mixing ends with a step of an outer optimiser, as in DiLoCo. So it may change the sum of x.
    """
    config = _config(name=name, graph=graph, **keys)
    spec = factory.algorithm_spec(config)

    def play(states: Sequence[State], rounds: range, training: int) -> Iterator[list[State]]:
        return _play(spec, graph, states, rounds, training, outer_steps)

    whole = list(play(_begin(spec), range(_ROUNDS), _ROUNDS))
    again = list(play(_begin(spec), range(_ROUNDS), _ROUNDS))
    assert _equal(whole[-1], again[-1]), "the same run gives other bits: a rule uses more than its arguments"
    half = _ROUNDS // 2
    resumed = list(play(whole[half - 1], range(half, _ROUNDS), _ROUNDS))
    assert _equal(whole[-1], resumed[-1]), "a resumed run gives other bits: state outside of State is lost"
    if not config.algorithm.definition.communicates:
        return
    apart = [_disagreement(states) for states in play(_begin(spec, 0.0), range(10 * _ROUNDS), 1)]
    grown = f"{apart[0]:.3g} after a round, and {apart[-1]:.3g} after {len(apart)}"
    assert apart[-1] < max(apart[0], _NEAR), f"models that do not train come no closer: their distance is {grown}"


def check_graph(name: str, largest: int = 16) -> None:
    """Check that a graph is the same each time and strongly connected, for every number of nodes that it fits.

    It must fit one number from 2 to ``largest`` at least.
    """
    preset = GRAPHS[name]
    fits = []
    for n in range(1, largest + 1):
        members = tuple(f"node-{i:02d}" for i in range(n))
        try:
            period = GraphSpec(name).period(members)
        except GraphError:
            continue
        fits.append(n)
        try:
            Schedule((GraphSpec(name),), every=1).check(members)
        except GraphError as exc:
            raise AssertionError(f"{n} nodes: {exc}") from exc
        lists = [{(members[i], members[j]) for i, j in edges} for edges in preset.edges(n)]
        assert lists == [set(graph.edges) for graph in period], f"{n} nodes: another call gives other edges"
    assert any(n > 1 for n in fits), f"it fits none of 2 to {largest} nodes"


def _config(**keys: object) -> Config:
    graph = keys.pop("graph", "two-way")
    keys.setdefault("name", "sp")
    named = {f"algorithm.{key}": value for key, value in keys.items()}
    return load(None, {"run.nodes": len(_NODES), "run.rounds": 10_000, "topology.graphs": graph, **named}, {})


# compressors -------------------------------------------------------------------------------------------


def _vectors(size: int) -> Iterator[Floats]:
    normal = np.random.default_rng(size).standard_normal(size)
    for vector in (normal, 0 * normal, 1e6 * normal, 1e-6 * normal, np.where(normal > 1, normal, 0), np.ones(size)):
        yield vector.astype(np.float32)


def _check_payload(compressor: Compressor, layout: Layout, vector: Floats) -> None:
    payload_format, before = compressor.format or codec, vector.copy()
    payload = compressor(vector, layout, np.random.default_rng(1))
    data = payload_format.encode(payload, layout)
    assert np.array_equal(vector, before), "the compressor changes the vector that it is given"
    again = payload_format.encode(compressor(vector, layout, np.random.default_rng(1)), layout)
    assert data == again, "the same vector and random numbers give other bytes"
    assert len(data) <= payload_format.max_bytes(layout), f"{len(data)} bytes are more than max_bytes"
    try:
        decoded = codec.decode_as(compressor.format, data, layout)
    except RemoteProtocolError as exc:
        raise AssertionError(f"a payload of a tensor layout {layout.sizes} is refused: {exc}") from exc
    sent, received = payload.dense(layout.size), decoded.dense(layout.size)
    assert np.array_equal(sent, received), "receivers decode other numbers than the sender kept"
    assert np.array_equal(payload.counts, decoded.counts), "receivers decode other counts than the sender sent"


def _check_memory(compressor: Compressor, layout: Layout) -> None:
    """Give a format random bytes, and valid messages with random changes."""
    assert compressor.format is not None
    rng, limit = np.random.default_rng(2), compressor.format.max_bytes(layout)
    valid = compressor.format.encode(compressor(next(_vectors(layout.size)), layout, rng), layout)
    for attempt in range(_HOSTILE):
        data = bytearray(valid if attempt % 2 else rng.bytes(int(rng.integers(limit + 1))))
        for at in rng.integers(len(data), size=3) if data else ():
            data[at] = int(rng.integers(256))
        peak = _peak_bytes(lambda data=bytes(data): codec.decode_as(compressor.format, data, layout))  # type: ignore[misc]
        allowed = 64 * (limit + 4 * layout.size) + 100_000
        assert peak <= allowed, f"the decoder takes {peak} bytes of memory for a message of {len(data)} bytes"


def _peak_bytes(decode: Callable[[], Payload]) -> int:
    tracemalloc.start()
    try:
        decode()
    except RemoteProtocolError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


# algorithms --------------------------------------------------------------------------------------------


def _begin(spec: AlgorithmSpec, scale: float = 1.0) -> list[State]:
    """States of nodes with one model. Rules may rely on it: a ``begin`` sets what all nodes know of each other."""
    model = (scale * np.random.default_rng(3).standard_normal(_LAYOUT.size)).astype(np.float32)
    return [spec.initial(model) for _ in _NODES]


def _play(
    spec: AlgorithmSpec, graph: str, states: Sequence[State], rounds: range, training: int, outer_steps: bool
) -> Iterator[list[State]]:
    """The states of all nodes after each round. They train before round ``training``. Messages are bytes."""
    learners = {n: VectorLearner(spec, _LAYOUT, s.copy(), 0, n) for n, s in zip(_NODES, states, strict=True)}
    period = factory.graph_spec(graph).period(_NODES)
    for t in rounds:
        digraph, rng = period[t % len(period)], np.random.default_rng(t)
        pushed = {}
        for node, learner in learners.items():
            step = (0.1 * (t < training) * rng.standard_normal(_LAYOUT.size)).astype(np.float32)
            update = LocalUpdate(step, is_difference=True) if learner.trains(t) else None
            pushed[node] = learner.compress_update(t, update)
        before = _mass(learners.values())
        for node, learner in learners.items():
            senders = digraph.in_neighbours(node)
            received = [
                learner.read(t, digraph.weight(peer, node), pushed[peer][1], pushed[peer][0]) for peer in senders
            ]
            learner.mix_round(digraph.weight(node), received, sum(peer < node for peer in senders))
        change = np.abs(_mass(learners.values()) - before)
        lost = change[_LAYOUT.size :].max() if outer_steps else change.max()
        assert lost < 1e-3, f"round {t} changes the sum of x or u over all nodes by {lost:.3g}"
        yield [learner.state.copy() for learner in learners.values()]


def _mass(learners: Iterable[VectorLearner]) -> NDArray[np.float64]:
    """The sums of x, of the other vectors in messages, and of u over all nodes."""
    masses = [np.concatenate([*learner.state.sent, learner.state.u], dtype=np.float64) for learner in learners]
    return np.sum(masses, axis=0)  # type: ignore[no-any-return]


def _equal(a: Sequence[State], b: Sequence[State]) -> bool:
    def parts(state: State) -> list[Floats]:
        return [*state.vectors.values(), state.u.astype(np.float32)]

    return all(np.array_equal(p, q) for s, t in zip(a, b, strict=True) for p, q in zip(parts(s), parts(t), strict=True))


def _disagreement(states: Sequence[State]) -> float:
    models = np.stack([debias(state) for state in states])
    return float(np.linalg.norm(models - models.mean(axis=0)))
