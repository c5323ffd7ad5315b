"""The poison alarm is silent in honest runs, in all settings that change how messages grow."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation

SKEWED = {"run.rounds": 250, "run.evaluate_every": 10, "run.threads": 1, "task.skew": 0.8}
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "scsp": {},
    "sp": {"algorithm.name": "sp"},
    "sgp": {"algorithm.name": "sgp", "algorithm.compressor": "identity"},
    "rolling": {"algorithm.compressor": "rolling"},
    "rolling-0.1%": {"algorithm.compressor": "rolling", "algorithm.share": 0.001},
    "float32": {"algorithm.values": "float32"},
    "fitted4": {"algorithm.values": "fitted4"},
    "fitted2": {"algorithm.values": "fitted2"},
    "fitted1": {"algorithm.values": "fitted1"},
    "even": {"task.skew": 0.0},
    "dirichlet": {"task.alpha": 0.1},
    "milestones": {"task.milestones": [6, 12]},
    "rotating": {"topology.graphs": ["a", "b", "chord"], "topology.every": "20r"},
}


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_honest_run_raises_no_alarm(setting: str) -> None:
    simulation = Simulation(load(None, {**SKEWED, **SETTINGS[setting]}, environ={}))
    simulation.run()
    assert simulation.alarms == []
