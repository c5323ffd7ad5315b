"""SPARTA, DiLoCo, NoLoCo, SparseLoCo and JWINS. Their matrix forms are in `tests/test_algorithms.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.algorithm.low_communication import (
    DILOCO_MOMENTUM,
    DILOCO_RATE,
    NOLOCO_MOMENTUM,
    NOLOCO_RATE,
    SPARSE_LOCO_DECAY,
    from_wavelet,
    wavelet,
)
from edgenode.core.algorithm.shuffled import Shuffled
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import ConfigError, GraphError
from edgenode.testing import check_algorithm
from tests.algorithm_references import LAYOUT, NODES, START, Compress, Matrix, towards_optima
from tests.test_algorithms import FLOAT, TOP, compressed_by, equal, learners_of, mixing, names, play, run, spec_of

EVERYTHING = {"compressor": "identity", **FLOAT}


def one_step(t: int, z: Matrix) -> Matrix:
    """The nodes take one step each towards their own optimum, and then none."""
    return towards_optima(t, z) if t == 0 else np.zeros_like(z)


def test_sparta_conserves_mass_from_unequal_models() -> None:
    check_algorithm("sparta", "two-way", share=0.3)


@pytest.mark.parametrize("name", ["sparta", "noloco", "sparse-loco", "choco-jwins"])
def test_models_that_rest_meet_with_default_rates(name: str) -> None:
    settings = {} if name == "noloco" else {"share": 0.2}
    first, *_, last = run(step=one_step, name=name, rounds=300, **settings)
    assert np.ptp(last, axis=0).max() < 0.1 * np.ptp(first, axis=0).max()


@pytest.mark.parametrize("name", ["sparta", "noloco", "sparse-loco", "choco-jwins"])
def test_equal_seeds_give_equal_bits(name: str) -> None:
    assert equal(run(name=name, values="fitted2"), run(name=name, values="fitted2"))


# --- the dense limit


def test_sparta_of_all_entries_is_d_psgd() -> None:
    assert equal(run(name="sparta", share=1.0), run(name="d-psgd"))


@pytest.mark.parametrize("name", ["sparse-loco", "choco-jwins"])
def test_all_differences_at_rate_1_are_d_psgd(name: str) -> None:
    assert equal(run(name=name, averaging_rate=1.0, **EVERYTHING), run(name="d-psgd"), within=1e-5)


def test_all_entries_on_the_complete_graph_are_local_sgd() -> None:
    """Stich 2019: after the local steps of a round, every node has the mean of all models."""
    for models in run("complete", name="sp", **EVERYTHING):
        assert np.ptp(models, axis=0).max() < 1e-6


# --- SPARTA


def test_sparta_averages_the_entries_of_the_round_alone() -> None:
    spec = spec_of(name="sparta", share=0.2)
    models, w = np.tile(START, (NODES, 1)), mixing("two-way")
    for t, ours in enumerate(play(learners_of(spec), "two-way", range(20))):
        models = models + towards_optima(t, models)
        _, entries = Shuffled(0.2, t).chosen(LAYOUT)
        models[:, entries] = w @ models[:, entries]
        assert np.abs(ours - models).max() < 1e-5


def test_sparta_refuses_members_and_graphs_that_change() -> None:
    with pytest.raises(GraphError, match=r"sparta cannot use a, b: it assumes the same neighbours"):
        spec_of(name="sparta", graph="a,b")
    with pytest.raises(ConfigError, match=r"sparta: it assumes the same neighbours in every round, so no node can"):
        factory.check_networked(load(None, {"algorithm.name": "sparta"}, {}), controller=True)


# --- DiLoCo


def test_all_nodes_of_diloco_have_one_model() -> None:
    for models in run("complete", name="diloco", compressor="topk", share=0.2):
        assert np.ptp(models, axis=0).max() < 1e-5


def test_diloco_sends_later_what_a_message_left_out() -> None:
    *_, models = run("complete", step=one_step, name="diloco", compressor="topk", share=0.2, rounds=100)
    moved = towards_optima(0, np.tile(START, (NODES, 1))).mean(axis=0)
    assert np.abs(models - START - DILOCO_RATE / (1 - DILOCO_MOMENTUM) * moved).max() < 1e-3 * np.abs(moved).max()


def diloco_in_pairs(nodes: int, c: Compress) -> Iterator[Matrix]:
    """The exchange takes log2 n rounds. After each, theta is the outer step with the mean of the changes so far."""
    theta, momentum, rest = np.tile(START, (nodes, 1)), np.zeros((nodes, LAYOUT.size)), np.zeros((nodes, LAYOUT.size))
    matrices = [digraph.mixing_matrix() for digraph in GraphSpec("halving").period(names(nodes))]
    while True:
        begun, change, rest = theta, rest + towards_optima(0, theta), np.zeros_like(rest)
        for w in matrices:
            sent = c(change)
            rest, change = rest + change - sent, w @ sent
            theta = begun + DILOCO_RATE * (change + DILOCO_MOMENTUM * (DILOCO_MOMENTUM * momentum + change))
            yield theta
        momentum = DILOCO_MOMENTUM * momentum + change


@pytest.mark.parametrize("nodes", [2, 4])
@pytest.mark.parametrize("settings", [{**TOP, **FLOAT, "averaging_rate": DILOCO_RATE}, FLOAT])
def test_diloco_in_pairs_equals_its_matrix_form(nodes: int, settings: dict[str, object]) -> None:
    spec = spec_of(nodes, name="diloco", graph="halving", **settings)
    ours = play(learners_of(spec, nodes=nodes), "halving", range(spec.rounds))
    for x, theirs in zip(ours, diloco_in_pairs(nodes, compressed_by(spec)), strict=False):
        assert np.abs(x - theirs).max() < 2e-4


@pytest.mark.parametrize("compressor", ["topk", "identity", "random", "shuffled"])
@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_diloco_in_pairs_ends_every_exchange_with_one_model_to_the_bit(nodes: int, compressor: str) -> None:
    spec = spec_of(nodes, name="diloco", graph="halving", compressor=compressor, share=0.2, rounds=24)

    def move(t: int, z: Matrix) -> Matrix:
        return 0.1 * np.random.default_rng(t).standard_normal(z.shape)

    played = list(play(learners_of(spec, nodes=nodes), "halving", range(spec.rounds), move))
    for models in played[spec.exchange_rounds - 1 :: spec.exchange_rounds]:
        assert (models == models[0]).all()
    assert spec.exchange_rounds == nodes.bit_length() - 1
    assert nodes == 2 or not (played[0] == played[0][0]).all()


def test_diloco_in_pairs_sends_later_what_any_of_its_messages_left_out() -> None:
    """After one local step, the models come to rest where they would be without compression."""
    spec = spec_of(4, name="diloco", graph="halving", compressor="topk", share=0.2, rounds=200)
    *_, models = play(learners_of(spec, nodes=4), "halving", range(spec.rounds), one_step)
    moved = towards_optima(0, np.tile(START, (4, 1))).mean(axis=0)
    assert np.abs(models - START - DILOCO_RATE / (1 - DILOCO_MOMENTUM) * moved).max() < 1e-3 * np.abs(moved).max()


@pytest.mark.parametrize(("graph", "nodes"), [("two-way", 4), ("a", 4), ("one-peer-exponential", 4), ("halving", 6)])
def test_diloco_refuses_graphs_on_which_models_would_part(graph: str, nodes: int) -> None:
    config = load(None, {"algorithm.name": "diloco", "topology.graphs": graph, "run.nodes": nodes}, {})
    with pytest.raises(GraphError, match=f"cannot use {graph} with {nodes} nodes: .* same model; use complete, or"):
        factory.check_graphs(config)


def test_diloco_refuses_graphs_that_take_turns() -> None:
    with pytest.raises(GraphError, match="diloco cannot use complete, halving: it assumes the same neighbours"):
        spec_of(4, name="diloco", graph="complete,halving")


def test_run_of_diloco_ends_with_an_exchange() -> None:
    spec_of(8, name="diloco", graph="halving", rounds=9)
    with pytest.raises(ConfigError, match=r"run.rounds = 10: an exchange of diloco on halving with 8 nodes takes 3"):
        spec_of(8, name="diloco", graph="halving", rounds=10)


# --- NoLoCo


def test_mean_model_of_noloco_takes_steps_with_momentum() -> None:
    def alike(t: int, z: Matrix) -> Matrix:
        return np.full_like(z, 0.125)

    mean, step = START.copy(), np.zeros_like(START)
    for models in run(step=alike, name="noloco"):
        step = NOLOCO_MOMENTUM * step + NOLOCO_RATE * 0.125
        mean = mean + step
        assert np.abs(models.mean(axis=0) - mean).max() < 1e-4


@pytest.mark.parametrize(("graph", "fits"), [("two-way", True), ("complete", True), ("halving", True), ("a", False)])
def test_noloco_takes_symmetric_graphs(graph: str, fits: bool) -> None:
    config = load(None, {"algorithm.name": "noloco", "topology.graphs": graph, "run.nodes": 4}, {})
    if fits:
        factory.check_graphs(config)
    else:
        with pytest.raises(GraphError, match="noloco cannot use a: its weights are not symmetric"):
            factory.check_graphs(config)


def test_noloco_diverges_on_the_graph_that_it_refuses() -> None:
    spec = spec_of(name="noloco", rounds=200)
    first, *_, last = play(learners_of(spec), "a", range(200), one_step)
    assert np.ptp(last, axis=0).max() > 1000 * np.ptp(first, axis=0).max()


# --- SparseLoCo


def test_rest_of_a_sparse_loco_message_decays() -> None:
    spec = spec_of(name="sparse-loco", rounds=3, **{**TOP, **FLOAT})
    learner = learners_of(spec)[0]
    update = np.linspace(-1, 1, LAYOUT.size).astype(np.float32)
    learner.compress_update(0, LocalUpdate(update, is_difference=True))
    payload, _, _ = learner.own_push
    left = update - payload.dense(LAYOUT.size)
    known = START.astype(np.float32) + payload.dense(LAYOUT.size)
    assert np.abs(learner.state.x - (known + SPARSE_LOCO_DECAY * left)).max() < 1e-6


@pytest.mark.parametrize("name", ["sparse-loco", "choco-jwins"])
def test_common_model_at_the_start_is_not_sent(name: str) -> None:
    learner = learners_of(spec_of(name=name, **{**TOP, **FLOAT}))[0]
    learner.compress_update(0, LocalUpdate(np.zeros(LAYOUT.size, dtype=np.float32), is_difference=True))
    payload, _, _ = learner.own_push
    assert not payload.numbers.any()


# --- JWINS


@given(st.integers(1, 70))
def test_wavelet_is_orthonormal_and_has_an_inverse(size: int) -> None:
    rows = np.stack([wavelet(row) for row in np.eye(size, dtype=np.float32)])
    assert np.abs(rows @ rows.T - np.eye(size)).max() < 1e-6
    vector = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    assert np.abs(from_wavelet(wavelet(vector)) - vector).max() < 1e-5


def test_wavelet_of_equal_entries_is_one_coefficient_in_16() -> None:
    coefficients = wavelet(np.ones(48, dtype=np.float32))
    assert np.flatnonzero(np.abs(coefficients) > 1e-6).tolist() == [0, 16, 32]
    assert coefficients[::16] == pytest.approx([4, 4, 4])
