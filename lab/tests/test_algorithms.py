"""SPARTA, NoLoCo, SparseLoCo, JWINS and Skew-Scout, as extensions of edgenode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.errors import ConfigError, GraphError
from edgenode_lab.algorithms import noloco, sparse_loco
from edgenode_lab.algorithms.jwins import from_wavelet, wavelet
from edgenode_lab.algorithms.shuffled import Shuffled
from edgenode_lab.testing import check_algorithm
from lab.tests import references
from tests.algorithm_references import LAYOUT, NODES, START, Matrix, towards_optima
from tests.test_algorithms import (
    FLOAT,
    TOP,
    check_matrix_form,
    check_mean_steps,
    check_resume,
    equal,
    learners_of,
    mixing,
    play,
    run,
    spec_of,
)

EVERYTHING = {"compressor": "identity", **FLOAT}
EVERY: dict[str, dict[str, object]] = {
    "choco-jwins": TOP,
    "sparse-loco": {**TOP, "values": "fitted2"},
    "sparta": {"share": 0.3},
    "noloco": {},
    "skew-scout": {},
    "dsgt": {},
    "mt": {},
    "qg-dsgdm": {},
    "qg-dsgdm-n": {},
    "gut": {},
}
REFERENCES = [
    ("sparse-loco", {**TOP, **FLOAT}, "two-way", references.sparse_loco),
    ("sparse-loco", {**TOP, **FLOAT}, "a", references.sparse_loco),
    ("choco-jwins", {**TOP, **FLOAT}, "two-way", references.choco_jwins),
    ("noloco", {}, "two-way", references.noloco),
    ("noloco", {"averaging_rate": 0.3}, "complete", references.noloco),
    ("dsgt", {}, "two-way", references.dsgt),
    ("dsgt", {}, "chord", references.dsgt),
    ("mt", {}, "two-way", references.momentum_tracking),
    ("mt", {}, "a", references.momentum_tracking),
    ("qg-dsgdm", {}, "two-way", references.qg_dsgdm),
    ("qg-dsgdm-n", {}, "two-way", references.qg_dsgdm_n),
    ("gut", {}, "two-way", references.gut),
    ("gut", {}, "complete", references.gut),
]


def one_step(t: int, z: Matrix) -> Matrix:
    """The nodes take one step each towards their own optimum, and then none."""
    return towards_optima(t, z) if t == 0 else np.zeros_like(z)


@pytest.mark.parametrize(("name", "settings", "graph", "reference"), REFERENCES)
def test_algorithm_equals_the_matrix_form_of_its_paper(
    name: str, settings: dict[str, object], graph: str, reference: Callable[..., Iterator[Matrix]]
) -> None:
    check_matrix_form(name, settings, graph, reference)


@pytest.mark.parametrize("name", EVERY)
def test_every_algorithm_resumes_to_the_bit(tmp_path: Path, name: str) -> None:
    check_resume(tmp_path, name, EVERY[name])


@pytest.mark.parametrize("name", ["choco-jwins", "sparta"])
def test_mean_model_takes_plain_steps_on_balanced_graphs(name: str) -> None:
    check_mean_steps(name, EVERY[name])


@pytest.mark.parametrize(
    ("name", "vectors"),
    [
        ("choco-jwins", ["x", "known", "gathered"]),
        ("sparse-loco", ["x", "known", "gathered"]),
        ("sparta", ["x"]),
        ("noloco", ["x", "momentum", "start"]),
    ],
)
def test_node_keeps_only_the_vectors_of_its_algorithm(name: str, vectors: list[str]) -> None:
    (learner, *_) = learners_of(spec_of(name=name, **EVERY[name]))
    assert list(learner.state.vectors) == vectors


def test_sparta_conserves_mass_from_unequal_models() -> None:
    check_algorithm("sparta", "two-way", share=0.3)


@pytest.mark.slow
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
    with pytest.raises(ConfigError, match=r"the members of a run of sparta are fixed, so none that answers is evicted"):
        factory.check_networked(load(None, {"algorithm.name": "sparta", "run.straggler": "drop"}, {}), controller=True)


# --- NoLoCo


def test_mean_model_of_noloco_takes_steps_with_momentum() -> None:
    def alike(t: int, z: Matrix) -> Matrix:
        return np.full_like(z, 0.125)

    mean, step = START.copy(), np.zeros_like(START)
    for models in run(step=alike, name="noloco"):
        step = noloco.MOMENTUM * step + noloco.RATE * 0.125
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
    payload = learner.own_push.payload
    left = update - payload.dense(LAYOUT.size)
    known = START.astype(np.float32) + payload.dense(LAYOUT.size)
    assert np.abs(learner.state.x - (known + sparse_loco.DECAY * left)).max() < 1e-6


@pytest.mark.parametrize("name", ["sparse-loco", "choco-jwins"])
def test_common_model_at_the_start_is_not_sent(name: str) -> None:
    learner = learners_of(spec_of(name=name, **{**TOP, **FLOAT}))[0]
    learner.compress_update(0, LocalUpdate(np.zeros(LAYOUT.size, dtype=np.float32), is_difference=True))
    payload = learner.own_push.payload
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
