"""What the processes of a run say when it ends for one of them, or for all."""

from __future__ import annotations

import json
import re
from http.cookiejar import CookieJar
from urllib.request import HTTPCookieProcessor, build_opener

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
        rf"found in 5 s: .*; the last run of {fleet.cluster} on this machine ended .* \(stopped\): ", status.errors[-1]
    )
    assert "a run with --peers has no controller" in status.errors[-1]
    assert status.errors[-1].endswith(look)


@pytest.mark.slow
def test_the_record_has_the_last_evaluation_when_the_page_learns_that_the_run_is_over(fleet: Fleet) -> None:
    """The last phase averages the models, and the run ends before another second of it is recorded."""
    fleet.configure({"run.nodes": 2, "run.rounds": 200, "run.evaluate_every": 10, "task.skew": 0.8})
    link = fleet.controller("--http", "127.0.0.1:0").logs(r"controller ready .*page=(\S+)")[1]
    page, _, _ = link.partition("/sign-in")
    browser = build_opener(HTTPCookieProcessor(CookieJar()))
    browser.open(link, timeout=30).close()
    with browser.open(f"{page}/events", timeout=120) as stream:
        nodes = fleet.nodes(2)
        lines = iter(stream)
        while next(lines) != b"event: over\n":
            pass
        last = json.loads(next(lines).removeprefix(b"data: "))
    with browser.open(f"{page}/api/curve", timeout=30) as answer:
        curve = json.load(answer)
    accuracies = [node["accuracy"] for node in last["nodes"]]
    assert curve[-1]["accuracy"] == pytest.approx(sum(accuracies) / 2, abs=1e-6)
    for node, accuracy in zip(nodes, accuracies, strict=True):
        (row,) = json.loads((fleet.state(node.exits(0).name) / "result.json").read_text())["nodes"]
        assert accuracy == pytest.approx(row["test_accuracy"], abs=1e-6)
    exported = ("runs", "export", "--format", "json", "--state-dir", str(fleet.state("controller")))
    assert [row["accuracy"] for row in json.loads(fleet.command(*exported).stdout)[-2:]] == pytest.approx(
        accuracies, abs=1e-6
    )
