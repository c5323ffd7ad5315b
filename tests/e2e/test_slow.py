"""A slow node is not dead: the others wait for it and the status shows it, or the controller drops it if asked to."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, Process, until

# A step is long enough to take seconds at a node that runs a tenth of the time.
HEAVY = {
    "run.nodes": 3,
    "run.rounds": 20_000,
    "run.checkpoint_every": 1000,
    "task.batch_size": 256,
    "topology.graphs": ["a"],
}
SLOW_WALKER = str(Path(__file__).with_name("slow_walker.py"))
RUNS_S, STANDS_S = 0.1, 1.0


@contextmanager
def slowed(process: Process) -> Iterator[None]:
    """Let a process run a tenth of the time."""
    enough = threading.Event()

    def stutter() -> None:
        while not enough.wait(RUNS_S):
            process.popen.send_signal(signal.SIGSTOP)
            enough.wait(STANDS_S)
            process.popen.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=stutter, name="stutter")
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
        process.popen.send_signal(signal.SIGCONT)


def status_of(fleet: Fleet, name: str) -> dict[str, Any]:
    status = json.loads(fleet.command("status", "--json", "--cluster", fleet.cluster).stdout)
    found: dict[str, Any] = next(node for node in status["nodes"] if node["node"] == name)
    return found


@pytest.mark.slow
def test_slow_node_is_waited_for_and_shown(fleet: Fleet) -> None:
    fleet.configure(HEAVY)
    controller = fleet.controller()
    nodes = fleet.nodes(3)
    nodes[0].logs("epoch done")
    with slowed(nodes[2]):
        until(lambda: status_of(fleet, "node-2")["holds_up_s"] > 5, "node-2 is shown")
    until(lambda: status_of(fleet, "node-2")["holds_up_s"] == 0, "node-2 has caught up")
    fleet.stop([*nodes, controller])
    for process in (*nodes, controller):
        assert "fencing" not in process.stderr


@pytest.mark.slow
def test_dropped_slow_node_rejoins_as_a_newcomer(fleet: Fleet) -> None:
    fleet.configure({**HEAVY, "run.evict_after_s": 4.0})
    controller = fleet.controller("--straggler", "drop")
    nodes = fleet.nodes(3)
    nodes[0].logs("epoch done")
    with slowed(nodes[2]):
        controller.logs("node is too slow .*node=node-2")
        nodes[0].logs(r"plan changes .*without=\['node-2'\]")
    assert "node does not answer" not in controller.stderr
    nodes[2].logs("rejoining as a newcomer")
    until(lambda: len(re.findall("run begins", nodes[2].stderr)) == 2, "node-2 trains again")
    fleet.stop([*nodes, controller])


@pytest.mark.slow
def test_wait_is_logged_repeatedly_and_does_not_time_out(fleet: Fleet) -> None:
    fleet.configure({**HEAVY, "run.nodes": 2, "run.barrier_timeout_s": 1, "run.evict_after_s": 60})
    controller = fleet.controller()
    nodes = fleet.nodes(2)
    nodes[0].logs("epoch done")
    nodes[1].popen.send_signal(signal.SIGSTOP)
    at = nodes[0].logs(r"no progress .*round=\d+ since_s=(\d+) waiting_for=\['node-1'\]")
    nodes[0].logs(rf"no progress .*since_s=(?!{at[1]} )\d+ ")
    controller.kill()
    nodes[0].logs(r"no progress .*controller=unreachable .*waiting_for=\['node-1'\]")
    nodes[1].popen.send_signal(signal.SIGCONT)
    logged = len(nodes[0].stderr)
    until(lambda: "epoch done" in nodes[0].stderr[logged:], "node-0 resumes")


@pytest.mark.slow
def test_second_sigterm_skips_the_handover(fleet: Fleet) -> None:
    fleet.configure({**HEAVY, "run.evict_after_s": 60})
    fleet.controller()
    nodes = fleet.nodes(3)
    nodes[0].logs("epoch done")
    nodes[2].popen.send_signal(signal.SIGSTOP)  # so the handover cannot end
    nodes[0].popen.terminate()
    nodes[0].logs("leaving after a handoff")
    nodes[0].popen.terminate()
    nodes[0].exits(130, timeout_s=30)  # a handover would wait for node-2
    assert nodes[0].errors[-1] == "edgenode: interrupted"
    nodes[2].popen.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_member_that_walks_slowly_and_claims_to_wait_is_shown_and_dropped(fleet: Fleet) -> None:
    """It makes each step just before it would be silent for too long, and answers every probe."""
    fleet.configure({**HEAVY, "run.nodes": 4, "run.evict_after_s": 8, "topology.graphs": ["complete"]})
    controller = fleet.controller("--straggler", "drop")
    nodes = [*fleet.nodes(3), fleet.node("node-3", program=[SLOW_WALKER, "3"])]
    until(lambda: "holds up" in fleet.command("status", "--cluster", fleet.cluster).stdout, "node-3 is shown")
    controller.logs("node is too slow .*node=node-3")
    nodes[0].logs(r"plan changes .*without=\['node-3'\]")
    nodes[3].kill()  # or it joins again
    fleet.stop([*nodes[:3], controller])
