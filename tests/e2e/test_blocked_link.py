"""A firewall drops what one member sends to another. All boards live, so nobody is evicted, and the run goes on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.e2e import netns
from tests.e2e.fleet import Fleet, Process, until

_WHY_NOT = netns.cannot_disturb()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))]
EVICT_AFTER_S = 10
CONTROLLER = 4


def start(
    fleet: Fleet, bridge: netns.Bridge, count: int, evict_after_s: float = EVICT_AFTER_S
) -> tuple[list[Process], Callable[..., Process]]:
    settings = {"run.nodes": count, "topology.graphs": ["a"], "run.evict_after_s": evict_after_s}
    fleet.configure({"run.rounds": 200_000, **settings})
    fleet.controller(listen=None, spawn=partial(bridge.spawn, CONTROLLER))
    nodes = [fleet.node(f"node-{i}", listen=None, spawn=partial(bridge.spawn, i)) for i in range(count)]
    nodes[0].logs("epoch done")
    return nodes, partial(fleet.command, spawn=partial(bridge.spawn, CONTROLLER))


def status_of(command: Callable[..., Process]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command("status", "--json").stdout)
    return found


@pytest.mark.timeout(400)
def test_run_goes_on_without_a_blocked_direction_and_takes_it_back(fleet: Fleet) -> None:
    with netns.Bridge(5) as bridge:
        nodes, command = start(fleet, bridge, 4)
        blocked = f"node-0 cannot reach node-1 ({bridge.addresses[1]}:7600)"
        with bridge.block(0, 1):
            began = time.monotonic()
            nodes[0].logs(r"pushes go by way of a relay .*peer=node-1 .*why='no answer")
            relayed_s = time.monotonic() - began
            before = status_of(command)
            assert [(link["sender"], link["receiver"]) for link in before["links"]] == [("node-0", "node-1")]
            shown = " ".join(command("status").stdout.split())
            assert blocked in shown and "check firewall, port and address" in shown

            asked = time.monotonic()
            reply = command("topology", "set", "a").stdout
            assert time.monotonic() - asked < 5 + 3  # with the start of Python
            assert re.match(r"graph a takes effect at round \d+ at every node\n|Queued: ", reply), reply

            def left_out() -> dict[str, Any] | None:
                now = status_of(command)
                return now if now["record"]["schedule"].get("without") == [["node-0", "node-1"]] else None

            without = until(left_out, "the graphs do without the link")
            assert ["node-0", "node-1"] not in without["graph"]["edges"] or without["next"]
            until(lambda: status_of(command)["round"] > without["record"]["start"] + 20, "rounds without the link")
            after_s = time.monotonic() - began
            now = status_of(command)
            assert ["node-0", "node-1"] not in now["graph"]["edges"]
            assert len(now["nodes"]) == 4 and all(node["connected"] for node in now["nodes"])
            assert now["links"][0]["left_out"]
            print(f"relayed after {relayed_s:.1f} s, without the link after {after_s:.1f} s")

        healed = time.monotonic()
        until(lambda: "without" not in status_of(command)["record"]["schedule"], "the link is used again")
        until(lambda: ["node-0", "node-1"] in status_of(command)["graph"]["edges"], "graph a is in force")
        print(f"back after {time.monotonic() - healed:.1f} s")
        assert not status_of(command)["links"]
        command("stop", "--yes")
        for node in nodes:
            node.exits(0)
            assert "was evicted" not in node.stderr


@pytest.mark.timeout(300)
def test_controller_relays_where_no_member_can(fleet: Fleet) -> None:
    """Two members cannot do without a link, so it stays in use, in both directions."""
    with netns.Bridge(5) as bridge:
        nodes, command = start(fleet, bridge, 2)
        with bridge.block(0, 1), bridge.block(1, 0):
            for node in nodes:
                node.logs("pushes go by way of a relay .*relay=controller")
            t = status_of(command)["round"]
            until(lambda: status_of(command)["round"] > t + 20, "rounds by way of the controller")
            assert len(status_of(command)["nodes"]) == 2
            command("stop", "--yes")
            for node in nodes:
                node.exits(0)


@pytest.mark.timeout(300)
def test_member_that_nothing_reaches_is_named_and_evicted(fleet: Fleet) -> None:
    with netns.Bridge(5) as bridge, ExitStack() as blocks:
        nodes, command = start(fleet, bridge, 4, evict_after_s=40)
        for host in (0, 2, 3, CONTROLLER):
            blocks.enter_context(bridge.block(host, 1))
            blocks.enter_context(bridge.block(1, host))  # nor does it reach them: it reaches the controller's port only
        held = f"node-0 cannot reach node-1 ({bridge.addresses[1]}:7600)"
        until(lambda: held in " ".join(command("status").stdout.split()), "the link is named")
        asked = time.monotonic()
        reply = command("topology", "set", "b").stdout
        answered_s = time.monotonic() - asked
        assert f"The run stands until then: {held}" in reply, reply
        assert answered_s < 5 + 3, answered_s  # with the start of Python
        nodes[2].logs(r"plan changes .*without=\['node-1'\]")
        nodes[1].logs(r"waiting to join .*node-1 was evicted for 40 s, because nothing relays to or from it")
        t = status_of(command)["round"]
        until(lambda: status_of(command)["round"] > t + 20, "rounds without the member")
