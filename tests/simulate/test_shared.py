"""Nodes that share a part of their model, in a simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation

SHARED = ("0.weight", "0.bias", "1.weight", "1.running_mean")
OWN = ("3.weight", "3.bias")


class Interrupted(Exception):
    """As Ctrl-C, but in a chosen round."""


def models(out: Path, stop_at: int = -1, **settings: object) -> list[dict[str, np.ndarray]]:
    """Run or resume a simulation. Return the model of each node."""
    keys = {
        "run.rounds": 40, "run.threads": 1, "run.evaluate_every": 0, "run.checkpoint_every": 8,
        "task.entry": "tests.simulate.normed:Normed", "task.learning_rate": 0.02, "algorithm.share": 0.5,
        "task.shared": ["0", "1"],
    }  # fmt: skip
    simulation = Simulation(load(None, {**keys, **settings}, {}), out)

    def after_round() -> None:
        if simulation.round == stop_at:
            raise Interrupted

    result = simulation.run(after_round)
    assert result["mean_test_accuracy"] > 0.6
    return [load_file(out / f"node-{i}" / "model.safetensors") for i in range(4)]


def test_last_phase_averages_the_shared_part_alone(tmp_path: Path) -> None:
    found = models(tmp_path, **{"task.buffers": "average", "algorithm.gossip_graph": "complete"})
    bodies, heads = ([np.concatenate([m[name].ravel() for name in names]) for m in found] for names in (SHARED, OWN))
    assert np.ptp(bodies, axis=0).max() < 1e-3
    assert np.ptp(heads, axis=0).max() > 0.05


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_own_parts_resume_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    settings = {"task.optimizer": optimizer}
    straight = models(tmp_path / "straight", **settings)
    with pytest.raises(Interrupted):
        models(tmp_path / "resumed", stop_at=21, **settings)
    resumed = models(tmp_path / "resumed", **settings)
    for one, other in zip(straight, resumed, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
