"""What an operator requested outlives evictions, pauses and restarts of the controller, and every reply says what is
used and when.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, until

MINE = "node-0 node-1\nnode-1 node-2\nnode-2 node-0\n"
LONG = {"run.nodes": 3, "run.rounds": 1_000_000, "run.evict_after_s": 60.0, "topology.graphs": ["b"]}


def shown(fleet: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fleet.command("topology", "show", "--json", "--cluster", fleet.cluster).stdout)
    return found


@pytest.mark.slow
def test_requested_graph_returns_with_the_evicted_node(fleet: Fleet) -> None:
    where = ("--cluster", fleet.cluster)
    fleet.configure(LONG)
    controller = fleet.controller()
    nodes = fleet.nodes(3)
    nodes[0].logs("epoch done")
    file = fleet.folder / "mine.txt"
    file.write_text(MINE)
    applied = fleet.command("topology", "set", str(file), *where).stdout
    start = int(re.fullmatch(r"graph mine takes effect at round (\d+) at every node\n", applied)[1])  # type: ignore[index]
    until(lambda: shown(fleet)["round"] > start, "mine is used")

    nodes[1].kill()
    reply = fleet.command("evict", "node-1", *where).stdout
    reason = "graph a is used instead of mine: without node-1, mine is not strongly connected: no path node-0->node-2"
    assert re.fullmatch(
        rf"the run continues without node-1 from round \d+\nG{reason[1:]}\.\nIf node-1 still .*\n", reply
    ), reply
    controller.logs("another graph than the requested one is used .*graph a is used instead of mine")
    show = until(lambda: (s := shown(fleet))["graph"] == "a" and s, "a is used")
    assert (show["requested"], show["difference"]) == ("mine", reason)
    title = fleet.command("status", *where).stdout
    assert "Requested: graph mine. Graph a is used instead of mine" in " ".join(title.split())

    controller.kill()
    controller = fleet.controller()
    again = fleet.node("node-1")
    again.logs("epoch done")
    show = until(lambda: (s := shown(fleet))["graph"] == "mine" and s, "mine is used again")
    assert show["edges"] == [["node-0", "node-1"], ["node-1", "node-2"], ["node-2", "node-0"]]
    assert show["difference"] is None
    controller.logs("the requested graph is used .*graph=mine")
    fleet.stop([nodes[0], nodes[2], again, controller])


@pytest.mark.slow
def test_changes_of_a_paused_run_are_queued_and_answered_at_once(fleet: Fleet) -> None:
    where = ("--cluster", fleet.cluster)
    fleet.configure(LONG)
    controller = fleet.controller()
    nodes = fleet.nodes(3)
    nodes[0].logs("epoch done")
    fleet.command("pause", *where)
    began = time.monotonic()
    first = fleet.command("topology", "set", "a", *where).stdout
    assert re.fullmatch(r"Queued: graph a takes effect after the run resumes, at round \d+ at the earliest\.\n", first)
    second = json.loads(fleet.command("topology", "set", "complete", "--json", *where).stdout)
    assert time.monotonic() - began < 30  # it used to last until the resume
    assert (second["graph"], second["round"], second["queued"]) == ("complete", None, True)
    assert (second["waits_for"], second["replaces"]) == ("the run resumes", "graph a")

    controller.kill()
    controller = fleet.controller()
    for node in nodes:
        controller.logs(f"node joined .*node={node.name}")
    assert [p["change"] for p in shown(fleet)["pending"]] == ["graph complete"]
    assert "Pending: graph complete, after the run resumes." in fleet.command("status", *where).stdout

    waiting = fleet.start("waiting", "topology", "set", "chord", "--wait-for-round", *where)
    until(lambda: [p["change"] for p in shown(fleet)["pending"]] == ["graph chord"], "the newest is queued")
    fleet.command("resume", *where)
    waiting.exits(0)
    start = int(re.fullmatch(r"graph chord takes effect at round (\d+) at every node\n.*\n", waiting.stdout)[1])  # type: ignore[index]
    show = until(lambda: (s := shown(fleet))["round"] >= start and s, "chord is used")
    assert (show["graph"], show["pending"]) == ("chord", [])
    fleet.stop([*nodes, controller])


@pytest.mark.slow
def test_stop_asks_on_a_terminal_and_is_recorded(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2})
    controller = fleet.controller()
    controller.logs("controller ready")
    where = ("--cluster", fleet.cluster)
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    asked = fleet.command(
        "stop", *where, code=1, spawn=lambda command, **how: subprocess.Popen(command, **{**how, "stdin": theirs})
    )
    question = f"Stop {fleet.cluster} in round 0? 0 nodes will write a checkpoint and exit, and so will the controller."
    assert asked.stdout.startswith(question)
    refused = fleet.command("stop", *where, code=2)  # a script is not asked
    recorded = fleet.command("runs", "audit", "--json", "--state-dir", str(fleet.state("controller"))).stdout
    (entry,) = json.loads(recorded)
    assert (entry["who"], entry["request"]) == ("operator test", "stop")
    assert entry["outcome"] == f"refused: {refused.errors[-1].removeprefix('edgenode: ')}"
    os.close(ours)
    os.close(theirs)
