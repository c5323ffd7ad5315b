"""Gradient tracking, Momentum Tracking, quasi-global momentum and GUT: what their papers prove of them."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import ConfigError, GraphError
from edgenode_lab.algorithms.gut import growth
from edgenode_lab.testing import check_algorithm
from tests.algorithm_references import LAYOUT, NODES, OPTIMA, Matrix, towards_optima
from tests.test_algorithms import check_mean_steps, learners_of, names, play, spec_of

CURVATURE = np.random.default_rng(4).uniform(0.2, 2, OPTIMA.shape)
BEST = (CURVATURE * OPTIMA).sum(axis=0) / CURVATURE.sum(axis=0)


def on_unequal_data(t: int, z: Matrix) -> Matrix:
    """A gradient step on a quadratic of each node's own, with another curvature in every coordinate."""
    return -0.03 * CURVATURE * (z - OPTIMA)


def distance(name: str, graph: str = "two-way", rounds: int = 700) -> float:
    """The largest distance of a node's model from the common optimum."""
    spec = spec_of(name=name, rounds=rounds, graph=graph)
    *_, last = play(learners_of(spec), graph, range(rounds), on_unequal_data)
    return float(np.abs(last - BEST).max())


@pytest.mark.slow
def test_trackers_reach_the_common_optimum_of_unequal_data() -> None:
    assert distance("d-psgd") > 0.02
    assert distance("dsgt") < 1e-4
    assert distance("mt") < 1e-4


@pytest.mark.slow
def test_trackers_of_directed_graphs_reach_it_too() -> None:
    """Push-DIGing."""
    assert distance("sgp", "chord") > 0.02
    assert distance("dsgt", "chord") < 1e-4


@pytest.mark.slow
def test_gut_comes_nearer_to_it_than_d_psgd() -> None:
    assert distance("gut") < 0.5 * distance("d-psgd")


@pytest.mark.parametrize("name", ["dsgt", "gut"])
def test_mean_model_takes_plain_steps(name: str) -> None:
    check_mean_steps(name, {})


@pytest.mark.parametrize(("name", "models"), [("dsgt", 2), ("mt", 2), ("qg-dsgdm", 1), ("qg-dsgdm-n", 1), ("gut", 1)])
def test_message_has_as_many_models_as_in_the_paper(name: str, models: int) -> None:
    update = np.linspace(-1, 1, LAYOUT.size).astype(np.float32)
    data, _ = learners_of(spec_of(name=name))[0].compress_update(0, LocalUpdate(update, is_difference=True))
    assert 4 * LAYOUT.size * models <= len(data) < 4 * LAYOUT.size * models + 40


def test_quasi_global_momentum_is_that_of_sgd_where_nodes_agree() -> None:
    """Lin et al. 2021, section 4: on one node m_hat is a mean of its own steps, so momentum speeds it up."""

    def alike(t: int, z: Matrix) -> Matrix:
        return np.full_like(z, 0.5)

    moved = {}
    for name in ("d-psgd", "qg-dsgdm", "qg-dsgdm-n"):
        first, *_, last = play(learners_of(spec_of(name=name, rounds=60)), "two-way", range(60), alike)
        moved[name] = float((last - first).mean()) / (59 * 0.5)
    assert moved["d-psgd"] == pytest.approx(1)
    # a constant step s: d = s + 0.9 m with m' = 0.9 m + 0.1 d, so m' = 0.99 m + 0.1 s, towards m = 10 s
    assert moved["qg-dsgdm"] == pytest.approx(1 + 0.9 * mean_momentum(0.9, 1.0), rel=1e-3)
    assert moved["qg-dsgdm-n"] == pytest.approx(1.9 + 0.81 * mean_momentum(0.81, 1.9), rel=1e-3)


def mean_momentum(kept: float, step: float) -> float:
    """The mean of m over rounds 1 to 59, with d = step + kept * m."""
    m, values = 0.0, []
    for _ in range(60):
        values.append(m)
        m = 0.9 * m + 0.1 * (step + kept * m)
    return float(np.mean(values[1:]))


@pytest.mark.slow
def test_dsgt_takes_other_formats() -> None:
    check_algorithm("dsgt", "chord", compressor="topk", share=0.3)


@pytest.mark.parametrize("name", ["mt", "qg-dsgdm", "gut"])
def test_the_others_send_whole_models(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load(None, {"algorithm.name": name, "algorithm.compressor": "topk"}, {})


@pytest.mark.parametrize(("graph", "fits"), [("two-way", True), ("complete", True), ("a", False)])
def test_gut_refuses_graphs_on_which_it_diverges(graph: str, fits: bool) -> None:
    config = load(None, {"algorithm.name": "gut", "topology.graphs": graph, "run.nodes": NODES}, {})
    if fits:
        factory.check_graphs(config)
    else:
        with pytest.raises(GraphError, match=f"gut cannot use {graph}: with mu = 0.9 each round would multiply"):
            factory.check_graphs(config)


def test_growth_is_what_a_disagreement_grows_by() -> None:
    (graph,) = GraphSpec("a").period(names())
    spec = spec_of(name="gut", rounds=100)

    def once(t: int, z: Matrix) -> Matrix:
        return towards_optima(t, z) if t == 0 else np.zeros_like(z)

    apart = [np.linalg.norm(z - z.mean(axis=0)) for z in play(learners_of(spec), "a", range(60), once)]
    assert (apart[59] / apart[39]) ** (1 / 20) == pytest.approx(growth(graph), rel=0.01)
