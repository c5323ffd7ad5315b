"""Five hosts on one bridge and no configured address: mDNS has to cross it, and so has everything else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial

import pytest

from tests.e2e import netns
from tests.e2e.fleet import Fleet, Process, until

_BROWSER = """
import sys, urllib.request, urllib.error
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
browser.addheaders = [("Authorization", f"Bearer {sys.argv[1]}")]
for url in sys.argv[2:]:
    try:
        answer = browser.open(url)
    except urllib.error.HTTPError as error:
        answer = error
    print(answer.read().decode())
"""
_WHY_NOT = netns.unavailable()


@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
@pytest.mark.slow
def test_nodes_on_other_hosts_are_found_and_train(fleet: Fleet) -> None:
    fleet.configure({"run.rounds": 20_000, "topology.graphs": ["a"]})
    with netns.Bridge(6) as bridge:
        # As on a board with Docker. No other host can reach this address, and it sorts first.
        docker = "ip link add docker0 type bridge; ip address add 10.1.0.1/16 dev docker0; ip link set docker0 up"
        assert bridge.spawn(4, ["sh", "-ec", docker]).wait() == 0
        controller = fleet.controller("--http", "0.0.0.0:8080", listen=None, spawn=partial(bridge.spawn, 4))
        nodes = [fleet.node(f"node-{i}", listen=None, spawn=partial(bridge.spawn, i)) for i in range(4)]
        nodes[0].logs("epoch done")

        def on_a_host(*words: str) -> Process:
            """Run an operator's command on a host that runs nothing else. It finds the only cluster of the network."""
            return fleet.command(*words, spawn=partial(bridge.spawn, 5))

        def fetched(*paths: str, token: str = "") -> str:
            """Fetch from the controller's page one after the other, as a browser on another host does."""
            urls = [f"http://{bridge.addresses[4]}:8080{path}" for path in paths]
            browser = bridge.spawn(5, [sys.executable, "-c", _BROWSER, token, *urls], stdout=subprocess.PIPE, text=True)
            return str(browser.communicate(timeout=20)[0])

        link = controller.logs(r"controller ready .*page=http://[^/]+(\S+)")[1]
        assert "edgenode page --cluster" in fetched("/")
        assert "<td>node-3</td>" in fetched(link, "/")
        assert "edgenode_up" not in fetched("/metrics")
        token = (fleet.state("controller") / "metrics-token").read_text()
        assert 'edgenode_up{node="node-3"} 1.0' in fetched("/metrics", token=token)

        change = on_a_host("topology", "set", "b")
        promise = re.fullmatch(r"graph b takes effect at round (\d+) at every node\n", change.stdout)
        assert promise, change.stdout

        status = json.loads(on_a_host("status", "--json").stdout)
        assert status["cluster"] == fleet.cluster
        assert status["page"] == f"http://{bridge.addresses[4]}:8080"
        assert [(n["node"], n["address"]) for n in status["nodes"]] == [
            (f"node-{i}", f"{bridge.addresses[i]}:7600") for i in range(4)
        ]
        assert all(n["connected"] and n["state"] == "running" for n in status["nodes"])

        on_b = "graph b.*node-0 → node-3.*node-1 → node-0.*node-2 → node-1.*node-3 → node-2"
        until(lambda: re.search(on_b, on_a_host("topology", "show").stdout, re.S), "graph b is shown")

        on_a_host("stop")
        for process in (*nodes, controller):
            process.exits(0)
        for node in nodes:
            assert f"at_round={promise[1]} " in node.stderr
            assert (fleet.state(node.name) / "model.safetensors").is_file()
