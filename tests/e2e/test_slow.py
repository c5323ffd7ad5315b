"""Slow is not dead: who holds the others up is waited for and shown, or dropped if that is asked."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, Process, until

# A step takes long enough that a node that runs for a tenth of the time needs seconds for it.
HEAVY = {"run.rounds": 20_000, "run.checkpoint_every": 1000, "task.batch_size": 256, "topology.graphs": ["a"]}
RUNS_S, STANDS_S = 0.1, 1.0


@contextmanager
def slowed(process: Process) -> Iterator[None]:
    """Let a process run for a tenth of the time."""
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


@pytest.mark.timeout(120)
def test_a_slow_node_is_waited_for_and_shown(fleet: Fleet) -> None:
    fleet.configure(HEAVY)
    controller = fleet.controller()
    nodes = fleet.nodes(4)
    nodes[0].says("epoch done")
    with slowed(nodes[2]):
        until(lambda: status_of(fleet, "node-2")["holds_up_s"] > 5, 40, "node-2 is shown")
    until(lambda: status_of(fleet, "node-2")["holds_up_s"] == 0, 40, "node-2 is forgiven")
    fleet.command("stop", "--cluster", fleet.cluster)
    for process in (*nodes, controller):
        process.ended(0)
        assert "fencing" not in process.stderr


@pytest.mark.timeout(120)
def test_a_slow_node_is_dropped_if_asked_and_comes_back_as_a_newcomer(fleet: Fleet) -> None:
    fleet.configure({**HEAVY, "run.evict_after_s": 4.0})
    controller = fleet.controller("--straggler", "drop")
    nodes = fleet.nodes(4)
    nodes[0].says("epoch done")
    with slowed(nodes[2]):
        controller.says("node is too slow .*node=node-2", 60)
        nodes[0].says(r"plan changes .*without=\['node-2'\]")
    assert "node does not answer" not in controller.stderr
    nodes[2].says("coming back as a newcomer")
    until(lambda: len(re.findall("run begins", nodes[2].stderr)) == 2, 30, "node-2 trains again")
    fleet.command("stop", "--cluster", fleet.cluster)
    for process in (*nodes, controller):
        process.ended(0)


@pytest.mark.timeout(60)
def test_with_a_controller_a_wait_is_said_again_and_again_and_has_no_end(fleet: Fleet) -> None:
    fleet.configure({**HEAVY, "run.nodes": 2, "run.barrier_timeout_s": 1, "run.evict_after_s": 60})
    controller = fleet.controller()
    nodes = fleet.nodes(2)
    nodes[0].says("epoch done")
    nodes[1].popen.send_signal(signal.SIGSTOP)
    at = nodes[0].says(r"no progress .*round=\d+ since_s=(\d+) waiting_for=\['node-1'\]")
    nodes[0].says(rf"no progress .*since_s=(?!{at[1]} )\d+ ")
    controller.kill()
    nodes[0].says(r"no progress .*controller=away .*waiting_for=\['node-1'\]")
    nodes[1].popen.send_signal(signal.SIGCONT)
    said = len(nodes[0].stderr)
    until(lambda: "epoch done" in nodes[0].stderr[said:], 20, "node-0 goes on")


@pytest.mark.timeout(60)
def test_a_second_sigterm_does_not_wait_for_the_hand_over(fleet: Fleet) -> None:
    fleet.configure({**HEAVY, "run.nodes": 3, "run.evict_after_s": 60})
    fleet.controller()
    nodes = fleet.nodes(3)
    nodes[0].says("epoch done")
    nodes[2].popen.send_signal(signal.SIGSTOP)  # so that nothing can be handed over
    nodes[0].popen.terminate()
    nodes[0].says("leaving: handing over first")
    nodes[0].popen.terminate()
    nodes[0].ended(130, timeout_s=10)
    assert nodes[0].errors[-1] == "edgenode: interrupted"
    nodes[2].popen.send_signal(signal.SIGCONT)
