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
from edgenode.core.algorithm.compression import Compressor, Layout, TopK, as_float32, block_bounds, keep_all
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.rounding import Fitted, as_bfloat16, as_int4, as_int8
from edgenode.core.algorithm.sparse_push import LocalUpdate, State
from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec
from edgenode.errors import RemoteProtocolError

LAYOUT = Layout((5, 1, 12, 3))
UNBALANCED = ["chord", "odd"]
VALUES = [as_float32, as_bfloat16, as_int8, as_int4, Fitted(4), Fitted(2)]


def names(n: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(n))


def digraphs(name: str, n: int = 4) -> tuple[Digraph, ...]:
    if name == "odd":  # out-degrees 3, 1, 2, 1
        edges = {("n0", "n1"), ("n0", "n2"), ("n0", "n3"), ("n1", "n2"), ("n2", "n3"), ("n2", "n0"), ("n3", "n0")}
        return (Digraph(names(4), frozenset(edges)),)
    return GraphSpec(name).period(names(n))


def rolling(
    blocks: int, quantise=as_float32, rounds: int = 60, gossip: int = 0, last_phase=as_float32
) -> AlgorithmSpec:
    in_gossip = Compressor(keep_all, last_phase)
    return AlgorithmSpec(Compressor(keep_all, quantise), 1.0, rounds, gossip, blocks, gossip_compressor=in_gossip)


def learners(algorithm_spec: AlgorithmSpec, models: np.ndarray, layout: Layout = LAYOUT) -> dict[str, VectorLearner]:
    states = [algorithm_spec.initial(model) for model in models]
    return {n: VectorLearner(algorithm_spec, layout, s, 0, n) for n, s in zip(names(len(models)), states, strict=True)}


def play(nodes: dict[str, VectorLearner], graphs: tuple[Digraph, ...], rounds: range) -> Iterator[int]:
    """Rounds without local steps; messages are bytes."""
    for t, graph in zip(rounds, itertools.cycle(graphs), strict=False):
        pushed = {}
        for name, node in nodes.items():
            still = LocalUpdate(np.zeros(node.layout.size, dtype=np.float32), is_difference=True)
            data, u = node.compress_update(t, still if node.trains(t) else None)
            pushed[name] = t, graph.weight(name), u, data
        for name, node in nodes.items():
            node.mix_round(graph.weight(name), [node.read(*pushed[peer]) for peer in graph.in_neighbours(name)])
        yield t


def models_of(n: int, layout: Layout = LAYOUT) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, layout.size)).astype(np.float32)


# --- blocks


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 40))
def test_blocks_cover_a_vector_evenly_and_in_order(size: int, blocks: int) -> None:
    bounds = block_bounds(size, blocks)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1], len(sizes)) == (0, size, blocks)
    assert sizes.max() - sizes.min() <= 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 50))
def test_block_layouts_divide_tensors_at_the_bounds(sizes: list[int], blocks: int) -> None:
    layout = Layout(tuple(sizes))
    parts = [layout.part(block, blocks) for block in range(blocks)]
    assert [part.size for part in parts] == np.diff(block_bounds(layout.size, blocks)).tolist()
    assert all(size > 0 for part in parts for size in part.sizes)
    ends = {int(end) for end in np.cumsum([size for part in parts for size in part.sizes])}
    assert ends == {*layout.offsets[1:].tolist(), *block_bounds(layout.size, blocks)[1:].tolist()} - {0}


def test_part_none_is_everything() -> None:
    state = State.initial(np.ones(21, dtype=np.float32), blocks=4)
    assert state.part(None) is state
    assert LAYOUT.part(None, 4) is LAYOUT


def test_part_is_a_view_of_its_block_only() -> None:
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


def test_model_is_divided_by_the_weight_of_each_block() -> None:
    algorithm_spec = rolling(4)
    node = VectorLearner(algorithm_spec, LAYOUT, algorithm_spec.initial(np.ones(21, dtype=np.float32)), 0, "n0")
    node.state.u[:] = [1, 0.5, 0.25, 2]
    assert node.model().tolist() == np.repeat([1, 2, 4, 0.5], np.diff(block_bounds(21, 4))).tolist()
    assert node.u == pytest.approx(3.75 / 4)


# --- messages


