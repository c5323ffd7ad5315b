"""A revoked node is shut out of a run of real processes: everywhere, at once, and for good."""

from __future__ import annotations

import json
import re
import time

import pytest

from edgenode.security.authority import Authority
from edgenode.security.subject import Subject
from tests.e2e.fleet import Fleet, Process, until

AT_ONCE_S = 1.0


def again(fleet: Fleet, name: str, *arguments: str) -> Process:
    """Start a node with what is in its state folder: `Fleet.node` would give it another key."""
    common = ("--config", "run.toml", "--name", name, "--state-dir", name, "--listen", "127.0.0.1:0")
    return fleet.start(name, "run", *common, *arguments)


@pytest.mark.slow
def test_revoked_node_is_shut_out_at_once_and_for_good(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 3, "run.rounds": 1_000_000, "topology.graphs": ["complete"]})
    controller = fleet.controller()
    *others, revoked = fleet.nodes(3)
    for node in (*others, revoked):
        node.logs("epoch done")
    key = Authority(fleet.folder / "authority", fleet.cluster).subjects()[Subject("node", "node-2")]

    fleet.command("revoke", "node-2", "--yes", "--cluster", fleet.cluster)
    began = time.monotonic()
    for listener in (controller, *others):
        listener.logs(f"ending the calls of a revoked key .*key={key[:16]}")
    assert time.monotonic() - began < AT_ONCE_S
    rounds = {int(node.logs(r"plan changes .*at_round=(\d+).*without=\['node-2'\]")[1]) for node in others}
    assert len(rounds) == 1  # one round at every node

    record = json.loads(fleet.command("status", "--json", "--cluster", fleet.cluster).stdout)["record"]
    assert [name for name, *_ in record["members"]] == ["node-0", "node-1"]
    assert record["revoked"] == [key]
    begun = len(re.findall("epoch done", others[0].stderr))
    until(lambda: len(re.findall("epoch done", others[0].stderr)) > begun + 1, "the others train on")

    keys = json.loads(fleet.command("keys", "--json", "--cluster", fleet.cluster).stdout)
    assert {who["name"] for who in keys if who["role"] == "node"} == {"node-0", "node-1"}

    (line,) = revoked.exits(3).errors
    assert re.fullmatch(
        r"edgenode: the controller at \S+ does not admit this node: the key of node node-2 is not valid: it was "
        r"revoked or replaced; to let it in again, run edgenode invite node-2 there, and start this node with the "
        r"invite \(--join\)",
        line,
    )

    controller.kill()
    second = fleet.controller()
    for node in others:
        second.logs(f"node joined .*node={node.name}")
    again(fleet, "node-2").exits(3)
    second.logs("refused a call .*node node-2 is not valid")
    assert "node joined" not in "".join(re.findall(".*node=node-2.*", second.stderr))

    invite = fleet.command("invite", "node-2", "--cluster", fleet.cluster).stdout
    back = again(fleet, "node-2", "--join", invite)  # its old certificate is still in place
    back.logs("enrolled again, because the certificate was not valid any more")
    back.logs("epoch done")
    fleet.stop([*others, back, second])


@pytest.mark.slow
def test_key_is_revoked_while_the_controller_does_not_answer(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 3, "run.rounds": 1_000_000, "topology.graphs": ["complete"]})
    controller = fleet.controller()
    *others, revoked = fleet.nodes(3)
    for node in (*others, revoked):
        node.logs("epoch done")
    with controller.suspended():
        fleet.command("revoke", "node-2", "--yes", "--authority", str(fleet.state("controller") / "authority"))
    for listener in (controller, *others):
        listener.logs("ending the calls of a revoked key")
    revoked.exits(3)
    for node in others:
        node.logs(r"plan changes .*without=\['node-2'\]")
    fleet.stop([*others, controller])
