"""What the processes of a run say when it ends for one of them, or for all."""

from __future__ import annotations

import re

import pytest

from tests.e2e.fleet import Fleet


@pytest.mark.slow
def test_a_leaver_a_stop_and_a_later_status_say_how_it_goes_on(fleet: Fleet) -> None:
    where = ("--cluster", fleet.cluster)
    fleet.configure({"run.nodes": 3, "run.rounds": 1_000_000})
    controller, nodes = fleet.controller("--http", "127.0.0.1:0"), fleet.nodes(3)
    nodes[0].logs("epoch done")
    own = str(fleet.state("node-0") / "credentials.pem")
    shown = fleet.command("status", *where, "--credentials", own).stdout
    assert "node-2" in shown and "page http://127.0.0.1:" in shown and "sign-in" not in shown

    nodes[2].popen.terminate()
    nodes[2].exits(0).logs(r"this node has left, and the run goes on without it .*handed_over_to=node-[01] ")
    assert "run stopped" not in nodes[2].stderr

    stop = fleet.command("stop", *where).stdout
    assert re.search(r"every node has stopped before round \d+\nTo resume from there, start edgenode controller", stop)
    for node in nodes[:2]:
        node.exits(0).logs("run stopped: start the controller and all nodes again to resume")
    look = f"edgenode runs show last --state-dir {fleet.state('controller')}"
    controller.exits(0).logs(f"the run is over: stopped .*to_look='?{re.escape(look)}")
    assert "refused a call" not in controller.stderr

    state = {"EDGENODE_STATE_DIR": str(fleet.state("controller"))}
    status = fleet.start("status", "status", *where, variables=state).exits(2)
    assert re.search(
        rf"found in 4 s: .*; the last run of {fleet.cluster} on this machine ended .* \(stopped\): ", status.errors[-1]
    )
    assert status.errors[-1].endswith(look)