def test_round_sends_its_block_and_the_weight_of_the_block() -> None:
    algorithm_spec = rolling(4, rounds=9, gossip=1)
    node = VectorLearner(algorithm_spec, LAYOUT, algorithm_spec.initial(np.arange(21, dtype=np.float32)), 0, "n0")
    node.state.u[:] = [1, 2, 3, 4]
    bounds = block_bounds(21, 4)
    for t in range(9):
        data, u = node.compress_update(t, None)
        assert u == (float(t % 4 + 1),)
        payload = codec.decode(data, LAYOUT.part(t % 4, 4))
        assert payload.indices is None
        assert payload.numbers.tolist() == list(range(*bounds[t % 4 : t % 4 + 2]))
    data, u = node.compress_update(9, None)
    assert u == (1, 2, 3, 4)
    assert codec.decode(data, LAYOUT).numbers.tolist() == list(range(21))


def test_message_costs_its_share_of_the_values_and_no_index() -> None:
    layout = Layout((100_000,))
    algorithm_spec = rolling(100, as_int4)
    data, _ = VectorLearner(
        algorithm_spec, layout, algorithm_spec.initial(models_of(1, layout)[0]), 0, "n0"
    ).compress_update(0, None)
    assert len(data) == 5 + 4 + 1000 // 2  # header, scale, values
    assert 4 * layout.size / len(data) > 785


def test_handoff_sends_all_blocks_and_is_added_unscaled() -> None:
    leaving, target = learners(rolling(4, as_int8), models_of(2)).values()
    leaving.state.u[:] = [1, 2, 3, 4]
    before = target.state.x.astype(np.float64)
    data, u = leaving.compress_update(2, None, handoff=True)
    assert u == (1, 2, 3, 4)
    target.compress_update(2, None)
    target.mix_round(1.0, [target.read(2, 1.0, u, data)])
    assert target.state.u.tolist() == [2, 3, 4, 5]
    assert np.allclose(target.state.x, before + leaving.state.x, atol=1e-6)


def test_handoff_and_block_are_mixed_in_one_round() -> None:
    target, peer, leaving = learners(rolling(3), models_of(3)).values()
    block, whole = peer.compress_update(1, None), leaving.compress_update(1, None, handoff=True)
    expected = target.state.x + leaving.state.x
    part = slice(*block_bounds(21, 3)[1:3])
    expected[part] += 0.5 * peer.state.x[part] - 0.5 * target.state.x[part]
    target.compress_update(1, None)
    target.mix_round(0.5, [target.read(1, 1.0, whole[1], whole[0]), target.read(1, 0.5, block[1], block[0])])
    assert np.allclose(target.state.x, expected, atol=1e-6)
    assert target.state.u.tolist() == [2, 2, 2]


@pytest.mark.parametrize("u", [(), (1.0, 1.0), (1.0,) * 4])
def test_wrong_number_of_push_sum_weights_is_refused(u: tuple[float, ...]) -> None:
    node, peer = learners(rolling(4), models_of(2)).values()
    data, _ = peer.compress_update(0, None)
    with pytest.raises(RemoteProtocolError, match=f"{len(u)} push-sum weights in round 0, expected 1"):
        node.read(0, 0.5, u, data)


def test_block_of_another_size_is_refused() -> None:
    node, peer = learners(rolling(4), models_of(2)).values()
    data, u = peer.compress_update(0, None)
    with pytest.raises(RemoteProtocolError, match="20 bytes for all values of 6, expected 24"):
        node.read(3, 0.5, u, data)
    with pytest.raises(RemoteProtocolError, match="20 bytes for all values of 21, expected 84"):
        node.read(0, 1.0, (1.0,) * 4, data)


# --- guarantees


@pytest.mark.slow
@pytest.mark.parametrize("graph", UNBALANCED)
def test_equal_models_stay_equal_on_unbalanced_graphs(graph: str) -> None:
    models = np.tile(models_of(1), (4, 1))
    nodes = learners(rolling(5, rounds=300), models)
    for _ in play(nodes, digraphs(graph), range(300)):
        worst = max(np.abs(node.model() - models[0]).max() for node in nodes.values())
        assert worst < 2e-6
    assert max(abs(weight - 1) for node in nodes.values() for weight in node.state.u) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("graph", UNBALANCED)
