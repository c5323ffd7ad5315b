"""`edgenode pause` and `resume` against real processes: everyone stands still, nobody is taken for dead, all go on."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, until

_EVICT_S = 1.0


def status(fleet: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fleet.command("status", "--json", "--cluster", fleet.cluster).stdout)
    return found


@pytest.mark.timeout(120)
def test_a_paused_run_stands_still_over_a_controller_restart_and_goes_on(fleet: Fleet) -> None:
    where = ("--cluster", fleet.cluster)
    fleet.configure({"run.rounds": 20_000, "run.evict_after_s": _EVICT_S, "topology.graphs": ["a"]})
    controller = fleet.controller("--straggler", "drop")
    nodes = fleet.nodes(4)
    nodes[0].says("epoch done")

    said = fleet.command("pause", *where).stdout
    assert re.fullmatch(r"every node is paused: rounds? \d+( to \d+)?\n", said), said
    paused = status(fleet)
    assert paused["paused"]
    assert [n["state"] for n in paused["nodes"]] == ["paused"] * 4
    assert max(n["round"] for n in paused["nodes"]) - min(n["round"] for n in paused["nodes"]) <= 3

    change = fleet.command("topology", "set", "b", *where).stdout
    assert "the run is paused: it reaches that round after edgenode resume" in change

    controller.kill()
    controller = fleet.controller("--straggler", "drop")
    for node in nodes:
        controller.says(f"node joined .*node={node.name}")
    time.sleep(3 * _EVICT_S)  # for as long as would be enough to take somebody for dead, or for slow
    after = until(
        lambda: (s := status(fleet))["paused"] and all(n["connected"] for n in s["nodes"]) and s, 20, "all back"
    )
    assert {n["node"]: n["round"] for n in after["nodes"]} == {n["node"]: n["round"] for n in paused["nodes"]}
    assert "silent" not in controller.stderr
    assert "too slow" not in controller.stderr

    assert fleet.command("resume", *where).stdout == "the run continues\n"
    nodes[0].says("going on")
    furthest = max(n["round"] for n in paused["nodes"])
    until(lambda: all(n["round"] > furthest for n in status(fleet)["nodes"]), 30, "all go on")

    fleet.command("pause", "--no-wait", *where)
    assert "every node has stopped before round" in fleet.command("stop", *where).stdout  # which ends a pause
    for process in (*nodes, controller):
        process.ended(0)
    assert "without=" not in nodes[0].stderr
