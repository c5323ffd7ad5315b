"""BatchNorm statistics at the end of a run: averaged, or each node's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation

NAMES = ("1.running_mean", "1.running_var")


def buffers(out: Path, **settings: object) -> list[np.ndarray]:
    """Of each node, its final statistics as one vector."""
    keys = {
        "run.rounds": 40, "run.threads": 1, "run.evaluate_every": 0, "run.checkpoint_every": 1000,
        "task.entry": "tests.simulate.normed:Normed", "task.learning_rate": 0.02, "algorithm.share": 0.5,
        "algorithm.values": "float32", "algorithm.gossip_graph": "complete",
    }  # fmt: skip
    result = Simulation(load(None, {**keys, **settings}, {}), out).run()
    assert result["mean_test_accuracy"] > 0.6
    models = [load_file(out / f"node-{i}" / "model.safetensors") for i in range(4)]
    return [np.concatenate([model[name] for name in NAMES]) for model in models]


@pytest.mark.slow
def test_averaged_buffers_are_the_mean_of_what_training_left(tmp_path: Path) -> None:
    trained = buffers(tmp_path / "sp", **{"algorithm.name": "sp"})
    averaged = buffers(tmp_path / "scsp", **{"task.buffers": "average"})
    assert np.ptp(trained, axis=0).max() > 0.1
    assert np.ptp(averaged, axis=0).max() < 1e-3
    np.testing.assert_allclose(averaged[0], np.mean(trained, axis=0), rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_local_buffers_differ_between_nodes(tmp_path: Path) -> None:
    assert np.ptp(buffers(tmp_path), axis=0).max() > 0.1


@pytest.mark.slow
def test_algorithms_without_a_last_phase_keep_them_local(tmp_path: Path) -> None:
    config = load(None, {"task.buffers": "average", "algorithm.name": "sp"}, {})
    assert config.warnings() == ["task.buffers is not used, because sp has no last phase that averages"]
    averaged = buffers(tmp_path / "one", **{"task.buffers": "average", "algorithm.name": "sp"})
    local = buffers(tmp_path / "other", **{"algorithm.name": "sp"})
    assert all(map(np.array_equal, averaged, local))
