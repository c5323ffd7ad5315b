"""The records of a run: its history, TensorBoard events, metrics during the run, and JSON logs."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
def test_run_is_measured_and_recorded(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 150, "run.evaluate_every": 10, "topology.graphs": ["a"]})
    events = fleet.folder / "events"
    controller = fleet.controller("--http", "127.0.0.1:0", "--log-format", "json", "--track", f"tensorboard:{events}")
    own = fleet.folder / "own"
    first = fleet.node("node-0", "--metrics", "127.0.0.1:0", "--track", f"tensorboard:{own}")
    url = first.logs(r"metrics .*url=(\S+)")[1]
    second = fleet.node("node-1")
    page = controller.logs(r'"page": "(http://[^/]+)/')[1]
    first.logs("run begins")
    assert 'edgenode_round{node="node-0"}' in fetched(url)
    assert 'edgenode_up{node="node-1"} 1.0' in fetched(f"{page}/metrics")
    for process in (first, second, controller):
        process.exits(0)

    logged = [json.loads(line) for line in controller.stderr.splitlines()]
    assert {"event", "level", "timestamp"} <= set(logged[0])
    assert [line["nodes"] for line in logged if line["event"] == "controller ready"] == [2]
    state = ("--state-dir", str(fleet.state("controller")))
    (run,) = json.loads(fleet.command("runs", "list", "--json", *state).stdout)
    assert (run["outcome"], run["nodes"], run["cluster"]) == ("done", 2, fleet.cluster)
    shown = json.loads(fleet.command("runs", "show", "--json", *state).stdout)
    assert [(n["node"], n["round"] >= 150) for n in shown["nodes"]] == [("node-0", True), ("node-1", True)]
    assert shown["nodes"][0]["accuracy"] is not None
    assert re.search(r"node-1,\d+", fleet.command("runs", "export", *state).stdout)
    assert {path.name for path in events.iterdir()} == {"node-0", "node-1", "cluster"}
    assert {path.name for path in own.iterdir()} == {"node-0"}
    assert all(list(Path(folder).glob("events.*")) for folder in events.iterdir())