def test_top_k_of_the_same_share_drifts_there(graph: str) -> None:
    models = np.tile(models_of(1), (4, 1))
    nodes = learners(AlgorithmSpec(Compressor(TopK(0.2), as_float32), 0.1, 300), models)
    *_, _ = play(nodes, digraphs(graph), range(300))
    assert max(np.abs(node.model() - models[0]).max() for node in nodes.values()) > 1e-2


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([*UNBALANCED, *PRESETS]),
    st.integers(1, 30),
    st.sampled_from(VALUES),
    st.integers(0, 3),
    st.sampled_from(VALUES),
)
def test_mass_is_conserved_in_every_block(graph: str, blocks: int, quantise, gossip: int, last_phase) -> None:
    """For any share, even with more blocks than parameters. The sums of u per block are n."""
    models = models_of(4)
    nodes = learners(rolling(blocks, quantise, rounds=25, gossip=gossip, last_phase=last_phase), models)
    total, scale = models.sum(axis=0, dtype=np.float64), np.abs(models).sum()
    for _ in play(nodes, digraphs(graph), range(25 + gossip)):
        assert sum(node.state.u for node in nodes.values()) == pytest.approx(np.full(blocks, 4.0))
        now = sum(node.state.x.astype(np.float64) for node in nodes.values())
        assert np.abs(now - total).max() < 1e-6 * scale


@pytest.mark.parametrize("quantise", VALUES)
def test_models_without_training_reach_the_mean(quantise) -> None:
    models = models_of(4)
    nodes = learners(rolling(3, quantise, rounds=150), models)
    *_, _ = play(nodes, digraphs("chord"), range(150))
    step = {as_float32: 1e-5, as_bfloat16: 0.02, as_int8: 0.03, as_int4: 0.5, Fitted(4): 0.7, Fitted(2): 2}[quantise]
    assert max(np.abs(node.model() - models.mean(axis=0)).max() for node in nodes.values()) < step


def test_parameter_far_above_the_others_stays_bounded_on_an_unbalanced_graph() -> None:
    layout = Layout((500,))
    models = models_of(4, layout)
    models[:, 7] = 8
    nodes = learners(rolling(1, Fitted(2), rounds=200), models, layout)
    *_, _ = play(nodes, digraphs("chord"), range(200))
    assert max(np.abs(node.model() - models.mean(axis=0)).max() for node in nodes.values()) < 8


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([2, 4, 8, 16]), st.integers(0, 99), st.booleans())
def test_last_phase_in_8_bits_ends_near_the_mean(n: int, seed: int, shared: bool) -> None:
    """Each of the log2 n rounds leaves at most half a step of an integer: 1/127 of the tensor's largest number."""
    models = np.random.default_rng(seed).standard_normal((n, LAYOUT.size)).astype(np.float32)
    if shared:  # as after training: the nodes differ by less than their parameters are large
        models = models[0] + 0.1 * models
    rounds = n.bit_length() - 1
    nodes = learners(rolling(3, rounds=0, gossip=rounds, last_phase=as_int8), models)
    *_, _ = play(nodes, digraphs("one-peer-exponential", n), range(rounds))
    ends = LAYOUT.offsets
    for first, last in itertools.pairwise(ends):
        step = 1.02 * np.abs(models[:, first:last]).max() / 127
        for node in nodes.values():
            off = np.abs(node.model()[first:last] - models[:, first:last].mean(axis=0, dtype=np.float64))
            assert off.max() <= rounds * step / 2


def test_error_of_a_block_is_kept_until_its_next_round() -> None:
    node, _ = learners(rolling(4, as_int4), models_of(2)).values()
    node.compress_update(1, None)
    held = node.state.error.copy()
    inside = slice(*block_bounds(21, 4)[1:3])
    assert held[inside].any()
    assert not np.delete(held, range(21)[inside]).any()
    node.mix_round(0.5, [])
    node.compress_update(2, None)
    assert np.array_equal(node.state.error[inside], held[inside])


@pytest.mark.parametrize("t", [0, 1, 2, 5])
def test_undone_push_returns_to_its_block(t: int) -> None:
    node, _ = learners(rolling(3, as_int8), models_of(2)).values()
    node.state.u[:] = [1, 2, 3]
    x, u = node.state.x.astype(np.float64), node.state.u.copy()
    node.compress_update(t, None)
    node.mix_round(0.5, [])
    for later in (t + 1, t + 2):
        node.compress_update(later, None)
        node.mix_round(1.0, [])
    node.undo_push(t, 0.5)
    assert np.allclose(node.state.x, x, atol=1e-6)
    assert node.state.u.tolist() == u.tolist()


@pytest.mark.parametrize("sizes", [(1,), (2, 1)])
def test_model_with_fewer_parameters_than_blocks_mixes(sizes: tuple[int, ...]) -> None:
    layout = Layout(sizes)
    models = models_of(4, layout)
    nodes = learners(rolling(7, as_int8, rounds=140), models, layout)
    *_, _ = play(nodes, digraphs("chord"), range(140))
    assert max(np.abs(node.model() - models.mean(axis=0)).max() for node in nodes.values()) < 0.03
