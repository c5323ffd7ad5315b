"""The example package: Push-DIGing and momentum tracking, which find the common optimum of unequal data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode import factory
from edgenode.config.load import load
from edgenode.config.sections import ALGORITHMS
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.simulate.simulation import Simulation
from edgenode_lab.testing import check_algorithm
from tests.distributions import forget, install_project

EXAMPLE = Path(__file__).parents[2] / "examples" / "gradient_tracking"
NODES = tuple("abcde")
LAYOUT = Layout((6, 2))
RATES = {"sgp": 0.1, "push-diging": 0.1, "momentum-tracking": 0.01}


@pytest.fixture(autouse=True, scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        install_project(EXAMPLE, tmp_path_factory.mktemp("tracking"), monkeypatch)
        yield
    forget(ALGORITHMS)


def learners_of(name: str, values: str = "float32") -> dict[str, VectorLearner]:
    keys = {"algorithm.name": name, "algorithm.values": values, "run.nodes": len(NODES), "topology.graphs": "chord"}
    spec = factory.algorithm_spec(load(None, keys, {}))
    start = np.zeros(LAYOUT.size, np.float32)
    return {node: VectorLearner(spec, LAYOUT, spec.initial(start), 0, node) for node in NODES}


def play(learners: dict[str, VectorLearner], rounds: int, rate: float, curvature: np.ndarray, at: np.ndarray) -> None:
    """Gradient descent of node i on the mean of ``curvature[i] * (z - at[i])^2 / 2``."""
    (graph,) = factory.graph_spec("chord").period(NODES)
    for t in range(rounds):
        pushed = {}
        for i, (node, learner) in enumerate(learners.items()):
            step = -rate * curvature[i] * (learner.model() - at[i])
            pushed[node] = learner.compress_update(t, LocalUpdate(step.astype(np.float32), is_difference=True))
        for node, learner in learners.items():
            senders = graph.in_neighbours(node)
            received = [learner.read(t, graph.weight(s, node), pushed[s][1], pushed[s][0]) for s in senders]
            learner.mix_round(graph.weight(node), received)


def worst_distance(name: str, values: str = "float32") -> float:
    """The largest distance of a node's model from the common optimum, as a share of it, on an unbalanced graph."""
    rng = np.random.default_rng(0)
    curvature, at = rng.uniform(0.2, 2, (5, LAYOUT.size)), rng.standard_normal((5, LAYOUT.size))
    optimum = (curvature * at).sum(axis=0) / curvature.sum(axis=0)
    learners = learners_of(name, values)
    play(learners, 600, RATES[name], curvature, at)
    models = [learner.model() for learner in learners.values()]
    return max(float(np.linalg.norm(model - optimum)) for model in models) / float(np.linalg.norm(optimum))


@pytest.mark.slow
def test_trackers_lead_unequal_nodes_to_the_common_optimum() -> None:
    """Without a tracker, each node is drawn to its own."""
    assert worst_distance("sgp") > 0.1
    for name in ("push-diging", "momentum-tracking"):
        assert worst_distance(name) < 1e-4
        assert worst_distance(name, "int8") < 0.05


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["push-diging", "momentum-tracking"]), st.integers(1, 12), st.integers(0, 99))
def test_trackers_add_up_to_the_last_steps(name: str, rounds: int, seed: int) -> None:
    """The conservation law of gradient tracking, whatever the steps are and however u is distributed."""
    rng, learners = np.random.default_rng(seed), learners_of(name)
    play(learners, rounds, 0.1, *rng.standard_normal((2, 5, LAYOUT.size)))
    states = [learner.state for learner in learners.values()]
    trackers, last = (np.sum([s.kept[key] for s in states], axis=0) for key in ("tracker", "last"))
    assert trackers == pytest.approx(last, abs=1e-4)
    assert sum(float(s.u[0]) for s in states) == pytest.approx(5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["push-diging", "momentum-tracking"])
def test_example_passes_the_check_for_algorithms(name: str) -> None:
    check_algorithm(name, "chord")
    check_algorithm(name, "chord", compressor="topk", share=0.3)


@pytest.mark.slow
def test_message_has_two_models() -> None:
    counts = {}
    for name in ("sgp", "push-diging"):
        keys = {"run.rounds": 2, "run.nodes": 2, "topology.graphs": "a", "algorithm.name": name}
        node, _ = Simulation(load(None, keys, {}), None).run(lambda: None)["nodes"]
        counts[name] = node["payload_bytes"], node["dense_bytes"]
        assert node["dense_bytes"] < node["payload_bytes"] < 1.001 * node["dense_bytes"]
    assert counts["push-diging"][1] == 2 * counts["sgp"][1]


def test_run_of_the_example_is_valid() -> None:
    config = load(EXAMPLE / "run.toml", {}, {})
    factory.check_networked(config, controller=False)
    assert config.warnings() == []


def test_example_is_one_file_of_under_100_lines() -> None:
    assert len((EXAMPLE / "edgenode_tracking.py").read_text().splitlines()) < 100
