"""Daemons that train with differential privacy: the budget of a node lasts for all its runs."""

from __future__ import annotations

import json
import signal

import pytest

from edgenode.addresses import free_ports
from edgenode.storage.privacy_ledger import FileLedger
from edgenode.tasks.privacy_budget import epsilon_of
from tests.e2e.fleet import Fleet

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
