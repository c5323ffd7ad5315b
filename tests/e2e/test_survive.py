"""Processes that die, stand still, come back and leave while the others train on."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.e2e.fleet import Fleet, Process

LONG = {"run.rounds": 1000, "run.evict_after_s": 2.0, "task.skew": 0.8, "task.norm": "group"}


def accuracies(fleet: Fleet, nodes: list[Process]) -> list[float]:
    results = [json.loads((fleet.state(node.name) / "result.json").read_text()) for node in nodes]
    return [result["mean_test_accuracy"] for result in results]


@pytest.mark.timeout(90)
def test_a_killed_node_is_cut_out_comes_back_as_a_newcomer_and_the_run_ends_well(fleet: Fleet) -> None:
    fleet.configure(LONG)
    controller = fleet.controller()
    nodes = fleet.nodes(4)
    nodes[2].says("epoch=4 ")
    nodes[2].kill()
    nodes[0].says(r"plan changes .*without=\['node-2'\]")
    nodes[2] = fleet.node("node-2")
    nodes[2].says("fetched the model")
    for process in (*nodes, controller):
        process.ended(0, timeout_s=60)
    assert min(accuracies(fleet, nodes)) > 0.95


@pytest.mark.timeout(90)
def test_a_zombie_is_fenced_and_rejoins_as_a_newcomer(fleet: Fleet) -> None:
    fleet.configure(LONG)
    controller = fleet.controller()
    nodes = fleet.nodes(4)
    nodes[1].says("epoch=4 ")
    nodes[1].popen.send_signal(signal.SIGSTOP)
    nodes[0].says(r"plan changes .*without=\['node-1'\]")
    nodes[1].popen.send_signal(signal.SIGCONT)
    nodes[1].says("coming back as a newcomer")
    for process in (*nodes, controller):
        process.ended(0, timeout_s=60)
    assert min(accuracies(fleet, nodes)) > 0.95


@pytest.mark.timeout(90)
def test_a_killed_controller_costs_no_round_and_goes_on_where_it_was(fleet: Fleet) -> None:
    fleet.configure(LONG)
    state = ("--state-dir", str(fleet.state("controller")))
    controller = fleet.controller(*state)
    nodes = fleet.nodes(4)
    nodes[0].says("epoch=3 ")
    controller.kill()
    at = max(int(r) for r in re.findall(r"round=(\d+)", nodes[0].stderr))
    nodes[0].says(rf"epoch={at // 12 + 6} ")
    controller = fleet.controller(*state)
    controller.says("the run goes on .*term=1")
    controller.says("node joined .*node=node-3")
    fleet.command("topology", "set", "b", "--cluster", fleet.cluster)
    for process in (*nodes, controller):
        process.ended(0, timeout_s=60)
        process.says("plan changes")


@pytest.mark.timeout(90)
def test_sigterm_hands_over_and_the_ring_closes(fleet: Fleet) -> None:
    fleet.configure(LONG)
    controller = fleet.controller()
    nodes = fleet.nodes(4)
    nodes[3].says("epoch=4 ")
    nodes[3].popen.terminate()
    nodes[3].ended(0)
    nodes[0].says(r"plan changes .*leaving=\['node-3'\]")
    for process in (*nodes[:3], controller):
        process.ended(0, timeout_s=60)
    results = [json.loads((fleet.state(n.name) / "result.json").read_text()) for n in nodes[:3]]
    assert sum(r["sum_u"] for r in results) == pytest.approx(4)  # what the leaver had is with the others
    assert min(accuracies(fleet, nodes[:3])) > 0.9
