"""Keys that cannot mean what they say give a warning once the data and the model are known."""

from __future__ import annotations

import pytest

from edgenode.config.load import load
from edgenode.core.topology.period import Epoch
from edgenode.node.task_warnings import task_warnings
from edgenode.node.task_workload import TaskWorkload

TENSORS = [10, 90, 900]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"task.batch_size": 200}, []),
        (
            {"task.batch_size": 201},
            ["task.batch_size = 201, but this node has 200 samples: each batch is all of them"],
        ),
        ({"task.skew": 1.0, "run.nodes": 10}, []),
        ({"task.skew": 0.9, "run.nodes": 11}, []),
        ({"task.skew": 1.0, "run.nodes": 11, "task.alpha": 0.1}, []),
        (
            {"task.skew": 1.0, "run.nodes": 11},
            [
                "task.skew = 1 and run.nodes = 11, but there are 10 classes: most nodes have samples of one class only",
            ],
        ),
        ({"algorithm.share": 0.005}, []),
        (
            {"algorithm.share": 0.001},
            [
                "algorithm.share = 0.001, but a message keeps at least one entry of each of the 3 tensors: "
                "0.003 of the model"
            ],
        ),
        ({"algorithm.share": 0.001, "algorithm.compressor": "rolling"}, []),
        ({"task.milestones": [50, 99]}, []),
        (
            {"task.milestones": [50, 100]},
            ["task.milestones has 100, but the run has 100 epochs: it is not reached"],
        ),
        (
            {
                "task.milestones": [49, 50],
                "algorithm.name": "diloco",
                "topology.graphs": ["halving"],
                "run.nodes": 4,
            },
            ["task.milestones has 50, but the run has 50 epochs: it is not reached"],
        ),
        ({"task.warmup_epochs": 100}, []),
        (
            {"task.warmup_epochs": 101},
            [
                "task.warmup_epochs = 101, but the run has 100 epochs: the learning rate never reaches "
                "task.learning_rate"
            ],
        ),
        ({"topology.graphs": ["a", "b", "c"], "topology.every": "49ep"}, []),
        (
            {"topology.graphs": ["a", "b", "c"], "topology.every": "50ep"},
            ["topology.every = 500r, but the run has 1000 rounds: only 2 of the 3 graphs are used"],
        ),
    ],
)
def test_warnings_need_data_and_model(values: dict[str, object], expected: list[str]) -> None:
    config = load(None, values, {})
    assert list(task_warnings(config, TENSORS, samples=200, classes=10, rounds_per_epoch=10)) == expected


def test_workload_warns_once_with_the_first_trainer() -> None:
    warnings: list[str] = []
    config = load(None, {"task.batch_size": 1000, "run.threads": 1}, {})
    workload = TaskWorkload(config, "n0", warn=warnings.append)
    epoch = Epoch.of([workload.prepare()])
    assert warnings == []
    for name in ("n0", "n1"):
        workload.trainer(name, ["n0", "n1", "n2", "n3"], epoch)
    (warning,) = warnings
    assert warning.startswith("task.batch_size = 1000, but this node has ")
