"""Boards with IPv6 only, with IPv4 only and with both: in one network, and in two homes with firewalls."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.e2e import netns
from tests.e2e.fleet import Fleet, until
from tests.e2e.homes import PUBLIC6, Home, Homes

_WHY_NOT = netns.cannot_disturb()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))]

ONE6, OTHER6, BOTH, ONE4 = range(4)
_GET = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])"


@pytest.fixture(scope="module")
def lan() -> Iterator[netns.Bridge]:
    with netns.Bridge(4, ("6", "6", "46", "4")) as bridge:
        yield bridge


def ways(status: dict[str, Any]) -> dict[tuple[str, str], str]:
    """The edges that are not direct, each with its relay."""
    return {(s, r): group["relay"] for group in status["ways"] for s, r in group["edges"]}


@pytest.mark.timeout(300)
def test_boards_of_different_families_find_each_other_by_mdns(fleet: Fleet, lan: netns.Bridge) -> None:
    """The controller has both families, and passes on what goes between boards that have no family in common."""
    fleet.configure({"run.nodes": 3, "topology.graphs": ["a"], "run.rounds": 200_000}, paced=True)
    at = [partial(lan.spawn, host) for host in range(4)]
    controller = fleet.controller("--relay", "--http", "0.0.0.0:8080", listen=None, spawn=at[BOTH])
    controller.logs("controller ready")
    invite = re.search(r"inv-\S+", fleet.command("invite", "node-1", spawn=at[BOTH]).stdout)
    assert invite
    boards = [
        fleet.node("node-0", listen=None, spawn=at[ONE6]),
        fleet.bare_node("node-1", "--join", invite[0], spawn=at[OTHER6]),
    ]
    boards.append(fleet.node("node-2", listen=None, spawn=at[ONE4]))

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(fleet.command("status", "--json", spawn=at[ONE6]).stdout)
        return found

    relayed = {("node-1", "node-2"): "controller", ("node-2", "node-0"): "controller"}
    until(lambda: ways(status()) == relayed, "the edges between families are relayed", 60)
    for i, address in enumerate(("[fd77::1]:7600", "[fd77::2]:7600", "10.77.0.4:7600")):
        controller.logs(rf"node joined +address={re.escape(address)} .*node=node-{i}")

    doctor = fleet.command("doctor", "--config", "run.toml", "--json", "--listen", "0.0.0.0:7650", spawn=at[ONE6])
    found = {finding["check"]: finding["text"] for finding in json.loads(doctor.stdout)}
    assert found["multicast"] == f"eth0 ({lan.addresses[ONE6]}): works, with answers from fd77::2, fd77::3"
    assert found["controller"] == "[fd77::3]:7700 answers; enrol this device to see more"
    assert found["nodes"] == "node-0 at [fd77::1]:7600, node-1 at [fd77::2]:7600; all answer"
    for address in ("[fd77::2]:7600", "[fd77::3]:7700", "10.77.0.3:7700"):
        assert fleet.command("health", address, spawn=at[BOTH]).stdout == "serving\n"
    page = lan.spawn(ONE6, ["python3", "-c", _GET, "http://[fd77::3]:8080/"], stderr=subprocess.PIPE, text=True)
    assert "HTTP Error 401" in page.communicate()[1]  # it asks who that is
    fleet.command("stop", "--yes", spawn=at[OTHER6])
    for process in (*boards, controller):
        process.exits(0)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("listen", ["[::]:7600", "[fd77::{}]:7600"])
def test_fixed_peers_dial_ipv6_addresses(fleet: Fleet, lan: netns.Bridge, listen: str) -> None:
    fleet.configure({"run.nodes": 2, "topology.graphs": ["a"], "run.rounds": 20})
    boards = [
        fleet.node(f"node-{i}", "--peers", f"[{lan.addresses[1 - i]}]:7600", listen=listen.format(i + 1),
                   spawn=partial(lan.spawn, i))
        for i in range(2)
    ]  # fmt: skip
    for board in boards:
        board.exits(0)


@pytest.mark.timeout(200)
def test_processes_that_listen_at_loopback_only_find_each_other(fleet: Fleet, lan: netns.Bridge) -> None:
    fleet.configure({"run.nodes": 2, "topology.graphs": ["a"], "run.rounds": 20})
    spawn = partial(lan.spawn, BOTH)
    controller = fleet.controller(listen="[::1]:0", spawn=spawn)
    boards = [fleet.node(f"node-{i}", listen="[::1]:0", spawn=spawn) for i in range(2)]
    for process in (*boards, controller):
        process.exits(0)
    controller.logs(r"node joined +address=\[::1\]:\d+ ")


@pytest.mark.timeout(300)
def test_two_homes_with_ipv6_firewalls_train_over_a_relay(fleet: Fleet) -> None:
    """All boards have public addresses, and no router lets a connection in."""
    where = ("--controller", f"[{PUBLIC6}]:7700")
    with Homes(Home(1), Home(1), ipv6=True) as homes:
        fleet.configure({"run.nodes": 2, "topology.graphs": ["a"], "run.rounds": 200_000}, paced=True)
        at = [partial(homes.spawn, host) for host in range(3)]
        controller = fleet.controller("--public", f"[{PUBLIC6}]", listen=None, spawn=at[0])
        controller.logs("controller ready")

        def invite(*words: str) -> str:
            found = re.search(r"inv-\S+", fleet.command("invite", *words, *where, spawn=at[0]).stdout)
            assert found
            return found[0]

        relay = fleet.relay("fra", "--join", invite("fra", "--role", "relay"), "--listen", "[::]:7702", spawn=at[0])
        boards = [fleet.bare_node(f"node-{i}", "--join", invite(f"node-{i}"), spawn=at[i + 1]) for i in range(2)]
        relay.logs(rf"address=\[{PUBLIC6}\]:7702 nodes=2")

        def status() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(fleet.command("status", "--json", *where, spawn=at[0]).stdout)
            return found

        both = {("node-0", "node-1"): "fra", ("node-1", "node-0"): "fra"}
        until(lambda: ways(status()) == both, "both edges are relayed", 60)
        t = status()["round"]
        until(lambda: status()["round"] > t + 5, "rounds over the relay")
        of_node = ("--config", "run.toml", "--state-dir", str(fleet.state("node-0")), "--listen", "0.0.0.0:7650")
        doctor = fleet.command("doctor", *of_node, *where, "--json", spawn=at[1])
        found = [(finding["check"], finding["text"]) for finding in json.loads(doctor.stdout)]
        assert ("relay", f"fra at [{PUBLIC6}]:7702 answers") in found
        assert "no answer from node-1" in dict(found)["nodes"]
        assert all("answers from" not in text for check, text in found if check == "multicast")  # nobody else is here
        fleet.command("stop", "--yes", *where, spawn=at[0])
        for board in boards:
            board.exits(0)
