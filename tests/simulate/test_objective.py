"""What nodes with different amounts of data agree on: the mean of their objectives, or the mean over all samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation
from tests.simulate.quadratic import POSITIONS, SIZES

EQUAL = float(np.mean(list(POSITIONS.values())))
WEIGHTED = float(np.average(list(POSITIONS.values()), weights=list(SIZES.values())))


def optimum(out: Path, **settings: object) -> list[float]:
    """What each node of a simulation ends with."""
    keys = {
        "run.rounds": 50, "run.threads": 1, "run.evaluate_every": 0, "run.checkpoint_every": 1000,
        "task.entry": "tests.simulate.quadratic:Quadratic", "task.learning_rate": 0.2, "task.momentum": 0.0,
        "task.weight_decay": 0.0, "algorithm.name": "sgp", "topology.graphs": "complete",
    }  # fmt: skip
    Simulation(load(None, {**keys, **settings}, {}), out).run()
    return [float(load_file(out / name / "model.safetensors")["x"][0]) for name in POSITIONS]


@pytest.mark.parametrize(("objective", "expected"), [("equal", EQUAL), ("samples", WEIGHTED)])
def test_nodes_reach_the_optimum_of_their_objective(objective: str, expected: float, tmp_path: Path) -> None:
    """With uncompressed messages to all, the mean of the nodes takes the steps of the whole objective."""
    assert optimum(tmp_path, **{"task.objective": objective}) == pytest.approx([expected] * 4, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["a", "chord"])
def test_weighted_optimum_is_reached_on_sparse_graphs(graph: str, tmp_path: Path) -> None:
    """Each node is pulled towards its own optimum by its last steps, so only the mean is that of the objective."""
    settings = {
        "task.objective": "samples",
        "topology.graphs": graph,
        "task.schedule": "cosine",
        "run.rounds": 600,
        "task.learning_rate": 0.05,
    }
    assert np.mean(optimum(tmp_path, **settings)) == pytest.approx(WEIGHTED, abs=0.02)


def test_one_epoch_is_the_pass_of_the_mean_node() -> None:
    keys = {"run.threads": 1, "task.entry": "tests.simulate.quadratic:Quadratic", "task.local_steps": 2}
    simulation = Simulation(load(None, keys, {}))
    assert simulation.epoch_rounds == 3  # 150 samples in batches of 32, two of them a round
    trainers = [replica.trainer for replica in simulation._replicas.values()]
    assert [trainer.samples for trainer in trainers] == list(SIZES.values())
    assert {trainer.rounds_per_epoch for trainer in trainers} == {3}
