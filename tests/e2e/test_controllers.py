"""One controller leads a run: another one is turned away by name, until it is told that the first is lost."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, free_ports


def status(fleet: Fleet, *where: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fleet.command("status", "--json", *where).stdout)
    return found


@pytest.mark.timeout(120)
def test_a_controller_that_lost_its_disk_leads_again_only_with_recover(fleet: Fleet) -> None:
    fleet.configure({"run.rounds": 20_000, "topology.graphs": ["a"]})
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    where = ("--controller", listen)
    first = fleet.controller(listen=listen)
    nodes = fleet.nodes(4, *where)
    nodes[0].says("epoch done")
    first.kill()
    shutil.rmtree(fleet.state("controller"))

    (line,) = fleet.controller(listen=listen).ended(2).errors
    follows = rf"node-\d follows the controller at {listen} \(term 0, (\w+)\)"
    ours = rf"not this one, {listen} \(term 0, (\w+)\)"
    said = re.fullmatch(
        rf"edgenode: {follows}, {ours}; if that controller is lost for good, start this one with --recover", line
    )
    assert said, line
    assert said[1] != said[2]

    third = fleet.controller("--recover", listen=listen)
    third.says("controller ready")
    for node in nodes:
        third.says(f"node joined .*node={node.name}")
    assert status(fleet, *where)["term"] >= 1
    fleet.command("topology", "set", "b", *where)
    nodes[0].says("plan changes")
    third.kill()  # what it has recovered is on its disk

    fourth = fleet.controller(listen=listen)
    for node in nodes:
        fourth.says(f"node joined .*node={node.name}")
    fleet.command("stop", *where)
    for process in (*nodes, fourth):
        process.ended(0)


@pytest.mark.timeout(90)
def test_a_member_that_died_with_the_controller_is_cut_out_by_the_next(fleet: Fleet) -> None:
    fleet.configure({"run.rounds": 20_000, "run.evict_after_s": 2.0, "topology.graphs": ["a"]})
    first = fleet.controller()
    nodes = fleet.nodes(4)
    nodes[0].says("epoch done")
    nodes[2].kill()
    first.kill()
    second = fleet.controller()
    nodes[0].says(r"plan changes .*without=\['node-2'\]")
    fleet.command("stop", "--cluster", fleet.cluster)
    for process in (nodes[0], nodes[1], nodes[3], second):
        process.ended(0)


@pytest.mark.timeout(60)
def test_a_second_controller_of_one_cluster_is_refused_and_the_first_goes_on(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 20})
    first = fleet.controller()
    address = first.says(r"controller ready .*listen=(\S+)")[1]
    (line,) = fleet.controller("--state-dir", str(fleet.state("second"))).ended(2).errors
    assert re.fullmatch(
        rf"edgenode: controller name 'controller' of cluster '{fleet.cluster}' is held by {address}; "
        r"this one is at 127\.0\.0\.1:\d+: stop one of them, or choose another name",
        line,
    )
    for process in (*fleet.nodes(2), first):
        process.ended(0)
