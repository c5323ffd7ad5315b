"""Nodes that share a part of their model, in a simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgenode import ConfigError, NodeInfo
from edgenode.config.load import load
from edgenode.inference import exporter
from edgenode.simulate.simulation import Simulation
from edgenode.storage import model_file
from tests.simulate.normed import WithOwnHeads

SHARED = ("0.weight", "0.bias", "1.weight", "1.running_mean")
OWN = ("3.weight", "3.bias")


class Interrupted(Exception):
    """As Ctrl-C, but in a chosen round."""


def models(out: Path, stop_at: int = -1, **settings: object) -> list[dict[str, np.ndarray]]:
    """Run or resume a simulation. Return the model of each node."""
    keys = {
        "run.rounds": 40, "run.threads": 1, "run.evaluate_every": 0, "run.checkpoint_every": 20,
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


@pytest.mark.slow
def test_last_phase_averages_the_shared_part_alone(tmp_path: Path) -> None:
    found = models(tmp_path, **{"task.buffers": "average", "algorithm.gossip_graph": "complete"})
    bodies, heads = ([np.concatenate([m[name].ravel() for name in names]) for m in found] for names in (SHARED, OWN))
    assert np.ptp(bodies, axis=0).max() < 1e-3
    assert np.ptp(heads, axis=0).max() > 0.05


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_own_parts_resume_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    settings = {"task.optimizer": optimizer, "run.rounds": 20, "run.checkpoint_every": 8}
    straight = models(tmp_path / "straight", **settings)
    with pytest.raises(Interrupted):
        models(tmp_path / "resumed", stop_at=13, **settings)
    resumed = models(tmp_path / "resumed", **settings)
    for one, other in zip(straight, resumed, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_heads_may_have_other_sizes(tmp_path: Path) -> None:
    found = models(tmp_path, **{"task.entry": "tests.simulate.normed:WithOwnHeads"})
    assert [model["3.weight"].shape for model in found] == [(2, 6), (3, 6), (4, 6), (5, 6)]
    assert np.ptp([model["0.weight"] for model in found], axis=0).max() < 1e-6
    path = tmp_path / "node-3" / "model.safetensors"
    exported, _ = exporter.of_task(path, model_file.read(path), WithOwnHeads(), NodeInfo("node-3"), None)
    assert np.array_equal(exported.state_dict()["3.weight"], found[3]["3.weight"])


def test_own_part_that_changes_the_shared_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'node-1 does not fit node-0: shared parameter 0.bias is "9", not "8"; '):
        models(Path(), **{"task.entry": "tests.simulate.normed:WithOwnHeads", "task.options": {"changes": 0}})
