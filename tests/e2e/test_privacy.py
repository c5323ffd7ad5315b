"""Processes that train with differential privacy: the budget of a node lasts for all its runs."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from edgenode.addresses import free_ports
from edgenode.storage.privacy_ledger import FileLedger
from edgenode.tasks.privacy_budget import epsilon_of
from tests.e2e.fleet import Fleet, until

PRIVATE = {
    "run.nodes": 2,
    "run.rounds": 60,
    "task.norm": "group",
    "task.batch_size": 128,
    "task.skew": 0,
    "task.learning_rate": 0.1,
    "task.momentum": 0,
    "privacy.epsilon": 8.0,
}


@pytest.mark.slow
def test_budget_of_a_node_lasts_for_all_its_runs(fleet: Fleet) -> None:
    """Both nodes are killed, resume, finish, and are then started from nothing: they mix, and train no more."""
    fleet.configure(PRIVATE)
    ports = free_ports(2)
    ledgers = [FileLedger(fleet.state(f"node-{i}")) for i in range(2)]

    nodes = [fleet.static_node(ports, i) for i in range(2)]
    for node in nodes:
        node.logs("training is differentially private")
        node.logs("epoch done|run begins")
    for node in nodes:
        node.popen.send_signal(signal.SIGKILL)
        node.popen.wait()
    counted = [sum(part.steps for part in ledger.read()) for ledger in ledgers]

    for node in [fleet.static_node(ports, i) for i in range(2)]:
        node.exits(0)
    after = [ledger.read() for ledger in ledgers]
    assert all(sum(part.steps for part in spent) >= steps for spent, steps in zip(after, counted, strict=True))
    assert all(7 < epsilon_of(spent, 1e-5) <= 8 for spent in after)
    for i in range(2):
        result = json.loads((fleet.state(f"node-{i}") / "result.json").read_text())
        assert all(7 < node["metrics"]["epsilon"] <= 8 for node in result["nodes"])

    for node in [fleet.static_node(ports, i, "--fresh") for i in range(2)]:
        node.logs("the privacy budget is spent: this node trains no more")
        node.exits(0)
    assert all(epsilon_of(ledger.read(), 1e-5) <= 8 for ledger in ledgers)


AS_LAUNCHED = {"EDGENODE_CREDENTIALS": ""}  # of the launch of this folder

LOOP = """
import sys
import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import edgenode
from edgenode.tasks import datasets

torch.manual_seed(0)
digits, part = datasets.load("digits"), slice(int(sys.argv[1]), None, 2)
data = TensorDataset(digits.train_images[part].float() / 16, digits.train_labels[part])
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
mesh = edgenode.Mesh(model, "run.toml", optimizer)

@mesh.evaluate
def accuracy():
    return (model(digits.test_images.float() / 16).argmax(1) == digits.test_labels).float().mean()

for images, labels in mesh.loop(mesh.private(optimizer, DataLoader(data, 128, shuffle=True, num_workers=1))):
    loss = cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mesh.step(loss=loss)
    time.sleep(0.03)
"""


@pytest.mark.slow
def test_loop_of_ones_own_is_private(fleet: Fleet) -> None:
    """Two processes learn the digits. The operator sees what they spend, and no loss."""
    (fleet.folder / "train.py").write_text(LOOP)
    keys = {"run.nodes": 2, "run.rounds": 120, "run.evaluate_every": 10, "topology.graphs": ["complete"]}
    fleet.configure({**keys, "algorithm.name": "diloco", "algorithm.compressor": "identity", "privacy.epsilon": 8.0})
    launched = fleet.start("launch", "launch", "--nodes", "2", "--out", "out", "train.py", "--", "{index}")

    def shown() -> list[dict[str, Any]]:
        nodes = json.loads(fleet.start("status", "status", "--json", variables=AS_LAUNCHED).exits(0).stdout)["nodes"]
        return [node for node in nodes if "epsilon" in node["metrics"]]

    until(lambda: "epsilon=" in launched.stdout, lambda: f"an evaluation\n{launched.tail()}")
    nodes = until(lambda: len(found := shown()) == 2 and found, "both nodes tell what they have spent")
    assert all(0 < node["metrics"]["epsilon"] <= 8 and node["loss"] is None for node in nodes)
    launched.exits(0)
    for i in range(2):
        folder = fleet.folder / "out" / f"node-{i}"
        result = json.loads((folder / "result.json").read_text())["nodes"][0]
        assert 7.9 < result["metrics"]["epsilon"] <= 8
        assert result["metrics"]["accuracy"] > 0.8
        assert epsilon_of(FileLedger(folder).read(), 1e-5) == pytest.approx(result["metrics"]["epsilon"])
