"""The rolling exchange: one block of the model per round, each with a push-sum weight of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import (
    Compressor,
    Layout,
    TopK,
    as_bfloat16,
    as_float32,
    as_int4,
    as_int8,
    block_bounds,
    keep_all,
)
from edgenode.core.algorithm.learner import SparsePush
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec
from edgenode.errors import RemoteProtocolError

LAYOUT = Layout((5, 1, 12, 3))
UNBALANCED = ["chord", "odd"]
VALUES = [as_float32, as_bfloat16, as_int8, as_int4]


def names(n: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(n))


def digraphs(name: str, n: int = 4) -> tuple[Digraph, ...]:
    if name == "odd":  # out-degrees 3, 1, 2, 1
        edges = {("n0", "n1"), ("n0", "n2"), ("n0", "n3"), ("n1", "n2"), ("n2", "n3"), ("n2", "n0"), ("n3", "n0")}
        return (Digraph(names(4), frozenset(edges)),)
    return GraphSpec(name).period(names(n))


def rolling(blocks: int, quantise=as_float32, rounds: int = 60, gossip: int = 0) -> AlgorithmSpec:
    return AlgorithmSpec(Compressor(keep_all, quantise), 1.0, rounds, gossip, blocks)


def learners(algorithm_spec: AlgorithmSpec, models: np.ndarray, layout: Layout = LAYOUT) -> dict[str, SparsePush]:
    states = [algorithm_spec.initial(model) for model in models]
    return {n: SparsePush(algorithm_spec, layout, s, 0, n) for n, s in zip(names(len(models)), states, strict=True)}


def play(nodes: dict[str, SparsePush], graphs: tuple[Digraph, ...], rounds: range) -> Iterator[int]:
    """Rounds without local steps; messages travel as bytes."""
    for t, graph in zip(rounds, itertools.cycle(graphs), strict=False):
        said = {}
        for name, node in nodes.items():
            data, u = node.emit(t, np.zeros(node.layout.size, dtype=np.float32) if node.trains(t) else None)
            said[name] = t, graph.weight(name), u, data
        for name, node in nodes.items():
            node.mix(graph.weight(name), [node.read(*said[peer]) for peer in graph.in_neighbours(name)])
        yield t


def models_of(n: int, layout: Layout = LAYOUT) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, layout.size)).astype(np.float32)


# --- blocks


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 40))
def test_blocks_cover_a_vector_in_order_and_differ_by_one_at_most(size: int, blocks: int) -> None:
    bounds = block_bounds(size, blocks)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1], len(sizes)) == (0, size, blocks)
    assert sizes.max() - sizes.min() <= 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 50))
def test_the_layouts_of_all_blocks_are_the_tensors_cut_at_the_bounds(sizes: list[int], blocks: int) -> None:
    layout = Layout(tuple(sizes))
    parts = [layout.part(block, blocks) for block in range(blocks)]
    assert [part.size for part in parts] == np.diff(block_bounds(layout.size, blocks)).tolist()
    assert all(size > 0 for part in parts for size in part.sizes)
    ends = {int(end) for end in np.cumsum([size for part in parts for size in part.sizes])}
    assert ends == {*layout.offsets[1:].tolist(), *block_bounds(layout.size, blocks)[1:].tolist()} - {0}


def test_everything_is_a_part_too() -> None:
    state = State.initial(np.ones(21, dtype=np.float32), blocks=4)
    assert state.part(None) is state
    assert LAYOUT.part(None, 4) is LAYOUT


def test_a_part_is_a_view_of_its_block_and_of_nothing_else() -> None:
    state = State.initial(np.zeros(21, dtype=np.float32), blocks=4)
    part = state.part(1)
    part.x += 1
    part.error += 2
    part.u *= 3
    first, last = block_bounds(21, 4)[1:3]
    inside = (np.arange(21) >= first) & (np.arange(21) < last)
    assert np.array_equal(state.x, inside * 1.0)
    assert np.array_equal(state.error, inside * 2.0)
    assert state.u.tolist() == [1, 3, 1, 1]


def test_a_model_is_divided_by_the_weight_of_each_block() -> None:
    algorithm_spec = rolling(4)
    node = SparsePush(algorithm_spec, LAYOUT, algorithm_spec.initial(np.ones(21, dtype=np.float32)), 0, "n0")
    node.state.u[:] = [1, 0.5, 0.25, 2]
    assert node.model().tolist() == np.repeat([1, 2, 4, 0.5], np.diff(block_bounds(21, 4))).tolist()
    assert node.u == pytest.approx(3.75 / 4)


# --- what is said


def test_a_round_says_the_block_whose_turn_it_is_and_its_weight() -> None:
    algorithm_spec = rolling(4, rounds=9, gossip=1)
    node = SparsePush(algorithm_spec, LAYOUT, algorithm_spec.initial(np.arange(21, dtype=np.float32)), 0, "n0")
    node.state.u[:] = [1, 2, 3, 4]
    bounds = block_bounds(21, 4)
    for t in range(9):
        data, u = node.emit(t, None)
        assert u == (float(t % 4 + 1),)
        payload = codec.decode(data, LAYOUT.part(t % 4, 4))
        assert payload.indices is None
        assert payload.numbers.tolist() == list(range(*bounds[t % 4 : t % 4 + 2]))
    data, u = node.emit(9, None)
    assert u == (1, 2, 3, 4)
    assert codec.decode(data, LAYOUT).numbers.tolist() == list(range(21))


def test_a_message_costs_its_share_of_the_values_and_no_index() -> None:
    layout = Layout((100_000,))
    algorithm_spec = rolling(100, as_int4)
    data, _ = SparsePush(algorithm_spec, layout, algorithm_spec.initial(models_of(1, layout)[0]), 0, "n0").emit(0, None)
    assert len(data) == 18 + 4 + 1000 // 2  # header, scale, values
    assert 4 * layout.size / len(data) > 750


def test_a_leaver_says_everything_with_all_weights_and_its_heir_takes_it_unscaled() -> None:
    leaver, handoff_to = learners(rolling(4, as_int8), models_of(2)).values()
    leaver.state.u[:] = [1, 2, 3, 4]
    before = handoff_to.state.x.astype(np.float64)
    data, u = leaver.emit(2, None, whole=True)
    assert u == (1, 2, 3, 4)
    handoff_to.emit(2, None)
    handoff_to.mix(1.0, [handoff_to.read(2, 1.0, u, data)])
    assert handoff_to.state.u.tolist() == [2, 3, 4, 5]
    assert np.allclose(handoff_to.state.x, before + leaver.state.x, atol=1e-6)


def test_a_leavers_last_push_and_a_block_are_taken_in_one_round() -> None:
    handoff_to, peer, leaver = learners(rolling(3), models_of(3)).values()
    block, whole = peer.emit(1, None), leaver.emit(1, None, whole=True)
    expected = handoff_to.state.x + leaver.state.x
    part = slice(*block_bounds(21, 3)[1:3])
    expected[part] += 0.5 * peer.state.x[part] - 0.5 * handoff_to.state.x[part]
    handoff_to.emit(1, None)
    handoff_to.mix(0.5, [handoff_to.read(1, 1.0, whole[1], whole[0]), handoff_to.read(1, 0.5, block[1], block[0])])
    assert np.allclose(handoff_to.state.x, expected, atol=1e-6)
    assert handoff_to.state.u.tolist() == [2, 2, 2]


@pytest.mark.parametrize("u", [(), (1.0, 1.0), (1.0,) * 4])
def test_another_number_of_weights_than_the_round_has_is_refused(u: tuple[float, ...]) -> None:
    node, peer = learners(rolling(4), models_of(2)).values()
    data, _ = peer.emit(0, None)
    with pytest.raises(RemoteProtocolError, match=f"{len(u)} push-sum weights in round 0, expected 1"):
        node.read(0, 0.5, u, data)


def test_another_block_than_the_rounds_is_refused_where_its_size_differs() -> None:
    node, peer = learners(rolling(4), models_of(2)).values()
    data, u = peer.emit(0, None)
    with pytest.raises(RemoteProtocolError, match="a dense payload of 5 entries for a model of 6"):
        node.read(3, 0.5, u, data)
    with pytest.raises(RemoteProtocolError, match="a dense payload of 5 entries for a model of 21"):
        node.read(0, 1.0, (1.0,) * 4, data)


# --- what it promises


@pytest.mark.parametrize("graph", UNBALANCED)
def test_equal_models_stay_equal_to_the_rounding_on_unbalanced_graphs(graph: str) -> None:
    models = np.tile(models_of(1), (4, 1))
    nodes = learners(rolling(5, rounds=300), models)
    for _ in play(nodes, digraphs(graph), range(300)):
        worst = max(np.abs(node.model() - models[0]).max() for node in nodes.values())
        assert worst < 2e-6
    assert max(abs(weight - 1) for node in nodes.values() for weight in node.state.u) > 0.2


@pytest.mark.parametrize("graph", UNBALANCED)
def test_where_top_k_of_the_same_share_drifts(graph: str) -> None:
    models = np.tile(models_of(1), (4, 1))
    nodes = learners(AlgorithmSpec(Compressor(TopK(0.2), as_float32), 0.1, 300), models)
    *_, _ = play(nodes, digraphs(graph), range(300))
    assert max(np.abs(node.model() - models[0]).max() for node in nodes.values()) > 1e-2


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([*UNBALANCED, *PRESETS]),
    st.integers(1, 30),
    st.sampled_from(VALUES),
    st.integers(0, 3),
)
def test_mass_is_conserved_in_every_block(graph: str, blocks: int, quantise, gossip: int) -> None:
    """Any share, more blocks than parameters among them; the sums of u per block are n."""
    models = models_of(4)
    nodes = learners(rolling(blocks, quantise, rounds=25, gossip=gossip), models)
    total, scale = models.sum(axis=0, dtype=np.float64), np.abs(models).sum()
    for _ in play(nodes, digraphs(graph), range(25 + gossip)):
        assert sum(node.state.u for node in nodes.values()) == pytest.approx(np.full(blocks, 4.0))
        now = sum(node.state.x.astype(np.float64) for node in nodes.values())
        assert np.abs(now - total).max() < 1e-6 * scale


@pytest.mark.parametrize("quantise", VALUES)
def test_without_training_all_come_to_the_mean_within_the_rounding(quantise) -> None:
    models = models_of(4)
    nodes = learners(rolling(3, quantise, rounds=150), models)
    *_, _ = play(nodes, digraphs("chord"), range(150))
    step = {as_float32: 1e-5, as_bfloat16: 0.02, as_int8: 0.03, as_int4: 0.5}[quantise]
    assert max(np.abs(node.model() - models.mean(axis=0)).max() for node in nodes.values()) < step


def test_the_error_of_a_block_waits_for_its_next_turn() -> None:
    node, _ = learners(rolling(4, as_int4), models_of(2)).values()
    node.emit(1, None)
    held = node.state.error.copy()
    inside = slice(*block_bounds(21, 4)[1:3])
    assert held[inside].any()
    assert not np.delete(held, range(21)[inside]).any()
    node.mix(0.5, [])
    node.emit(2, None)
    assert np.array_equal(node.state.error[inside], held[inside])


@pytest.mark.parametrize("t", [0, 1, 2, 5])
def test_a_push_is_taken_back_from_the_block_it_was_of(t: int) -> None:
    node, _ = learners(rolling(3, as_int8), models_of(2)).values()
    node.state.u[:] = [1, 2, 3]
    x, u = node.state.x.astype(np.float64), node.state.u.copy()
    node.emit(t, None)
    node.mix(0.5, [])
    for later in (t + 1, t + 2):
        node.emit(later, None)
        node.mix(1.0, [])
    node.take_back(t, 0.5)
    assert np.allclose(node.state.x, x, atol=1e-6)
    assert node.state.u.tolist() == u.tolist()


@pytest.mark.parametrize("sizes", [(1,), (2, 1)])
def test_a_model_of_fewer_parameters_than_blocks_is_exchanged_too(sizes: tuple[int, ...]) -> None:
    layout = Layout(sizes)
    models = models_of(4, layout)
    nodes = learners(rolling(7, as_int8, rounds=140), models, layout)
    *_, _ = play(nodes, digraphs("chord"), range(140))
    assert max(np.abs(node.model() - models.mean(axis=0)).max() for node in nodes.values()) < 0.03
