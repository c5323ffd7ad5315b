"""A run whose training diverges ends at every node at once, with one cause."""

from __future__ import annotations

import re

import pytest

from edgenode.addresses import free_ports
from edgenode.storage.run_history import RunHistory
from tests.e2e.fleet import Fleet, Process

CAUSE = (
    r"edgenode: training diverged at node-\d in round \d+: (the loss is \w+|a number to send is \S+), and the loss was "
    r"\S+ in round \d+; lower task\.learning_rate = 1e\+09 or algorithm\.averaging_rate = 0\.005"
)
# Waits that would end the nodes one by one are longer than the test may take.
WILD = {
    "run.nodes": 3, "run.rounds": 20_000, "task.learning_rate": 1e9, "run.barrier_timeout_s": 500,
    "run.evict_after_s": 500,
}  # fmt: skip


def assert_all_name_the_cause(nodes: list[Process]) -> None:
    lines = set()
    for node in nodes:
        (line,) = node.exits(1).errors
        lines.add(line)
    assert all(re.fullmatch(CAUSE, line) for line in lines), lines


@pytest.mark.parametrize("graphs", [["a"], pytest.param(["one-peer-exponential"], marks=pytest.mark.slow)])
def test_divergence_ends_nodes_with_fixed_peers(fleet: Fleet, graphs: list[str]) -> None:
    fleet.configure({**WILD, "topology.graphs": graphs})
    assert_all_name_the_cause(fleet.static(free_ports(3)))


@pytest.mark.slow
def test_divergence_ends_nodes_and_controller(fleet: Fleet) -> None:
    fleet.configure(WILD)
    controller, nodes = fleet.controller(), fleet.nodes(3)
    assert_all_name_the_cause(nodes)
    controller.exits(1)
    assert "waiting for members to return" not in controller.stderr
    (run,) = RunHistory(fleet.state("controller")).runs()
    assert run["outcome"] == "failed"
    *_, end = RunHistory(fleet.state("controller")).events(run["id"], 10)
    assert end["kind"] == "failed"
    assert re.fullmatch(CAUSE, f"edgenode: {end['text']}")
