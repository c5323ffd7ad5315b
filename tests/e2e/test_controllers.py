"""One controller leads a run. Another is refused by name, unless it recovers the run from a lost one."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest

from edgenode.addresses import free_ports
from tests.e2e.fleet import Fleet, until


def status(fleet: Fleet, *where: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fleet.command("status", "--json", *where).stdout)
    return found


@pytest.mark.slow
def test_controller_without_its_disk_leads_only_with_recover(fleet: Fleet) -> None:
    fleet.configure({"run.rounds": 20_000, "topology.graphs": ["a"]})
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    where = ("--controller", listen)
    first = fleet.controller(listen=listen)
    nodes = fleet.nodes(4, *where)
    nodes[0].logs("epoch done")
    first.kill()
    shutil.rmtree(fleet.state("controller"))

    (line,) = fleet.controller(listen=listen).exits(2).errors
    follows = rf"node-\d follows the controller at {listen} \(term 0, (\w+)\)"
    ours = rf"not this one, {listen} \(term 0, (\w+)\)"
    refusal = re.fullmatch(
        rf"edgenode: {follows}, {ours}; if that controller is lost for good, start this one with --recover", line
    )
    assert refusal, line
    assert refusal[1] != refusal[2]

    third = fleet.controller("--recover", listen=listen)
    third.logs("controller ready")
    for node in nodes:
        third.logs(f"node joined .*node={node.name}")
    assert status(fleet, *where)["term"] >= 1
    fleet.command("topology", "set", "b", *where)
    nodes[0].logs("plan changes")
    third.kill()  # its disk has what it recovered

    fourth = fleet.controller(listen=listen)
    for node in nodes:
        fourth.logs(f"node joined .*node={node.name}")
    fleet.stop([*nodes, fourth], *where)


@pytest.mark.slow
def test_next_controller_evicts_a_dead_node_which_rejoins(fleet: Fleet) -> None:
    settings = {"run.nodes": 3, "run.rounds": 1_000_000, "run.evict_after_s": 2.0, "topology.graphs": ["a"]}
    fleet.configure(settings, paced=True)
    first = fleet.controller()
    nodes = fleet.nodes(3)
    nodes[0].logs("epoch done")
    nodes[2].kill()
    first.kill()
    second = fleet.controller()
    nodes[0].logs(r"plan changes .*without=\['node-2'\]")

    nodes[2] = fleet.node("node-2")
    nodes[2].logs("fetched the model")
    nodes[2].logs("epoch done")
    until(lambda: len(status(fleet, "--cluster", fleet.cluster)["nodes"]) == 3, "all are members again")
    fleet.stop([*nodes, second])


@pytest.mark.slow
def test_second_controller_of_a_cluster_is_refused(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 20})
    first = fleet.controller()
    address = first.logs(r"controller ready .*listen=(\S+)")[1]
    (line,) = fleet.controller("--state-dir", str(fleet.state("second"))).exits(2).errors
    assert re.fullmatch(
        rf"edgenode: controller name 'controller' of cluster '{fleet.cluster}' is held by {address}; "
        r"this one is at 127\.0\.0\.1:\d+: stop one of them, or choose another name",
        line,
    )
    laptop = fleet.folder / "laptop"
    where = ("--config", "run.toml", "--listen", "127.0.0.1:0", "--state-dir", str(laptop / "controller"))
    (line,) = fleet.start("laptop", "controller", *where).exits(2).errors
    assert f"is held by {address}" in line
    assert not laptop.exists()  # no authority that later commands would take for the cluster's
    for process in (*fleet.nodes(2), first):
        process.exits(0)
