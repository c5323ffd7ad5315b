"""`edgenode pause` and `resume`: every node pauses, none is evicted, and all resume."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, until

NODES = 3
EVICT_S = 6.0  # a busy machine makes a node hold the others up for some seconds


def status(fleet: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fleet.command("status", "--json", "--cluster", fleet.cluster).stdout)
    return found


@pytest.mark.slow
def test_pause_survives_a_controller_restart(fleet: Fleet) -> None:
    where = ("--cluster", fleet.cluster)
    fleet.configure({"run.nodes": NODES, "run.rounds": 20_000, "run.evict_after_s": EVICT_S, "topology.graphs": ["a"]})
    controller = fleet.controller("--straggler", "drop")
    nodes = fleet.nodes(NODES)
    nodes[0].logs("epoch done")

    answer = fleet.command("pause", *where).stdout
    assert re.fullmatch(r"every node is paused: rounds? \d+( to \d+)?\n", answer), answer
    paused = status(fleet)
    assert paused["paused"]
    assert [n["state"] for n in paused["nodes"]] == ["paused"] * NODES
    assert max(n["round"] for n in paused["nodes"]) - min(n["round"] for n in paused["nodes"]) <= 3

    change = fleet.command("topology", "set", "b", *where).stdout
    assert change.startswith("Queued: graph b takes effect after the run resumes")

    controller.kill()
    controller = fleet.controller("--straggler", "drop")
    for node in nodes:
        controller.logs(f"node joined .*node={node.name}")
    time.sleep(3 * EVICT_S)  # long enough to evict a silent or slow node
    after = until(
        lambda: (s := status(fleet))["paused"] and all(n["connected"] for n in s["nodes"]) and s, "all are back"
    )
    assert {n["node"]: n["round"] for n in after["nodes"]} == {n["node"]: n["round"] for n in paused["nodes"]}
    assert "silent" not in controller.stderr
    assert "too slow" not in controller.stderr

    assert fleet.command("resume", *where).stdout == "the run continues\n"
    nodes[0].logs("resuming")
    furthest = max(n["round"] for n in paused["nodes"])
    until(lambda: all(n["round"] > furthest for n in status(fleet)["nodes"]), "all resume")

    fleet.command("pause", "--detach", *where)
    assert "every node has stopped before round" in fleet.command("stop", *where).stdout  # which ends a pause
    for process in (*nodes, controller):
        process.exits(0)
    assert "without=" not in nodes[0].stderr
