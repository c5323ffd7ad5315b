"""DiLoCo, in one round and in pairs. Its matrix form in one round is in `tests/test_algorithms.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.algorithm.diloco import MOMENTUM, RATE
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import ConfigError, GraphError
from tests.algorithm_references import LAYOUT, NODES, START, Compress, Matrix, towards_optima
from tests.test_algorithms import FLOAT, TOP, compressed_by, learners_of, names, play, run, spec_of


def one_step(t: int, z: Matrix) -> Matrix:
    """The nodes take one step each towards their own optimum, and then none."""
    return towards_optima(t, z) if t == 0 else np.zeros_like(z)


def test_all_entries_on_the_complete_graph_are_local_sgd() -> None:
    """Stich 2019: after the local steps of a round, every node has the mean of all models."""
    for models in run("complete", name="sp", compressor="identity", **FLOAT):
        assert np.ptp(models, axis=0).max() < 1e-6


def test_diloco_sends_later_what_a_message_left_out() -> None:
    *_, models = run("complete", step=one_step, name="diloco", compressor="topk", share=0.2, rounds=100)
    moved = towards_optima(0, np.tile(START, (NODES, 1))).mean(axis=0)
    assert np.abs(models - START - RATE / (1 - MOMENTUM) * moved).max() < 1e-3 * np.abs(moved).max()


def diloco_in_pairs(nodes: int, graph: str, c: Compress) -> Iterator[Matrix]:
    """The exchange takes log2 n rounds. After each, theta is the outer step with the mean of the changes so far."""
    theta, momentum, rest = np.tile(START, (nodes, 1)), np.zeros((nodes, LAYOUT.size)), np.zeros((nodes, LAYOUT.size))
    matrices = [digraph.mixing_matrix() for digraph in GraphSpec(graph).period(names(nodes))]
    while True:
        begun, change, rest = theta, rest + towards_optima(0, theta), np.zeros_like(rest)
        for w in matrices:
            sent = c(change)
            rest, change = rest + change - sent, w @ sent
            theta = begun + RATE * (change + MOMENTUM * (MOMENTUM * momentum + change))
            yield theta
        momentum = MOMENTUM * momentum + change


@pytest.mark.parametrize(
    ("nodes", "graph"), [(2, "halving"), (4, "halving"), *((n, "doubling") for n in (3, 4, 5, 6, 7, 9))]
)
@pytest.mark.parametrize("settings", [{**TOP, **FLOAT, "averaging_rate": RATE}, FLOAT])
def test_diloco_in_pairs_equals_its_matrix_form(nodes: int, graph: str, settings: dict[str, object]) -> None:
    spec = spec_of(nodes, name="diloco", graph=graph, rounds=12, **settings)
    ours = play(learners_of(spec, nodes=nodes), graph, range(spec.rounds))
    for x, theirs in zip(ours, diloco_in_pairs(nodes, graph, compressed_by(spec)), strict=False):
        assert np.abs(x - theirs).max() < 2e-4


def move(t: int, z: Matrix) -> Matrix:
    """Any local steps."""
    return 0.1 * np.random.default_rng(t).standard_normal(z.shape)


@pytest.mark.parametrize("compressor", ["topk", "identity", "random"])
@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 9])
def test_all_nodes_of_diloco_have_one_model_to_the_bit(nodes: int, compressor: str) -> None:
    spec = spec_of(nodes, name="diloco", graph="complete", compressor=compressor, share=0.2, rounds=12)
    for models in play(learners_of(spec, nodes=nodes), "complete", range(spec.rounds), move):
        assert (models == models[0]).all()


@pytest.mark.parametrize("compressor", ["topk", "identity", "random"])
@pytest.mark.parametrize("nodes", [*range(2, 10), 12, 16])
def test_diloco_in_pairs_ends_every_exchange_with_one_model_to_the_bit(nodes: int, compressor: str) -> None:
    spec = spec_of(nodes, name="diloco", graph="doubling", compressor=compressor, share=0.2, rounds=12)
    played = list(play(learners_of(spec, nodes=nodes), "doubling", range(spec.rounds), move))
    for models in played[spec.exchange_rounds - 1 :: spec.exchange_rounds]:
        assert (models == models[0]).all()
    assert spec.exchange_rounds == (nodes - 1).bit_length()
    assert nodes == 2 or not (played[0] == played[0][0]).all()


@pytest.mark.parametrize("compressor", ["topk", "identity", "random"])
@pytest.mark.parametrize("values", ["fitted1", "fitted2", "coded3", "int8"])
@pytest.mark.parametrize("nodes", [2, 3, 5, 7, 12])
def test_no_change_is_lost(nodes: int, values: str, compressor: str) -> None:
    """What was applied, and the mean of what is kept, are the mean of all local changes, after every exchange."""
    spec = spec_of(nodes, name="diloco", graph="doubling", compressor=compressor, share=0.2, values=values, rounds=12)
    learners = learners_of(spec, nodes=nodes)
    changed, applied, exchange = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size), spec.exchange_rounds
    for t, _ in enumerate(play(learners, "doubling", range(spec.rounds), move)):
        if t % exchange == 0:
            changed += move(t, np.zeros((nodes, LAYOUT.size))).mean(axis=0)
        if (t + 1) % exchange == 0:
            applied += learners[0].state.kept["change"]
            rest = np.mean([learner.state.kept["rest"] for learner in learners], axis=0, dtype=np.float64)
            assert np.abs(applied + rest - changed).max() < 5e-6
    assert values == "int8" or np.abs(rest).max() > 1e-2, "nothing is left out"


def test_power_of_two_sends_the_same_bits_on_doubling_and_halving() -> None:
    spec = spec_of(8, name="diloco", graph="doubling", rounds=12)
    runs = [
        list(play(learners_of(spec, nodes=8), graph, range(spec.rounds), move)) for graph in ("doubling", "halving")
    ]
    assert np.array_equal(*runs)


def test_diloco_in_pairs_sends_later_what_any_of_its_messages_left_out() -> None:
    """After one local step, the models come to rest where they would be without compression."""
    spec = spec_of(3, name="diloco", graph="doubling", compressor="topk", share=0.2, rounds=200)
    *_, models = play(learners_of(spec, nodes=3), "doubling", range(spec.rounds), one_step)
    moved = towards_optima(0, np.tile(START, (3, 1))).mean(axis=0)
    assert np.abs(models - START - RATE / (1 - MOMENTUM) * moved).max() < 1e-3 * np.abs(moved).max()


def common_parts(learners: list[VectorLearner], begun: bool) -> dict[str, Matrix]:
    """What all nodes have alike: x and the momentum with which an exchange begins, or has begun."""
    common = learners[0].algorithm_spec.rule.common
    assert common is not None
    first, *others = ({k: v.copy() for k, v in common(node.state, begun).items()} for node in learners)
    for other in others:
        assert first.keys() == other.keys()
        assert all(np.array_equal(first[k].view(np.uint32), other[k].view(np.uint32)) for k in first)
    return first


@pytest.mark.parametrize("values", ["float32", "fitted2"])
@pytest.mark.parametrize(("graph", "nodes"), [("complete", 2), ("complete", 4), ("doubling", 3), ("doubling", 5)])
def test_node_that_joins_has_the_bits_of_the_others_after_an_exchange(graph: str, nodes: int, values: str) -> None:
    """It needs what all others have alike, and that is the same before and after they have begun the exchange."""
    spec = spec_of(nodes, name="diloco", graph=graph, compressor="topk", share=0.2, values=values, rounds=18)
    learners, exchange = learners_of(spec, nodes=nodes), spec.exchange_rounds
    list(play(learners, graph, range(2 * exchange), move))
    before = common_parts(learners, begun=False)
    unsent = move(77, START).astype(np.float32)
    learners[1:1] = learners_of(spec, [spec.joining(before | {"rest": unsent})])
    brought = sum(node.state.kept["rest"].astype(np.float64) for node in learners)
    for k, models in enumerate(play(learners, graph, range(2 * exchange, 4 * exchange), move)):
        if k == 0:
            begun = common_parts(learners, begun=True)
            assert all(np.array_equal(before[name], begun[name]) for name in begun)
        if (k + 1) % exchange == 0:
            assert (models == models[0]).all()
        if k + 1 == exchange:
            changed = move(2 * exchange, np.zeros((nodes + 1, LAYOUT.size))).sum(axis=0)
            kept = sum(node.state.kept["rest"].astype(np.float64) for node in learners)
            sent = (nodes + 1) * learners[0].state.kept["change"].astype(np.float64)
            assert np.abs(brought + changed - sent - kept).max() < 1e-5


@pytest.mark.parametrize(("graph", "nodes"), [("two-way", 4), ("a", 4), ("one-peer-exponential", 4), ("halving", 6)])
def test_diloco_refuses_graphs_on_which_models_would_part(graph: str, nodes: int) -> None:
    config = load(None, {"algorithm.name": "diloco", "topology.graphs": graph, "run.nodes": nodes}, {})
    with pytest.raises(
        GraphError, match=f"cannot use {graph} with {nodes} nodes: .* same model; use complete or doubling"
    ):
        factory.check_graphs(config)


def test_diloco_refuses_graphs_that_take_turns() -> None:
    with pytest.raises(GraphError, match="diloco cannot use complete, halving: it assumes the same neighbours"):
        spec_of(4, name="diloco", graph="complete,halving")


def test_run_of_diloco_ends_with_an_exchange() -> None:
    spec_of(8, name="diloco", graph="halving", rounds=9)
    with pytest.raises(ConfigError, match=r"run.rounds = 10: an exchange of diloco on halving with 8 nodes takes 3"):
        spec_of(8, name="diloco", graph="halving", rounds=10)
