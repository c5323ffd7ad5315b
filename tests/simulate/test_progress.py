"""A simulation says what it does, in every phase."""

from __future__ import annotations

from edgenode.config.load import load
from edgenode.simulate.progress import Progress
from edgenode.simulate.simulation import Simulation


def test_phase_counts_its_nodes() -> None:
    progress = Progress()
    assert str(progress) == "loading the data"
    seen = [(node, str(progress)) for node in progress.each("making the models", ["a", "b"])]
    assert seen == [("a", "making the models: 0 of 2 nodes"), ("b", "making the models: 1 of 2 nodes")]
    progress.begin("comparing the models")
    assert str(progress) == "comparing the models"


def test_node_is_done_with_a_round_when_it_has_mixed_it() -> None:
    progress = Progress()
    progress.begin_rounds(7, nodes=2)
    counts = []
    for t in (7, 7, 7, 8):  # both train, one mixes, and trains in the next round
        progress.count(t)
        counts.append(progress.done)
    assert counts == [0, 1, 1, 1]
    progress.count(7)
    progress.round = 8
    progress.count(8)
    assert progress.done == 1


class Noting(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.phases: list[str] = []

    def begin(self, phase: str, total: int = 0) -> None:
        self.phases.append(phase)
        super().begin(phase, total)


def test_simulation_has_no_other_phases() -> None:
    keys = {"run.rounds": 2, "run.nodes": 2, "run.threads": 1, "algorithm.name": "sp", "task.batch_size": 200}
    progress = Noting()
    simulation = Simulation(load(None, keys, {}), progress=progress)
    made = ["loading the data", "looking for checkpoints", "checking the graph", "making the models"]
    assert progress.phases == made
    done = []
    simulation.run(lambda: done.append((progress.round, progress.done)))
    assert progress.phases == [*made, "beginning", "training", "comparing the models"]
    assert done == [(1, 0), (2, 0)]
