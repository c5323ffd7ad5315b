"""Keys change while real processes train, and no round waits for it."""

from __future__ import annotations

import json
import os
import re
import time

import pytest

from edgenode.security.secret_files import read_credentials
from tests.e2e.fleet import Fleet, Process, until

# as `edgenode`, but it looks once a second whether its certificate is due
QUICK = """
import functools
from edgenode.cli import main
from edgenode.node import node_process
node_process.keep_renewed = functools.partial(node_process.keep_renewed, check_s=0.5)
main()
"""


def members(fleet: Fleet) -> dict[str, str]:
    """Name -> key, as the newest record has them."""
    record = json.loads(fleet.command("status", "--json", "--cluster", fleet.cluster).stdout)["record"]
    return {name: key for name, _, _, key in record["members"]}


def rounds(node: Process) -> int:
    return len(re.findall("epoch done", node.stderr))


@pytest.mark.slow
def test_members_change_their_keys_while_they_train(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 3, "run.rounds": 1_000_000, "topology.graphs": ["a", "b"]})
    controller = fleet.controller()
    nodes = [fleet.node(f"node-{i}", program=("-c", QUICK)) for i in range(3)]
    for node in nodes:
        node.logs("epoch done")
    old = members(fleet)
    for node in nodes:  # written in 1970, so two thirds of its life have passed
        path = fleet.state(node.name) / "credentials.pem"
        os.utime(path, (time.time(), 1))
    for node in nodes:
        node.logs("renewed the certificate")
    new = members(fleet)
    assert not {*old.values()} & {*new.values()}
    for node in nodes:
        stored = read_credentials(fleet.state(node.name) / "credentials.pem")
        assert stored is not None and stored.key_id == new[node.name]

    controller.kill()  # every node connects again, with its new key, and the old ones are revoked
    second = fleet.controller()
    for node in nodes:
        second.logs(f"node joined .*node={node.name}")
        node.logs("ending the calls of a revoked key")
    begun = [rounds(node) for node in nodes]
    until(lambda: all(rounds(node) > one + 1 for node, one in zip(nodes, begun, strict=True)), "they train on")
    assert not any("without=" in node.stderr or "rejected a message" in node.stderr for node in nodes)
    assert members(fleet) == new
    fleet.stop([*nodes, second])
